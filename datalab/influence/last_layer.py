"""Influence at the last layer: exact Gauss-Newton curvature of the softmax layer on fixed features.

``scores_many`` scores a whole stack of models, one factorisation a model, however many targets.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from datalab.errors import UserError
from datalab.influence import layers
from datalab.influence.estimator import AUTO_RELATIVE, Batch, Directions, Estimator
from datalab.influence.factors import Dense
from datalab.influence.softmax import Examples, SoftmaxGGN, examples
from datalab.influence.tape import Inputs, Network, between, in_dtype, not_autocast, refuse_mixing
from datalab.mapped import MappedStack
from datalab.stack import Stack

_HELD = 1 << 24  # numbers of the training set's features held between passes; beyond, they are taken anew
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


class _LastLayer(Network):
    """A network of which only the last Linear layer is taken, in float64."""

    def __init__(
        self,
        model: nn.Module | Stack | MappedStack,
        leave_out: Sequence[str],
        dtype: torch.dtype | None,
        include_frozen: bool = False,
    ):
        if leave_out:
            raise UserError("leave_out: LastLayerGGN takes one layer alone; there is nothing to leave out")
        self.is_stack = isinstance(model, Stack | MappedStack)
        if self.is_stack:
            if not isinstance(model.module, nn.Sequential) or type(model.module[-1]) is not nn.Linear:
                raise UserError("model: LastLayerGGN takes stacks of an nn.Sequential that ends in a Linear layer")
            if dtype not in (None, model.flat.dtype):
                raise UserError("model: a stack does not take another dtype; train it in that dtype")
            last = f"{len(model.module) - 1}."
            weight, *bias = (value for name, value in model.parameters.items() if name.startswith(last))
            self._stack, self.models = model, len(model)
            self._take(weight, bias[0] if bias else None)
            return
        if not any(isinstance(module, nn.Linear) for module in model.modules()):
            raise UserError("model: LastLayerGGN needs a Linear layer at the end, found none")
        layers.refuse_train_mode(model)
        self.module, self.models, self._include_frozen = in_dtype(model, dtype), 1, include_frozen
        self.like = next(self.module.parameters()).detach()

    def _take(self, weight: Tensor, bias: Tensor | None) -> None:
        """Weights (S, C, h) and biases (S, C)."""
        self._bias = bias is not None
        self._matrices = layers.with_bias(weight, bias)
        self.like, self.shapes = weight, [(1, *self._matrices.shape[1:])]

    def values(self) -> list[Tensor]:
        """The layer's parameters, (S, C, p)."""
        return [self._matrices.double()]

    def probe(self, x: Tensor) -> None:
        """Find the layer whose output the logits are; refuses a model that has none."""
        if self.is_stack:
            return
        outputs: list[tuple[nn.Linear, Tensor]] = []
        linear = [module for module in self.module.modules() if isinstance(module, nn.Linear)]
        handles = [m.register_forward_hook(lambda m, _, out: outputs.append((m, out)), prepend=True) for m in linear]
        try:
            with torch.no_grad():
                logits = self.forward(x)
        finally:
            for handle in handles:
                handle.remove()
        last = [m for m, out in outputs if out.shape == logits.shape and torch.equal(out, logits)]
        if not last or sum(m is last[-1] for m, _ in outputs) != 1:
            raise UserError("model: LastLayerGGN needs logits that are the output of a Linear layer which runs once")
        self._layer = last[-1]
        if not (self._include_frozen or self._layer.weight.requires_grad):
            raise UserError(
                "model: its last layer is frozen (requires_grad=False), so it was not trained; include_frozen=True "
                "takes it all the same"
            )
        bias = self._layer.bias
        self._take(self._layer.weight.detach()[None], None if bias is None else bias.detach()[None])

    def check(self, x: Inputs) -> None:
        """Refuses a forward pass that mixes examples, is random, or does not always end in the last layer."""
        if not self.is_stack:
            refuse_mixing(self.logits, x)
            self.examples(x, torch.zeros(1, len(x), dtype=torch.long, device=self.like.device))
            self._refuse_earlier_use(x)

    def _refuse_earlier_use(self, x: Inputs) -> None:
        """Raise UserError where the layer's parameters make its features as well."""
        taken: list[Tensor] = []
        keep = lambda _, args, kwargs: taken.append(args[0] if args else kwargs["input"])  # noqa: E731
        handle = self._layer.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            with torch.enable_grad():
                self.forward(x)
        finally:
            handle.remove()
        nodes = between(taken[0], taken[0].detach()) if taken[0].requires_grad else set()
        if any(p.requires_grad and get_gradient_edge(p).node in nodes for p in self._layer.parameters()):
            raise UserError(
                "model: the last layer's parameters act before it as well, where LastLayerGGN does not look"
            )

    def examples(self, x: Tensor, y: Tensor) -> list[Examples]:
        """What reaches the last layer of each model, for the batch x (m, ...) with labels y (S, m)."""
        if self.is_stack:
            features = self._stack.features(x).expand(self.models, -1, -1)
            by_model = zip(features, self._stack(x), y, strict=True)
            return [examples(*of_model, self._bias) for of_model in by_model]
        taken: list[tuple[Tensor, Tensor, int]] = []

        def keep(_: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
            taken.append((args[0] if args else kwargs["input"], output, output._version))

        handle = self._layer.register_forward_hook(keep, with_kwargs=True, prepend=True)
        try:
            with torch.no_grad():
                logits = self._named(x, lambda: self.forward(x))
        finally:
            handle.remove()
        self._noted(logits)
        features, output, version = taken[-1] if taken else (None, None, 0)
        same = output is logits and output._version == version
        if len(taken) != 1 or not (same or (output._version == version and torch.equal(output, logits))):
            raise UserError("model: its logits are not always the output of its last Linear layer, example by example")
        if not features.dtype == output.dtype == logits.dtype:
            raise UserError(f"model: its last layer takes {str(features.dtype)[6:]}, {not_autocast(logits)}")
        return [examples(features, logits, y[0], self._bias)]


class LastLayerGGN(Estimator):
    """H is the exact Gauss-Newton matrix of the last Linear layer, on the features that reach it; the solver is
    Cholesky.

    The title's estimator. Any model will do whose output is that of its last Linear layer: the layers before it are not
    differentiated. A frozen one is taken with ``include_frozen`` alone. float32 models are computed in float32 where
    the result stays within 1e-4 of float64's. Parameters: :class:`~datalab.influence.estimator.Estimator`; ``"auto"``
    takes the mean diagonal over all C (h + 1) parameters.
    """

    _takes = _LastLayer

    def _fit(self, x: Tensor, y: Tensor) -> None:
        network = self._network
        _, classes, width = network.shapes[0]
        if network.models * len(x) * (2 * classes + width) <= _HELD:
            held = [network.examples(batch.x, batch.y) for batch in self._batches(x, y)]
            self._streams = [[batch[s] for batch in held] for s in range(network.models)]
        else:
            batches = partial(self._batches, x, y)
            self._streams = [_Stream(network, batches, s) for s in range(network.models)]
        self._damp()

    def _damp(self) -> None:
        damping = (self.l2, AUTO_RELATIVE) if self.damping == "auto" else (float(self.damping), 0.0)
        self._ggns = [_factorised(stream, *damping, self._network.like.dtype) for stream in self._streams]
        d = [ggn.damping_ for ggn in self._ggns]
        self.damping_ = torch.tensor(d, dtype=torch.float64) if self._network.is_stack else d[0]

    def _factors(self, batch: Batch) -> list[Dense]:
        by_model = self._network.examples(batch.x, batch.y)
        inputs = torch.stack([of_model.inputs for of_model in by_model])
        gradients = torch.stack([of_model.gradient for of_model in by_model])
        return [Dense(inputs[:, :, None], gradients[:, :, None], bias=False)]

    def _self_influence(self, batch: Batch) -> Tensor:
        (f,) = self._factors(batch)
        pairs = zip(self._ggns, f.inputs[:, :, 0], f.gradients[:, :, 0], strict=True)
        return torch.stack([ggn.self_influence(a, g) for ggn, a, g in pairs])

    def _solve(self, directions: Directions) -> Directions:
        return [torch.stack([ggn.direction(v) for ggn, v in zip(self._ggns, directions[0], strict=True)])]

    def _result(self, values: Tensor) -> Tensor:
        return super()._result(values.to(self._network.like.dtype))


class _Stream:
    """One model's examples in batches, computed anew at each iteration, so that memory is bounded by the batch."""

    def __init__(self, network: _LastLayer, batches: Callable[[], Iterator[Batch]], model: int):
        self.network, self.batches, self.model = network, batches, model

    def __iter__(self) -> Iterator[Examples]:
        return (self.network.examples(batch.x, batch.y)[self.model] for batch in self.batches())


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
        train = examples(features[s], logits[s], labels[s])
        ggn = _factorised([train], l2, relative_damping, features.dtype)
        own[s] = ggn.self_influence(train.inputs, train.gradient)
        if targets:
            batches = [examples(t.features[s], t.logits[s], t.labels[s]) for t in targets]
            gradients = torch.stack([batch.gradient.T @ batch.inputs / len(batch.inputs) for batch in batches])
            on[:, s] = -((train.inputs @ ggn.direction(gradients).mT) * train.gradient).sum(-1)
    return Scores(own, tuple(on))


def _factorised(batches: Iterable[Examples], absolute: float, relative: float, dtype: torch.dtype) -> SoftmaxGGN:
    """In float32 where the data are, where it pays and where it is accurate; in float64 otherwise."""
    first = next(iter(batches))
    if dtype == torch.float32 and (first.probabilities.shape[1] - 1) * first.inputs.shape[1] > _SMALL:
        with contextlib.suppress(ArithmeticError, UserError):
            return SoftmaxGGN(batches, absolute, relative, dtype)
    return SoftmaxGGN(batches, absolute, relative)


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
