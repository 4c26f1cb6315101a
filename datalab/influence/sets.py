"""Labelled sets: what a caller may give as examples with their targets, read in order, never copied whole.

Tensors, numpy arrays (x may also be a dict of them, the keyword arguments of the model), a ``Dataset`` whose items are
(x, y), (x, y, weight) or a dict with ``labels``, or a ``DataLoader`` of one, of which the data set, collation and
workers are taken: batches are the estimator's own, and results stand in the data set's order. :class:`Rows` is what a
model takes of a dict.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torch.utils.data.sampler import RandomSampler, SequentialSampler

from datalab.errors import UserError

LABELS = ("labels", "label")
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
Targets = Tensor | tuple[Tensor, ...]


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


def alike(a: Inputs | Targets, b: Inputs | Targets) -> bool:
    """Whether they hold the same numbers, of the same types."""
    ours, theirs = tensors(a), tensors(b)
    pairs = zip(ours, theirs, strict=False)
    same = all(v.dtype == w.dtype and torch.equal(v.nan_to_num(), w.nan_to_num()) for v, w in pairs)
    return same and len(ours) == len(theirs)


def numbers_of(values: Tensor) -> np.ndarray:
    """The bytes of a tensor on the CPU."""
    plain = values.detach().resolve_conj().resolve_neg().contiguous()
    return plain.flatten().view(torch.uint8).numpy()


def line(error: Exception) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class Batch(NamedTuple):
    """A slice of a labelled set: x (m, ...), y (S, m, ...), its first example's place, and the name of the set's x."""

    x: Inputs
    y: Targets
    start: int
    name: str


class Held:
    """A set in tensors: x (n, ...), where it is, and y (n, ...), or (S, n, ...) if ``by_model``, or several such.

    ``watch`` is called with each batch's place and x, as the model takes it.
    """

    watch: Callable[[int, Inputs], None] | None = None

    def __init__(self, name: str, x: object, y: object):
        if y is None:
            raise UserError(f"{name}: need x and y, or a DataLoader or Dataset")
        if isinstance(y, tuple) and (len(y) == 1 or not all(hasattr(v, "__len__") for v in y)):
            y = y[0] if len(y) == 1 else list(y)
        self.name, self.finite, self.by_model = name, False, False
        self.x, self.y = _inputs(name, x), over(y, lambda v: tensor(name, "y", v))

    def __len__(self) -> int:
        return len(self.x)

    def parts(self, size: int) -> Iterator[Batch]:
        """Slices of ``size`` examples."""
        for start in range(0, len(self), size):
            y = rows(self.y, start, size, axis=int(self.by_model))
            yield Batch(rows(self.x, start, size), y, start, x_of(self.name))

    def at(self, places: np.ndarray) -> Batch:
        """The examples at ``places``."""
        at = torch.from_numpy(places)
        y = over(self.y, lambda v: v[:, at] if self.by_model else v[at])
        return Batch(over(self.x, lambda v: v[at]), y, 0, x_of(self.name))


class Streamed:
    """A ``Dataset``, read anew at each pass."""

    watch = None

    def __init__(self, name: str, dataset: Dataset, collate: Callable | None = None, workers: int = 0):
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise UserError(f"{name}: an IterableDataset has no order to return to; give a Dataset with a length")
        if not len(dataset):
            raise UserError(f"{name}: holds no examples; need n > 0")
        self.name, self.finite = name, False
        self.targets: Callable[[Targets], Targets] = lambda y: y  # as the loss takes them, once that is known
        self._dataset, self._options = dataset, {"collate_fn": collate, "num_workers": workers}

    def __len__(self) -> int:
        return len(self._dataset)

    def at(self, places: np.ndarray) -> Batch:
        """As :class:`Held`'s, as they are collated."""
        return next(self.parts(len(places), places))

    def parts(self, size: int, places: np.ndarray | None = None) -> Iterator[Batch]:
        """As :class:`Held`'s; of the examples at ``places``, if they are given."""
        dataset, start = self._dataset if places is None else Subset(self._dataset, places.tolist()), 0
        for item in self._items(DataLoader(dataset, size, **self._options)):
            held = Held(self.name, *_split(self.name, item))
            if len(held) != (due := min(size, len(dataset) - start)):
                raise UserError(f"{self.name}: {due} items are collated to {len(held)} examples; leave none out")
            yield Batch(held.x, self.targets(held.y), start, x_of(self.name))
            start += len(held)

    def _items(self, batches: DataLoader) -> Iterator[object]:
        try:
            yield from batches
        except TypeError as error:
            if "collate" not in str(error):
                raise
            raise UserError(f"{self.name}: its items cannot be made a batch: {line(error)[:200]}") from None


def x_of(name: str) -> str:
    """What the examples of the set "x, y" are called."""
    return name.partition(",")[0]


def labelled(names: Sequence[str], given: Sequence[object]) -> list[Held | Streamed]:
    """One set for each name, such as "x, y", from arguments of which x and y are two, and a DataLoader or Dataset one.

    Raises UserError for what is missing or left, and for what is none of the module's forms.
    """
    left = list(given)
    while left and left[-1] is None:
        left.pop()
    sets = []
    for name in names:
        if not left:
            raise UserError(f"{name}: missing; give tensors or arrays x and y, or a DataLoader or Dataset")
        first = left.pop(0)
        if isinstance(first, DataLoader):
            if type(first).__iter__ is not DataLoader.__iter__:
                raise UserError(f"{name}: a DataLoader with an __iter__ of its own; give a Dataset of what it yields")
            streamed, sampler = Streamed(name, first.dataset, first.collate_fn, first.num_workers), first.sampler
            in_full = type(sampler).__iter__ in (SequentialSampler.__iter__, RandomSampler.__iter__)
            if first.batch_size is None or not in_full or getattr(sampler, "replacement", False):
                cure = "give them as torch.utils.data.Subset"
                raise UserError(f"{name}: a sampler or batch_sampler chooses examples; {cure}")
            if (drawn := len(sampler)) != len(first.dataset):
                raise UserError(f"{name}: the sampler draws {drawn} of {len(first.dataset)} examples; give a Subset")
            sets.append(streamed)
        elif _is_plain(first) and len(first.tensors) > 1:
            sets.append(Held(name, first.tensors[0], first.tensors[1:]))
        elif isinstance(first, Dataset):
            sets.append(Streamed(name, first))
        else:
            sets.append(Held(name, first, left.pop(0) if left else None))
            continue
        if left and left[0] is None:  # the y that a data set holds
            left.pop(0)
    if left:
        raise UserError(f"{names[-1]}: {len(left)} more argument{'s' * (len(left) > 1)} than a set takes")
    return sets


def _is_plain(data: object) -> bool:
    """Whether a set's items are its tensors' rows: no class of its own gives others."""
    own = (getattr(type(data), method, None) for method in ("__getitem__", "__len__"))
    return [*own] == [TensorDataset.__getitem__, TensorDataset.__len__]


def _split(name: str, item: object) -> tuple[object, object]:
    if isinstance(item, Mapping):
        label = next((key for key in LABELS if key in item), None)
        if label is not None:
            return {key: value for key, value in item.items() if key != label}, item[label]
    elif isinstance(item, list | tuple) and len(item) > 1:
        if isinstance(item[0], list | tuple):
            raise UserError(f"{name}: an item's x is several; give them as a dict, by the names that the model takes")
        return item[0], item[1] if len(item) == 2 else tuple(item[1:])
    raise UserError(f"{name}: items must be (x, y), (x, y, weight) or dicts with 'labels', got a {type(item).__name__}")


def _inputs(name: str, x: object) -> Inputs:
    if not isinstance(x, Mapping):
        return tensor(name, "x", x)
    tensors = {key: tensor(name, f"x['{key}']", value) for key, value in x.items()}
    if len({len(value) for value in tensors.values()}) != 1:
        lengths = ", ".join(f"{len(value)} in '{key}'" for key, value in tensors.items())
        raise UserError(f"{name}: x must hold as many examples in each tensor, got {lengths or 'none'}")
    return Rows(tensors)


def tensor(name: str, which: str, values: object) -> Tensor:
    """A tensor, or an array that numpy makes one of; raises UserError for any other values."""
    if isinstance(values, np.ma.MaskedArray):
        if np.ma.is_masked(values):
            raise UserError(f"{name}: {which} has masked values; fill them in or leave those examples out")
        values = values.data
    try:
        values = values if isinstance(values, Tensor) else torch.as_tensor(np.ascontiguousarray(values))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{name}: {which} must be a tensor or an array of numbers: {line(error)}") from None
    if values.is_nested or values.layout != torch.strided:
        kind, cure = "sparse", f"{which}.to_dense()"
        if values.is_nested:
            alike = len({row.shape for row in values.unbind()}) == 1
            padded = f"{which}.to_padded_tensor({0 if which.startswith('x') else -100})"  # what cross-entropy ignores
            kind, cure = "nested", f"torch.stack({which}.unbind())" if alike else padded
        raise UserError(f"{name}: {which} is a {kind} tensor; give {cure}")
    if which == "y" and values.is_complex():
        raise UserError(f"{name}: y is complex; give real numbers")
    if values.dim() == 0:
        raise UserError(f"{name}: {which} must have a row for each example, got a single number")
    return values


def rows(values: Inputs | Targets, start: int, size: int, axis: int = 0) -> Inputs | Targets:
    """``size`` examples from ``start``, or those that are left of as many."""
    return over(values, lambda v: v.narrow(axis, start, min(size, v.shape[axis] - start)))
