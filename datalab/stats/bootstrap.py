"""Resampled units: how often one figure comes out above another. No interval of the study is read off them."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datalab.labels import dense


def resampled_means(values: ArrayLike, rng: np.random.Generator, resamples: int) -> NDArray[np.float64]:
    """Means (resamples, k) of values (n, k) over units drawn with replacement; all k columns share the draws.

    What varies: which units were drawn. Intervals are not read off these: a percentile interval is too narrow on few
    units (notebook 3.4); they are :func:`datalab.stats.t_interval`'s or :func:`datalab.stats.jackknifed`'s.
    """
    values = dense(values, "values").astype(float)
    n = len(values)
    return rng.multinomial(n, np.full(n, 1 / n), resamples) @ values / n
