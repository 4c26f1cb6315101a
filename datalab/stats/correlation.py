"""Pearson's correlation over observations that come in clusters, with an interval that resamples the clusters.

A cluster counts by its *moments* (6,): n and the sums of x, y, x^2, y^2 and xy. Those of a union are their sum, so that
a bootstrap over clusters is one matrix product.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datalab.labels import dense
from datalab.stats.paired import Interval


def moments(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """The moments (6,) of paired observations x (n,) and y (n,)."""
    x, y = dense(x, "x").astype(float), dense(y, "y").astype(float)
    return np.array([len(x), x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()])


def pearson(m: ArrayLike) -> NDArray[np.float64]:
    """Pearson's r (...) from moments (..., 6); nan where x or y does not vary."""
    n, x, y, xx, yy, xy = np.moveaxis(np.atleast_2d(m), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (n * xy - x * y) / np.sqrt((n * xx - x**2) * (n * yy - y**2))
    return r if np.ndim(m) > 1 else r[0]


def clustered_correlation(
    clusters: ArrayLike, rng: np.random.Generator, resamples: int, confidence: float = 0.95
) -> Interval:
    """Pearson's r over all observations of clusters (k, 6) of moments, with a percentile interval.

    What varies: which clusters were drawn. With one cluster the limits are nan.
    """
    clusters = np.asarray(clusters, dtype=float)
    k, low, high = len(clusters), np.nan, np.nan
    if k > 1:
        counts = rng.multinomial(k, np.full(k, 1 / k), resamples)
        tail = 50 * (1 - confidence)
        low, high = np.nanpercentile(pearson(counts @ clusters), [tail, 100 - tail])
    return Interval(float(pearson(clusters.sum(0))), low, high, confidence, k)
