"""Influence without curvature: inner products and cosines of loss gradients, at one model or along its training.

These predict no retraining in nats, so ``leave_one_out`` refuses, and ``damping`` plays no part.
"""

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from datalab.errors import UserError
from datalab.influence.estimator import Batch, Directions, Estimator
from datalab.training import AnyStack, Recipe, cosine

_TINY = 1e-30  # a gradient of norm 0 has cosine 0 with everything


class GradDot(Estimator):
    """H + d I is the identity: influence is -grad L' grad l_i, self-influence the squared gradient norm.

    Self-influence is |g|^2 |a|^2 at each site where weights are not shared over positions, so it costs a forward and
    half a backward pass. It is the limit, times d, of an estimator that takes all of H, as d grows. Parameters:
    :class:`~datalab.influence.estimator.Estimator`.
    """

    def _fit(self, x: Tensor, y: Tensor) -> None:
        self._damp()
        for _ in self._batches(x, y):
            pass  # refuses what is not finite

    def _damp(self) -> None:
        self.damping_ = None

    def _solve(self, directions: Directions) -> Directions:
        return directions

    def _self_influence(self, batch: Batch) -> Tensor:
        return self._over_sites(f.square_norms() for f in self._factors(batch))

    def _against(self, x: Tensor, y: Tensor, tests: Batch) -> Tensor:
        targets = self._factors(tests)
        return self._columns(
            x, y, lambda batch: (f.products(t) for f, t in zip(self._factors(batch), targets, strict=True))
        )

    def _gradients_at_once(self) -> int:
        return self.batch_size  # none is formed where weights are not shared over positions

    def _leave_one_out(self, x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor) -> Tensor:
        refuse_leave_one_out(type(self).__name__)

    def _warn_where_not_converged(self, x: Tensor, y: Tensor) -> None:
        pass  # it speaks of no optimum


class GradCos(GradDot):
    """Influence is minus the cosine of grad L and grad l_i, in [-1, 1].

    Without scale there is no self-influence worth the name: it is 1 for every example whose gradient is not 0.
    ``influence_on`` takes the cosine with the mean gradient, so it is not the mean of ``pairwise``.
    """

    def _self_influence(self, batch: Batch) -> Tensor:
        squares = super()._self_influence(batch)
        return torch.where(squares > 0, 1.0, squares)

    def _product(self, x: Tensor, y: Tensor, directions: Directions) -> Tensor:
        lengths = self._over_sites(v.square().sum((2, 3)) for v in directions).sqrt()
        return super()._product(x, y, directions) / self._scale(lengths, x, y)

    def _pairs(self, x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> Tensor:
        return super()._pairs(x, y, x_test, y_test) / self._scale(self._norms(x_test, y_test), x, y)

    def _norms(self, x: Tensor, y: Tensor) -> Tensor:
        """Each example's gradient norm, (S, n)."""
        return torch.cat([super(GradCos, self)._self_influence(batch) for batch in self._batches(x, y)], 1).sqrt()

    def _scale(self, lengths: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """The product (S, k, n) of k lengths (S, k) with every example's gradient norm."""
        return (lengths[:, :, None] * self._norms(x, y)[:, None]).clamp(min=_TINY)


class Checkpoints:
    """Copies of a stack along its training, evenly spaced, the last at its end: ``on_step`` of ``training.fit_many``.

    After training, ``stacks`` are the copies and ``rates`` the sums of the learning rates of the steps that led to
    each: what :class:`TracIn` takes.
    """

    def __init__(self, recipe: Recipe, count: int):
        ends = [round(recipe.steps * (k + 1) / count) for k in range(count)]
        by_step = [cosine(recipe.learning_rate, step, recipe.steps) for step in range(recipe.steps)]
        self.rates = [sum(by_step[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
        self.stacks: list[AnyStack] = []
        self._ends = set(ends)

    def __call__(self, step: int, stack: AnyStack) -> None:
        if step in self._ends:
            self.stacks.append(copy.deepcopy(stack))


class TracIn:
    """sum_t rate_t grad L(theta_t)' grad l_i(theta_t) over checkpoints, with the sign of all estimators: minus that.

    TracInCP of Pruthi et al. 2020.

    Parameters
    ----------
    checkpoints
        The models at T moments of one training, all of one architecture; or T stacks, whose results have S rows.
    learning_rates
        T numbers above 0: the learning rate at each, times the steps it stands for.
    options
        ``batch_size``, ``leave_out``, ``dtype``: those of :class:`~datalab.influence.estimator.Estimator`.

    Raises UserError for rates that do not fit, and what :class:`~datalab.influence.estimator.Estimator` does.
    """

    def __init__(self, checkpoints: Sequence[nn.Module], learning_rates: Sequence[float], **options):
        self.checkpoints, self.learning_rates = list(checkpoints), [float(rate) for rate in learning_rates]
        if not self.checkpoints or len(self.checkpoints) != len(self.learning_rates):
            raise UserError(
                f"learning_rates: need one per checkpoint, got {len(self.learning_rates)} for {len(self.checkpoints)}"
            )
        if not all(rate > 0 for rate in self.learning_rates):
            raise UserError(f"learning_rates: must be above 0, got {self.learning_rates}")
        self._at_checkpoints = [GradDot(model, **options) for model in self.checkpoints]

    def fit(self, x: Tensor, y: Tensor) -> Self:
        """Check the training set x (n, ...), y (n,) and every checkpoint; nothing is learnt from them."""
        for estimator in self._at_checkpoints:
            estimator.fit(x, y)
        return self

    def self_influence(self, x: Tensor, y: Tensor) -> Tensor:
        """sum_t rate_t |grad l_i(theta_t)|^2 of each example, (n,)."""
        return self._sum("self_influence", x, y)

    def influence_on(self, x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor) -> Tensor:
        """Influence of each example of x (n, ...), y (n,) on the mean loss of the target set, (n,)."""
        return self._sum("influence_on", x, y, x_val, y_val)

    def pairwise(self, x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> Tensor:
        """Influence of each example of x (n, ...), y (n,) on the loss of each test example, (n_test, n)."""
        return self._sum("pairwise", x, y, x_test, y_test)

    def leave_one_out(self, x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor) -> Tensor:
        """Refuses, in a UserError."""
        refuse_leave_one_out("TracIn")

    def _sum(self, verb: str, *sets: Tensor) -> Tensor:
        pairs = zip(self.learning_rates, self._at_checkpoints, strict=True)
        return sum(rate * getattr(estimator, verb)(*sets) for rate, estimator in pairs)


def refuse_leave_one_out(name: str) -> None:
    """Raise UserError: what has no curvature of the training loss predicts no retraining in nats."""
    raise UserError(f"{name}: has no curvature, so it predicts no retraining; use EKFAC or ExactGGN")
