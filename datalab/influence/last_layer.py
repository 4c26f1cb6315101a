"""Influence at the last layer: exact Gauss-Newton curvature of the softmax layer on fixed features.

``scores_many`` scores a whole stack of models, one factorisation a model, however many targets.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from datalab.errors import UserError
from datalab.influence import features as layer_features
from datalab.influence.estimator import AUTO_RELATIVE, Estimator
from datalab.influence.features import Factors
from datalab.influence.softmax import Damping, Examples, SoftmaxGGN, examples, influence, mean_gradient

_SMALL = 200  # up to this many parameters float64 costs no more than checking float32


class Target(NamedTuple):
    """A labelled set whose mean loss is the target: features (S, m, h), logits (S, m, C), labels (m,) or (S, m)."""

    features: Tensor
    logits: Tensor
    labels: Tensor


class Scores(NamedTuple):
    """``self_influence`` (S, n), at least 0, and ``influence_on``, one (S, n) a target, in the features' dtype."""

    self_influence: Tensor
    influence_on: tuple[Tensor, ...]


class LastLayerGGN(Estimator):
    """H is the exact Gauss-Newton matrix of the last Linear layer, on the features that reach it; the solver is
    Cholesky.

    The title's estimator. Any model will do whose output is that of its last Linear layer: the layers before it are not
    differentiated. float32 models are computed in float32 where the result stays within 1e-4 of float64's. Parameters:
    :class:`~datalab.influence.estimator.Estimator`; ``"auto"`` takes the mean diagonal over all C (h + 1) parameters.
    """

    def _fit(self, x: Tensor, y: Tensor) -> None:
        linear = [module for module in self.model.modules() if type(module) is nn.Linear]
        if not linear:
            raise UserError("model: LastLayerGGN needs a Linear layer at the end, found none")
        layer_features.refuse_train_mode(self.model)
        self._layer = linear[-1]
        damping = Damping(self.l2, AUTO_RELATIVE) if self.damping == "auto" else Damping(float(self.damping), 0.0)
        self._ggn = _factorised(_Stream(self, x, y), damping, x.dtype)
        self.damping_ = self._ggn.damping_

    def _examples(self, x: Tensor, y: Tensor) -> Examples:
        taken: list[tuple[Tensor, Tensor]] = []
        handle = self._layer.register_forward_hook(lambda _, args, output: taken.append((args[0], output)))
        try:
            with torch.no_grad():
                logits = self.model(x)
        finally:
            handle.remove()
        if len(taken) != 1 or logits.dim() != 2 or not torch.equal(taken[0][1], logits):
            raise UserError(f"model: its output must be that of its last Linear layer, {self._layer}, run once")
        return examples(taken[0][0], logits, y, self._layer.bias is not None)

    def _factors(self, x: Tensor, y: Tensor) -> list[Factors]:
        batch = self._examples(x, y)
        return [Factors(batch.inputs[:, None], batch.gradient[:, None])]

    def _self_influence(self, factors: list[Factors]) -> Tensor:
        (f,) = factors
        return self._ggn.self_influence(f.inputs[:, 0], f.gradients[:, 0]).to(self._layer.weight.dtype)

    def _solve(self, gradients: list[Tensor]) -> list[Tensor]:
        return [self._ggn.direction(gradients[0])]

    def _influence(self, x: Tensor, y: Tensor, solved: list[Tensor]) -> Tensor:
        return super()._influence(x, y, solved).to(self._layer.weight.dtype)


class _Stream:
    """The examples of x and y in batches, computed anew at each iteration, so that memory is bounded by the batch."""

    def __init__(self, estimator: LastLayerGGN, x: Tensor, y: Tensor):
        self._estimator, self._x, self._y = estimator, x, y

    def __iter__(self) -> Iterator[Examples]:
        return (self._estimator._examples(*batch) for batch in self._estimator._batches(self._x, self._y))


def scores_many(
    features: Tensor,
    logits: Tensor,
    labels: Tensor,
    l2: float,
    relative_damping: float = 1e-3,
    targets: Sequence[Target] = (),
) -> Scores:
    """Self-influence, and influence on each target's mean loss, for every model of a stack, one factorisation each.

    Parameters
    ----------
    features
        (S, n, h) inputs of the last Linear layer on the training set, without the ones of the bias; an expanded
        tensor will do.
    logits
        (S, n, C), C at least 2.
    labels
        (S, n) or (n,) int64.
    l2, relative_damping
        d = l2 + relative_damping * mean diagonal of H, over all C (h + 1) parameters of the layer, bias included.
    targets
        Any number of sets; influence on each is Koh & Liang's -grad L' (H + d I)^-1 grad l_i: positive where more
        weight on example i raises the target's loss.

    float32 features are computed in float32 where the result stays within 1e-4 of float64's, in float64 otherwise;
    float64 features in float64. Raises UserError for shapes that do not match, labels out of range, values that are
    not finite, or a damping too small for a positive definite matrix.
    """
    labels = _checked("the training set", features, logits, labels)
    targets = [
        Target(t.features, t.logits, _checked(f"target {k}", t.features, t.logits, t.labels, like=(features, logits)))
        for k, t in enumerate(targets)
    ]
    own = torch.empty(features.shape[:2], dtype=features.dtype, device=features.device)
    on = torch.empty(len(targets), *own.shape, dtype=features.dtype, device=features.device)
    for s in range(len(own)):
        train = [examples(features[s], logits[s], labels[s])]
        gradients = [mean_gradient([examples(t.features[s], t.logits[s], t.labels[s])]) for t in targets]
        own[s], on[:, s] = _score(train, gradients, Damping(l2, relative_damping), features.dtype)
    return Scores(own, tuple(on))


def self_influence_many(
    features: Tensor, logits: Tensor, labels: Tensor, l2: float, relative_damping: float = 1e-3
) -> Tensor:
    """g_i' (H + d I)^-1 g_i >= 0 for every training example of every model, (S, n); see :func:`scores_many`."""
    return scores_many(features, logits, labels, l2, relative_damping).self_influence


def influence_on_many(
    features: Tensor,
    logits: Tensor,
    labels: Tensor,
    val_features: Tensor,
    val_logits: Tensor,
    val_labels: Tensor,
    l2: float,
    relative_damping: float = 1e-3,
) -> Tensor:
    """Influence of every training example on the mean loss of one target set, (S, n); see :func:`scores_many`."""
    target = Target(val_features, val_logits, val_labels)
    return scores_many(features, logits, labels, l2, relative_damping, [target]).influence_on[0]


def _score(
    train: list[Examples], gradients: list[Tensor], damping: Damping, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Self-influence (n,) and influence on each target (T, n) of one model."""
    (batch,) = train
    ggn = _factorised(train, damping, dtype)
    own = ggn.self_influence(batch.inputs, batch.gradient)
    return own, influence(batch, ggn.direction(torch.stack(gradients))) if gradients else own.new_empty(0, len(own))


def _factorised(batches: Iterable[Examples], damping: Damping, dtype: torch.dtype) -> SoftmaxGGN:
    """In float32 where the data are, where it pays and where it is accurate; in float64 otherwise."""
    first = next(iter(batches))
    if dtype == torch.float32 and (first.probabilities.shape[1] - 1) * first.inputs.shape[1] > _SMALL:
        with contextlib.suppress(ArithmeticError, UserError):
            return SoftmaxGGN(batches, damping, dtype)
    return SoftmaxGGN(batches, damping)


def _checked(
    name: str, features: Tensor, logits: Tensor, labels: Tensor, like: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """The labels (S, n), once everything fits together."""
    shape, classes = tuple(features.shape), logits.shape[-1]
    if features.dim() != 3 or logits.dim() != 3 or features.shape[:2] != logits.shape[:2] or classes < 2:
        raise UserError(f"{name}: need features (S, n, h), logits (S, n, C >= 2), got {shape}, {tuple(logits.shape)}")
    if labels.shape not in (features.shape[1:2], features.shape[:2]):
        raise UserError(f"{name}: labels must be (n,) or (S, n) for features {shape}, got {tuple(labels.shape)}")
    if not (features.sum().isfinite() and logits.sum().isfinite()):
        raise UserError(f"{name}: features and logits must be finite, got NaN or infinity")
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"{name}: labels must lie in 0..{classes - 1}, got {labels.min()}..{labels.max()}")
    if like is not None and any(
        (ours.shape[0], ours.shape[2]) != (theirs.shape[0], theirs.shape[2])
        for ours, theirs in zip((features, logits), like, strict=True)
    ):
        raise UserError(f"{name}: models, features and classes must be the training set's, got {shape} and {classes}")
    return labels.expand(features.shape[:2])
