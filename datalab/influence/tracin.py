"""Influence by TracIn (Pruthi et al. 2020, TracInCP): inner products of gradients along the training's path."""

import copy
from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn

from datalab.errors import UserError
from datalab.influence.grad_dot import GradDot, refuse_leave_one_out
from datalab.training import AnyStack, Recipe, cosine


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

    Parameters
    ----------
    checkpoints
        The models at T moments of one training, all of one architecture; or T stacks, whose results have S rows.
    learning_rates
        T numbers above 0: the learning rate at each, times the steps it stands for.
    options
        ``batch_size``, ``leave_out``, ``dtype``, ``allow_tf32``: those of
        :class:`~datalab.influence.estimator.Estimator`.

    The three verbs are those of every estimator; there is no curvature and no damping, and ``leave_one_out`` refuses.
    """

    def __init__(self, checkpoints: Sequence[nn.Module], learning_rates: Sequence[float], **options):
        self.checkpoints, self.learning_rates = list(checkpoints), [float(rate) for rate in learning_rates]
        if not self.checkpoints or len(self.checkpoints) != len(self.learning_rates):
            raise UserError(
                f"learning_rates: need one per checkpoint, got {len(self.learning_rates)} for {len(self.checkpoints)}"
            )
        if not all(rate > 0 for rate in self.learning_rates):
            raise UserError(f"learning_rates: must be above 0, got {self.learning_rates}")
        self._each = [GradDot(model, **options) for model in self.checkpoints]

    def fit(self, x: Tensor, y: Tensor) -> Self:
        """Check the training set x (n, ...), y (n,) and every checkpoint; nothing is learnt from them."""
        for each in self._each:
            each.fit(x, y)
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
        pairs = zip(self.learning_rates, self._each, strict=True)
        return sum(rate * getattr(each, verb)(*sets) for rate, each in pairs)
