"""What is read off the rows of :mod:`datalab.sections.training_length`: paired differences by reading and stratum.

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
PRIMARY_KEEP = protocol().primary_cell["keep_fraction"]
STOPPED = "stopped early"  # the training length, and the references', where noisy validation chose it
UNTOUCHED, LOOKED_AT = "untouched", "looked at before"  # data sets, by whether a run had seen them before version 2
RATE = "noise rate (%)"
# A reading: the metric, and whether each observed class keeps its share ("quota") or not.
READINGS = {
    "F1, quota": ("macro_f1", "per_class"),
    "accuracy, quota": ("accuracy", "per_class"),
    "F1, no quota": ("macro_f1", "global"),
    "accuracy, no quota": ("accuracy", "global"),
}
# The same of balanced accuracy, and of both metrics where the logits of both arms are corrected for the class shares.
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
}
MODEL = ["dataset", "noise", "seed", "rate", "method", "quota", "keep_fraction", "draw", "reference_steps"]


def early_stopped(rows: pd.DataFrame) -> pd.DataFrame:
    """Of every model the row of the length with the best macro-F1 on its noisy validation labels, shortest of equals.

    So each arm stops by its own noisy labels, random, influence, full and oracle alike.
    """
    rows = rows.sort_values("steps", kind="stable", ignore_index=True)
    return rows.loc[rows.groupby(MODEL, sort=False).validation_f1.idxmax()]


def differences(
    rows: pd.DataFrame, reading: tuple[str, str], keep_fraction: float | None = None, method: str = "influence"
) -> pd.DataFrame:
    """Paired differences of one reading: a row per data set, seed, rate and reference of ``method``.

    ``rows`` has one row a model (one training length each). ``d`` is the metric after pruning by ``method`` less the
    mean of the random subsets of the same size and quota, ``d_full`` less that of the model trained on everything,
    ``random_full`` that mean less the same; ``validation_d`` is ``d`` on the noisy validation labels, in macro-F1 or
    accuracy. ``keep_fraction``: None for the primary cell's.
    """
    metric, quota = reading
    keep = PRIMARY_KEEP if keep_fraction is None else keep_fraction
    unit, seen = ["dataset", "noise", "seed", "rate"], "validation_f1" if "f1" in metric else "validation_accuracy"
    own = rows[(rows.quota == quota) & (rows.keep_fraction == keep)]
    random = own[own.method == "random"].astype({metric: float, seen: float})
    random = random.groupby(unit)[[metric, seen]].mean().add_prefix("random ")
    full = rows[rows.method == "full"].set_index(unit)[[metric, seen]].astype(float).add_prefix("full ")
    d = own[own.method == method].astype({metric: float, seen: float}).join(random, on=unit).join(full, on=unit)
    d["d"], d["d_full"] = d[metric] - d[f"random {metric}"], d[metric] - d[f"full {metric}"]
    d["random_full"] = d[f"random {metric}"] - d[f"full {metric}"]
    d["validation_d"], d["validation_d_full"] = d[seen] - d[f"random {seen}"], d[seen] - d[f"full {seen}"]
    d["stratum"] = [data.stratum(name) for name in d.dataset]
    columns = ["stratum", *unit, "realised_rate", "keep_fraction", "quota", "reference_steps", "reference_chosen"]
    return d[[*columns, "steps", "d", "d_full", "random_full", "validation_d", "validation_d_full"]]


def against_full(rows: pd.DataFrame, metric: str = "macro_f1") -> pd.DataFrame:
    """Paired differences from keeping everything: a row per data set, seed, rate and arm.

    ``rows`` has one row a model. Pruned arms are those of the primary keep fraction ranked by the references that noisy
    validation chose; an arm without a fraction of its own (oracle, confident learning) keeps what it keeps. The last
    arm keeps everything and corrects its logits for half the log class shares. ``validation_d`` is the difference on
    noisy validation labels, in macro-F1 or accuracy; nan for the last arm.
    """
    unit, seen = ["dataset", "noise", "seed", "rate"], "validation_f1" if "f1" in metric else "validation_accuracy"
    rows = rows.astype({metric: float, f"{metric}_tau0.5": float, seen: float})
    full = rows[rows.method == "full"]
    own = rows[(rows.method != "full") & (rows.reference_chosen | (rows.reference_steps == 0))]
    own = own[own.keep_fraction.isin([1.0, PRIMARY_KEEP])]
    corrected_full = full.assign(
        **{metric: full[f"{metric}_tau0.5"], seen: np.nan, "method": "keep all, prior corrected"}
    )
    own = pd.concat([own, corrected_full])
    d = own.join(full.set_index(unit)[[metric, seen]].add_prefix("full "), on=unit)
    d["d"], d["validation_d"] = d[metric] - d[f"full {metric}"], d[seen] - d[f"full {seen}"]
    d["arm"] = d.method + d.quota.map({"per_class": ", quota", "global": ", no quota", "": ""})
    d["stratum"] = [data.stratum(name) for name in d.dataset]
    return d[["stratum", *unit, "arm", "d", "validation_d"]]


def with_strata(d: pd.DataFrame) -> pd.DataFrame:
    """The differences with their noise rate in %, and whether a set was looked at before; balanced sets first."""
    looked_at = {name: bool(data.REGISTRY[name].looked_at) for name in d.dataset.unique()}
    d = d.assign(**{RATE: 100 * d.rate, "data sets": d.dataset.map(looked_at).map({True: LOOKED_AT, False: UNTOUCHED})})
    return d.sort_values("stratum", key=lambda s: s.map(STRATA.index), kind="stable", ignore_index=True)


def named_d(values: ArrayLike) -> dict[str, float]:
    """Mean ``d`` of values (n,), one a data set, with the limits ``low`` and ``high``."""
    return dict(zip(("d", "low", "high"), compare.mean_with_interval(values, "d").values(), strict=True))


def against_full_table(rows: pd.DataFrame, metric: str = "macro_f1") -> pd.DataFrame:
    """Every arm less keeping everything, both stopped early: by stratum, arm and noise rate, over the data sets.

    ``rows`` has one row a model. The last arm prunes nothing, and corrects the logits for half the log class shares.
    """
    stopped = against_full(rows, metric)
    by = ["stratum", "arm", RATE]
    d = compare.together(with_strata(stopped), by[:2])
    return compare.table(d, by, lambda part: named_d(means := compare.by_set(part, "d")) | {"sets": len(means)})
