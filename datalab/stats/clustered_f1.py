"""F1 of a rule over cases that come in clusters (configurations of a data set), with intervals over the clusters.

A cluster counts by its *outcomes* (3,): true positives, false positives and false negatives. Those of a union are their
sum, so a bootstrap over clusters is one matrix product.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from datalab.labels import flags, plain
from datalab.protocol import protocol
from datalab.stats.paired import Interval, t_interval


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


def clustered_f1(counts: ArrayLike, rng: np.random.Generator, resamples: int | None = None) -> Interval:
    """F1 of outcomes (..., clusters, 3), with its 95 % percentile interval.

    What varies: which clusters were drawn, each with all its cases. All rules of a batch share the resamples (the
    protocol's 10,000 when None).
    """
    counts = np.asarray(counts)
    n = counts.shape[-2]
    drawn = rng.multinomial(n, np.full(n, 1 / n), resamples or protocol().statistics["resamples"])
    low, high = np.nanpercentile(f1(drawn @ counts), [2.5, 97.5], axis=-1)
    return Interval(f1(counts.sum(-2)), low, high, 0.95, n)


def clustered_f1_lead(counts: ArrayLike, base: ArrayLike, confidence: float) -> Interval:
    """F1 of one rule less another's, both of outcomes (clusters, 3), with the jackknife's t-interval over clusters.

    The interval is Student's on the pseudo-values n lead - (n - 1) lead_without_i (Tukey 1958); nan limits with fewer
    than 2 clusters.
    """
    counts, base = np.asarray(counts), np.asarray(base)
    n, total, base_total = len(counts), counts.sum(0), base.sum(0)
    lead = float(f1(total) - f1(base_total))
    if n < 2:
        return Interval(lead, np.nan, np.nan, confidence, n)
    without = f1(total - counts) - f1(base_total - base)
    interval = t_interval(n * lead - (n - 1) * without, confidence)
    return Interval(lead, interval.low, interval.high, confidence, n)
