"""Influence without curvature: inner products and cosines of loss gradients, at one model or along its training.

These predict no retraining in nats, so ``leave_one_out`` refuses, and ``damping`` plays no part.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from datalab.errors import UserError
from datalab.influence import losses, settings
from datalab.influence.estimator import Directions, Estimator, Top, computing, strongest, whole
from datalab.influence.factors import Factors
from datalab.influence.sets import Batch, Held, Streamed
from datalab.stack import Stack

_NO_CURVATURE = "has no curvature, so it predicts no retraining; use EKFAC"


class GradDot(Estimator):
    """H + d I is the identity: influence is -grad L' grad l_i, self-influence the squared gradient norm.

    The limit, times d, of an estimator that takes all of H, as d grows.
    """

    _state, _of_an_optimum = (), False

    def _fit(self, data: Held | Streamed) -> None:
        for batch in self._feed.batches(data):  # refuses what is not finite
            self._network.logits(batch.x)

    def _damp(self) -> None:
        self.damping_ = None

    def _solve(self, directions: Directions) -> Directions:
        return directions

    def _self_influence(self, batch: Batch) -> Tensor:
        return self._over_sites(f.square_norms() for f in self._factors(batch))

    def _against(self, data: Held | Streamed, tests: Batch) -> Iterator[Tensor]:
        return self._products(data, self._factors(tests), lambda f, test: f.products(test))

    def _gradients_at_once(self) -> int:
        return self._feed.size  # none is formed where weights are not shared over positions

    def _leave_one_out(self, data: Held | Streamed, target: Held | Streamed) -> Tensor:
        raise UserError(f"{type(self).__name__}: {_NO_CURVATURE}")


class GradCos(GradDot):
    """Influence is minus the cosine of grad L and grad l_i, in [-1, 1].

    Without scale there is no self-influence worth the name: it is 1 for every example whose gradient is not 0.
    ``influence_on`` takes the cosine with the mean gradient, so it is not the mean of ``pairwise``.
    """

    def _factors(self, batch: Batch) -> list[Factors]:
        """Of each example's gradient in the logits over its largest: in float32 a small one's square is 0."""
        tape = self._network.tape(batch.x)
        return tape.factors(_unit(losses.over_models(self.loss.gradient, tape.logits, batch.y)))

    def _solve(self, directions: Directions) -> Directions:
        return self._network.unflatten(_unit(self._network.flatten(directions)))

    def _self_influence(self, batch: Batch) -> Tensor:
        squares = super()._self_influence(batch)
        whole = squares.sum(-1, keepdim=True) if self._by_layer else squares
        return torch.where(whole > 0, squares / whole, squares)

    def _multiplied(self, factors: list[Factors], others: Sequence, product: Callable) -> Tensor:
        """Over the lengths of both, of factors' gradients or of directions."""
        scale = self._lengths(others)[:, :, None] * self._lengths(factors)[:, None]
        scale = torch.where(scale > 0, scale, 1)  # a gradient of 0 has cosine 0 with everything
        return super()._multiplied(factors, others, product) / (scale[..., None] if self._by_layer else scale)

    def _lengths(self, values: Sequence[Factors] | Directions) -> Tensor:
        squares = (v.square_norms() if isinstance(v, Factors) else v.square().sum((2, 3)) for v in values)
        return sum(map(self._network.over_groups, squares)).sqrt()


def _unit(rows: Tensor) -> Tensor:
    """Each row of (S, k, ...) over its largest number."""
    tiny = torch.finfo(rows.dtype).tiny
    return functional.normalize(rows.flatten(2), float("inf"), 2, eps=tiny).view_as(rows)


class Ensemble(ABC):
    """Several models scored as one: what TracIn and TRAK share, without ``by_layer`` and ``save``."""

    _members: Sequence[Estimator]

    def fit(self, x, y=None) -> Self:
        """Fit on the training set x (n, ...), y (n,) at every model."""
        for member in self._members:
            member.fit(x, y)
        return self

    def pairwise(self, x, y=None, x_test=None, y_test=None) -> Tensor:
        """As ``Estimator.pairwise``, (n_test, n)."""
        given = (x, y, x_test, y_test), "x_test, y_test"
        return self._scored(lambda sets: whole(self._rows(sets), *map(len, sets[0])), *given)

    def top(self, x, y=None, x_test=None, y_test=None, *, k: int = 10) -> Top:
        """As ``Estimator.top``."""
        given = (x, y, x_test, y_test), "x_test, y_test"
        return Top(*self._scored(lambda sets: strongest(self._rows(sets), k, len(sets[0][0])), *given))

    def leave_one_out(self, x, y=None, x_val=None, y_val=None) -> Tensor:
        """Raises UserError."""
        raise UserError(f"{type(self).__name__}: {_NO_CURVATURE}")

    def _scored(self, values: Callable, given: Sequence, *target: str) -> Tensor | tuple[Tensor, ...]:
        """A verb: ``values`` of what is given, as each member takes it."""
        with computing():
            sets = [member._fitted(["x, y", *target], given) for member in self._members]
            return self._members[0]._result(lambda: values(sets), sets[0])

    @abstractmethod
    def _rows(self, sets: Sequence[list[Held | Streamed]]) -> Iterator[tuple[int, Iterator[Tensor]]]:
        """As an estimator's, from each member's examples and tests."""


class Checkpoints:
    """What :class:`TracIn` takes, kept along one training: ``TracIn(path.models, path.rates)``.

    Called as ``path(step, model)`` after each step, from 1 on, such as by ``on_step`` of ``training.fit_many``, it
    keeps ``count`` copies in eval mode of a model or stack, evenly spaced, the last at the end, as ``models``; and as
    ``rates`` the sums of ``learning_rates``, one number a step, over the steps that led to each. Raises UserError for
    more checkpoints than steps, for a rate that is not finite or below 0, and for a model that cannot be copied.
    """

    def __init__(self, learning_rates: Sequence[float], count: int):
        by_step = settings.numbers("learning_rates", learning_rates, "at least 0, finite numbers")
        steps = len(by_step)
        if settings.count("count", count) > steps:
            raise UserError(f"count: must lie in 1..{steps}, the number of steps, got {count}")
        ends = [round(steps * (k + 1) / count) for k in range(count)]
        self.rates = [sum(by_step[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
        self.models: list[nn.Module | Stack] = []
        self._ends = set(ends)

    def __call__(self, step: int, model: nn.Module | Stack) -> None:
        if step in self._ends:
            try:
                kept = copy.deepcopy(model)
            except RuntimeError as error:  # it keeps a result of its forward pass
                raise UserError(f"model: cannot be copied ({str(error).splitlines()[0]})") from error
            self.models.append(kept.eval() if isinstance(kept, nn.Module) else kept)


class TracIn(Ensemble):
    """-sum_t rate_t grad L(theta_t)' grad l_i(theta_t) over checkpoints: TracInCP of Pruthi et al. 2020.

    ``checkpoints`` are the models at T moments of one training, or T stacks, whose results have S rows;
    ``learning_rates`` T numbers above 0, the learning rate at each times the steps it stands for; ``options`` those of
    :class:`~datalab.influence.estimator.Estimator`. Raises UserError for rates that do not fit.
    """

    def __init__(self, checkpoints: Sequence[nn.Module], learning_rates: Sequence[float], **options):
        self.checkpoints = settings.several("checkpoints", checkpoints, "models")
        self.learning_rates = settings.numbers(
            "learning_rates", learning_rates, "above 0, finite numbers", lambda rate: rate > 0
        )
        models, rates = len(self.checkpoints), len(self.learning_rates)
        if not models or models != rates:
            raise UserError(f"learning_rates: need one per checkpoint, got {rates} for {models}")
        if len(set(map(id, self.checkpoints))) < models:
            raise UserError("checkpoints: one model is there twice; keep copies, copy.deepcopy(model)")
        self._members = [GradDot(model, **options) for model in self.checkpoints]

    def self_influence(self, x, y=None) -> Tensor:
        """Of each example, (n,), at least 0."""
        return self._weighted(member.self_influence(x, y) for member in self._members)

    def influence_on(self, x, y=None, x_val=None, y_val=None) -> Tensor:
        """As ``Estimator.influence_on``, (n,)."""
        return self._weighted(member.influence_on(x, y, x_val, y_val) for member in self._members)

    def _rows(self, sets: Sequence[list[Held | Streamed]]) -> Iterator[tuple[int, Iterator[Tensor]]]:
        pairs = zip(self._members, sets, strict=True)
        for every in zip(*(member._rows(*of_member) for member, of_member in pairs), strict=True):
            columns = zip(*(row for _, row in every), strict=True)
            yield every[0][0], (self._weighted(blocks) for blocks in columns)

    def _weighted(self, scores: Iterable[Tensor]) -> Tensor:
        return sum(rate * of_one for rate, of_one in zip(self.learning_rates, scores, strict=True))
