"""Percentile bootstraps of figures that are no mean of differences: resampled means, and a figure of nested scores."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datalab.labels import dense
from datalab.stats.paired import Interval


def resampled_means(values: ArrayLike, rng: np.random.Generator, resamples: int) -> NDArray[np.float64]:
    """Means (resamples, k) of values (n, k) over units drawn with replacement; all k columns share the draws.

    What varies: which units were drawn. A percentile of any function of the columns is that function's interval.
    """
    values = dense(values, "values").astype(float)
    n = len(values)
    return rng.multinomial(n, np.full(n, 1 / n), resamples) @ values / n


def nested_bootstrap(
    statistic: Callable[..., NDArray[np.float64]],
    *scores: ArrayLike,
    rng: np.random.Generator,
    resamples: int,
    confidence: float = 0.95,
) -> Interval:
    """A figure of paired scores (units, repeats), with its two-level percentile interval.

    ``statistic`` takes as many arrays (..., units, repeats) as ``scores`` and gives (...). What varies: the units, and
    then the repeats within each, drawn with replacement (Davison & Hinkley 1997, ch. 3.8); all scores share the draws.
    With fewer than 2 units the limits are nan.
    """
    scores = [np.asarray(values, dtype=float) for values in scores]
    units, repeats = scores[0].shape
    low = high = np.nan
    if units > 1:
        unit = rng.integers(0, units, (resamples, units, 1))
        repeat = rng.integers(0, repeats, (resamples, units, repeats))
        drawn = statistic(*(values[unit, repeat] for values in scores))
        low, high = np.percentile(drawn, [50 - 50 * confidence, 50 + 50 * confidence])
    return Interval(float(statistic(*scores)), float(low), float(high), confidence, units)
