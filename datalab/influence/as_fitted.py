"""What ``fit`` keeps to know its model and its training set again: a verb refuses a model or examples that are others.

The model by its :class:`State` and by an :class:`Answer` of it; a set that is read again by a checksum; and training
examples, which alone can be left out, by :class:`Marks`.
"""

import hashlib
import re
import zlib
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from datalab.errors import UserError
from datalab.influence.network import Network, close
from datalab.influence.sets import Held, Inputs, Rows, Streamed, numbers_of, tensors

_LOOKED_AT = 48  # numbers of each tensor of an example at least, evenly spread: of up to 95 all
_LOGITS = 1 << 16


class State(NamedTuple):
    """What tells one state of a model from another, as SHA-256 digests: of how it is built and what of it is taken, and
    of everything in its state dict; and of buffers that are not saved, such as caches, each with its shape.
    """

    kept: dict[str, str]
    unsaved: dict[str, list[str]]

    @classmethod
    def of(cls, network: Network) -> Self:
        """All but what has no bytes at hand (sparse, quantised, lazy, or on ``meta``)."""
        named = network.named()
        unsaved = {name: v for name, v in network.module.named_buffers() if name not in named}
        first: dict[int, str] = {}
        tied = {name: first.setdefault(id(v), name) for name, v in named.items() if isinstance(v, nn.Parameter)}
        sites = [] if network.by_tape else [*zip(network.names, network.shapes, strict=True)]
        built = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(network.module)), tied, sites
        kept = {name: _digest(v) for name, v in named.items() if _has_bytes(v)}
        of_unsaved = {name: [str(tuple(v.shape)), _digest(v)] for name, v in unsaved.items() if _has_bytes(v)}
        return cls({"how it is built": hashlib.sha256(repr(built).encode()).hexdigest(), **kept}, of_unsaved)

    def common(self, later: Self) -> Self:
        """What is the same in both: a buffer in which forward passes count themselves is none of a model's state."""
        pairs = zip(self, later, strict=True)
        return State(*({name: v for name, v in now.items() if was.get(name) == v} for was, now in pairs))

    def changed(self, network: Network) -> list[str]:
        """What of it is another now; a buffer that is not saved is, in another shape, another buffer."""
        now, held = State.of(network), {id(p) for p in network.module.parameters()}
        assigned = [site.layer for site in network.sites if not held.issuperset(map(id, site.parameters))]
        both = [(name, was, now.unsaved[name]) for name, was in self.unsaved.items() if name in now.unsaved]
        other = [name for name, digest in self.kept.items() if now.kept.get(name) != digest]
        return other + [name for name, was, value in both if was[0] == value[0] and was != value] or assigned


class Answer(NamedTuple):
    """A few examples, and a model's logits of them, at most 65,536 evenly spread: by these it is known again."""

    x: Inputs
    logits: Tensor

    @classmethod
    def of(cls, network: Network, x: Inputs) -> Self:
        logits = network.logits(x).flatten()
        return cls(x, logits[torch.linspace(0, len(logits) - 1, min(len(logits), _LOGITS), dtype=torch.float64).long()])

    def given_by(self, network: Network) -> bool:
        """Whether a network answers so; not where it does not take these examples."""
        try:
            return close(Answer.of(network, self.x).logits, self.logits)
        except Exception:  # the model is the caller's
            return False


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

    ``answer`` is of two examples, None in a file without them; ``data`` the set, where it is in tensors and read again.
    """

    def __init__(self, state: State, answer: Answer | None, marks: Marks, data: Held | None = None):
        self.state, self.answer, self._marks, self._data = state, answer, marks, data
        self._sum = data and _checksum(data)

    def refuse_changed(self, network: Network, name: str) -> None:
        """Raise UserError where the model, or what the estimator of this name reads again, is another than in fit."""
        if changed := self.state.changed(network):
            raise UserError(f"model: {', '.join(map(repr, changed[:3]))} changed after fit; fit the estimator anew")
        if self._data and _checksum(self._data) != self._sum:
            raise UserError(f"{name}: x or y was written into after fit, and is read again; fit it anew")
        if self.answer and not self.answer.given_by(network):
            raise UserError("model: its logits changed after fit, though no parameter did; fit the estimator anew")

    def refuse_unseen(self, marks: Marks) -> None:
        """Raise UserError where examples with these marks are not all of the training set."""
        if not self._marks.cover(marks):
            raise UserError("x: leave_one_out removes training examples, and some of these were not given to fit")


def _checksum(data: Held) -> list[int]:
    """By which one sees whether a set has been written into: on a CPU of its bytes, since numpy counts no writes."""
    held = [*tensors(data.x), *tensors(data.y)]
    return [zlib.crc32(numbers_of(v.cpu())) if v.is_cpu or v.is_inference() else v._version for v in held]


def _has_bytes(v: Tensor) -> bool:
    return not (is_lazy(v) or v.is_quantized or v.is_meta) and v.layout == torch.strided


def _digest(v: Tensor) -> str:
    digest = hashlib.sha256(f"{tuple(v.shape)} {v.dtype}".encode())
    digest.update(numbers_of(v.cpu()))
    return digest.hexdigest()
