"""How much of the variance the levels of a factor explain, in a design whose every row has one value at each level.

eta squared is a ratio of the sums of squares that :func:`sums_of_squares` gives: ``level / total``; partial, with the
rows taken out, ``level / (total - rows)``; within units, ``level_within / within``. It is biased upward, and more so
where every unit (data set) has a pattern of its own: what is read is :func:`common_share`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datalab.labels import plain
from datalab.stats.measurement import Share, jackknifed

Floats = NDArray[np.float64]


class SumsOfSquares(NamedTuple):
    """Sums of squared deviations, each over all rows and levels.

    ``total`` and ``level`` (of the levels' means) are around the grand mean, so is ``rows`` (of the rows' means);
    ``within`` and ``level_within`` are the same as the first two around the mean of each row's own unit.
    """

    total: float
    level: float
    rows: float
    within: float
    level_within: float


def sums_of_squares(y: Floats, units: ArrayLike) -> SumsOfSquares:
    """The decomposition of y (rows, levels); ``units`` (rows,) names the unit that a row belongs to."""
    units, mean = plain(units, "units"), y.mean()
    member = np.array([units == name for name in dict.fromkeys(units)], dtype=float)  # (units, rows)
    sizes = member.sum(1, keepdims=True)
    of_unit = member / sizes  # averages a unit's rows
    unit_mean = (of_unit @ y.mean(1)) @ member  # of each row
    levels = of_unit @ y  # each unit's means at the levels
    return SumsOfSquares(
        total=((y - mean) ** 2).sum(),
        level=len(y) * ((y.mean(0) - mean) ** 2).sum(),
        rows=y.shape[1] * ((y.mean(1) - mean) ** 2).sum(),
        within=((y - unit_mean[:, None]) ** 2).sum(),
        level_within=(sizes * (levels - levels.mean(1, keepdims=True)) ** 2).sum(),
    )


def common_share(y: Floats) -> float:
    """The share of the variance of y (units, rows, levels) by what the levels do alike in every unit: unbiased at 0.

    eta squared counts as the levels' what each unit's own pattern leaves in their means. Here a unit counts by its
    means at the levels, less their mean, c_u (levels,), and two *different* units must agree: the numerator is the mean
    of c_u . c_v / levels over pairs u != v, which is eta squared's less what units that share nothing would give it, as
    in omega squared with the unit-by-level interaction for its error. The denominator is the variance of all of y.
    nan with fewer than 2 units; below 0 by chance where nothing is shared.
    """
    if len(y) < 2 or not np.ptp(y):
        return float("nan")
    return float(_agreement(_patterns(y)) / y.var())


def common_share_measured(y: Floats) -> Share:
    """:func:`common_share` of y (units, rows, levels), with its units."""
    return Share(jackknifed(common_share, y).values)


def levels_exchanged(y: Floats, rng: np.random.Generator, permutations: int) -> float:
    """p of a common effect of the levels on y (units, rows, levels): exchanged at random within each unit.

    A unit's rows are exchanged alike: they were trained on the same sets. The hypothesis is that no unit's pattern
    says anything of another's, not that there are none. (1 + as large) / (1 + permutations); nan with under 2 units.
    """
    if len(y) < 2:
        return float("nan")
    c = _patterns(y)
    drawn = _agreement(rng.permuted(np.tile(c, (permutations, 1, 1)), axis=2))
    as_large = drawn >= _agreement(c) - 1e-12 * (c**2).sum()  # rounding must not decide a tie
    return (1 + int(as_large.sum())) / (1 + permutations)


def _patterns(y: Floats) -> Floats:
    means = y.mean(1)
    return means - means.mean(1, keepdims=True)


def _agreement(c: Floats) -> Floats:
    """The mean over pairs of different units of c_u . c_v / levels, of c (..., units, levels)."""
    units, levels = c.shape[-2:]
    pairs = (c.sum(-2) ** 2).sum(-1) - (c**2).sum((-2, -1))
    return pairs / (units * (units - 1) * levels)
