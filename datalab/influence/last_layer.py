"""Influence at the last layer: exact Gauss-Newton curvature of the softmax layer on fixed features.

``scores_many`` scores a whole stack of models, one factorisation a model, however many targets.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from datalab.errors import UserError
from datalab.influence import cholesky, layers
from datalab.influence.estimator import AUTO_RELATIVE, MAX_PARAMETERS, Directions, Estimator, at_once
from datalab.influence.factors import Dense
from datalab.influence.losses import CrossEntropy
from datalab.influence.sets import Batch, Held, Streamed
from datalab.influence.softmax import Examples, LinearExamples, LinearGGN, SoftmaxGGN, examples, examples_under
from datalab.influence.tape import Inputs, Network, between, in_dtype, not_autocast, over, refuse_mixing
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
            self.name = last[:-1]
            return
        if not any(isinstance(module, nn.Linear) for module in model.modules()):
            raise UserError("model: LastLayerGGN needs a Linear layer at the end, found none")
        layers.refuse_train_mode(model)
        self.module, self.models, self._include_frozen = in_dtype(model, dtype), 1, include_frozen
        self.like = next(self.module.parameters()).detach()

    def _take(self, weight: Tensor, bias: Tensor | None) -> None:
        """Weights (S, C, h) and biases (S, C)."""
        self.bias = bias is not None
        self._matrices = layers.with_bias(weight, bias)
        self.like, self.shapes = weight, [(1, *self._matrices.shape[1:])]

    def values(self) -> list[Tensor]:
        """The layer's parameters, (S, C, p)."""
        return [self._matrices.double()]

    def probe(self, x: Inputs) -> None:
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
        self.name = next(name for name, module in self.module.named_modules() if module is self._layer)
        bias = self._layer.bias
        self._take(self._layer.weight.detach()[None], None if bias is None else bias.detach()[None])

    def check(self, x: Inputs) -> None:
        """Refuses a forward pass that mixes examples, is random, or does not always end in the last layer."""
        if not self.is_stack:
            refuse_mixing(self.logits, x)
            self.last(x)
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

    def last(self, x: Inputs) -> list[tuple[Tensor, Tensor]]:
        """What reaches the last layer of each model, (m, h), and what leaves it, (m, C), for the batch x (m, ...)."""
        if self.is_stack:
            features = self._stack.features(x).expand(self.models, -1, -1)
            return list(zip(features, self.logits(x), strict=True))
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
        return [(features, logits)]


class LastLayerGGN(Estimator):
    """H is the exact Gauss-Newton matrix of the last Linear layer, on the features that reach it; the solver is
    Cholesky.

    The title's estimator. Any model will do whose output is that of its last Linear layer: the layers before it are not
    differentiated. A frozen one is taken with ``include_frozen`` alone. float32 models are computed in float32 where
    the result stays within 1e-4 of float64's. Parameters: :class:`~datalab.influence.estimator.Estimator`; ``"auto"``
    takes the mean diagonal over all C (h + 1) parameters.
    """

    _takes = _LastLayer

    @property
    def _state(self) -> tuple[str, ...] | None:
        return ("_streams",) if isinstance(self._streams[0], list) else None

    def _fit(self, data: Held | Streamed) -> None:
        network = self._network
        _, classes, width = network.shapes[0]
        if len(self._outputs) > 1:
            raise UserError(f"model: LastLayerGGN takes outputs (n, C), got {tuple(self._outputs)} for each example")
        softmax = isinstance(self.loss, CrossEntropy)
        _refuse_above((classes - softmax) * width)
        if network.models * len(data) * ((2 if softmax else classes) * classes + width) <= _HELD:
            held = [self._examples(batch) for batch in self._batches(data)]
            self._streams = [[batch[s] for batch in held] for s in range(network.models)]
        else:
            batches = partial(self._batches, data)
            self._streams = [_Stream(self._examples, batches, s) for s in range(network.models)]
        self._damp()

    def _damp(self) -> None:
        damping = (self.l2, AUTO_RELATIVE) if self.damping == "auto" else (float(self.damping), 0.0)
        softmax = isinstance(self.loss, CrossEntropy)
        kind = Examples if softmax else LinearExamples
        streams = [[kind(*b) for b in s] if isinstance(s, list) else s for s in self._streams]  # a file holds no types
        if softmax:
            self._ggns = _factorised(streams, *damping, self._network.like.dtype)
        else:
            self._ggns = [LinearGGN(stream, *damping) for stream in streams]
        d = torch.stack([ggn.damping_ for ggn in self._ggns])
        cholesky.refuse_indefinite([ggn.info for ggn in self._ggns], d, torch.float64)
        self.damping_ = d if self._network.is_stack else float(d)

    def _examples(self, batch: Batch) -> list[Examples | LinearExamples]:
        """Of each model."""
        bias, pairs = self._network.bias, enumerate(self._network.last(batch.x))
        return [examples_under(self.loss, *taken, over(batch.y, lambda v, s=s: v[s]), bias) for s, taken in pairs]

    def _factors(self, batch: Batch) -> list[Dense]:
        by_model = self._examples(batch)
        inputs = torch.stack([of_model.inputs for of_model in by_model])
        gradients = torch.stack([of_model.gradient for of_model in by_model])
        return [Dense(inputs[:, :, None], gradients[:, :, None], inputs.shape[-1])]

    def _self_influence(self, batch: Batch) -> Tensor:
        (f,) = self._factors(batch)
        pairs = zip(self._ggns, f.inputs[:, :, 0], f.gradients[:, :, 0], strict=True)
        return self._over_sites([torch.stack([ggn.self_influence(a, g) for ggn, a, g in pairs])])

    def _solve(self, directions: Directions) -> Directions:
        return [torch.stack([ggn.direction(v) for ggn, v in zip(self._ggns, directions[0], strict=True)])]

    def _result(self, values: Callable[[], Tensor | tuple], *options) -> Tensor | tuple | dict:
        return super()._result(lambda: over(values(), self._moved), *options)

    def _layers(self) -> list[str]:
        return [self._network.name]


class _Stream:
    """One model's examples in batches, computed anew at each iteration, so that memory is bounded by the batch."""

    def __init__(self, taken: Callable[[Batch], list], batches: Callable[[], Iterator[Batch]], model: int):
        self.taken, self.batches, self.model = taken, batches, model

    def __iter__(self) -> Iterator[Examples | LinearExamples]:
        return (self.taken(batch)[self.model] for batch in self.batches())


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
    n, classes, width = features.shape[1], logits.shape[2], features.shape[2] + 1
    _refuse_above((classes - 1) * width)
    held = ((classes - 1) * width) ** 2 + 2 * n * (2 * classes + width)
    for models in torch.arange(len(own)).split(max(at_once(features.device, _HELD) // held, 1)):
        trains = [examples(features[s], logits[s], labels[s]) for s in models.tolist()]
        ggns = _factorised([[train] for train in trains], l2, relative_damping, features.dtype)
        cholesky.refuse_indefinite([g.info for g in ggns], torch.stack([g.damping_ for g in ggns]), torch.float64)
        for s, train, ggn in zip(models.tolist(), trains, ggns, strict=True):
            own[s] = ggn.self_influence(train.inputs, train.gradient)
            if targets:
                batches = [examples(t.features[s], t.logits[s], t.labels[s]) for t in targets]
                gradients = torch.stack([batch.gradient.T @ batch.inputs / len(batch.inputs) for batch in batches])
                on[:, s] = -((train.inputs @ ggn.direction(gradients).mT) * train.gradient).sum(-1)
    return Scores(own, tuple(on))


def _factorised(
    streams: Sequence[Iterable[Examples]], absolute: float, relative: float, dtype: torch.dtype
) -> list[SoftmaxGGN]:
    """A model each: in float32 where the data are, where it pays and where it is accurate; in float64 otherwise.

    The device is waited for once, for all of them.
    """
    first = next(iter(streams[0]))
    if dtype == torch.float64 or (first.probabilities.shape[1] - 1) * first.inputs.shape[1] <= _SMALL:
        return [SoftmaxGGN(stream, absolute, relative) for stream in streams]
    ggns = [SoftmaxGGN(stream, absolute, relative, dtype) for stream in streams]
    sound = torch.stack([ggn.sound for ggn in ggns]).tolist()
    return [
        ggn if fine else SoftmaxGGN(stream, absolute, relative)
        for ggn, fine, stream in zip(ggns, sound, streams, strict=True)
    ]


def _refuse_above(size: int) -> None:
    """Raise UserError above the number of rows of a matrix that can be held."""
    if size > MAX_PARAMETERS:
        raise UserError(
            f"model: the last layer's curvature is a matrix of {size:,} rows, and LastLayerGGN forms it: at most "
            f"{MAX_PARAMETERS:,}; use EKFAC, with the other layers in leave_out for the last one alone"
        )


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
