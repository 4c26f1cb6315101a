"""The paper's printed figures, what a check of them returns, and the comparisons that most checks are made of."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from datalab.ledger.claim import Claim
from datalab.ledger.rounding import RoundingInterval, corners, exact, have_common_point, hull

CONSISTENT, INCONSISTENT, UNCHECKABLE = "consistent", "inconsistent", "cannot_be_checked"


class Figures:
    """The paper's printed figures by statement id; calling it gives the rounding interval."""

    def __init__(self, statements: Mapping[str, Claim]):
        self.statements = statements

    def __call__(self, statement_id: str, name: str = "value") -> RoundingInterval:
        return self.statements[statement_id].printed(name)

    def count(self, statement_id: str) -> int:
        """A printed count."""
        return int(self(statement_id).middle)

    def table(self, key: str) -> pd.DataFrame:
        """A table's printed cells as intervals, to reckon with, under the ledger's names and in the order of printing.

        NaN stands where the paper prints nothing.
        """
        rows: dict[str, dict[str, RoundingInterval]] = {}
        for statement_id, claim in self.statements.items():
            if claim.kind == "table_cell" and statement_id.startswith(f"{key}."):
                _, row, column = statement_id.split(".")
                rows.setdefault(row, {})[column] = claim.printed()
        return pd.DataFrame.from_dict(rows, orient="index")


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


def status(agrees: bool) -> str:
    """The status of a check that arithmetic alone decides."""
    return CONSISTENT if agrees else INCONSISTENT


# 100 (ours / base - 1), in percent, of two intervals; of two columns of them row by row.
relative_gain = np.frompyfunc(lambda ours, base: corners(lambda a, b: 100 * (a / b - 1), ours, base), 2, 1)


def equals(printed: RoundingInterval, recomputed: RoundingInterval, formula: str) -> Outcome:
    """The printed figure against the recomputed one: consistent when the two intervals meet."""
    return Outcome(float(recomputed.middle), status(printed.meets(recomputed)), formula, recomputed, printed)


def column(
    figures: Figures, pattern: str, recomputed: Mapping[str, RoundingInterval], formula: str
) -> dict[str, Outcome]:
    """A column that follows from others: :func:`equals` for each cell, whose row (or column) is ``{}`` in its id."""
    ids = {pattern.format(name): value for name, value in recomputed.items()}
    return {key: equals(figures(key), value, formula) for key, value in ids.items()}


def same_everywhere(figures: Figures, *ids: str) -> Outcome:
    """One quantity printed in several places: consistent when one number rounds to all of them."""
    printed = [figures(key) for key in ids]
    values = {key: float(interval.middle) for key, interval in zip(ids, printed, strict=True)}
    return Outcome(values, status(have_common_point(printed)), "one number rounds to all", hull(printed))


def difference(count: int, other: int, formula: str) -> Outcome:
    """``count - other``: consistent at 0."""
    return Outcome(count - other, status(count == other), formula)


def within_hull(pooled: Mapping[str, RoundingInterval], strata: Sequence[RoundingInterval], formula: str) -> Outcome:
    """A pooled figure is a weighted mean of its strata, so it lies between the smallest and the largest of them."""
    box = hull(strata)
    inside = {name: figure.meets(box) for name, figure in pooled.items()}
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


def agreement(printed: Iterable[RoundingInterval], recomputed: Iterable[RoundingInterval], formula: str) -> Outcome:
    """How many printed cells meet their recomputed intervals."""
    met = [cell.meets(value) for cell, value in zip(printed, recomputed, strict=True)]
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
        mirrored = recomputed if claimed == "positive" else -1 * recomputed
        verdict = CONSISTENT if mirrored.low > 0 else INCONSISTENT if mirrored.high <= 0 else UNCHECKABLE
    return Outcome(float(recomputed.middle), verdict, formula, recomputed)


def extremes(function: Callable[[np.ndarray], float], boxes: Sequence[RoundingInterval]) -> RoundingInterval:
    """The image of a box under a smooth function that is not monotone (a correlation, a share of variance).

    Its extremes may lie inside an edge, so a bounded search starts from every corner's neighbourhood beside the corners
    themselves. Ends are floats here, exact to about 1e-9.
    """
    from scipy.optimize import minimize

    bounds = [box.floats() for box in boxes]
    middle = np.array([float(box.middle) for box in boxes])
    vertices = np.array(list(itertools.product(*bounds)))
    values = np.array([function(vertex) for vertex in vertices])
    ends = []
    for factor, extreme in ((1.0, min), (-1.0, max)):
        best = np.argsort(factor * values, kind="stable")[:8]
        reached = [extreme(values), function(middle)]
        for start in (middle, *(0.9 * vertices[best] + 0.1 * middle)):
            result = minimize(lambda y, f=factor: f * function(y), start, method="L-BFGS-B", bounds=bounds)
            reached.append(function(result.x))
        ends.append(extreme(reached))
    return RoundingInterval(exact(float(ends[0])), exact(float(ends[1])), exact(float(function(middle))))


def correlation_with_rank(values: Sequence[RoundingInterval]) -> RoundingInterval:
    """Pearson's r of a column with its row number 1..n, over everything the rounding allows."""
    return extremes(lambda column: float(np.corrcoef(np.arange(len(column)), column)[0, 1]), values)
