"""How much of the variance the levels of a factor explain, in a design whose every row has one value at each level.

y (rows, levels) throughout; ``units`` (rows,) names the unit (data set) that a row belongs to. eta squared is a ratio
of the sums of squares that :func:`sums_of_squares` gives: ``level / total``; partial, with the rows taken out,
``level / (total - rows)``; within units, ``level_within / within``.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datalab.labels import plain

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
    """The decomposition of y (rows, levels); ``units`` (rows,)."""
    of_unit, mean = _averaging(units), y.mean()
    unit_mean = (of_unit @ y.mean(1)) @ (of_unit > 0)  # of each row
    level, level_within = _of_levels(y, mean, of_unit)
    return SumsOfSquares(
        total=((y - mean) ** 2).sum(),
        level=level,
        rows=y.shape[1] * ((y.mean(1) - mean) ** 2).sum(),
        within=((y - unit_mean[:, None]) ** 2).sum(),
        level_within=level_within,
    )


def permuted_levels(
    y: Floats, units: ArrayLike, blocks: NDArray[np.int64], rng: np.random.Generator, permutations: int
) -> Floats:
    """(permutations, 2): ``level`` and ``level_within`` once the levels are exchanged at random within each block.

    Rows of one of ``blocks`` (rows,), numbered from 0, are exchanged alike: they are not independent of each other,
    such as methods trained on the same sets. Under the hypothesis that the level has no effect, the observed sums are
    one more draw of these.
    """
    of_unit, mean = _averaging(units), y.mean()
    levels = np.tile(np.arange(y.shape[1]), (blocks.max() + 1, 1))
    drawn = np.empty((permutations, 2))
    for i in range(permutations):
        order = rng.permuted(levels, axis=1)
        drawn[i] = _of_levels(np.take_along_axis(y, order[blocks], 1), mean, of_unit)
    return drawn


def permutation_p(observed: ArrayLike, drawn: Floats) -> Floats:
    """(1 + how many of ``drawn`` (permutations, k) are as large) / (1 + permutations), for ``observed`` (k,)."""
    as_large = drawn >= np.asarray(observed) * (1 - 1e-12)  # rounding must not decide a tie
    return (1 + as_large.sum(0)) / (1 + len(drawn))


def resampled_eta_squared(y: Floats, units: ArrayLike, rng: np.random.Generator, resamples: int) -> Floats:
    """``level / total`` (resamples,) of bootstrap samples of the units: what varies is which units were drawn."""
    units = np.asarray(units)
    groups = [y[units == name] for name in dict.fromkeys(units)]
    taken = rng.integers(0, len(groups), (resamples, len(groups)))
    samples = (np.concatenate([groups[i] for i in sample]) for sample in taken)
    return np.array([_level(sample, sample.mean()) / ((sample - sample.mean()) ** 2).sum() for sample in samples])


def _averaging(units: ArrayLike) -> Floats:
    """The matrix (units, rows) that averages each unit's rows, in the order in which the units first appear."""
    units = plain(units, "units")
    member = np.array([units == name for name in dict.fromkeys(units)], dtype=float)
    return member / member.sum(1, keepdims=True)


def _level(y: Floats, mean: float) -> float:
    return len(y) * ((y.mean(0) - mean) ** 2).sum()


def _of_levels(y: Floats, mean: float, of_unit: Floats) -> tuple[float, float]:
    means = of_unit @ y  # (units, levels)
    sizes = (of_unit > 0).sum(1, keepdims=True)
    return _level(y, mean), (sizes * (means - means.mean(1, keepdims=True)) ** 2).sum()
