"""The table of checks, what one returns, the printed figures it reads, and the comparisons most are made of."""

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from datalab.ledger.rounding import RoundingInterval, corners, exact, have_common_point, hull

# The rows of the paper's tables, as the ledger's ids spell them, in the order they are printed.
METHODS = ("vanilla", "if", "ln", "full", "oracle")  # table 4.1
BENCHMARKS = ("A", "B", "C", "D", "E", "F")  # the benchmark table of 4.1
LEVELS = ("minimal", "low", "medium", "high", "extreme")  # table 4.2
ABLATIONS = ("full", "wo_fe", "wo_aw", "wo_reg", "wo_all")  # table 4.3
SIZES = ("1K", "5K", "10K", "50K", "100K")  # table 4.4
PARTS = ("fe", "aw", "reg")  # table 4.5
COSTS = ("train", "infer", "mem")

CONSISTENT, INCONSISTENT, UNCHECKABLE = "consistent", "inconsistent", "cannot_be_checked"


class Statement(Protocol):
    """What the audit needs of a statement of the ledger."""

    id: str
    kind: str

    def printed(self, name: str = "value") -> RoundingInterval:
        """The printed figure with its rounding interval."""


@dataclass(frozen=True)
class Outcome:
    """One recomputed check.

    recomputed: what the printed figures give (a number, or a mapping of them); interval: where it can lie, given the
    rounding of what was printed; printed: the figure it is held against, where there is one; status: what follows.
    """

    recomputed: Any
    status: str
    formula: str
    interval: RoundingInterval | tuple[RoundingInterval, ...] | None = None
    printed: RoundingInterval | None = None


class Figures:
    """The paper's printed figures by statement id; calling it gives the rounding interval."""

    def __init__(self, statements: Mapping[str, Statement]):
        self.statements = statements

    def __call__(self, statement_id: str, name: str = "value") -> RoundingInterval:
        return self.statements[statement_id].printed(name)

    def row(self, table: str, rows: Iterable[str], column: str) -> dict[str, RoundingInterval]:
        """One column of a table: ``{row: interval}``."""
        return {row: self(f"{table}.{row}.{column}") for row in rows}

    def columns(self, table: str) -> set[str]:
        """The columns the paper prints of a table."""
        cells = (key.split(".") for key, found in self.statements.items() if found.kind == "table_cell")
        return {parts[2] for parts in cells if parts[0] == table}


Check = Callable[[Figures], Outcome]
CHECKS: dict[str, Check] = {}  # every check by the id of its statement


def check(statement_id: str, over: Iterable[str] = ()) -> Callable[[Callable[..., Outcome]], Callable[..., Outcome]]:
    """Enter a function of the figures as a statement's check.

    With ``over`` it serves one statement a name, which stands for ``{}`` in the id and is the function's second
    argument.
    """

    def enter(function: Callable[..., Outcome]) -> Callable[..., Outcome]:
        if not over:
            CHECKS[statement_id] = function
        for name in over:
            CHECKS[statement_id.format(name)] = functools.partial(_with, function, name)
        return function

    return enter


def _with(function: Callable[..., Outcome], name: str, figures: Figures) -> Outcome:
    return function(figures, name)


def status(agrees: bool) -> str:
    """The status of a check that arithmetic alone decides."""
    return CONSISTENT if agrees else INCONSISTENT


def relative_gain(ours: RoundingInterval, base: RoundingInterval) -> RoundingInterval:
    """``100 (ours / base - 1)``, in percent."""
    return corners(lambda a, b: 100 * (a / b - 1), ours, base)


def equals(printed: RoundingInterval, recomputed: RoundingInterval, formula: str) -> Outcome:
    """The printed figure against the recomputed one: consistent when the two intervals meet."""
    return Outcome(float(recomputed.middle), status(printed.meets(recomputed)), formula, recomputed, printed)


def same_everywhere(figures: Figures, ids: Sequence[str]) -> Outcome:
    """One quantity printed in several places: consistent when one number rounds to all of them."""
    printed = {key: figures(key) for key in ids}
    agrees = have_common_point(list(printed.values()))
    values = {key: float(interval.middle) for key, interval in printed.items()}
    return Outcome(values, status(agrees), "one number rounds to all", hull(list(printed.values())))


def difference(printed: RoundingInterval, other: RoundingInterval, formula: str) -> Outcome:
    """``printed - other`` of two exact counts: consistent at 0."""
    apart = printed - other
    return Outcome(_count(apart), status(apart.contains(0)), formula)


def within_hull(values: Mapping[str, RoundingInterval], strata: Sequence[RoundingInterval], formula: str) -> Outcome:
    """A pooled value is a weighted mean of its strata, so it lies between the smallest and the largest of them."""
    box = hull(strata)
    inside = {key: value.meets(box) for key, value in values.items()}
    return Outcome(inside, status(all(inside.values())), formula, box)


def order(pairs: Iterable[tuple[RoundingInterval, RoundingInterval]], formula: str, *, strict: bool = True) -> Outcome:
    """Each pair's first is claimed above its second. ``violated`` when no unrounded figures could fulfil that.

    ``strict=False``: equal is enough.
    """
    counts = {"holds": 0, "tie": 0, "violated": 0}
    for above, below in pairs:
        apart = above - below
        if apart.low > 0 or (apart.low == 0 and not strict):
            counts["holds"] += 1
        elif apart.high < 0 or (apart.high == 0 and strict):
            counts["violated"] += 1
        else:
            counts["tie"] += 1
    return Outcome(counts, status(counts["violated"] == 0), formula)


def agreement(pairs: Iterable[tuple[RoundingInterval, RoundingInterval]], formula: str) -> Outcome:
    """How many printed cells meet their recomputed intervals."""
    met = [printed.meets(recomputed) for printed, recomputed in pairs]
    return Outcome({"agree": sum(met), "of": len(met)}, status(all(met)), formula)


def sign(recomputed: RoundingInterval, claimed: str, formula: str) -> Outcome:
    """A difference or slope claimed ``positive``, ``negative``, ``not negative`` or ``zero``.

    Undecided when rounding alone could turn it, unless the claim is only that it does not fall.
    """
    if claimed == "zero":
        verdict = status(recomputed.contains(0))
    elif claimed == "not negative":
        verdict = status(recomputed.high >= 0)
    else:
        mirrored = recomputed if claimed == "positive" else recomputed.scaled(-1)
        verdict = CONSISTENT if mirrored.low > 0 else INCONSISTENT if mirrored.high <= 0 else UNCHECKABLE
    return Outcome(float(recomputed.middle), verdict, formula, recomputed)


def extremes(function: Callable[[np.ndarray], float], boxes: Sequence[RoundingInterval]) -> RoundingInterval:
    """The image of a box under a smooth function that is not monotone (a correlation, a share of variance).

    Its extremes may lie inside an edge, so a bounded search starts from every corner's neighbourhood beside the corners
    themselves. Ends are floats here, exact to about 1e-9.
    """
    from scipy.optimize import minimize

    low, high = np.array([box.floats() for box in boxes]).T
    middle = np.array([float(box.middle) for box in boxes])
    vertices = np.array(list(itertools.product(*zip(low, high, strict=True))))
    values = [function(vertex) for vertex in vertices]
    ends = []
    for factor, extreme in ((1.0, min), (-1.0, max)):
        order_ = np.argsort(np.multiply(factor, values), kind="stable")[:8]
        found = [extreme(values), function(middle)]
        for start in (middle, *(0.9 * vertices[i] + 0.1 * middle for i in order_)):
            result = minimize(
                lambda y, f=factor: f * function(y), start, method="L-BFGS-B", bounds=list(zip(low, high, strict=True))
            )
            found.append(function(result.x))
        ends.append(extreme(found))
    return RoundingInterval(exact(float(ends[0])), exact(float(ends[1])), exact(float(function(middle))))


def correlation_with_rank(values: Sequence[RoundingInterval]) -> RoundingInterval:
    """Pearson's r of a column with its row number 1..n, over everything the rounding allows."""
    rank = np.arange(len(values)) - (len(values) - 1) / 2

    def r(column: np.ndarray) -> float:
        centred = column - column.mean()
        return float(rank @ centred / np.sqrt((rank @ rank) * (centred @ centred)))

    return extremes(r, values)


def _count(interval: RoundingInterval) -> int | float:
    return int(interval.middle) if interval.middle == Fraction(int(interval.middle)) else float(interval.middle)
