"""What is read off the rows of :mod:`datalab.sections.trials.training_length`: paired differences by reading and
stratum.

``d`` is a difference of scores on the clean test set, paired by data set, seed and rate. Every table names what is
counted (a *reading*) and of which data sets (a *stratum*: balanced or skewed, known before any training).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from datalab import data, stats
from datalab.protocol import protocol
from datalab.sections import compare, sentences

RULES = protocol().protocol_2
STRATA = RULES["strata"]["names"]
THRESHOLD = RULES["title_verdict"]["reproduced"]["crossover_interval_contains"]  # the title's 15 %, as a fraction
PRIMARY_KEEP = protocol().primary_cell["keep_fraction"]
UNTOUCHED, LOOKED_AT = "untouched", "looked at before"  # data sets, by whether a run had seen them before version 2
# Untouched too, but added to the study after a first look at the results of the others: see the protocol's `changes`.
LATE = {"languages", "income-verification", "defence-spending", "basic-motions", "appliances", "weather-month"}
LATE |= {"email-spam", "chile-vote", "health-insurance", "crash-deaths", "spoken-vowels"}
RATE = "noise rate (%)"
ALL = "all"  # of a stratum, or of the data sets: both kinds together
# A reading: the metric, and whether each observed class keeps its share ("quota") or not.
WORDS = {"F1": "macro_f1", "accuracy": "accuracy"}
KINDS = {"quota": "per_class", "no quota": "global"}
READINGS = {f"{word}, {quota}": (column, kind) for quota, kind in KINDS.items() for word, column in WORDS.items()}
FEW_READINGS = (RULES["ledger_reading"], "F1, no quota")
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
    for quota, kind in KINDS.items()
} | {f"{word}, quota of estimated shares": (column, "estimated") for word, column in WORDS.items()}
QUOTAS = {"per_class": ", quota", "global": ", no quota", "estimated": ", quota of estimated shares", "": ""}
MODEL = ["dataset", "noise", "seed", "rate", "method", "quota", "keep_fraction", "draw", "reference_steps"]
CASE = MODEL[:4]


def early_stopped(rows: pd.DataFrame, *more: str) -> pd.DataFrame:
    """Of every model the row of the length with the best macro-F1 on its noisy validation labels, shortest of equals.

    So each arm stops by its own noisy labels, random, influence, full and oracle alike. ``more`` are columns that tell
    models apart beside ``MODEL``.
    """
    rows = rows.sort_values("steps", kind="stable", ignore_index=True)
    return rows.loc[rows.groupby([*MODEL, *more], sort=False, dropna=False).validation_f1.idxmax()]


def differences(rows: pd.DataFrame, reading: tuple[str, str], keep: float | None = PRIMARY_KEEP) -> pd.DataFrame:
    """Paired differences of one reading: a row per data set, seed, rate and references of the title's method.

    ``rows`` has one row a model (one training length each). ``d`` is the metric after pruning by influence less the
    mean of the random subsets of the same size and quota, ``d_full`` less that of the model trained on everything;
    ``validation_d`` is ``d`` on the noisy validation labels, in macro-F1 or accuracy. At the keep fraction ``keep``;
    None: at whatever was kept, where ``rows`` have one share of each case.
    """
    metric, quota = reading
    seen = _seen(metric)
    rows = rows.astype({metric: float, seen: float})
    own = rows[rows.quota == quota]
    own = own if keep is None else own[own.keep_fraction == keep]
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


def _d_and_sets(part: pd.DataFrame) -> dict[str, Any]:
    means = compare.by_set(part, "d")
    return named_d(means) | {"sets": len(means)}


def against_full_table(
    rows: pd.DataFrame, metric: str = "macro_f1", measure: Callable[[pd.DataFrame], Mapping] = _d_and_sets
) -> pd.DataFrame:
    """Every arm less keeping everything, trained alike: by stratum, arm and noise rate, over the data sets.

    ``rows`` has one row a model; ``measure`` makes a group's columns of ``d``. The last arm prunes nothing, and
    corrects the logits for half the log class shares.
    """
    by = ["stratum", "arm", RATE]
    return compare.table(compare.together(with_strata(against_full(rows, metric)), by[:2]), by, measure)


def read_by(
    rows: pd.DataFrame, which: Mapping[str, tuple[str, str]] = READINGS, keep: float | None = PRIMARY_KEEP
) -> pd.DataFrame:
    """:func:`differences` of several readings, one under another, in column ``reading``.

    ``rows`` has one row a model. The references are those whose length noisy validation chose.
    """
    d = compare.below({name: differences(rows, reading, keep) for name, reading in which.items()}, "reading")
    return with_strata(d[d.reference_chosen])


def matching(rows: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """The rows of the first seed at the data sets and rates of what was run once more, ``other``."""
    fits = rows.dataset.isin(other.dataset.unique()) & rows.rate.isin(other.rate.unique())
    return rows[fits & (rows.seed == 0)]


def and_all(d: pd.DataFrame, column: str) -> pd.DataFrame:
    """The differences, and once more with ``column`` saying ``ALL``."""
    return pd.concat([d, d.assign(**{column: ALL})], ignore_index=True)


def at_lowest(d: pd.DataFrame) -> str:
    """The name of d at the lowest rate: "d at 0 %"."""
    return f"d at {100 * d.rate.min():g} %"


def mechanism(rows: pd.DataFrame) -> pd.DataFrame:
    """What a quota does to skewed data sets: who is dropped, and how the model differs from random pruning's.

    In %, by arm and noise rate, ``rows`` with one row a model. Of the rightly labelled examples of the largest class,
    and of the others, the share that influence drops. Influence less random, with 95 % t-intervals over the sets: the
    share of the test set predicted as the largest class; recall and precision, means over the classes.
    """
    dropped = {"dropped_largest": "dropped of largest class", "dropped_rest": "dropped of other classes"}
    moved = {"largest_predicted": "predicted largest", "balanced_accuracy": "recall", "macro_precision": "precision"}
    rows = arms(rows[rows.dataset.map(data.stratum) == "skewed"]).astype(dict.fromkeys([*dropped, *moved], float))

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        own, random = (part[part.method == method] for method in ("influence", "random"))
        shown = {name: 100 * compare.by_set(own, column).mean() for column, name in dropped.items()}
        for column, name in moved.items():
            difference = compare.by_set(own, column) - compare.by_set(random, column)
            shown |= compare.mean_with_interval(100 * difference, name)
        return shown | {"sets": part.dataset.nunique()}

    rows = rows[rows.method.isin(["influence", "random"]) & rows.quota.isin(["per_class", "global"])]
    rows = rows.assign(pruned=rows.quota.map({"per_class": "quota", "global": "no quota"}), **{RATE: 100 * rows.rate})
    return compare.table(compare.together(rows, "pruned"), ["pruned", RATE], measure)


def mechanism_reading(mechanism: pd.DataFrame) -> str:
    """With a quota: that the largest class is predicted less, recall rises and precision falls at every rate."""
    if mechanism.empty:
        return "No set is skewed here."
    quota, lines = mechanism[mechanism.pruned == "quota"], []
    for name, below in {"predicted largest": True, "recall": False, "precision": True}.items():
        word = sentences.judged(quota, name, below)
        lines.append(f"{name} {'falls' if below else 'rises'}: **{word}** ({sentences.tallied(quota, name, scale=1)})")
    return f"With a quota, influence less random over the rates, in points: {'; '.join(lines)}."


def clean_f1(rows: pd.DataFrame) -> pd.Series:
    """How easy each data set is: the macro-F1 of keeping everything at the lowest noise rate; one row a model."""
    return compare.by_set(rows, "macro_f1", method="full", rate=rows.rate.min()).astype(float)


def by_dataset(d: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Each data set's crossover in two readings, and d at the ends and the middle of the rates; no set is hidden.

    ``clean F1`` is :func:`clean_f1` of ``rows``, one row a model.
    """
    rates = np.sort(d.rate.unique())
    few = sorted({rates[0], rates[np.abs(rates - THRESHOLD).argmin()], rates[-1]})
    clean = clean_f1(rows)

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        curve, name = part.groupby("rate").d.mean(), part.dataset.iloc[0]
        known = {"data sets": part["data sets"].iloc[0], "balance": data.REGISTRY[name].balance}
        known |= {"classes": data.REGISTRY[name].classes, "clean F1": clean[name]}
        shown = {f"d at {100 * rate:g} %": curve[rate] for rate in few}
        ends = {"low": np.nan, "high": np.nan, "lowest_rate": rates[0], "highest_rate": rates[-1]}
        return known | {"crossover": stats.crossover(curve.index, curve)} | shown | ends

    frame = compare.table(d[d.reading.isin(FEW_READINGS)], ["reading", "stratum", "dataset"], measure)
    return frame.sort_values(["reading", "crossover"], ascending=[False, True], kind="stable", ignore_index=True)


def without_one_reading(without_one: pd.DataFrame) -> str:
    """How far the crossovers of :func:`compare.without_one` hang on single data sets and domains, by stratum."""
    lines = []
    for (left_out, stratum), part in without_one.groupby(["left out", "stratum"], sort=False):
        rates, top = (part.lowest_rate.min(), part.highest_rate.max()), part.loc[part["highest limit"].idxmax()]
        ends = part.least.min(), part.most.max(), top["highest limit"]
        least, most, limit = (rate_in_words(end, rates) for end in ends)
        between = least if least == most else f"between {least} and {most}"
        reach = "beyond the rates studied" if limit.startswith("above") else limit
        name = top["highest limit, without"]
        of = f" (without {name}, {top.reading})" if name else ""
        lines.append(
            f"- On {stratum} sets without {left_out}, whichever it is, the crossover lies {between}, by which score is "
            f"counted, and its 95 % limits reach {reach}{of}."
        )
    return "\n".join(lines) or "Too few sets to leave one out."


def rate_in_words(rate: float, rates: ArrayLike) -> str:
    """A crossover, or an end of its limits, in a sentence: ``1.3 %``, ``below 0 %``, ``above 40 %``."""
    return stats.crossover_label(rate, rates).replace("<", "below").replace(">", "above")


def from_rate(crossover: pd.DataFrame, on: str = "") -> str:
    """From which noise rate on, of the lowest and the highest crossover of a table's rows."""
    least, most = spread(crossover)[:2]
    if least.startswith("above"):
        return "at no rate studied"
    return f"from {least}{f' to {most}' if most != least else ''}{on}"


def spread(crossover: pd.DataFrame) -> list[str]:
    """The lowest and the highest crossover of a table's rows, and the ends of their limits, as words."""
    rates = crossover.lowest_rate.min(), crossover.highest_rate.max()
    ends = crossover.crossover.min(), crossover.crossover.max(), crossover.low.min(), crossover.high.max()
    return [rate_in_words(end, rates) for end in ends]


def primary_table(d: pd.DataFrame) -> pd.DataFrame:
    """d by stratum, reading and noise rate: mean, 95 % t-interval over the sets' means, t-test's p; then of all sets.

    Holm's method takes the strata's tests together, and those of all sets, which are no new ones, apart.
    """

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        means = compare.by_set(part, "d")
        p = stats.t_test(means).p if len(means) > 1 else np.nan
        ahead = {"sets better": int((means > 0).sum()), "sets": len(means)}
        return named_d(means) | {"p": p, "p (Holm)": np.nan} | ahead

    by = ["stratum", "reading", RATE]
    families = [compare.together(part, by[:2]) for part in (d, d.assign(stratum=ALL))]
    tables = [compare.with_correction(compare.table(part, by, measure), "p") for part in families]
    return pd.concat(tables, ignore_index=True)


LEAST = "smallest p of a gain (Holm)"
ABOVE, ABOVE_P = f"d above {100 * THRESHOLD:g} %", f"p above {100 * THRESHOLD:g} % (Holm)"
UP_TO, RISE = f"d up to {100 * THRESHOLD:g} %", f"{ABOVE} less up to it"


def full_by_reading(d: pd.DataFrame) -> pd.DataFrame:
    """The title's method less keeping everything, by stratum and reading: the best mean and its rate.

    Beside it the rates at which the 95 % t-interval lies above 0, and below, unadjusted, and the smallest p of a mean
    above 0 after Holm's method over the readings and rates of the stratum; last the mean over the rates above the
    title's, with its t-interval, and its p after Holm's method over the readings. ``d`` is :func:`read_by`.
    """
    d, by, of_above = d.assign(d=d.d_full), ["stratum", "reading"], [ABOVE, f"{ABOVE} low", f"{ABOVE} high", ABOVE_P]
    best = best_gains(primary_table(d), by)
    if not (high := d.rate > THRESHOLD + 1e-9).any():
        return best.assign(**dict.fromkeys(of_above, np.nan))
    above = primary_table(d[high].assign(**{RATE: ABOVE}))  # a set's mean over these rates is its value
    above = pd.concat(compare.with_correction(part, "p", ABOVE_P) for _, part in above.groupby("stratum"))
    above = above.rename(columns=dict(zip(("d", "low", "high"), of_above, strict=False)))
    return best.merge(above[[*by, *of_above]], on=by)


def full_crossover(d: pd.DataFrame, root_seed: int) -> pd.DataFrame:
    """The noise rate from which the title's method is ahead of keeping everything, by stratum and reading.

    Beside it a set's mean d over the rates up to the title's, and by how much it is higher over the rates above, with
    95 % t-intervals. Asked for after the results were seen. ``d`` is :func:`read_by`.
    """

    def measure(part: pd.DataFrame) -> dict[str, float]:
        low = part.rate <= THRESHOLD + 1e-9
        up_to, above = (compare.by_set(part[at], "d") for at in (low, ~low))
        return compare.mean_with_interval(up_to, UP_TO) | compare.mean_with_interval(above - up_to, RISE)

    d = and_all(d.assign(d=d.d_full), "stratum")
    return compare.crossovers_beside(d, root_seed, ["stratum", "reading"], measure)


def caught_up(table: pd.DataFrame) -> str:
    """One stratum of :func:`full_crossover`, in words."""
    limits = " to ".join(spread(table)[2:])
    return (
        f"It is ahead of keeping everything {from_rate(table, ' wrong labels on')} (95 % limits of the "
        f"{len(table)} scores: {limits}), asked for after the results were seen: up to 15 % the mean is, in points, "
        f"{sentences.tallied(table, UP_TO)}, above it higher by {sentences.tallied(table, RISE)}."
    )


def in_points(primary: pd.DataFrame, full: pd.DataFrame, stratum: str) -> tuple[str, pd.DataFrame]:
    """What dropping is worth on one stratum in the ledger's reading: a row a noise rate, "+0.8 [0.2, 1.3]" points.

    Before it, its caption. ``primary`` is a :func:`primary_table` against random pruning, ``full`` an
    :func:`against_full_table`.
    """
    of = RULES["ledger_reading"]
    quota = of.partition(", ")[2]
    parts = {
        "influence less random": primary[primary.reading == of],
        "influence less everything": full[full.arm == f"influence, {quota}"],
        "random less everything": full[full.arm == f"random, {quota}"],
    }
    shown = {}
    for name, part in parts.items():
        part = part[part.stratum == stratum].set_index(RATE)
        shown[name] = pd.Series({f"{rate:g} %": sentences.points(row, "d") for rate, row in part.iterrows()}, dtype=str)
    sets = primary.sets[primary.stratum == stratum].max() if len(shown["influence less random"]) else 0
    caption = (
        f"On {sets} {stratum} data sets, all models stopped early: what dropping {100 * (1 - PRIMARY_KEEP):g} % of the "
        f"training examples, as large a share of every class, is worth in points of F1, of 100; mean and 95 % limits, "
        f"each by itself."
    )
    return caption, pd.DataFrame(shown).rename_axis("wrong labels").reset_index()


def best_gains(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """:func:`full_by_reading` of a :func:`primary_table` against keeping everything, a row a group of ``by``."""
    parts = table.groupby("stratum", sort=False, group_keys=False)
    table = pd.concat(compare.with_correction(part, "p") for _, part in parts)

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        best = part.loc[part.d.idxmax(), [RATE, "d", "low", "high"]].to_dict()
        sides = {"ahead": part.low > 0, "behind": part.high < 0}
        rates = {side: sentences.listed(part[RATE][at].map("{:g} %".format), "no rate") for side, at in sides.items()}
        return best | rates | {LEAST: part["p (Holm)"][part.d > 0].min(), "sets": part.sets.max()}

    return compare.table(table, by, measure)


def full_reading(by_reading: pd.DataFrame, full: pd.DataFrame) -> str:
    """Whether a gain on keeping everything is shown once it is adjusted, by stratum; and the best mean in ``full`` of
    an arm that is not the title's and knows no labels."""
    lines = []
    for stratum, part in by_reading[by_reading.stratum != ALL].groupby("stratum", sort=False):
        if np.isnan(least := part[LEAST].min()):
            continue  # no data set beside another
        word = "failed" if least < 0.05 else "held"
        lines.append(f"On {stratum} sets no gain is shown after adjusting: **{word}** (smallest p {least:.2g}).")
    others = full[~full.arm.isin(["oracle", "influence, quota", "influence, no quota"])]
    for stratum, part in others.groupby("stratum", sort=False):
        best = part.loc[part.d.idxmax()]
        words = f"{best.arm}: {sentences.points(best, 'd', '')} points, at {best[RATE]:g} %"
        lines.append(f"On {stratum} sets the best mean of another arm is that of {words}.")
    return " ".join(lines)
