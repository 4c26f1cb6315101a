"""F1 of a rule over cases that come in clusters (configurations of a data set), with intervals over the clusters.

A cluster counts by its *outcomes* (3,): true positives, false positives and false negatives. Those of a union are their
sum.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from datalab.labels import flags, plain
from datalab.stats.measurement import Measurement, jackknifed


def outcomes(predicted: ArrayLike, actual: ArrayLike, clusters: ArrayLike) -> NDArray[np.int64]:
    """The outcomes (clusters, 3) of predicted and actual flags (n,); ``clusters`` (n,) in order of appearance."""
    predicted, actual = flags(predicted, "predicted"), flags(actual, "actual")
    kinds = np.column_stack([predicted & actual, predicted & ~actual, ~predicted & actual])
    return pd.DataFrame(kinds).groupby(plain(clusters, "clusters"), sort=False).sum().to_numpy()


def f1(counts: ArrayLike) -> NDArray[np.float64]:
    """F1 (...) of outcomes (..., 3): 2 tp / (2 tp + fp + fn); nan where there are none."""
    tp, fp, fn = np.moveaxis(np.asarray(counts), -1, 0)
    with np.errstate(invalid="ignore"):
        return 2 * tp / (2 * tp + fp + fn)


def clustered_f1(counts: ArrayLike) -> Measurement:
    """F1 of outcomes (clusters, 3), all cases together; its units are the clusters, its limits inside [0, 1]."""
    return jackknifed(lambda some: f1(some.sum(0)), counts, bounds=(0, 1))


def clustered_f1_lead(counts: ArrayLike, base: ArrayLike) -> Measurement:
    """F1 of one rule less another's, both of outcomes (clusters, 3) of the same clusters."""
    return jackknifed(lambda one, other: f1(one.sum(0)) - f1(other.sum(0)), counts, base, bounds=(-1, 1))
