"""Pearson's correlation over observations that come in clusters, with the clusters for units.

A cluster counts by its *moments* (6,): n and the sums of x, y, x^2, y^2 and xy. Those of a union are their sum.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datalab.labels import dense
from datalab.stats.measurement import Measurement, jackknifed


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


def clustered_correlation(clusters: ArrayLike) -> Measurement:
    """Pearson's r over all observations of clusters (k, 6) of moments; its units are the clusters."""
    return jackknifed(lambda some: pearson(some.sum(0)), clusters, bounds=(-1, 1))


def mean_correlation(clusters: ArrayLike) -> Measurement:
    """The mean over clusters (k, 6) of moments of each one's own Pearson's r; 0 for one whose x or y does not vary."""
    return Measurement(np.nan_to_num(pearson(clusters)), bounds=(-1, 1))
