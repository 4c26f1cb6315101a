"""Section 3.1's tables: M_strat(f) = sum_k w_k M(f; D_k) beside plain accuracy. The data set is the unit."""

import itertools

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from datalab import stats
from datalab.protocol import protocol
from datalab.sections.compare import mean_with_interval
from datalab.sections.metric_cell import STRATA, target_weights

UNIT = ["dataset", "seed"]


def system(rows: pd.DataFrame) -> pd.Series:
    """A system's name: ``mlp, influence``."""
    return rows.architecture + ", " + rows.method


def by_stratum(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of every system in every stratum, with 95 % t-intervals over data sets."""
    found, rows = [], rows[rows.part == "stratum"]
    for (kind, name, k), one in rows.assign(system=system(rows)).groupby(["strata", "system", "stratum"], sort=False):
        values = one.groupby("dataset", sort=False).right.mean()
        found.append({"strata": kind, "system": name, "stratum": int(k) + 1} | mean_with_interval(values, "accuracy"))
    return pd.DataFrame(found)


def metric(rows: pd.DataFrame, strata: str, tilt: float) -> pd.DataFrame:
    """M_strat of every system: systems x (data set, seed)."""
    right, sizes = (_by_stratum(rows, strata, column) for column in ("right", "n"))
    return (right * target_weights(sizes.to_numpy(), tilt)).sum(axis=1).unstack(UNIT)


def variances(rows: pd.DataFrame, strata: str, tilt: float) -> pd.DataFrame:
    """The variance of M_strat over bootstrap samples of the test set, shaped as ``metric``."""
    part = rows[(rows.part == "variance") & (rows.strata == strata) & (rows.tilt == tilt)]
    table = part.assign(system=system(part)).set_index(["system", *UNIT]).variance
    return table.unstack(UNIT)


def _by_stratum(rows: pd.DataFrame, strata: str, column: str) -> pd.DataFrame:
    part = rows[(rows.part == "stratum") & (rows.strata == strata)]
    part = part.assign(system=system(part))
    return part.pivot_table(index=["system", *UNIT], columns="stratum", values=column, sort=False)


def systems(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per system: plain accuracy, and M_strat under every target by both kinds of strata, with its rank."""
    plain = by_set(metric(rows, STRATA[0], 0.0))
    table = pd.DataFrame({"system": plain.index})
    table["plain accuracy"] = plain.mean(axis=1).to_numpy()
    table["rank"] = table["plain accuracy"].rank(ascending=False).astype(int)
    for strata in STRATA:
        for tilt in tilts():
            values = by_set(metric(rows, strata, tilt)).mean(axis=1).to_numpy()
            table[f"{strata} {tilt:+g}"] = values
            table[f"rank, {strata} {tilt:+g}"] = pd.Series(values).rank(ascending=False).astype(int)
    return table.sort_values("rank", kind="stable", ignore_index=True)


def tilts() -> list[float]:
    """The targets that are not the test set's own distribution."""
    return [tilt for tilt in protocol().stratified_metric["tilts"] if tilt]


def by_set(table: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds: systems x data sets."""
    return table.T.groupby(level="dataset", sort=False).mean().T


def agreement(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per kind of strata and target: does the metric rank the systems as plain accuracy does, and how precisely?

    ``Kendall's tau`` is over the systems, within each data set, its mean with a 95 % t-interval over data sets.
    ``reversed pairs`` are pairs of systems ordered one way by plain accuracy and the other way by M_strat on average
    over the data sets; ``both significant`` those where both differences have Wilcoxon p < alpha after Holm's
    correction over all pairs. ``variance ratio`` is M_strat's variance over bootstrap samples of the
    test set, strata cut anew in each, over that of plain accuracy.
    """
    plain, found = by_set(metric(rows, STRATA[0], 0.0)), []
    for strata in STRATA:
        for tilt in protocol().stratified_metric["tilts"]:
            other = by_set(metric(rows, strata, tilt))
            tau = [_tau(plain[name], other[name]) for name in plain]
            ratio = by_set(variances(rows, strata, tilt) / variances(rows, strata, 0.0)).mean()
            reversals = reversed_pairs(plain, other)
            found.append(
                {"strata": strata, "tilt of the target": tilt}
                | mean_with_interval(tau, "Kendall's tau")
                | {"pairs": len(reversals), "reversed pairs": int(reversals["reversed"].sum())}
                | {"both significant": int(reversals["both significant"].sum())}
                | mean_with_interval(ratio, "variance ratio")
                | {"sets": plain.shape[1]}
            )
    return pd.DataFrame(found)


def _tau(a: pd.Series, b: pd.Series) -> float:
    return float(kendalltau(a.round(12), b.round(12)).statistic)  # equal systems are ties, whatever the rounding


def reversed_pairs(plain: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Every pair of systems: its mean difference by both metrics (systems x data sets), and whether they disagree."""
    pairs = list(itertools.combinations(plain.index, 2))
    d = np.array([(plain.loc[a] - plain.loc[b]).to_numpy() for a, b in pairs])
    e = np.array([(other.loc[a] - other.loc[b]).to_numpy() for a, b in pairs])
    alpha = protocol().statistics["alpha"]
    enough = d.shape[1] > 1
    sure = [stats.holm(stats.wilcoxon(each).p) < alpha if enough else np.zeros(len(d), bool) for each in (d, e)]
    turned = np.sign(d.mean(1)) * np.sign(e.mean(1)) < 0
    return pd.DataFrame(
        {
            "a": [a for a, _ in pairs],
            "b": [b for _, b in pairs],
            "plain": d.mean(1),
            "stratified": e.mean(1),
            "reversed": turned,
            "both significant": turned & sure[0] & sure[1],
        }
    )


def pruning_effect(rows: pd.DataFrame) -> pd.DataFrame:
    """What pruning by influence does to the MLP in each stratum: accuracy less full training's, t-intervals."""
    found = []
    for strata in STRATA:
        part = rows[(rows.part == "stratum") & (rows.strata == strata) & (rows.architecture == "mlp")]
        table = part.pivot_table(index=["dataset", "stratum"], columns="method", values="right", sort=False)
        d = (table.influence - table.full).unstack("stratum")
        for k in d:
            found.append({"strata": strata, "stratum": int(k) + 1} | mean_with_interval(d[k], "influence less full"))
    return pd.DataFrame(found)
