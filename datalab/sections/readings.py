"""What is read off the rows of :mod:`datalab.sections.trials.training_length`: paired differences by reading and
stratum.

``d`` is a difference of scores on the clean test set, paired by data set, seed and rate. Every table names what is
counted (a *reading*) and of which data sets (a *stratum*: balanced or skewed, known before any training).
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from datalab import data
from datalab.protocol import protocol
from datalab.sections import compare

RULES = protocol().protocol_2
STRATA = RULES["strata"]["names"]
THRESHOLD = RULES["title_verdict"]["reproduced"]["crossover_interval_contains"]  # the title's 15 %, as a fraction
PRIMARY_KEEP = protocol().primary_cell["keep_fraction"]
UNTOUCHED, LOOKED_AT = "untouched", "looked at before"  # data sets, by whether a run had seen them before version 2
RATE = "noise rate (%)"
# A reading: the metric, and whether each observed class keeps its share ("quota") or not.
WORDS = {"F1": "macro_f1", "accuracy": "accuracy"}
READINGS = {
    "F1, quota": ("macro_f1", "per_class"),
    "accuracy, quota": ("accuracy", "per_class"),
    "F1, no quota": ("macro_f1", "global"),
    "accuracy, no quota": ("accuracy", "global"),
}
# The same of balanced accuracy, of both metrics where the logits of both arms are corrected for the class shares, and
# where each class keeps the share that confident learning estimates it to have.
FURTHER = {
    f"{word}, {quota}": (column, kind)
    for word, column in {
        "balanced accuracy": "balanced_accuracy",
        "F1, prior corrected by half": "macro_f1_tau0.5",
        "accuracy, prior corrected by half": "accuracy_tau0.5",
        "F1, prior corrected": "macro_f1_tau1",
        "accuracy, prior corrected": "accuracy_tau1",
    }.items()
    for quota, kind in {"quota": "per_class", "no quota": "global"}.items()
} | {f"{word}, quota of estimated shares": (column, "estimated") for word, column in WORDS.items()}
QUOTAS = {"per_class": ", quota", "global": ", no quota", "estimated": ", quota of estimated shares", "": ""}
MODEL = ["dataset", "noise", "seed", "rate", "method", "quota", "keep_fraction", "draw", "reference_steps"]
CASE = MODEL[:4]


def early_stopped(rows: pd.DataFrame) -> pd.DataFrame:
    """Of every model the row of the length with the best macro-F1 on its noisy validation labels, shortest of equals.

    So each arm stops by its own noisy labels, random, influence, full and oracle alike.
    """
    rows = rows.sort_values("steps", kind="stable", ignore_index=True)
    return rows.loc[rows.groupby(MODEL, sort=False, dropna=False).validation_f1.idxmax()]


def differences(rows: pd.DataFrame, reading: tuple[str, str]) -> pd.DataFrame:
    """Paired differences of one reading: a row per data set, seed, rate and references of the title's method.

    ``rows`` has one row a model (one training length each). ``d`` is the metric after pruning by influence less the
    mean of the random subsets of the same size and quota, ``d_full`` less that of the model trained on everything;
    ``validation_d`` is ``d`` on the noisy validation labels, in macro-F1 or accuracy. At the primary cell's keep
    fraction.
    """
    metric, quota = reading
    seen = _seen(metric)
    rows = rows.astype({metric: float, seen: float})
    own = rows[(rows.quota == quota) & (rows.keep_fraction == PRIMARY_KEEP)]
    random = own[own.method == "random"].groupby(CASE)[[metric, seen]].mean().add_prefix("random ")
    full = rows[rows.method == "full"].set_index(CASE)[[metric]].add_prefix("full ")
    d = own[own.method == "influence"].join(random, on=CASE).join(full, on=CASE)
    d["d"], d["d_full"] = d[metric] - d[f"random {metric}"], d[metric] - d[f"full {metric}"]
    d["validation_d"] = d[seen] - d[f"random {seen}"]
    columns = [*CASE, "train_cap", "realised_rate", "reference_steps", "reference_chosen", "steps"]
    return d[[*columns, "d", "d_full", "validation_d"]]


def _seen(metric: str) -> str:
    return "validation_f1" if "f1" in metric else "validation_accuracy"


def arms(rows: pd.DataFrame) -> pd.DataFrame:
    """The models of the primary arms, with the column ``arm`` ("influence, quota") beside ``method``.

    Pruned arms are those of the primary keep fraction ranked by the references that noisy validation chose; an arm
    without a fraction of its own (full, oracle, confident learning) keeps what it keeps.
    """
    own = rows[rows.keep_fraction.isin([1.0, PRIMARY_KEEP]) & (rows.reference_chosen | (rows.reference_steps == 0))]
    return own.assign(arm=own.method.replace("full", "keep all") + own.quota.map(QUOTAS))


def against_full(rows: pd.DataFrame, metric: str = "macro_f1") -> pd.DataFrame:
    """Paired differences from keeping everything: a row per data set, seed, rate and arm.

    ``rows`` has one row a model; the arms are those of :func:`arms`, and one that keeps everything and corrects its
    logits for half the log class shares. ``validation_d`` is the difference on noisy validation labels, in macro-F1 or
    accuracy; nan for the last arm.
    """
    seen = _seen(metric)
    own = arms(rows).astype({metric: float, f"{metric}_tau0.5": float, seen: float})
    full = own[own.method == "full"]
    half = {metric: full[f"{metric}_tau0.5"], seen: np.nan, "arm": "keep all, prior corrected"}
    d = pd.concat([own[own.method != "full"], full.assign(**half)])
    d = d.join(full.set_index(CASE)[[metric, seen]].add_prefix("full "), on=CASE)
    d["d"], d["validation_d"] = d[metric] - d[f"full {metric}"], d[seen] - d[f"full {seen}"]
    return d[[*CASE, "arm", "d", "validation_d"]]


def with_strata(d: pd.DataFrame) -> pd.DataFrame:
    """The differences with stratum, noise rate in %, and whether a set was looked at before; balanced sets first."""
    looked_at = {name: bool(data.REGISTRY[name].looked_at) for name in d.dataset.unique()}
    d = d.assign(stratum=d.dataset.map(data.stratum), **{RATE: 100 * d.rate})
    d["data sets"] = d.dataset.map(looked_at).map({True: LOOKED_AT, False: UNTOUCHED})
    return d.sort_values("stratum", key=lambda s: s.map(STRATA.index), kind="stable", ignore_index=True)


def named_d(values: ArrayLike) -> dict[str, float]:
    """Mean ``d`` of values (n,), one a data set, with the limits ``low`` and ``high``."""
    return dict(zip(("d", "low", "high"), compare.mean_with_interval(values, "d").values(), strict=True))


def against_full_table(rows: pd.DataFrame, metric: str = "macro_f1") -> pd.DataFrame:
    """Every arm less keeping everything, both stopped early: by stratum, arm and noise rate, over the data sets.

    ``rows`` has one row a model. The last arm prunes nothing, and corrects the logits for half the log class shares.
    """
    by = ["stratum", "arm", RATE]
    d = compare.together(with_strata(against_full(rows, metric)), by[:2])
    return compare.table(d, by, lambda part: named_d(means := compare.by_set(part, "d")) | {"sets": len(means)})
