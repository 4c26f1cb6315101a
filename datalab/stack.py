"""A stack of S models of one architecture, run forward and backward as batched matrix products.

Convention: inside, every activation is (S, *features, n), the examples last, or (1, *features, n) where all models
share it. So every product is wide in n (a narrow (n, C) product runs several times slower in the BLAS than its
transpose), patches are copied in runs of n, and flattening is a view. Parameters are (S, *shape of the module's
parameter) and lie in one flat tensor, so that the optimiser makes one pass over memory. The backward pass is written
out by hand, layer by layer: on small models it halves the time that autograd takes, and it computes no unused gradient.
"""

import copy
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn


class _Layer:
    """One layer of a stack: ``forward`` keeps what ``pull``, the way back from its output to its input, needs."""

    def __init__(self, layer: nn.Module):
        pass


class _Linear(_Layer):
    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        self.x = x
        if x.shape[0] < weight.shape[0]:  # inputs shared by all models: one large product
            y = torch.matmul(weight, x[0])
            return y if bias is None else y.add_(bias.unsqueeze(2))
        return torch.bmm(weight, x) if bias is None else torch.baddbmm(bias.unsqueeze(2), weight, x)

    def fill(self, g: Tensor, gradients: list[Tensor]) -> None:
        """The gradients of the weight and, where there is one, of the bias."""
        torch.bmm(g, self.x.mT, out=gradients[0])
        for bias in gradients[1:]:
            torch.sum(g, 2, out=bias)

    def pull(self, g: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return torch.bmm(weight.mT, g)

    def positions(self, n: int) -> tuple[Tensor, int]:
        return self.x, 1


class _PatchConv:
    """A convolution whose stride equals its kernel: cut into patches, then one linear layer shared by all positions."""

    def __init__(self, layer: nn.Conv2d):
        self.kernel = layer.kernel_size
        self.linear = _Linear(layer)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        s, c, h, w, n = x.shape
        (kh, kw), rows, columns = self.kernel, h // self.kernel[0], w // self.kernel[1]
        self.shape = (s, c, rows, kh, columns, kw, n)
        x = x[:, :, : rows * kh, : columns * kw]
        patches = x.reshape(self.shape).permute(0, 1, 3, 5, 2, 4, 6).reshape(s, c * kh * kw, rows * columns * n)
        return self.linear.forward(patches, weight.flatten(2), bias).unflatten(2, (rows, columns, n))

    def fill(self, g: Tensor, gradients: list[Tensor]) -> None:
        self.linear.fill(g.flatten(2), [gradients[0].flatten(2), *gradients[1:]])

    def pull(self, g: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        _, c, rows, kh, columns, kw, n = self.shape
        gx = self.linear.pull(g.flatten(2), weight.flatten(2))
        gx = gx.view(-1, c, kh, kw, rows, columns, n).permute(0, 1, 4, 2, 5, 3, 6)
        return gx.reshape(-1, c, rows * kh, columns * kw, n)

    def positions(self, n: int) -> tuple[Tensor, int]:
        return self.linear.x, self.linear.x.shape[2] // n


class _ReLU(_Layer):
    def forward(self, x: Tensor) -> Tensor:
        self.y = x.relu_()
        return self.y

    def pull(self, g: Tensor) -> Tensor:
        return torch.ops.aten.threshold_backward.grad_input(g, self.y, 0, grad_input=g)


class _Reshape:
    """Flatten and Unflatten: the features' shape changes, S and n stay."""

    def __init__(self, layer: nn.Flatten | nn.Unflatten):
        self.shape = tuple(layer.unflattened_size) if isinstance(layer, nn.Unflatten) else (-1,)

    def forward(self, x: Tensor) -> Tensor:
        self.before = x.shape
        # Contiguous first: a plain transpose is several times faster than cutting patches out of a transposed view.
        return x.contiguous().view(x.shape[0], *self.shape, x.shape[-1])

    def pull(self, g: Tensor) -> Tensor:
        return g.reshape(self.before)


class _ZeroPad:
    def __init__(self, layer: nn.ZeroPad2d):
        self.padding = (0, 0, *layer.padding)
        if layer.padding[0] or layer.padding[2]:
            raise TypeError("a stack pads on the right and below only")

    def forward(self, x: Tensor) -> Tensor:
        self.size = x.shape[2:4]
        return nn.functional.pad(x, self.padding)

    def pull(self, g: Tensor) -> Tensor:
        return g[:, :, : self.size[0], : self.size[1]]


_BATCHED = {nn.Linear: _Linear, nn.ReLU: _ReLU, nn.Flatten: _Reshape, nn.Unflatten: _Reshape, nn.ZeroPad2d: _ZeroPad}


def _batched(layer: nn.Module) -> object:
    if type(layer) is nn.Conv2d:
        plain = layer.groups == 1 and layer.padding == (0, 0) and layer.dilation == (1, 1)
        if layer.stride != layer.kernel_size or not plain:
            raise TypeError(f"a stack takes plain convolutions whose stride equals their kernel; got {layer}")
        return _PatchConv(layer)
    if type(layer) not in _BATCHED:
        known = ", ".join(kind.__name__ for kind in (*_BATCHED, nn.Conv2d))
        raise TypeError(f"a stack cannot batch the layer {layer}; it takes {known}")
    return _BATCHED[type(layer)](layer)


class Models:
    """S models of one architecture: their parameters, and each as a module of its own.

    Parameters
    ----------
    module
        The template; its parameter values are not used.
    size
        S, the number of models.

    ``parameters`` maps each of the module's parameter names to its (S, ...) tensor, a view of ``flat``; ``gradients``
    likewise of ``flat_gradient``.
    """

    def __init__(self, module: nn.Module, size: int, dtype: torch.dtype, device: torch.device | str):
        self.module = module
        shapes = {name: (size, *p.shape) for name, p in module.named_parameters()}
        self.flat, self.parameters = _flat_views(shapes, dtype, device)
        self.flat_gradient, self.gradients = _flat_views(shapes, dtype, device)

    def __len__(self) -> int:
        return next(iter(self.parameters.values())).shape[0]

    def model(self, index: int) -> nn.Module:
        """A copy of one model as an ordinary module."""
        module = copy.deepcopy(self.module).to(self.flat)
        module.load_state_dict({name: value[index].clone() for name, value in self.parameters.items()})
        return module

    def __iter__(self) -> Iterator[nn.Module]:
        return (self.model(i) for i in range(len(self)))


class Stack(Models):
    """S models of one ``nn.Sequential`` architecture that ends in a Linear layer; parameters: :class:`Models`.

    Raises TypeError, naming the layer, for a layer that cannot be batched.
    """

    def __init__(
        self,
        module: nn.Sequential,
        size: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        if not isinstance(module, nn.Sequential) or type(module[-1]) is not nn.Linear:
            raise TypeError(f"a stack takes an nn.Sequential whose last layer is Linear; got {module}")
        self._layers = [
            (_batched(layer), [f"{i}.{name}" for name, _ in layer.named_parameters()]) for i, layer in enumerate(module)
        ]
        super().__init__(module, size, dtype, device)
        self._first = next(i for i, (_, names) in enumerate(self._layers) if names)

    def features(self, x: Tensor) -> Tensor:
        """The inputs (S, n, h) of the last Linear layer for x (n, d), shared by all models, or (S, n, d).

        (1, n, h) when x is shared and no layer with parameters comes before the last one.
        """
        return self._forward(x, self._layers[:-1]).mT

    def __call__(self, x: Tensor) -> Tensor:
        """The logits (S, n, C) for x (n, d), shared by all models, or (S, n, d)."""
        return self._forward(x, self._layers).mT

    def predict(self, x: Tensor, rows: int = 256) -> Tensor:
        """The predicted classes (S, n) for x (n, d), computed ``rows`` examples at a time."""
        # max, since argmax over an inner dimension is several times slower.
        return torch.cat([self._forward(block, self._layers).max(1).indices for block in x.split(rows)], dim=1)

    def backward(self, x: Tensor, labels: Tensor) -> None:
        """Fill ``gradients`` with those of each model's mean cross-entropy on x (S, n, d), labels (S, n) int64."""
        g = torch.softmax(self._forward(x, self._layers), 1)
        target = labels.unsqueeze(1)
        g.scatter_add_(1, target, g.new_full((), -1).expand_as(target))
        g *= 1 / labels.shape[1]
        for layer, names, need_input in self._backwards():
            if names:
                layer.fill(g, [self.gradients[name] for name in names])
            if need_input:
                g = layer.pull(g, *self._weights(names))

    def trace(self, x: Tensor) -> "Trace":
        """Run x (n, d) or (S, n, d) forward and keep what the layers saw, until the stack runs again."""
        logits, n = self(x), x.shape[-2]
        with_parameters = [(layer, names) for layer, names in self._layers if names]
        inputs = [_examples_first(*layer.positions(n)) for layer, _ in with_parameters]
        return Trace(logits, inputs, [len(names) > 1 for _, names in with_parameters], self._output_gradients)

    def _output_gradients(self, cotangent: Tensor) -> list[Tensor]:
        """Of the last forward pass; see :class:`Trace`."""
        n, by_layer = cotangent.shape[1], []
        g = cotangent.mT.contiguous()
        for layer, names, need_input in self._backwards():
            if names:
                by_layer.append(_examples_first(g.flatten(2), layer.positions(n)[1]))
            if need_input:
                g = layer.pull(g, *self._weights(names))
        return by_layer[::-1]

    def _backwards(self) -> Iterator[tuple[object, list[str], bool]]:
        """From the last layer to the first with parameters: it, their names, whether its input's gradient is needed."""
        for i in range(len(self._layers) - 1, self._first - 1, -1):
            yield *self._layers[i], i > self._first

    def _forward(self, x: Tensor, layers: list[tuple[object, list[str]]]) -> Tensor:
        x = x.mT.unsqueeze(0) if x.dim() == 2 else x.mT
        for layer, names in layers:
            x = layer.forward(x, *self._weights(names))
        return x

    def _weights(self, names: list[str]) -> list[Tensor]:
        return [self.parameters[name] for name in names]


class Trace(NamedTuple):
    """One forward pass: the logits, and each layer's inputs and output gradients, examples before positions.

    ``logits`` is (S, n, C); for every layer with parameters, in order, ``inputs`` holds (S or 1, n, t, in), the t
    positions being 1 or a convolution's patches, and ``biases`` whether it has one. ``output_gradients`` takes a
    cotangent (S, n, C) of the logits to each layer's output gradients (S, n, t, out).
    """

    logits: Tensor
    inputs: list[Tensor]
    biases: list[bool]
    output_gradients: Callable[[Tensor], list[Tensor]]


def _examples_first(values: Tensor, t: int) -> Tensor:
    """(S, features, t * n) as (S, n, t, features)."""
    return values.unflatten(2, (t, -1)).permute(0, 3, 2, 1)


def _flat_views(
    shapes: dict[str, tuple[int, ...]], dtype: torch.dtype, device: torch.device | str
) -> tuple[Tensor, dict[str, Tensor]]:
    """Zeros for all ``shapes`` in one flat tensor, and each shape's view of it."""
    sizes = [math.prod(shape) for shape in shapes.values()]
    flat = torch.zeros(sum(sizes), dtype=dtype, device=device)
    parts = zip(shapes.items(), flat.split(sizes), strict=True)
    return flat, {name: part.view(shape) for (name, shape), part in parts}
