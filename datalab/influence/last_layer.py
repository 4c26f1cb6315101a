"""Influence at the last layer: exact Gauss-Newton curvature of the softmax layer on fixed features.

``scores_many`` scores a whole stack of models, one factorisation a model, however many targets.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from datalab.errors import UserError
from datalab.influence import layers, losses
from datalab.influence.estimator import AUTO_RELATIVE, MAX_PARAMETERS, Directions, Estimator, at_once
from datalab.influence.exact import ExactGGN
from datalab.influence.losses import CrossEntropy
from datalab.influence.network import NESTED, Network
from datalab.influence.sets import Batch, Held, Inputs, Streamed, over
from datalab.influence.softmax import Examples, examples, factorised
from datalab.influence.tape import LayerTape
from datalab.mapped import MappedStack
from datalab.stack import Stack

_HELD = 1 << 24  # numbers of the training set's features held between passes; beyond, they are taken anew


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

    cure, by_tape = staticmethod(lambda _: "LastLayerGGN looks at their layer alone"), True

    def __init__(self, model, leave_out: Sequence[str], dtype: torch.dtype | None, include_frozen: bool):
        if leave_out:
            raise UserError("leave_out: LastLayerGGN takes one layer alone; there is nothing to leave out")
        self.is_stack, self._include_frozen = isinstance(model, Stack | MappedStack), include_frozen
        if self.is_stack:
            if not isinstance(model.module, nn.Sequential) or type(model.module[-1]) is not nn.Linear:
                raise UserError("model: LastLayerGGN takes stacks of an nn.Sequential that ends in a Linear layer")
            if dtype not in (None, model.flat.dtype):
                raise UserError("model: a stack does not take another dtype; train it in that dtype")
            self._hold(model, dtype)
            self._take(*layers.alone(self.module, str(len(self.module) - 1), include_frozen=True))
            return
        if not any(isinstance(module, nn.Linear) for module in model.modules()):
            raise UserError("model: LastLayerGGN needs a Linear layer at the end, found none")
        layers.refuse_train_mode(model)
        self._hold(model, dtype)
        self.like = next(self.module.parameters()).detach()

    def values(self) -> list[Tensor]:
        """The layer's parameters, (S, 1, C, p)."""
        return [v.double() for v in super().values()]

    def probe(self, x: Inputs) -> None:
        """Find the layer whose output the logits are; refuses a model that has none."""
        if self.is_stack:
            return
        outputs: list[tuple[nn.Module, Tensor]] = []
        linear = {module: name for name, module in self.module.named_modules() if isinstance(module, nn.Linear)}
        with contextlib.ExitStack() as stack, torch.no_grad():
            for module in linear:
                hook = module.register_forward_hook(lambda m, _, out: outputs.append((m, out)), prepend=True)
                stack.enter_context(hook)
            logits = self.forward(x)
        if any(out.is_nested for _, out in outputs):
            raise UserError(NESTED)
        last = [module for module, out in outputs if out.shape == logits.shape and torch.equal(out, logits)]
        if not last or [module for module, _ in outputs].count(last[-1]) != 1:
            raise UserError("model: LastLayerGGN needs logits that are the output of a Linear layer which runs once")
        layer = last[-1]
        if not (self._include_frozen or layer.weight.requires_grad):
            why = "frozen (requires_grad=False), so it was not trained; include_frozen=True takes it all the same"
            raise UserError(f"model: its last layer is {why}")
        self._take(*layers.alone(self.module, linear[layer], self._include_frozen))

    def tape(self, x: Inputs) -> LayerTape:
        """Of the last layer, in float64: its inputs have a one appended for a bias."""
        if self.is_stack:
            features, logits = self._stack.features(x), self.logits(x)
        else:
            tape = super().tape(x)
            logits = tape.logits.detach()
            same = len(tape.records) == 1 and tape.records[0].edge[:2] == tape.edge[:2]
            if not same and len(tape.records) == 1:  # or differ from it by no more than what has no gradient
                cotangent = torch.linspace(1, 2, logits.numel()).to(logits).view_as(logits)
                _, (g,) = tape.gradients(cotangent)
                same = torch.equal(g.reshape(-1), cotangent.reshape(-1))
            if not same:
                raise UserError("model: its logits are not always the output of its last Linear layer")
            features = tape.records[0].inputs[:, :, 0]
        bias = self.shapes[0][2] - features.shape[-1]
        inputs = pad(features.double(), (0, bias), value=1.0).expand(self.models, -1, -1)[:, :, None]
        return LayerTape(logits.double(), [inputs], [False], lambda cotangent: [cotangent[:, :, None]])


class LastLayerGGN(ExactGGN):
    """H is the exact Gauss-Newton matrix of the last Linear layer, on the features that reach it: the title's.

    Any model will do whose output is that of its last Linear layer: the layers before it are not differentiated.
    float32 models are computed in float32 where the result stays within 1e-4 of float64's. ``"auto"`` takes the mean
    diagonal over all C (h + 1) parameters.
    """

    _takes = _LastLayer

    @property
    def _softmax(self) -> bool:
        return isinstance(self.loss, CrossEntropy)

    def _fit(self, data: Held | Streamed) -> None:
        network = self._network
        _, classes, width = network.shapes[0]
        if len(outputs := self._feed.outputs) > 1:
            raise UserError(f"model: LastLayerGGN takes outputs (n, C), got {tuple(outputs)} for each example")
        on = " on each of list(stack)" if network.is_stack else ""
        cure = f"use EKFAC{on}, with the other layers in leave_out for the last one alone"
        _refuse_above((classes - self._softmax) * width, cure)
        if not self._softmax:
            return super()._fit(data)
        if network.models * len(data) * (2 * classes + width) <= _HELD:
            self._state = ("_streams",)
            held = [self._examples(batch) for batch in self._feed.batches(data)]
            self._streams = [[batch[s] for batch in held] for s in range(network.models)]
        else:
            self._state = None
            batches = partial(self._feed.batches, data)
            self._streams = [_Stream(self._examples, batches, s) for s in range(network.models)]

    def _damp(self) -> None:
        if not self._softmax:
            return super()._damp()
        damping = (self.l2, AUTO_RELATIVE) if self.damping == "auto" else (float(self.damping), 0.0)
        # a file has no types
        streams = [[Examples(*b) for b in s] if isinstance(s, list) else s for s in self._streams]
        self._ggns = factorised(streams, *damping, self._network.like.dtype)
        d = torch.stack([ggn.damping_ for ggn in self._ggns])
        self.damping_ = d if self._network.is_stack else float(d)

    def _examples(self, batch: Batch) -> list[Examples]:
        """Of each model."""
        tape = self._network.tape(batch.x)
        of_loss = (losses.over_models(f, tape.logits, batch.y) for f in (self.loss.gradient, self.loss.mass))
        probabilities = torch.softmax(tape.logits, -1)
        return [Examples(*of_model) for of_model in zip(tape.inputs[0][:, :, 0], probabilities, *of_loss, strict=True)]

    def _self_influence(self, batch: Batch) -> Tensor:
        if not self._softmax:
            return super()._self_influence(batch)
        (f,) = self._factors(batch)
        pairs = zip(self._ggns, f.inputs[:, :, 0], f.gradients[:, :, 0], strict=True)
        return self._over_sites([torch.stack([ggn.self_influence(a, g) for ggn, a, g in pairs])])

    def _solve(self, directions: Directions) -> Directions:
        if not self._softmax:
            return super()._solve(directions)
        return [torch.stack([ggn.direction(v) for ggn, v in zip(self._ggns, directions[0], strict=True)])]

    _leave_one_out = Estimator._leave_one_out

    def _result(self, values: Callable[[], Tensor | tuple], *options) -> Tensor | tuple | dict:
        return super()._result(lambda: over(values(), self._feed.moved), *options)


class _Stream:
    """One model's examples in batches, computed anew at each iteration, so that memory is bounded by the batch."""

    def __init__(self, taken: Callable[[Batch], list], batches: Callable[[], Iterator[Batch]], model: int):
        self.taken, self.batches, self.model = taken, batches, model

    def __iter__(self) -> Iterator[Examples]:
        return (self.taken(batch)[self.model] for batch in self.batches())


def scores_many(
    features: Tensor,
    logits: Tensor,
    labels: Tensor,
    l2: float,
    relative_damping: float = 1e-3,
    targets: Sequence[Target] = (),
) -> Scores:
    """Self-influence, and influence on each target's mean loss, of S models' last layers, one factorisation each.

    The training set's ``features`` are (S, n, h), without the ones of the bias, an expanded tensor will do, ``logits``
    (S, n, C) with C at least 2, ``labels`` (S, n) or (n,) int64; d = l2 + relative_damping * mean diagonal of H over
    all C (h + 1) parameters. float32 features are computed as by :class:`LastLayerGGN`. Raises UserError for shapes
    that do not match, labels out of range, values that are not finite, or a damping too small.
    """
    labels = _checked("the training set", features, logits, labels, (features, logits))
    checked = [_checked(f"target {k}", *target, (features, logits)) for k, target in enumerate(targets)]
    targets = [target._replace(labels=of_target) for target, of_target in zip(targets, checked, strict=True)]
    own = torch.empty(features.shape[:2], dtype=features.dtype, device=features.device)
    on = torch.empty(len(targets), *own.shape, dtype=features.dtype, device=features.device)
    n, classes, width = features.shape[1], logits.shape[2], features.shape[2] + 1
    _refuse_above((classes - 1) * width, "use EKFAC on the models themselves")
    held = ((classes - 1) * width) ** 2 + 2 * n * (2 * classes + width)
    for models in torch.arange(len(own)).split(max(at_once(features.device, _HELD) // held, 1)):
        trains = [examples(features[s], logits[s], labels[s]) for s in models.tolist()]
        ggns = factorised([[train] for train in trains], l2, relative_damping, features.dtype)
        for s, train, ggn in zip(models.tolist(), trains, ggns, strict=True):
            own[s] = ggn.self_influence(train.inputs, train.gradient)
            if targets:
                batches = [examples(t.features[s], t.logits[s], t.labels[s]) for t in targets]
                gradients = torch.stack([batch.gradient.T @ batch.inputs / len(batch.inputs) for batch in batches])
                on[:, s] = -((train.inputs @ ggn.direction(gradients).mT) * train.gradient).sum(-1)
    return Scores(own, tuple(on))


def _refuse_above(size: int, cure: str) -> None:
    """Raise UserError above the number of rows of a matrix that can be held."""
    if size > MAX_PARAMETERS:
        what = f"the last layer's curvature is a matrix of {size:,} rows, and LastLayerGGN forms it"
        raise UserError(f"model: {what}: at most {MAX_PARAMETERS:,}; {cure}")


def _checked(name: str, features: Tensor, logits: Tensor, labels: Tensor, like: tuple[Tensor, Tensor]) -> Tensor:
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
    if [v.shape[::2] for v in (features, logits)] != [v.shape[::2] for v in like]:
        raise UserError(f"{name}: models, features and classes must be the training set's, got {shape} and {classes}")
    return labels.expand(features.shape[:2])
