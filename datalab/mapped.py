"""A stack of S models of any architecture: one model's code, mapped over the models by ``torch.vmap``.

:class:`MappedStack` offers what :class:`~datalab.stack.Stack` does, for layers that have no batched form written by
hand. A module that defines ``objective(x, labels, **settings)`` is trained on that scalar; any other on its mean
cross-entropy.
"""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from datalab.stack import Models


class _Within(nn.Module):
    """Calls a function of a module: ``functional_call`` replaces parameters while a module's ``forward`` runs, only."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, function: Callable[..., Tensor], *inputs: object) -> Tensor:
        return function(self.module, *inputs)


def _objective(module: nn.Module, x: Tensor, labels: Tensor, settings: Mapping[str, Tensor]) -> Tensor:
    if hasattr(module, "objective"):
        return module.objective(x, labels, **settings)
    return cross_entropy(module(x), labels, reduction="none").mean()


class MappedStack(Models):
    """S models of one architecture that treats every example by itself.

    ``settings`` are numbers that differ between the models, each (S, ...): keyword arguments of the module's
    ``objective``. The other parameters: :class:`~datalab.stack.Models`.
    """

    def __init__(
        self,
        module: nn.Module,
        size: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        settings: Mapping[str, Tensor] | None = None,
    ):
        super().__init__(copy.deepcopy(module).to(device, dtype), size, dtype, device)
        self.settings = dict(settings or {})
        self._within = _Within(self.module)

    def __call__(self, x: Tensor) -> Tensor:
        """The logits (S, n, C) for x (n, d), shared by all models, or (S, n, d)."""
        return self.map(lambda module, x: module(x), x)

    def features(self, x: Tensor) -> Tensor:
        """The inputs (S, n, h) of the last layer of an ``nn.Sequential``, for x (n, d) or (S, n, d)."""
        return self.map(lambda module, x: module[:-1](x), x)

    def predict(self, x: Tensor, rows: int = 256) -> Tensor:
        """The predicted classes (S, n) for x (n, d), computed ``rows`` examples at a time."""
        return torch.cat([self(block).argmax(-1) for block in x.split(rows)], dim=1)

    def map(self, function: Callable[..., Tensor], x: Tensor, *by_model: Tensor) -> Tensor:
        """``function(module, x, *by_model)`` a model; x (n, d) is shared, or (S, n, d); ``by_model`` (S, ...)."""
        axes = (0, None if x.dim() == 2 else 0, *(0 for _ in by_model))
        with torch.no_grad():
            return self._mapped(function, axes)(self.parameters, x, *by_model)

    def backward(self, x: Tensor, labels: Tensor) -> None:
        """Fill ``gradients`` with those of each model's objective on x (S, n, d), labels (S, n)."""
        leaves = {name: value.detach().requires_grad_() for name, value in self.parameters.items()}
        axes = (0, 0, 0, 0 if self.settings else None)
        # The models share nothing, so the gradient of the sum of their objectives is each one's own.
        total = self._mapped(_objective, axes)(leaves, x, labels, self.settings).sum()
        computed = torch.autograd.grad(total, list(leaves.values()))
        for gradient, values in zip(self.gradients.values(), computed, strict=True):
            gradient.copy_(values)

    def _mapped(self, function: Callable[..., Tensor], axes: tuple) -> Callable[..., Tensor]:
        def of_one_model(parameters: Mapping[str, Tensor], *inputs: object) -> Tensor:
            named = {f"module.{name}": value for name, value in parameters.items()}
            return functional_call(self._within, named, (function, *inputs))

        return torch.vmap(of_one_model, axes)

    def take(self, indices: Sequence[int]) -> "MappedStack":
        """A stack of some of the models, with parameters of its own."""
        at = torch.as_tensor(indices, device=self.flat.device)
        settings = {name: value[at] for name, value in self.settings.items()}
        taken = MappedStack(self.module, len(indices), self.flat.dtype, self.flat.device, settings)
        for name, value in taken.parameters.items():
            value.copy_(self.parameters[name][at])
        return taken
