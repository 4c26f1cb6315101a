"""Features: the inputs and the output gradients of every layer, for every example, taken once by hooks.

Convention: a layer's parameters are one matrix (out, in), the bias its last column; a layer whose weights are shared
over t positions (a convolution, a Linear on sequences) has inputs a (m, t, in), with a one appended for the bias, and
output gradients g (m, t, out) of the *sum* of the losses, so that nothing depends on how examples are batched. The
gradient of example i is sum_t g_it a_it'.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from datalab.errors import UserError


class Factors(NamedTuple):
    """One layer, one batch: ``inputs`` (m, t, in) and output ``gradients`` (m, t, out)."""

    inputs: Tensor
    gradients: Tensor


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers with parameters, by name, in the order of registration.

    Raises UserError, naming it, for a layer or parameter that is not taken, and for dropout or batch statistics in
    train mode.
    """
    refuse_train_mode(model)
    found = {name: module for name, module in model.named_modules() if type(module) in (nn.Linear, nn.Conv2d)}
    covered = {id(p) for module in found.values() for p in module.parameters(recurse=False)}
    for name, parameter in model.named_parameters():
        if id(parameter) not in covered:
            owner = model.get_submodule(name.rpartition(".")[0])
            raise UserError(
                f"model: parameter '{name}' belongs to a {type(owner).__name__}; Linear and Conv2d are taken"
            )
    for name, module in found.items():
        if isinstance(module, nn.Conv2d) and (module.groups != 1 or module.padding_mode != "zeros"):
            raise UserError(f"model: layer '{name}' ({module}) is not taken; groups must be 1 and padding zeros")
        if isinstance(module, nn.Conv2d) and isinstance(module.padding, str):
            raise UserError(f"model: layer '{name}' ({module}) is not taken; its padding must be given in numbers")
    if not found:
        raise UserError("model: has no Linear or Conv2d layer")
    return found


def refuse_train_mode(model: nn.Module) -> None:
    """Raise UserError, naming it, for dropout or batch statistics in train mode: they make gradients random."""
    for name, module in model.named_modules():
        if module.training and isinstance(module, nn.modules.dropout._DropoutNd | nn.modules.batchnorm._NormBase):
            raise UserError(f"model: layer '{name}' ({module}) is in train mode; call model.eval() first")


def shape(layer: nn.Module) -> tuple[int, int]:
    """(out, in) of the layer's parameters as one matrix, the bias being the last column."""
    return layer.weight.shape[0], layer.weight[0].numel() + (layer.bias is not None)


class Tape:
    """One forward pass of a batch, from which the output gradients for any cotangent of the logits can be taken.

    ``logits`` is (m, C). Raises UserError when a layer runs twice or never, or the model's output is not (m, C).
    """

    def __init__(self, model: nn.Module, found: dict[str, nn.Module], x: Tensor):
        self._layers = found
        self._inputs: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] = {}
        handles = [layer.register_forward_hook(self._hook(name)) for name, layer in found.items()]
        try:
            with torch.enable_grad():
                self.logits = model(x.detach().requires_grad_(x.is_floating_point()))
        finally:
            for handle in handles:
                handle.remove()
        for name in found:
            if name not in self._outputs:
                raise UserError(f"model: layer '{name}' took no part in the forward pass")
        if self.logits.dim() != 2 or len(self.logits) != len(x):
            raise UserError(f"model: must return logits (n, C), got {tuple(self.logits.shape)} for {len(x)} examples")

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def record(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if name in self._outputs:
                raise UserError(f"model: layer '{name}' runs twice in a forward pass; each layer may run once")
            self._inputs[name], self._outputs[name] = _rows(layer, args[0].detach()), output
            return output.clone()  # what follows may work in place

        return record

    def factors(self, cotangent: Tensor) -> list[Factors]:
        """Every layer's inputs and output gradients, for a cotangent (m, C) of the logits."""
        gradients = torch.autograd.grad(self.logits, list(self._outputs.values()), cotangent, retain_graph=True)
        by_name = dict(zip(self._outputs, gradients, strict=True))
        return [
            Factors(self._inputs[name], _positions(layer, by_name[name], len(self.logits)))
            for name, layer in self._layers.items()
        ]


def loss_cotangent(logits: Tensor, labels: Tensor) -> Tensor:
    """The gradient p - y (m, C) of each example's cross-entropy; at the label minus the others' sum."""
    others = torch.softmax(logits.detach(), 1).scatter(1, labels[:, None], 0.0)
    return others.scatter(1, labels[:, None], -others.sum(1, keepdim=True))


def per_example(factors: Factors) -> Tensor:
    """The gradient (m, out, in) of each example."""
    return factors.gradients.mT @ factors.inputs


def total(factors: Factors) -> Tensor:
    """The sum (out, in) of the examples' gradients."""
    return factors.gradients.flatten(0, 1).T @ factors.inputs.flatten(0, 1)


def dot(factors: Factors, directions: Tensor) -> Tensor:
    """The product (k, m) of each of k directions (k, out, in) with each example's gradient."""
    k, out, n_in = directions.shape
    m, t, _ = factors.inputs.shape
    if k * t > n_in:
        return directions.flatten(1) @ per_example(factors).flatten(1).T
    projected = factors.inputs.flatten(0, 1) @ directions.flatten(0, 1).T
    return torch.einsum("mtko,mto->km", projected.view(m, t, k, out), factors.gradients)


def batches(x: Tensor, y: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Consecutive slices of x and y."""
    for i in range(0, len(x), size):
        yield x[i : i + size], y[i : i + size]


def mean(parts: Sequence[list[Tensor]], n: int) -> list[Tensor]:
    """Sums of gradients of several batches, one (out, in) a layer, as the mean over n examples, (1, out, in)."""
    return [torch.stack(layer).sum(0, keepdim=True) / n for layer in zip(*parts, strict=True)]


def _rows(layer: nn.Module, x: Tensor) -> Tensor:
    """What multiplies the layer's matrix at each position: (m, t, in), with a one appended for the bias."""
    if isinstance(layer, nn.Conv2d):
        x = nn.functional.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride).mT
    x = x.reshape(len(x), -1, x.shape[-1])
    return x if layer.bias is None else torch.cat([x, x.new_ones(*x.shape[:2], 1)], 2)


def _positions(layer: nn.Module, gradient: Tensor, m: int) -> Tensor:
    """The gradient of the layer's output as (m, t, out)."""
    return gradient.flatten(2).mT if isinstance(layer, nn.Conv2d) else gradient.reshape(m, -1, gradient.shape[-1])
