"""Influence by TRAK (Park et al. 2023): randomly projected gradients of the margin, over several models."""

import copy
from collections.abc import Sequence
from typing import Literal, Self

import torch
from torch import Tensor, nn

from datalab.errors import UserError
from datalab.influence.estimator import Batch, computing
from datalab.influence.gradients import GradDot, refuse_leave_one_out
from datalab.seeds import integer
from datalab.stack import Stack

MAX_PROJECTION = 1 << 26  # numbers: 256 MB in float32
DIMENSIONS = 512


class _Projected:
    """One model's features phi_i = P' grad f_i, f = log p_y / (1 - p_y), with P (parameters, ``dimensions``) of +-1.

    Since the loss is log(1 + e^-f), grad l_i = -(1 - p_y) grad f_i. H is the mean of phi phi' (no weights: eq. 13).
    The model and its examples are read as :class:`~datalab.influence.gradients.GradDot` reads them.
    """

    def __init__(self, model, damping, dimensions: int | None, seed: int, **options):
        self._reader = GradDot(model, damping, **options)
        self.dimensions, self.seed = dimensions, seed

    def fit(self, x: Tensor, y: Tensor) -> None:
        """Take the features' second moment on the training set x (n, ...), y (n,)."""
        self._reader.fit(x, y)
        self._projection = self._reader._network.unflatten(self.projection()[None])
        features, _ = self.all_features(x, y)
        self._moment = features.T @ features / len(features)
        if not bool(torch.isfinite(self._moment).all()):
            self._reader._refuse_infinite(*self._reader._fitted("x, y", x, y))
        self._damp()

    def redamped(self, damping: float | Literal["auto"]) -> Self:
        """A copy with the same features under another damping."""
        other = copy.copy(self)
        other._reader = self._reader.redamped(damping)
        other._damp()
        return other

    def _damp(self) -> None:
        moment = self._moment.clone()
        d = self._reader._automatic(moment.diagonal().mean()[None])
        self.damping_ = self._reader.damping_
        moment.diagonal().add_(d)
        self.factor, info = torch.linalg.cholesky_ex(moment)
        if int(info):
            raise UserError(
                f"damping: the projected curvature plus {float(d):.3g} is not positive definite; a larger one, or "
                "fewer dimensions, would do"
            )

    def projection(self) -> Tensor:
        """(dimensions, P) of +-1 / sqrt(dimensions), drawn with the seed, whatever the device."""
        like, size = self._reader._network.like, self._reader._network.n_parameters
        dimensions = self.dimensions or max(1, min(DIMENSIONS, MAX_PROJECTION // size))
        if dimensions * size > MAX_PROJECTION:
            raise UserError(
                f"dimensions: {dimensions} x {size:,} parameters is more than the {MAX_PROJECTION:,} numbers that "
                f"a projection may hold; at most {MAX_PROJECTION // size}, or leave layers out"
            )
        generator = torch.Generator().manual_seed(integer(self.seed, "trak"))
        signs = torch.randint(0, 2, (dimensions, size), generator=generator, dtype=torch.int8)
        return signs.to(like).mul_(2).sub_(1) / dimensions**0.5

    def features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """phi (m, dimensions) and 1 - p_y (m,) of one batch."""
        tape = self._reader._network.tape(batch.x)
        logits = tape.logits[0].detach()
        y = batch.y[0][:, None]
        others = torch.softmax(logits.scatter(1, y, -torch.inf), 1)  # the gradient of f is e_y - p without y, rescaled
        factors = tape.factors(others.neg_().scatter_(1, y, 1.0)[None])
        phi = self._reader._over_sites(f.dot(v) for f, v in zip(factors, self._projection, strict=True))
        return phi[0].T, 1 - torch.softmax(logits, 1).gather(1, y)[:, 0]

    def all_features(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """phi (n, dimensions) and 1 - p_y (n,)."""
        x, y = self._reader._fitted("x, y", x, y)
        parts = [self.features(batch) for batch in self._reader._batches(x, y)]
        return torch.cat([phi for phi, _ in parts]), torch.cat([q for _, q in parts])


class TRAK:
    """Projected gradients of several models of one kind, averaged.

    The score of training example i for test example t is the mean over models of phi_t' (H + d I)^-1 phi_i, times the
    mean of 1 - p_i (Park et al. 2023, eq. 17: the derivative of t's margin in i's weight); times the mean of 1 - p_t it
    is that of t's loss. With the sign of all estimators: positive raises the loss. ``damping_`` is d, one a model.

    Parameters
    ----------
    models
        One model or several, trained alike with seeds, or on halves, of their own.
    damping
        d, or ``"auto"``: l2 + 1e-3 times the mean diagonal of the projected H; the paper's is 0.
    dimensions
        Of the projection, which may hold 64 million numbers; None: 512, or as many as that allows.
    seed
        Of the projections; each model has its own.
    options
        ``l2``, ``batch_size``, ``leave_out``, ``dtype``: :class:`~datalab.influence.estimator.Estimator`.

    The projected gradients of all of x, (n, dimensions), are held while a verb runs.
    """

    def __init__(
        self,
        models: nn.Module | Sequence[nn.Module],
        damping: float | Literal["auto"] = "auto",
        *,
        dimensions: int | None = None,
        seed: int = 0,
        **options,
    ):
        if isinstance(models, Stack):
            raise UserError("models: TRAK averages over models, so a stack is ambiguous; list(stack) gives its models")
        models = [models] if isinstance(models, nn.Module) else list(models)
        if not models:
            raise UserError("models: need at least one")
        if dimensions is not None and dimensions < 1:
            raise UserError(f"dimensions: must be at least 1, got {dimensions}")
        self.models, self.dimensions, self.seed, self.damping = models, dimensions, seed, damping
        self._projected = [
            _Projected(model, damping, dimensions, integer(seed, "model", i), **options)
            for i, model in enumerate(models)
        ]

    def fit(self, x: Tensor, y: Tensor) -> Self:
        """Project the gradients of the training set x (n, ...), y (n,)."""
        with computing():
            for projected in self._projected:
                projected.fit(x, y)
        self.damping_ = [projected.damping_ for projected in self._projected]
        return self

    def redamped(self, damping: float | Literal["auto"]) -> Self:
        """A copy with the same projected gradients under another damping."""
        other = copy.copy(self)
        other.damping, other._projected = damping, [projected.redamped(damping) for projected in self._projected]
        other.damping_ = [projected.damping_ for projected in other._projected]
        return other

    def leave_one_out(self, x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor) -> Tensor:
        """Refuses, in a UserError: its curvature is not that of the training loss."""
        refuse_leave_one_out("TRAK")

    def self_influence(self, x: Tensor, y: Tensor) -> Tensor:
        """Minus the diagonal of ``pairwise`` on x, (n,), at least 0, without the rest of it."""
        quadratic, doubt = 0, 0
        with computing():
            for projected in self._projected:
                phi, q = projected.all_features(x, y)
                solved = torch.linalg.solve_triangular(projected.factor, phi.T, upper=False)
                quadratic, doubt = quadratic + solved.square().sum(0), doubt + q
        return quadratic * doubt.square() / len(self._projected) ** 3

    def influence_on(self, x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor) -> Tensor:
        """Influence of each example of x (n, ...), y (n,) on the mean loss of the target set, (n,)."""
        with computing():
            return self._scores(x, y, x_val, y_val, mean=True)[0]

    def pairwise(self, x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> Tensor:
        """Influence of each example of x (n, ...), y (n,) on the loss of each test example, (n_test, n)."""
        with computing():
            return self._scores(x, y, x_test, y_test, mean=False)

    def _scores(self, x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, mean: bool) -> Tensor:
        tests = [projected.all_features(x_test, y_test) for projected in self._projected]
        of_tests = sum(q for _, q in tests) / len(tests)
        scores, doubt = 0, 0
        for projected, (targets, _) in zip(self._projected, tests, strict=True):
            phi, q = projected.all_features(x, y)
            targets = targets * of_tests[:, None]
            targets = targets.mean(0, keepdim=True) if mean else targets
            scores = scores + torch.cholesky_solve(targets.T, projected.factor).T @ phi.T
            doubt = doubt + q
        return -scores * doubt / len(self._projected) ** 2
