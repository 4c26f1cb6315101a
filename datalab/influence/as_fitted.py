"""What ``fit`` keeps to know its model and its training set again: a verb refuses a model or examples that are others.

The model by its :class:`~datalab.influence.network.State` and by some of its logits; a set that is read again by a
checksum; and training examples, which alone can be left out, by :class:`Marks`.
"""

import zlib
from typing import Self

import torch
from torch import Tensor

from datalab.errors import UserError
from datalab.influence.network import Network, State
from datalab.influence.sets import Held, Inputs, Rows, Streamed, numbers_of, tensors

_LOOKED_AT = 48  # numbers of each tensor of an example at least, evenly spread: of up to 95 all


class Marks:
    """A number for each example of a set in tensors, by which it is known again: of some of its numbers' bits.

    They are taken as the examples pass on their way to the model, once: nothing is read for them alone. ``numbers`` is
    (n,); None where none passed, of a Dataset, and after ``load``.
    """

    def __init__(self, n: int):
        self._n, self._whole, self.numbers = n, False, None

    @classmethod
    def of(cls, data: Held | Streamed) -> Self:
        """Marks that are taken in the next pass over the set."""
        marks = cls(len(data))
        if isinstance(data, Held):
            data.watch = marks.note
        return marks

    def note(self, start: int, x: Inputs) -> None:
        """Take those of the examples x (m, ...), as the model takes them, from place ``start``."""
        if self._whole:
            return
        named = x.tensors if isinstance(x, Rows) else {"": x}
        marks = 0
        for k, name in enumerate(sorted(named), 1):
            v = named[name]
            flat = (torch.view_as_real(v.resolve_conj()) if v.is_complex() else v).reshape(len(v), -1)
            some = flat[:, :: max(1, flat.shape[1] // _LOOKED_AT)].float() + 0.0  # which makes 0.0 of -0.0
            some = some.view(torch.int32)
            marks = marks + (some * (torch.arange(k, k + some.shape[1], device=v.device) ** 5 * 2 + 1)).sum(1)
        self.numbers = marks.new_empty(self._n) if self.numbers is None else self.numbers
        self.numbers[start : start + len(marks)] = marks
        self._whole = start + len(marks) == self._n

    def cover(self, others: Self) -> bool:
        """Whether these examples are among its own, as far as is known of both."""
        known = self.numbers is not None and others.numbers is not None
        return others._n <= self._n and not (known and bool((~torch.isin(others.numbers, self.numbers)).any()))


class AsFitted:
    """A model and its training set as they were in ``fit``.

    ``sample`` is two examples and some of their logits, None in a file without them; ``data`` the set, where it is in
    tensors and read again.
    """

    def __init__(self, state: State, sample: tuple[Inputs, Tensor] | None, marks: Marks, data: Held | None = None):
        self.state, self.sample, self._marks, self._data = state, sample, marks, data
        self._sum = data and _checksum(data)

    def refuse_changed(self, network: Network, name: str) -> None:
        """Raise UserError where the model, or what the estimator of this name reads again, is another than in fit."""
        if changed := network.changed(self.state):
            raise UserError(f"model: {', '.join(map(repr, changed[:3]))} changed after fit; fit the estimator anew")
        if self._data and _checksum(self._data) != self._sum:
            raise UserError(f"{name}: x or y was written into after fit, and is read again; fit it anew")
        if self.sample and not network.answers(*self.sample):
            raise UserError("model: its logits changed after fit, though no parameter did; fit the estimator anew")

    def refuse_unseen(self, marks: Marks) -> None:
        """Raise UserError where examples with these marks are not all of the training set."""
        if not self._marks.cover(marks):
            raise UserError("x: leave_one_out removes training examples, and some of these were not given to fit")


def _checksum(data: Held) -> list[int]:
    """By which one sees whether a set has been written into: on a CPU of its bytes, since numpy counts no writes."""
    held = [*tensors(data.x), *tensors(data.y)]
    return [zlib.crc32(numbers_of(v.cpu())) if v.is_cpu or v.is_inference() else v._version for v in held]
