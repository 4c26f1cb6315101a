"""Influence by TRAK (Park et al. 2023): randomly projected gradients of the margin, over several models."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from datalab.errors import UserError
from datalab.influence import settings
from datalab.influence.estimator import Damping, Estimator, at_once, gathered
from datalab.influence.gradients import Ensemble
from datalab.influence.losses import CrossEntropy
from datalab.influence.sets import Batch, Held, Streamed
from datalab.seeds import integer
from datalab.stack import Stack

Models = nn.Module | Sequence[nn.Module]
MAX_PROJECTION = 1 << 26  # numbers: 256 MB in float32
DIMENSIONS = 512
_SCORES = 1 << 24  # numbers of scores held at a time, where all are not asked for


class _Plain(CrossEntropy):
    """Cross-entropy of one label an example, of which there is a margin."""

    def checked(self, name: str, y: Tensor, outputs: torch.Size) -> Tensor:
        y = super().checked(name, y, outputs)
        if y.is_floating_point() or bool((y == self.ignore_index).any()):
            got = "probabilities" if y.is_floating_point() else f"{self.ignore_index}, which counts nothing"
            raise UserError(f"{name}: TRAK's margin is that of one class index an example, got {got}")
        return y


class _Projected(Estimator):
    """One model's features phi_i = P' grad f_i, f = log p_y / (1 - p_y), with P (parameters, ``dimensions``) of +-1.

    Since the loss is log(1 + e^-f), grad l_i = -(1 - p_y) grad f_i. H is the mean of phi phi' (no weights: eq. 13).
    """

    _state, _of_an_optimum = ("_moment", "_projection"), False

    def __init__(self, model, damping, dimensions: int | None, seed: int, **options):
        super().__init__(model, damping, **options)
        if self.loss != CrossEntropy():
            raise UserError("loss: TRAK's margin is that of plain cross-entropy; use EKFAC for another loss")
        self.loss, self.dimensions, self.seed = _Plain(), dimensions, seed

    def _fit(self, data: Held | Streamed) -> None:
        if len(self._feed.outputs) > 1:
            raise UserError(f"model: TRAK takes logits (n, C), got {tuple(self._feed.outputs)} for each example")
        self._projection = self._network.unflatten(self.projection()[None])
        moment = 0
        for batch in self._feed.batches(data):
            phi, _ = self.features(batch)
            moment = moment + phi.T @ phi
        self._moment = moment / len(data)

    def _damp(self) -> None:
        moment = self._moment.clone()
        d = self._automatic(moment.diagonal().mean()[None])
        moment.diagonal().add_(d)
        self.factor, info = torch.linalg.cholesky_ex(moment)
        if int(info):
            why = "is not positive definite; a larger one, or fewer dimensions, would do"
            raise UserError(f"damping: the projected curvature plus {float(d):.3g} {why}")

    def projection(self) -> Tensor:
        """(dimensions, P) of +-1 / sqrt(dimensions), drawn with the seed, whatever the device."""
        like, size = self._network.like, self._network.n_parameters
        dimensions = self.dimensions or max(1, min(DIMENSIONS, MAX_PROJECTION // size))
        if dimensions * size > MAX_PROJECTION:
            held = f"more than the {MAX_PROJECTION:,} numbers that a projection may hold"
            cure = f"at most {MAX_PROJECTION // size}, or leave layers out"
            raise UserError(f"dimensions: {dimensions} x {size:,} parameters is {held}; {cure}")
        generator = torch.Generator().manual_seed(integer(self.seed, "trak"))
        signs = torch.randint(0, 2, (dimensions, size), generator=generator, dtype=torch.int8)
        return signs.to(like).mul_(2).sub_(1) / dimensions**0.5

    def features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """phi (m, dimensions) and 1 - p_y (m,) of one batch."""
        tape = self._network.tape(batch.x)
        logits = tape.logits[0].detach()
        y = batch.y[0][:, None]
        others = torch.softmax(logits.scatter(1, y, -torch.inf), 1)  # the gradient of f is e_y - p without y, rescaled
        factors = tape.factors(others.neg_().scatter_(1, y, 1.0)[None])
        phi = self._over_sites(f.dot(v) for f, v in zip(factors, self._projection, strict=True))
        return phi[0].T, torch.softmax(logits, 1).scatter(1, y, 0.0).sum(1)  # 1 - p_y would cancel

    def all_features(self, data: Held | Streamed) -> tuple[Tensor, Tensor]:
        """phi (n, dimensions) and 1 - p_y (n,)."""
        doubts: list[Tensor] = []

        def parts() -> Iterator[Tensor]:
            for batch in self._feed.batches(data):
                phi, doubt = self.features(batch)
                doubts.append(doubt)
                yield phi

        return gathered(parts(), 0, len(data)), torch.cat(doubts)


class TRAK(Ensemble):
    """Projected gradients of several models of one kind, averaged.

    Minus the mean over models of phi_t' (H + d I)^-1 phi_i, times the mean of 1 - p_i (Park et al. 2023, eq. 17: the
    derivative of t's margin in i's weight), and times that of 1 - p_t, for the derivative of t's loss.

    ``models``: one or several, trained alike with seeds, or on halves, of their own. ``damping``: d, or ``"auto"``, l2
    + 1e-3 times the mean diagonal of the projected H; the paper's is 0. ``dimensions`` of the projection, which may
    hold 64 million numbers; None: 512, or as many as that allows. Each model's is drawn with ``seed`` and its place.
    ``options``: those of :class:`~datalab.influence.estimator.Estimator`. The projected gradients of all of x, (n,
    dimensions), are held while a verb runs.
    """

    def __init__(
        self, models: Models, damping: Damping = "auto", *, dimensions: int | None = None, seed: int = 0, **options
    ):
        models = [models] if isinstance(models, nn.Module | Stack) else settings.several("models", models, "models")
        if any(isinstance(model, Stack) for model in models):
            raise UserError("models: TRAK averages over models, so a stack is ambiguous; list(stack) gives its models")
        if not models:
            raise UserError("models: need at least one")
        dimensions = dimensions if dimensions is None else settings.count("dimensions", dimensions)
        self.seed, self.damping = settings.count("seed", seed, 0), settings.damping(damping)
        self.models, self.dimensions = models, dimensions
        seeds = (integer(self.seed, "model", i) for i in range(len(models)))
        self._members = [_Projected(m, damping, dimensions, s, **options) for m, s in zip(models, seeds, strict=True)]

    @property
    def damping_(self) -> list[float]:
        """d of each model."""
        return [projected.damping_ for projected in self._members]

    def redamped(self, damping: Damping) -> Self:
        """A copy with the same projected gradients under another damping."""
        other = copy.copy(self)
        other.damping, other._members = damping, [projected.redamped(damping) for projected in self._members]
        return other

    def self_influence(self, x, y=None) -> Tensor:
        """Minus the diagonal of ``pairwise`` on x, (n,), at least 0, without the rest of it."""
        return self._scored(self._own, (x, y))

    def influence_on(self, x, y=None, x_val=None, y_val=None) -> Tensor:
        """As ``Estimator.influence_on``, (n,)."""
        return self._scored(self._on_mean, (x, y, x_val, y_val), "x_val, y_val")

    def _own(self, sets: Sequence[list[Held | Streamed]]) -> Tensor:
        quadratic, doubt = 0, 0
        for projected, (data,) in zip(self._members, sets, strict=True):
            phi, q = projected.all_features(data)
            solved = torch.linalg.solve_triangular(projected.factor, phi.T, upper=False)
            quadratic, doubt = quadratic + solved.square().sum(0), doubt + q
        return (quadratic * doubt.square() / len(self._members) ** 3)[None]

    def _on_mean(self, sets: Sequence[list[Held | Streamed]]) -> Tensor:
        tests, trains = self._features(sets)
        return self._scores([targets.mean(0, keepdim=True) for targets in tests], trains)

    def _rows(self, sets: Sequence[list[Held | Streamed]]) -> Iterator[tuple[int, Iterator[Tensor]]]:
        tests, trains = self._features(sets)
        trains = list(trains)
        step = max(1, at_once(tests[0].device, _SCORES) // len(trains[0][0]))
        for i in range(0, len(tests[0]), step):
            yield i, iter([self._scores([targets[i : i + step] for targets in tests], trains)[None]])

    def _features(self, sets) -> tuple[list[Tensor], Iterator[tuple[Tensor, Tensor]]]:
        """Each model's features of the tests times the tests' mean 1 - p; and, one after the other, of the examples."""
        tests = [p.all_features(target) for p, (_, target) in zip(self._members, sets, strict=True)]
        of_tests = sum(q for _, q in tests) / len(tests)
        trains = (p.all_features(data) for p, (data, _) in zip(self._members, sets, strict=True))
        return [phi * of_tests[:, None] for phi, _ in tests], trains

    def _scores(self, tests: Sequence[Tensor], trains: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """(k, n), from each model's features of k tests and of n examples with their 1 - p."""
        scores, doubt = 0, 0
        for projected, targets, (phi, q) in zip(self._members, tests, trains, strict=True):
            scores = scores + torch.cholesky_solve(targets.T, projected.factor).T @ phi.T
            doubt = doubt + q
        return -scores * doubt / len(self._members) ** 2
