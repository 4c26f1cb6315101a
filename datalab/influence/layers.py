"""Layers: which modules are taken, and what of each is an input, an output gradient and a parameter matrix.

A *use* is a place where parameters multiply something: one for each layer, four for a MultiheadAttention (query, key,
value and output projection). A *site* is a set of matrices (B, out, in), see :mod:`~datalab.influence.factors`, with
all its uses: several where modules share a parameter. Its last column is the bias where weight and bias always go
together; otherwise the bias has a site of its own, whose input is 1. A normalisation's are a (1, 2) matrix a channel.
"""

import copy
import math
from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from datalab.errors import UserError, did_you_mean
from datalab.influence.factors import Dense, Factors, Lookup, together

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
CHANNELS_SECOND = (nn.GroupNorm, *BATCH_NORMS, *INSTANCE_NORMS)
TAKEN = (
    "Linear, Conv1d, Conv2d, LayerNorm, GroupNorm, RMSNorm, BatchNorm, InstanceNorm, Embedding and MultiheadAttention"
)
RANDOM = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU)
_PRUNED = {"weight_orig", "bias_orig", "weight_g", "weight_v", "in_proj_weight_orig"}

Part = tuple[nn.Parameter, slice]  # rows of a parameter


class Use:
    """One place in a model where a weight and a bias act: all rows of a module's own, or those given.

    ``layer`` is the module's name, which ``leave_out`` takes; ``flipped``, whether the matrix is the weight's
    transpose; ``shape``, that of the matrices without a bias. Every kind has

    ``inputs``: what multiplies the matrices, (B or 1, m, t, in), from the module's input x (m, ...);
    ``gradients``: (B, m, t, out), from the gradient of the module's output (m, ...);
    ``arrange``: values of the weight's rows, in their shape, as matrices (B, out, in).
    """

    flipped = False

    def __init__(self, name: str, module: nn.Module, weight: Part | None = None, bias: Part | None = None):
        self.name, self.module = name, module
        self.layer = name if weight is None else name.rpartition(".")[0]
        own = getattr(module, "bias", None)
        self.weight = weight or (module.weight, slice(None))
        self.bias = bias if weight or own is None else (own, slice(None))
        self.shape = self.arrange(self.weight[0].detach()[self.weight[1]]).shape

    def factors(self, inputs: Tensor, g: Tensor, bias: bool) -> Factors:
        """The weight's factors of inputs as ``inputs`` gave them and an output gradient g (m, ...)."""
        return Dense(inputs, self.gradients(g), inputs.shape[-1] + bias)


class LinearUse(Use):
    """A Linear layer, or a projection of an attention layer, on (m, ..., in)."""

    def inputs(self, x: Tensor) -> Tensor:
        return x.reshape(1, len(x), -1, x.shape[-1])

    gradients = inputs

    def arrange(self, weight: Tensor) -> Tensor:
        return weight.T[None] if self.flipped else weight[None]

    def apply(self, x: Tensor) -> Tensor:
        """x times the weight's transpose, plus the bias."""
        (weight, rows), bias = self.weight, self.bias
        return functional.linear(x, weight[rows], None if bias is None else bias[0][bias[1]])


class FlippedLinearUse(LinearUse):
    """transformers' Conv1D, a Linear layer whose weight is (in, out)."""

    flipped = True


class EmbeddingUse(FlippedLinearUse):
    """An Embedding on tokens (m, ...): one-hot inputs."""

    def inputs(self, x: Tensor) -> Tensor:
        return x.reshape(1, len(x), -1)

    def factors(self, inputs: Tensor, g: Tensor, bias: bool) -> Lookup:
        gradients = self.gradients(g)
        if self.module.padding_idx is not None:
            gradients = gradients.masked_fill((inputs == self.module.padding_idx)[..., None], 0.0)
        return Lookup(inputs, gradients, self.module.num_embeddings)


class ConvUse(Use):
    """A Conv1d or Conv2d of any stride, padding, dilation and groups, as one linear layer a group on its patches.

    A patch's channels come last, so that what it takes of a row lies in one piece: copied two to six times as fast as
    by ``functional.unfold``, which on a GPU starts a kernel an example.
    """

    def inputs(self, x: Tensor) -> Tensor:
        module, mode = self.module, self.module.padding_mode
        pad = list(module._reversed_padding_repeated_twice)  # torch's own, of "same" and "valid" padding as well
        x = functional.pad(x, pad, "constant" if mode == "zeros" else mode)
        kernel, dilation, stride = module.kernel_size, module.dilation, module.stride
        if x.dim() == 3:  # a line is an image of height 1
            x, kernel, dilation, stride = x[:, :, None], (1, *kernel), (1, *dilation), (1, *stride)
        x = x.unflatten(1, (module.groups, -1)).permute(1, 0, 3, 4, 2).contiguous()  # (G, m, h, w, channels)
        axes = list(zip(x.shape[2:4], x.stride()[2:4], kernel, dilation, stride, strict=True))
        places = [(n - d * (k - 1) - 1) // s + 1 for n, _, k, d, s in axes]
        steps = [by * s for _, by, _, _, s in axes] + [by * d for _, by, _, d, _ in axes]
        patches = x.as_strided((*x.shape[:2], *places, *kernel, x.shape[4]), (*x.stride()[:2], *steps, x.stride(4)))
        return patches.reshape(*x.shape[:2], math.prod(places), -1)

    def gradients(self, g: Tensor) -> Tensor:
        return g.flatten(2).unflatten(1, (self.module.groups, -1)).permute(1, 0, 3, 2).contiguous()

    def arrange(self, weight: Tensor) -> Tensor:
        return weight.movedim(1, -1).flatten(1).unflatten(0, (self.module.groups, -1))


class NormUse(Use):
    """A normalisation: each channel's weight multiplies its normalised value, its bias a 1."""

    def inputs(self, x: Tensor) -> Tensor:
        plain = copy.copy(self.module)
        plain._parameters = dict.fromkeys(plain._parameters)  # neither weight nor bias
        return self.gradients(plain.forward(x))

    def gradients(self, g: Tensor) -> Tensor:
        if isinstance(self.module, CHANNELS_SECOND):
            g = g.reshape(*g.shape[:2], -1).mT
        else:
            g = g.reshape(len(g), -1, math.prod(self.module.normalized_shape))
        return g.permute(2, 0, 1)[..., None].contiguous()

    def arrange(self, weight: Tensor) -> Tensor:
        return weight.reshape(-1, 1, 1)


class Site:
    """Matrices (B, out, in), made of a weight, a bias or both, and all their uses in the model.

    Of a weight used with its transpose as well, as by an Embedding tied to a Linear layer, they are the weight itself.
    ``parameters`` are a weight, a bias, or both, in this order.
    """

    def __init__(self, uses: list[Use], weight: Part | None, bias: Part | None):
        self.uses, self._weight, self._bias = uses, weight, bias
        self.parameters, self._rows = zip(*(part for part in (weight, bias) if part is not None), strict=True)
        self._main = next((use for use in uses if not use.flipped), uses[0])
        self.name, self.layer = self._main.name + (".bias" if weight is None else ""), self._main.layer

    @property
    def of_sequences(self) -> bool:
        """Whether its positions, if there are several, are those of the model's own sequence, and not patches."""
        return all(isinstance(use, LinearUse) for use in self.uses)

    def arrange(self, *values: Tensor) -> Tensor:
        """Values of the parameters, in their shapes, or the parameters themselves, as matrices (B, out, in)."""
        values = [value[rows] for value, rows in zip(values or self.parameters, self._rows, strict=True)]
        if self._weight is None:
            return values[0].reshape(*self._main.shape[:2], 1)
        return with_bias(self._main.arrange(values[0]), values[1] if self._bias else None)

    def factors(self, recorded: list[tuple[Use, Tensor, Tensor]]) -> Factors:
        """The factors of every use with its inputs and output gradient."""
        if self._weight is None:
            gradients = [use.gradients(g) for use, _, g in recorded]
            return together([(Dense(g.new_ones(1, *g.shape[1:3], 1), g, 1), False) for g in gradients])
        bias = self._bias is not None
        return together([(u.factors(a, g, bias), u.flipped != self._main.flipped) for u, a, g in recorded])


def sites(
    model: nn.Module, leave_out: Sequence[str] = (), include_frozen: bool = False
) -> tuple[dict[str, list[Use]], list[Site]]:
    """The uses of every module with parameters to take, by the module's name, and all sites, in order of registration.

    ``leave_out`` and ``include_frozen``: see :class:`~datalab.influence.estimator.Estimator`. Raises UserError, naming
    all in the way and the ``leave_out`` that helps, for layers and parameters that are not taken; and for dropout or
    batch statistics in train mode.
    """
    for module in model.modules():
        by = "jit" if isinstance(module, torch.jit.ScriptModule) else "compile" if hasattr(module, "_orig_mod") else ""
        if by:
            raise UserError(f"model: compiled by torch.{by}, its layers cannot be seen; give what it was made from")
    parameters = list(model.parameters())
    if any(is_lazy(p) for p in parameters):
        raise UserError("model: has lazy layers without parameters as yet; run it once on an example first")
    if any(p.is_inference() for p in parameters):
        raise UserError("model: its parameters were made in torch.inference_mode, without gradients; build it outside")
    refuse_train_mode(model)
    left_out = _left_out(model, leave_out)
    parameters = [p for p in parameters if id(p) not in left_out]
    wanted = {id(p) for p in parameters if include_frozen or p.requires_grad}
    if parameters and not wanted:
        why = "are frozen (requires_grad=False), so none was trained; include_frozen=True takes them all the same"
        raise UserError(f"model: all its parameters {why}")
    return _of_modules(model, dict(model.named_modules()), wanted)


def alone(model: nn.Module, name: str, include_frozen: bool) -> tuple[dict[str, list[Use]], list[Site]]:
    """As :func:`sites`, of one Linear layer."""
    layer = model.get_submodule(name)
    return _of_modules(model, {name: layer}, {id(p) for p in layer.parameters() if include_frozen or p.requires_grad})


def _of_modules(model: nn.Module, modules: dict[str, nn.Module], wanted: set[int]):
    by_module = {name: uses for name, module in modules.items() if wanted & _ids(uses := _uses(name, module))}
    uses = [use for of_module in by_module.values() for use in of_module]
    if hooked := [name for name, p in model.named_parameters() if id(p) in wanted and p._backward_hooks]:
        what = f"parameters {', '.join(map(repr, hooked))} have hooks that may change their gradients"
        raise UserError(f"model: {what}; take these off (the handle's remove()), or {left(hooked)}")
    _refuse_not_taken(model, wanted - _ids(uses))
    grouped = _grouped(uses, wanted)
    if not grouped:
        raise UserError(f"model: has no layer with parameters to differentiate; taken are {TAKEN}")
    return by_module, grouped


def _ids(uses: list[Use]) -> set[int]:
    """Those of the parameters of uses."""
    return {id(part[0]) for use in uses for part in (use.weight, use.bias) if part is not None}


def _uses(name: str, module: nn.Module) -> list[Use]:
    """None for a module that is not taken."""
    if parametrize.is_parametrized(module) or _PRUNED & {n for n, _ in module.named_parameters(recurse=False)}:
        return []
    kind = type(module)
    if _inherits(kind, nn.MultiheadAttention):
        plain = module.bias_k is None and not module.add_zero_attn and not parametrize.is_parametrized(module.out_proj)
        plain = plain and "forward" not in vars(module)  # it is replaced by one that is recorded
        return _projections(name, module) if plain else []
    if kind is nn.modules.linear.NonDynamicallyQuantizableLinear:
        return []  # an attention layer's own
    taken = {
        LinearUse: isinstance(module, nn.Linear),
        FlippedLinearUse: kind.__qualname__ == "Conv1D" and hasattr(module, "nf"),
        ConvUse: _inherits(kind, nn.Conv1d, nn.Conv2d),
        NormUse: _inherits(kind, nn.LayerNorm, nn.RMSNorm, *CHANNELS_SECOND) and module.weight is not None,
        EmbeddingUse: _inherits(kind, nn.Embedding) and module.max_norm is None and not module.scale_grad_by_freq,
    }
    return [use(name, module) for use, fits in taken.items() if fits]


def _projections(name: str, module: nn.MultiheadAttention) -> list[Use]:
    """Of query, key, value and output."""
    size, packed, bias, out = module.embed_dim, module.in_proj_weight, module.in_proj_bias, module.out_proj
    uses = []
    for i, part in enumerate("qkv"):
        rows = slice(i * size, (i + 1) * size)
        weight = (getattr(module, f"{part}_proj_weight"), slice(None)) if packed is None else (packed, rows)
        uses.append(LinearUse(f"{name}.{part}", module, weight, None if bias is None else (bias, rows)))
    of_out = None if out.bias is None else (out.bias, slice(None))
    return [*uses, LinearUse(f"{name}.out_proj", module, (out.weight, slice(None)), of_out)]


def _inherits(kind: type, *bases: type) -> bool:
    """Whether a class is one of ``bases``, or one derived that computes the same."""
    return any(issubclass(kind, base) and kind.forward is base.forward for base in bases)


def _grouped(uses: list[Use], wanted: set[int]) -> list[Site]:
    """Sites of all parts of wanted parameters, each with all of its uses."""
    by_part: dict[tuple, list[Use]] = {}
    for use in uses:
        for part in (use.weight, use.bias):
            if part is not None and id(part[0]) in wanted:
                by_part.setdefault(_key(part), []).append(use)
    _refuse_unlike(by_part)
    grouped, done = [], set()
    for use in uses:
        weight, bias = (part if part and id(part[0]) in wanted else None for part in (use.weight, use.bias))
        joined = weight and bias and by_part[_key(weight)] == by_part[_key(bias)]
        joined = joined and len({u.flipped for u in by_part[_key(weight)]}) == 1  # a transpose's is no column
        for pair in [(weight, bias)] if joined else [(weight, None), (None, bias)]:
            keys = [_key(part) for part in pair if part]
            if keys and not done.intersection(keys):
                grouped.append(Site(by_part[keys[0]], *pair))
            done.update(keys)
    return grouped


def _key(part: Part) -> tuple:
    return id(part[0]), part[1].start, part[1].stop


def _refuse_unlike(by_part: dict[tuple, list[Use]]) -> None:
    """Raise UserError where a parameter has two roles that are not one matrix and its transpose."""
    for parameter in {key[0] for key in by_part}:
        by_rows = {key[1:]: uses for key, uses in by_part.items() if key[0] == parameter}
        overlap = len(by_rows) > 1 and (None, None) in by_rows
        if overlap or not all(_alike(use, uses[0], parameter) for uses in by_rows.values() for use in uses):
            layers = list(dict.fromkeys(use.layer for uses in by_rows.values() for use in uses))
            raise UserError(f"model: {named(layers)} share a parameter in roles that differ; {left(layers)}")


def _alike(use: Use, other: Use, parameter: int) -> bool:
    biases = [id(u.weight[0]) != parameter for u in (use, other)]
    if any(biases):  # of these only the shape counts
        return all(biases) and use.shape[:2] == other.shape[:2]
    b, out, n_in = other.shape
    return use.shape == ((b, out, n_in) if use.flipped == other.flipped else (1, n_in, out))


def _refuse_not_taken(model: nn.Module, ids: set[int]) -> None:
    """Raise UserError for parameters that are in no use: one line with every layer and the ``leave_out`` that helps."""
    if not ids:
        return
    layers: dict[str, str] = {}
    for name in [name for name, p in model.named_parameters(remove_duplicate=False) if id(p) in ids]:
        owner, _, last = name.rpartition(".")
        owner = owner.split(".parametrizations.")[0]
        if isinstance(model.get_submodule(above := owner.rpartition(".")[0]), nn.MultiheadAttention):
            owner = above
        module = model.get_submodule(owner)
        whole = owner and all(id(p) in ids for p in module.parameters(recurse=False) if p.requires_grad)
        kind = f"{type(module).__name__}{_cure(module, last)}"
        layers[owner if whole else name] = kind if whole else f"parameter of {kind}"
    listed = ", ".join(f"'{name}' ({kind})" for name, kind in layers.items())
    raise UserError(f"model: not taken: {listed}; taken are {TAKEN}; {left(layers)}")


def _cure(module: nn.Module, last: str) -> str:
    """What would make a taken layer of this one, for the refusal."""
    if parametrize.is_parametrized(module):
        return ": torch.nn.utils.parametrize.remove_parametrizations makes it plain"
    if last in ("weight_g", "weight_v"):
        return ": torch.nn.utils.remove_weight_norm makes it plain"
    if last in _PRUNED:
        return ", pruned or of spectral norm: torch.nn.utils.prune.remove, or remove_spectral_norm, makes it plain"
    if isinstance(module, nn.Embedding) and (module.max_norm is not None or module.scale_grad_by_freq):
        return " with max_norm or scale_grad_by_freq"
    if isinstance(module, nn.MultiheadAttention):
        return " with a forward of its own" if "forward" in vars(module) else " with add_bias_kv or add_zero_attn"
    return ""


def _left_out(model: nn.Module, names: Sequence[str]) -> set[int]:
    """The ids of the parameters under the named modules or parameters; refuses one that has another name as well."""
    parameters = list(model.named_parameters(remove_duplicate=False))
    known = {name for name, _ in [*model.named_modules(remove_duplicate=False), *parameters]} - {""}
    for name in names:
        if name not in known:
            raise UserError(f"leave_out: the model has no '{name}'{did_you_mean(name, sorted(known))}")
    under = tuple(f"{name}." for name in names)
    inside = {id(p): name for name, p in parameters if f"{name}.".startswith(under)}
    for name, p in parameters:
        if id(p) in inside and not f"{name}.".startswith(under):
            tied = f"'{inside[id(p)]}' is tied to '{name}', one parameter with two uses"
            raise UserError(f"leave_out: {tied}; name both layers or neither")
    return set(inside)


def named(layers: Collection[str]) -> str:
    """Layers, in a refusal."""
    return f"layer{'s' * (len(layers) > 1)} {', '.join(map(repr, layers))}"


def left(layers: Iterable[str]) -> str:
    """The end of a refusal: what would help."""
    names = list(dict.fromkeys(layers))
    return f"leave_out={names} leaves {'it' if len(names) == 1 else 'them'} out"


def refuse_train_mode(model: nn.Module) -> None:
    """Raise UserError, naming it, for dropout or batch statistics in train mode."""
    for name, module in model.named_modules():
        layer = f"model: layer '{name}' ({type(module).__name__})"
        random = isinstance(module, (*RANDOM, *BATCH_NORMS, *INSTANCE_NORMS))
        if module.training and (random or (isinstance(module, nn.MultiheadAttention) and module.dropout > 0)):
            raise UserError(f"{layer} is in train mode; call model.eval() first")
        if isinstance(module, BATCH_NORMS) and module.running_mean is None:
            raise UserError(f"{layer} mixes the examples of a batch: it keeps no statistics")


def with_bias(weight: Tensor, bias: Tensor | None) -> Tensor:
    """(B, out, in) with the bias, of B * out numbers, as its last column."""
    return weight if bias is None else torch.cat([weight, bias.reshape(*weight.shape[:2], 1)], 2)
