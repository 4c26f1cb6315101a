"""Section 5.3's tables. The data set is the unit; a data set counts by its mean over seeds and draws."""

import numpy as np
import pandas as pd

from datalab import stats
from datalab.sections.compare import by_set, mean_with_interval, with_correction
from datalab.sections.negative_cell import MEMBERS, ORDERS
from datalab.sections.trial import DATALAB

SINGLE = "member mlp"


def scores(rows: pd.DataFrame, part: str, method: str, rate: float, **where: object) -> pd.Series:
    """F1 of one method, a value a data set."""
    return by_set(rows, "macro_f1", part=part, method=method, rate=rate, **where)


def filtering(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per noise rate and share removed: removing by influence against no filter and against random removal.

    ``relative`` is 100 (filtered / everything - 1); ``relabelled`` less everything is the control that gives the same
    examples their clean labels: what they are worth when right.
    """
    found = []
    part = rows[rows.part == "filtering"]
    for rate in sorted(part.rate.unique()):
        everything = scores(rows, "filtering", "everything", rate)
        for share in sorted(each for each in part.dropped.unique() if each > 0):
            filtered, random, relabelled = (
                scores(rows, "filtering", name, rate, dropped=share) for name in ("influence", "random", "relabelled")
            )
            d = (filtered - everything).to_numpy()
            row = {"noise rate (%)": 100 * rate, "removed (%)": 100 * share}
            row |= mean_with_interval(d, "less everything")
            row |= mean_with_interval(100 * (filtered / everything - 1), "relative (%)")
            row |= mean_with_interval(filtered - random, "less random removal")
            row |= mean_with_interval(relabelled - everything, "relabelled less everything")
            row["p (Wilcoxon)"] = stats.wilcoxon(d).p if len(d) > 1 else np.nan
            found.append(row | {"sets worse": int((d < 0).sum()), "sets": len(d)})
    return with_correction(pd.DataFrame(found))


def curriculum(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per noise rate and order: F1, and less random order, with its 90 % interval for the equivalence test."""
    found = []
    for rate in sorted(rows[rows.part == "curriculum"].rate.unique()):
        base = scores(rows, "curriculum", ORDERS[0], rate)
        for method in ORDERS:
            values = scores(rows, "curriculum", method, rate)
            row = {"noise rate (%)": 100 * rate, "order": method} | mean_with_interval(values, "F1")
            if method != ORDERS[0]:
                d = (values - base).to_numpy()
                row |= mean_with_interval(d, "less random order")
                narrow = mean_with_interval(d, "d", confidence=0.90)
                row |= {"90 % low": narrow["d low"], "90 % high": narrow["d high"]}
                row["p (Wilcoxon)"] = stats.wilcoxon(d).p if len(d) > 1 else np.nan
            else:
                row["p (Wilcoxon)"] = np.nan
            found.append(row | {"note": "the base row" if method == ORDERS[0] else "", "sets": len(values)})
    return with_correction(pd.DataFrame(found))


def ensembles(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per ensemble, member and variant of DATA-LAB: F1, less the single MLP's, and the relative gain."""
    part = rows[rows.part == "ensemble"]
    (rate,) = part.rate.unique()
    base, found = scores(rows, "ensemble", SINGLE, rate), []
    names = [*(f"member {name}" for name in MEMBERS), "best member by validation", "four different models"]
    for name in [*names, "four seeds of the MLP", *DATALAB.values()]:
        values = scores(rows, "ensemble", name, rate)
        row = {"method": name} | mean_with_interval(values, "F1")
        row |= mean_with_interval(values - base, "less the MLP")
        row |= mean_with_interval(100 * (values / base - 1), "gain over the MLP (%)")
        found.append(row | {"sets": len(values)})
    return pd.DataFrame(found)
