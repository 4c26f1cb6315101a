"""Section 2.2's tables. Intervals are 95 % t-intervals over data sets, each counted by its mean over repeats."""

import numpy as np
import pandas as pd

from datalab import stats
from datalab.sections.compare import mean_with_interval
from datalab.sections.influence_cells import FREE, VALIDATION

ORDER = (
    "ExactGGN",
    "LastLayerGGN",
    "EKFAC",
    "KFAC",
    "TRAK",
    "Arnoldi",
    "DataInf",
    "TracIn",
    "gradient norm",
    "EL2N",
    "loss",
    VALIDATION,
)


def kind(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of one kind, with their own columns only."""
    part = rows[rows["kind"] == name].drop(columns="kind")
    return part.dropna(axis=1, how="all") if len(part) else part


def _relative_error(rows: pd.DataFrame) -> float:
    return float(np.sqrt(((rows.predicted - rows.actual) ** 2).mean() / (rows.actual**2).mean()))


def refits(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per estimator: how it predicts true refits of softmax regression, over data sets."""
    found = []
    for name, one in kind(rows, "refit").groupby("estimator", sort=False):
        by_set = one.groupby("dataset", sort=False)[["predicted", "actual"]]
        pearson = by_set.apply(lambda g: g.predicted.corr(g.actual))
        error = by_set.apply(_relative_error)
        found.append(
            {"estimator": name}
            | mean_with_interval(pearson, "Pearson")
            | mean_with_interval(error, "relative RMS error")
            | {"refits": len(one), "sets": len(pearson)}
        )
    return pd.DataFrame(found)


def retrained(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per data set: how EK-FAC predicts retraining an MLP, beside how well retraining predicts itself.

    If halves of the seeds correlate at r, the mean over all of them correlates with what it estimates at
    sqrt(2 r / (1 + r)) (Spearman-Brown): no prediction can be expected above that.
    """
    found = []
    for name, one in kind(rows, "retrained").groupby("dataset", sort=False):
        light, heavy = (each for _, each in one.groupby("estimator", sort=False))
        found.append(
            {
                "data set": name,
                "half of the seeds with the other": (half := light.half_a.corr(light.half_b)),
                "best to be had": np.sqrt(max(2 * half / (1 + half), 0)),
                "EKFAC": light.predicted.corr(light.actual),
                "EKFAC, heavier damping": heavy.predicted.corr(heavy.actual),
                "size of prediction / change": _size(light),
                "the same, heavier damping": _size(heavy),
                "examples": len(light),
            }
        )
    return pd.DataFrame(found)


def _size(rows: pd.DataFrame) -> float:
    return float(np.sqrt((rows.predicted**2).mean() / (rows.actual**2).mean()))


def lds(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per estimator and damping: the linear datamodeling score over data sets."""
    found = []
    part = kind(rows, "lds")
    for (name, damping), one in part.groupby(["estimator", "relative_damping"], sort=False, dropna=False):
        by_set = one.set_index("dataset")
        row = {"estimator": name, "damping / mean diagonal": damping, "default": "yes" if one.automatic.all() else ""}
        found.append(
            row | mean_with_interval(by_set.lds, "LDS") | {"one model alone": by_set.each.mean(), "sets": len(by_set)}
        )
    return pd.DataFrame(found)


def tuned_lds(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per estimator: LDS at its default, and at a damping chosen, for each data set, on all the *others*; and how
    far EK-FAC so tuned is ahead, paired over the data sets both were run on.
    """
    part = kind(rows, "lds")
    chosen = {name: _chosen_elsewhere(one) for name, one in part.groupby("estimator", sort=False)}
    found = []
    for name, one in part.groupby("estimator", sort=False):
        default = one[one.automatic.astype(bool)].set_index("dataset").lds
        tuned = chosen[name].lds
        ahead = mean_with_interval(chosen["EKFAC"].lds - tuned, "EKFAC ahead")
        row = {"estimator": name} | mean_with_interval(default, "default")
        row |= mean_with_interval(tuned, "tuned elsewhere")
        dampings = chosen[name].relative_damping.dropna()
        row["damping / mean diagonal"] = dampings.median() if len(dampings) else np.nan
        found.append(row | (ahead if name != "EKFAC" else dict.fromkeys(ahead, np.nan)) | {"sets": len(tuned)})
    return pd.DataFrame(found).sort_values("tuned elsewhere", ascending=False, ignore_index=True)


def _chosen_elsewhere(rows: pd.DataFrame) -> pd.DataFrame:
    """For each data set, its row at the damping that is best on the mean of the others; the default if it is alone."""
    wide = rows.assign(at=rows.relative_damping.fillna(-1.0)).pivot(index="dataset", columns="at", values="lds")
    default = rows[rows.automatic.astype(bool)].relative_damping.fillna(-1.0).iloc[0]
    found = []
    for name in wide.index:
        others = wide.drop(index=name)
        at = others.mean().idxmax() if len(others) else default
        damping = np.nan if at < 0 else at
        found.append({"dataset": name, "lds": wide.loc[name, at], "relative_damping": damping})
    return pd.DataFrame(found).set_index("dataset")


def auroc(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per score and rate: AUROC for finding flipped labels, over data sets."""
    found = []
    for (name, rate), one in kind(rows, "auroc").groupby(["estimator", "rate"], sort=False):
        by_set = one.groupby("dataset", sort=False).auroc.mean()
        row = {"score": name, "flipped labels (%)": 100 * rate} | mean_with_interval(by_set, "AUROC")
        found.append(row | {"sets": len(by_set), "free": "yes" if name in FREE else ""})
    return pd.DataFrame(found)


def against_free(rows: pd.DataFrame, free: str = "loss") -> pd.DataFrame:
    """A row per score and rate: its AUROC less that of ``free``, which costs nothing, paired over the data sets."""
    means = kind(rows, "auroc").groupby(["estimator", "rate", "dataset"], sort=False).auroc.mean()
    by_set = {key: one.droplevel([0, 1]) for key, one in means.groupby(level=[0, 1], sort=False)}
    found = []
    for (name, rate), one in by_set.items():
        if name == free:
            continue
        difference = one - by_set[free, rate]
        row = {"score": name, "flipped labels (%)": 100 * rate}
        row |= mean_with_interval(difference, "AUROC difference")
        values = difference.dropna().to_numpy()
        varied = len(values) > 1 and np.ptp(values) > 0
        row["p (t)"] = stats.t_test(values).p if varied else np.nan
        found.append(row | {"sets": len(values)})
    table = pd.DataFrame(found)
    known = table["p (t)"].notna()
    table.loc[known, "p (Holm)"] = stats.holm(table.loc[known, "p (t)"].to_numpy()) if known.any() else np.nan
    return table


def agreement(rows: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation of every two scores of the training set, a square table, means over data sets."""
    part = kind(rows, "agreement")
    by_set = part.groupby(["estimator", "other", "dataset"], sort=False).spearman.mean()
    names = [name for name in ORDER if name in set(part.estimator)]
    square = by_set.groupby(level=[0, 1]).mean().unstack().loc[names, names]
    return square.rename_axis(index="score", columns=None).reset_index()


def cost(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per score: seconds to fit and score the training set, a model, over data sets; and in units of EK-FAC's."""
    seconds = kind(rows, "cost").groupby(["estimator", "dataset"], sort=False).seconds.median()
    median = seconds.groupby(level=0, sort=False).median()
    ratio = (seconds / seconds["EKFAC"].reindex(seconds.index.get_level_values(1)).to_numpy()).groupby(level=0).median()
    table = pd.DataFrame({"score": median.index, "milliseconds": 1000 * median, "times EKFAC's": ratio[median.index]})
    return table.sort_values("milliseconds", ignore_index=True)
