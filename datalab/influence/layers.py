"""Layers: which modules are taken, and what of each is an input, an output gradient and a parameter matrix.

A *site* is a place where parameters multiply something: one for each Linear, convolution, normalisation or Embedding,
four for a MultiheadAttention (query, key, value and output projection). Its matrices are (B, out, in), see
:mod:`~datalab.influence.factors`; a normalisation's weight and bias are a (1, 2) matrix a channel.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from datalab.errors import UserError, did_you_mean
from datalab.influence.factors import Dense, Factors, Lookup

TAKEN = "Linear, Conv1d, Conv2d, LayerNorm, GroupNorm, RMSNorm, Embedding and MultiheadAttention"
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


class Site(ABC):
    """One place in a model, here all parameters of one module; ``bias``: whether a last input of 1 is understood."""

    def __init__(self, name: str, module: nn.Module):
        self.name, self.module, self.bias = name, module, getattr(module, "bias", None) is not None

    def parameters(self) -> list[nn.Parameter]:
        """The module's parameters that the matrices are made of: a weight and, with ``bias``, a bias."""
        return list(self.module.parameters(recurse=False))

    @abstractmethod
    def inputs(self, x: Tensor) -> Tensor:
        """What multiplies the matrices, (B or 1, m, t, in), from the module's input x (m, ...)."""

    @abstractmethod
    def gradients(self, g: Tensor) -> Tensor:
        """(B, m, t, out) from the gradient of the module's output (m, ...)."""

    @abstractmethod
    def arrange(self, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Values of the parameters, in their shapes, as matrices (B, out, in + bias)."""

    def matrix(self) -> Tensor:
        """The parameters, (B, out, in + bias)."""
        return self.arrange(*self.parameters())

    def factors(self, inputs: Tensor, g: Tensor) -> Factors:
        """The factors of inputs as ``inputs`` gave them and an output gradient g (m, ...)."""
        return Dense(inputs, self.gradients(g), self.bias)


class LinearSite(Site):
    """A Linear layer on (m, ..., in), or a projection of an attention layer: ``rows`` of a shared weight, ``bias_rows``
    of a shared bias.
    """

    def __init__(
        self,
        name: str,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        rows: slice = slice(None),
        bias_rows: slice = slice(None),
    ):
        self.name, self._weight, self._bias, self.bias = name, weight, bias, bias is not None
        self._rows, self._bias_rows = rows, bias_rows

    def inputs(self, x: Tensor) -> Tensor:
        return x.reshape(1, len(x), -1, x.shape[-1])

    gradients = inputs

    def parameters(self) -> list[nn.Parameter]:
        return [self._weight, self._bias] if self.bias else [self._weight]

    def arrange(self, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return with_bias(weight[self._rows][None], None if bias is None else bias[self._bias_rows])

    def apply(self, x: Tensor) -> Tensor:
        """x times the weight's transpose, plus the bias."""
        return functional.linear(x, self._weight[self._rows], self._bias[self._bias_rows] if self.bias else None)


class ConvSite(Site):
    """A Conv1d or Conv2d of any stride, padding, dilation and groups, as one linear layer a group on its patches."""

    def inputs(self, x: Tensor) -> Tensor:
        module, mode = self.module, self.module.padding_mode
        x = functional.pad(x, _padding(module), "constant" if mode == "zeros" else mode)
        kernel, dilation, stride = module.kernel_size, module.dilation, module.stride
        if x.dim() == 3:  # a line is an image of height 1
            x, kernel, dilation, stride = x[:, :, None], (1, *kernel), (1, *dilation), (1, *stride)
        patches = functional.unfold(x, kernel, dilation, 0, stride)
        return patches.unflatten(1, (module.groups, -1)).permute(1, 0, 3, 2).contiguous()

    def gradients(self, g: Tensor) -> Tensor:
        return g.flatten(2).unflatten(1, (self.module.groups, -1)).permute(1, 0, 3, 2).contiguous()

    def arrange(self, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return with_bias(weight.flatten(1).unflatten(0, (self.module.groups, -1)), bias)


class NormSite(Site):
    """A LayerNorm, RMSNorm or GroupNorm: each channel's weight multiplies its normalised value, its bias a 1."""

    def inputs(self, x: Tensor) -> Tensor:
        module = self.module
        if isinstance(module, nn.GroupNorm):
            return self._channels(functional.group_norm(x, module.num_groups, eps=module.eps))
        norm = functional.layer_norm if isinstance(module, nn.LayerNorm) else functional.rms_norm
        return self._channels(norm(x, module.normalized_shape, eps=module.eps))

    def gradients(self, g: Tensor) -> Tensor:
        return self._channels(g)

    def _channels(self, x: Tensor) -> Tensor:
        """(channels, m, t, 1)."""
        if isinstance(self.module, nn.GroupNorm):
            x = x.reshape(*x.shape[:2], -1).mT
        else:
            x = x.reshape(len(x), -1, math.prod(self.module.normalized_shape))
        return x.permute(2, 0, 1)[..., None].contiguous()

    def arrange(self, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return with_bias(weight.reshape(-1, 1, 1), bias)


class EmbeddingSite(Site):
    """An Embedding on tokens (m, ...): one-hot inputs."""

    def inputs(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1)

    def gradients(self, g: Tensor) -> Tensor:
        return g.reshape(1, len(g), -1, g.shape[-1])

    def arrange(self, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return weight.T[None]

    def factors(self, inputs: Tensor, g: Tensor) -> Lookup:
        gradients = self.gradients(g)
        if self.module.padding_idx is not None:
            gradients = gradients.masked_fill((inputs == self.module.padding_idx)[None, ..., None], 0.0)
        return Lookup(inputs, gradients, self.module.num_embeddings)


def attention_sites(name: str, module: nn.MultiheadAttention) -> list[Site]:
    """The query, key, value and output projections of an attention layer."""
    packed, bias = module.in_proj_weight is not None, module.in_proj_bias
    projections: list[Site] = []
    for i, part in enumerate("qkv"):
        rows = slice(i * module.embed_dim, (i + 1) * module.embed_dim)
        weight = module.in_proj_weight if packed else getattr(module, f"{part}_proj_weight")
        projections.append(LinearSite(f"{name}.{part}", weight, bias, rows if packed else slice(None), rows))
    return [*projections, LinearSite(f"{name}.out_proj", module.out_proj.weight, module.out_proj.bias)]


def sites(model: nn.Module, leave_out: Sequence[str] = ()) -> dict[str, list[Site]]:
    """The sites of every module that has parameters, by the module's name, in the order of registration.

    ``leave_out`` names modules or parameters whose influence is not asked for. Raises UserError, naming it, for a layer
    or parameter that is not taken, for parameters shared by two layers, and for dropout or batch statistics in train
    mode.
    """
    refuse_train_mode(model)
    left_out = _left_out(model, leave_out)
    by_module: dict[str, list[Site]] = {}
    covered: set[int] = set()
    for name, module in model.named_modules():
        taken = _taken(name, module)
        own = {id(p) for site in taken for p in site.parameters()}
        if not own or own <= left_out:
            continue
        if own & left_out:
            raise UserError(f"leave_out: takes whole layers; '{name}' ({type(module).__name__}) would be left in part")
        if own & covered:
            raise UserError(
                f"model: layer '{name}' ({type(module).__name__}) shares parameters with an earlier layer; "
                "each parameter may stand in one"
            )
        covered |= own
        by_module[name] = taken
    for name, parameter in model.named_parameters():
        if id(parameter) not in covered | left_out:
            owner = model.get_submodule(name.rpartition(".")[0])
            raise UserError(
                f"model: parameter '{name}' belongs to a {type(owner).__name__}; taken are {TAKEN}; "
                f"leave_out=['{name}'] leaves it out"
            )
    if not by_module:
        raise UserError(f"model: has no layer with parameters to differentiate; taken are {TAKEN}")
    return by_module


def _taken(name: str, module: nn.Module) -> list[Site]:
    if type(module) is nn.Linear:
        return [LinearSite(name, module.weight, module.bias)]
    if type(module) in (nn.Conv1d, nn.Conv2d):
        return [ConvSite(name, module)]
    if type(module) in (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm) and module.weight is not None:
        return [NormSite(name, module)]
    if type(module) is nn.Embedding:
        if module.max_norm is not None or module.scale_grad_by_freq:
            raise UserError(f"model: layer '{name}' (Embedding) is not taken with max_norm or scale_grad_by_freq")
        return [EmbeddingSite(name, module)]
    if type(module) is nn.MultiheadAttention:
        if module.bias_k is not None or module.add_zero_attn:
            raise UserError(f"model: layer '{name}' (MultiheadAttention) is not taken with add_bias_kv, add_zero_attn")
        return attention_sites(name, module)
    return []


def _left_out(model: nn.Module, names: Sequence[str]) -> set[int]:
    """The ids of the parameters under the named modules or parameters."""
    known = {name for name, _ in [*model.named_modules(), *model.named_parameters()]} - {""}
    for name in names:
        if name not in known:
            raise UserError(f"leave_out: the model has no '{name}'{did_you_mean(name, sorted(known))}")
    under = tuple(f"{name}." for name in names)
    parameters = model.named_parameters(remove_duplicate=False)
    return {id(p) for name, p in parameters if f"{name}.".startswith(under)}


def refuse_train_mode(model: nn.Module) -> None:
    """Raise UserError, naming it, for dropout or batch statistics in train mode: they make gradients random."""
    for name, module in model.named_modules():
        layer = f"model: layer '{name}' ({type(module).__name__})"
        keeps_statistics = isinstance(module, (*BATCH_NORMS, *INSTANCE_NORMS))
        random = keeps_statistics or isinstance(module, (*DROPOUTS, nn.RReLU))
        if module.training and (random or (isinstance(module, nn.MultiheadAttention) and module.dropout > 0)):
            raise UserError(f"{layer} is in train mode; call model.eval() first")
        if keeps_statistics and module.running_mean is None:
            raise UserError(f"{layer} mixes the examples of a batch: it keeps no statistics")


def _padding(module: nn.Conv1d | nn.Conv2d) -> list[int]:
    """What ``functional.pad`` adds: before and after each dimension, the last one first."""
    if module.padding == "same":  # of an odd number one more goes after
        totals = [dilation * (size - 1) for dilation, size in zip(module.dilation, module.kernel_size, strict=True)]
        pairs = [(total // 2, total - total // 2) for total in totals]
    else:
        widths = (0,) * len(module.kernel_size) if module.padding == "valid" else module.padding
        pairs = [(width, width) for width in widths]
    return [width for pair in reversed(pairs) for width in pair]


def with_bias(weight: Tensor, bias: Tensor | None) -> Tensor:
    """(B, out, in) with the bias, of B * out numbers, as its last column."""
    return weight if bias is None else torch.cat([weight, bias.reshape(*weight.shape[:2], 1)], 2)
