"""What a model takes: one tensor of examples (n, ...), or several by the names of its arguments."""

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")


class Rows:
    """The keyword arguments of a model, tensors (n, ...), counted and sliced as one."""

    def __init__(self, tensors: dict[str, Tensor]):
        self.tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, at: slice | Tensor) -> "Rows":
        return self.map(lambda v: v[at])

    def map(self, function: Callable[[Tensor], Tensor]) -> "Rows":
        return Rows({name: function(v) for name, v in self.tensors.items()})


Inputs = Tensor | Rows


def tensors(values: Inputs | tuple[Tensor, ...]) -> list[Tensor]:
    """The tensors that they are made of."""
    if isinstance(values, Rows):
        return list(values.tensors.values())
    return list(values) if isinstance(values, tuple) else [values]


def over(values: T, function: Callable[[Tensor], Tensor]) -> T:
    """``function`` of a tensor, or of each of several."""
    if isinstance(values, Rows):
        return values.map(function)
    return tuple(function(value) for value in values) if isinstance(values, tuple) else function(values)


def line(error: Exception) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
