"""What a printed figure stands for, and exact arithmetic on it.

A figure printed with ``d`` decimals stands for ``[x - 0.5*10^-d, x + 0.5*10^-d]``. All arithmetic is in fractions, so
an interval's end is exact and "just outside" is never a rounding error of ours.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

Number = int | float | str | Fraction


def exact(value: Number) -> Fraction:
    """The decimal that was printed, as a fraction: ``exact(0.65)`` is 13/20, not the nearest binary float."""
    return value if isinstance(value, Fraction) else Fraction(str(value))


@dataclass(frozen=True)
class RoundingInterval:
    """A closed interval with exact ends, and its middle (the printed figure, or what the printed figures give)."""

    low: Fraction
    high: Fraction
    middle: Fraction

    @classmethod
    def printed(cls, value: Number, decimals: int | None) -> "RoundingInterval":
        """A printed figure; ``decimals=None`` is a count, which is exact."""
        middle = exact(value)
        half = Fraction(0) if decimals is None else Fraction(1, 2 * 10**decimals)
        return cls(middle - half, middle + half, middle)

    @classmethod
    def point(cls, value: Number) -> "RoundingInterval":
        """An exactly known number."""
        return cls.printed(value, None)

    @property
    def half_width(self) -> Fraction:
        """Half of ``high - low``."""
        return (self.high - self.low) / 2

    def __add__(self, other: "RoundingInterval") -> "RoundingInterval":
        return RoundingInterval(self.low + other.low, self.high + other.high, self.middle + other.middle)

    def __sub__(self, other: "RoundingInterval") -> "RoundingInterval":
        return RoundingInterval(self.low - other.high, self.high - other.low, self.middle - other.middle)

    def __rmul__(self, factor: Number) -> "RoundingInterval":
        """A negative factor swaps the ends."""
        ends = sorted((self.low * exact(factor), self.high * exact(factor)))
        return RoundingInterval(ends[0], ends[1], self.middle * exact(factor))

    def contains(self, value: Number) -> bool:
        """Whether ``value`` lies inside, ends included."""
        return self.low <= exact(value) <= self.high

    def meets(self, other: "RoundingInterval") -> bool:
        """Whether the two share a point: some unrounded figures behind the two printed ones could be equal."""
        return self.low <= other.high and other.low <= self.high

    def gap(self, other: "RoundingInterval") -> Fraction:
        """The distance between the two: 0 when they meet."""
        return max(self.low - other.high, other.low - self.high, Fraction(0))

    def floats(self) -> tuple[float, float]:
        """``(low, high)`` as floats, for a table or a figure."""
        return float(self.low), float(self.high)


def corners(function: Callable[..., Fraction], *boxes: RoundingInterval) -> RoundingInterval:
    """The image of a box under a function that is monotone in each argument (its direction may depend on the others).

    Such a function takes its extremes at corners, so evaluating all of them is exact, where interval arithmetic on an
    expression that names an argument twice (``p*r/(p+r)``) would be too wide.
    """
    values = [function(*ends) for ends in itertools.product(*((box.low, box.high) for box in boxes))]
    return RoundingInterval(min(values), max(values), function(*(box.middle for box in boxes)))


def hull(intervals: Sequence[RoundingInterval]) -> RoundingInterval:
    """The smallest interval holding all of them; its middle is the mean of their middles."""
    middle = sum((interval.middle for interval in intervals), Fraction(0)) / len(intervals)
    return RoundingInterval(min(i.low for i in intervals), max(i.high for i in intervals), middle)


def have_common_point(intervals: Sequence[RoundingInterval]) -> bool:
    """Whether one number lies in all of them."""
    return max(i.low for i in intervals) <= min(i.high for i in intervals)
