"""The title: at what noise rate does influence pruning start to beat random subsampling?

Version 2 of the study: every arm trained for several lengths (:mod:`datalab.sections.trials.training_length`), balanced
and skewed data sets apart, and what is counted named in every table. ``d`` is a paired difference on the clean test
set. Beside it version 1's study at one fixed length (:mod:`datalab.sections.trials.version_1`), whose rule and result
stay.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pingouin
from scipy.stats import ttest_1samp

from datalab import data, ledger, stats
from datalab.ledger.title import TitleVerdict
from datalab.protocol import protocol
from datalab.record import Statement
from datalab.sections import compare, readings, sentences
from datalab.sections.compare import STOPPED
from datalab.sections.parameters import estimated
from datalab.sections.readings import RATE, READINGS, RULES, STRATA, THRESHOLD, early_stopped, named_d, with_strata
from datalab.sections.trials import fine_tuned, training_length, version_1
from datalab.sections.trials.trial import HUMAN

VERDICT = RULES["title_verdict"]
LEDGER = RULES["ledger_reading"]
FEW_READINGS = (LEDGER, "F1, no quota")


class Parameters(version_1.VersionOneParameters, training_length.LargeParameters, fine_tuned.FineTunedParameters):
    """What the title's section takes; ``None`` is the profile's value."""


def tasks(p: Parameters) -> list:
    """Every task of the section: version 2's, then version 1's."""
    return training_length.tasks(p) + version_1.tasks(p)


def memory(p: Parameters) -> float:
    """What a process needs, in bytes."""
    usual = 0.9e9 + 160_000 * (max(p.caps["train"], p.large_train if p.large_datasets else 0) + p.caps["test"])
    return max(usual, 1.9e9 if p.fine_tuned_datasets else 0.0)


estimate = estimated(lambda p: tasks(p) + training_length.large_tasks(p) + fine_tuned.tasks(p), memory, start=25.0)


def read_by(rows: pd.DataFrame, which: Mapping[str, tuple[str, str]] = READINGS) -> pd.DataFrame:
    """:func:`readings.differences` of several readings, one under another, in column ``reading``.

    ``rows`` has one row a model. The references are those whose length noisy validation chose.
    """
    d = compare.below({name: readings.differences(rows, reading) for name, reading in which.items()}, "reading")
    return with_strata(d[d.reference_chosen])


def and_all(d: pd.DataFrame, column: str) -> pd.DataFrame:
    """The differences, and once more with ``column`` saying "all"."""
    return pd.concat([d, d.assign(**{column: "all"})], ignore_index=True)


def primary_table(d: pd.DataFrame) -> pd.DataFrame:
    """d by stratum, reading and noise rate: mean, 95 % t-interval over the sets' means, t-test's p, Holm over all."""

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        means = compare.by_set(part, "d")
        p = float(ttest_1samp(means, 0).pvalue) if len(means) > 1 else np.nan
        ahead = {"sets better": int((means > 0).sum()), "sets": len(means)}
        return named_d(means) | {"p": p, "p (Holm)": np.nan} | ahead

    by = ["stratum", "reading", RATE]
    return compare.with_correction(compare.table(compare.together(d, by[:2]), by, measure), "p")


def crossovers(d: pd.DataFrame, root_seed: int) -> pd.DataFrame:
    """The crossover by stratum and reading: on the untouched sets (the confirmation), on those looked at, on all."""
    by = ["stratum", "data sets", "reading"]
    d = and_all(and_all(d, "data sets"), "stratum")
    for column, order in {"data sets": (readings.UNTOUCHED, readings.LOOKED_AT), "stratum": STRATA}.items():
        d = d.sort_values(column, key=lambda s, order=order: s.map([*order, "all"].index), kind="stable")
    return compare.crossovers(d, "d", root_seed, by)


def readings_apart(d: pd.DataFrame) -> pd.DataFrame:
    """By how much two readings' crossovers differ on the same data sets, in points of noise rate.

    A crossover beyond the rates studied counts at the first or the last of them. ``low``, ``high``: 95 % limits of
    :func:`stats.crossovers_apart`; ``low (all)``, ``high (all)`` hold for all pairs of a stratum at once (Bonferroni).
    """

    def measure(part: pd.DataFrame) -> pd.DataFrame:
        of = {reading: compare.curves(own, "d") for reading, own in part.groupby("reading", sort=False)}
        pairs, lines = list(itertools.combinations(of, 2)), []
        for a, b in pairs:
            (ours, rates), (theirs, _) = of[a], of[b]
            one, all_of_them = (
                stats.crossovers_apart(ours, theirs, rates, 1 - 0.05 / tests) for tests in (1, len(pairs))
            )
            apart = {"difference": 100 * one.estimate, "low": 100 * one.low, "high": 100 * one.high}
            apart |= {"low (all)": 100 * all_of_them.low, "high (all)": 100 * all_of_them.high}
            lines.append({"of": a, "from": b} | apart | {"sets": one.n})
        return pd.DataFrame(lines)

    several = {name: part for name, part in d.groupby("stratum", sort=False) if part.dataset.nunique() > 1}
    return compare.below({name: measure(part) for name, part in several.items()}, "stratum")


def by_length(rows: pd.DataFrame, root_seed: int) -> pd.DataFrame:
    """The crossover by the length of training and of the references, each fixed or chosen by noisy validation.

    ``rows`` are all of the task's rows. ``trained`` is in steps, or says that noisy validation chose.
    """
    lengths = sorted(rows.steps.unique())
    trained = {f"{n:.0f}": rows[rows.steps == n] for n in lengths} | {STOPPED: early_stopped(rows)}
    parts = []
    for (length, part), reading in itertools.product(trained.items(), FEW_READINGS):
        d = readings.differences(part, READINGS[reading])
        cases = d.groupby("reference_steps").size()
        everywhere = cases.index[cases == len(d[["dataset", "seed", "rate"]].drop_duplicates())]
        fixed = d[d.reference_steps.isin(everywhere)]
        reference = fixed.reference_steps.map("{:.0f} steps".format)
        d = pd.concat([fixed.assign(reference=reference), d[d.reference_chosen].assign(reference=STOPPED)])
        parts.append(d.assign(reading=reading, trained=length))
    by = ["stratum", "reading", "reference", "trained"]
    return compare.crossovers(compare.together(with_strata(pd.concat(parts)), by), "d", root_seed, by)


def by_size(rows: pd.DataFrame, larger: pd.DataFrame, root_seed: int) -> pd.DataFrame:
    """The crossover on the same data sets and rates with fewer and with more training examples, stopped early.

    ``rows`` has one row a model, ``larger`` all rows of :func:`training_length.large_tasks`.
    """
    if larger.empty:
        return pd.DataFrame()
    fits = rows.dataset.isin(larger.dataset.unique()) & rows.rate.isin(larger.rate.unique())
    d = pd.concat([read_by(rows[fits & (rows.seed == 0)]), read_by(early_stopped(larger))], ignore_index=True)
    by = ["stratum", "reading", "trained on"]
    d["trained on"] = d.train_cap.map("up to {:,.0f}".format)
    return compare.crossovers(compare.together(d, by), "d", root_seed, by)


def mechanism(rows: pd.DataFrame) -> pd.DataFrame:
    """What a quota does to one skewed data set, and to the mean of all of them: who is dropped, what the model says.

    In %: of the rightly labelled examples of the largest class, and of the others, the share dropped; the share of the
    test set predicted as the largest class; recall and precision (means over the classes), macro-F1 and accuracy.
    """
    columns = {
        "dropped_largest": "dropped of largest class",
        "dropped_rest": "dropped of other classes",
        "largest_predicted": "predicted largest",
        "balanced_accuracy": "recall",
        "macro_precision": "precision",
        "macro_f1": "F1",
        "accuracy": "accuracy",
    }
    skewed = [name for name in rows.dataset.unique() if data.stratum(name) == "skewed"]
    rows = readings.arms(rows[rows.method.isin(["full", "random", "influence"])]).assign(**{RATE: 100 * rows.rate})
    rows = rows[rows.rate.isin([0, VERDICT["refuted"]["behind_at_rate_at_least"]])]
    rows = compare.below({"adult": rows[rows.dataset == "adult"], "all skewed": rows[rows.dataset.isin(skewed)]}, "on")

    def measure(part: pd.DataFrame) -> dict[str, float]:
        shown = {name: 100 * compare.by_set(part, column).mean() for column, name in columns.items()}
        return shown | {"sets": part.dataset.nunique()}

    by = ["on", RATE, "arm"]
    return compare.table(compare.together(rows, by), by, measure)


def by_dataset(d: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Each data set's crossover in two readings, and d at the ends and the middle of the rates; no set is hidden.

    ``clean F1`` is that of keeping everything with clean labels, from ``rows``, one row a model: how hard the set is.
    """
    rates = np.sort(d.rate.unique())
    few = sorted({rates[0], rates[np.abs(rates - THRESHOLD).argmin()], rates[-1]})
    clean = compare.by_set(rows, "macro_f1", method="full", rate=rates[0])

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        curve, name = part.groupby("rate").d.mean(), part.dataset.iloc[0]
        known = {"data sets": part["data sets"].iloc[0], "balance": data.REGISTRY[name].balance}
        known |= {"classes": data.REGISTRY[name].classes, "clean F1": float(clean[name])}
        shown = {f"d at {100 * rate:g} %": curve[rate] for rate in few}
        ends = {"low": np.nan, "high": np.nan, "lowest_rate": rates[0], "highest_rate": rates[-1]}
        return known | {"crossover": stats.crossover(curve.index, curve)} | shown | ends

    frame = compare.table(d[d.reading.isin(FEW_READINGS)], ["reading", "stratum", "dataset"], measure)
    return frame.sort_values(["reading", "crossover"], ascending=[False, True], kind="stable", ignore_index=True)


def goes_with(by_dataset: pd.DataFrame) -> pd.DataFrame:
    """Spearman correlations over the data sets of the crossover and of d with clean labels with what a set is like.

    ``by_dataset`` is the table of that name. 95 % limits by Fisher's z (pingouin); p unadjusted, Holm beside it.
    """
    at_0 = next(name for name in by_dataset if name.startswith("d at "))
    pairs, lines = list(itertools.product(("crossover", at_0), ("balance", "classes", "clean F1"))), []
    for reading, part in by_dataset.groupby("reading", sort=False):
        for y, x in pairs if len(part) > 4 else ():
            found = pingouin.corr(part[x], part[y].clip(-1, 1), method="spearman").iloc[0]
            low, high = found.filter(like="CI95").iloc[0]
            line = {"reading": reading, "of": y, "with": x, "rho": found.r, "low": low, "high": high}
            lines.append(line | {"p": found.p_val, "sets": found.n})
    return compare.with_correction(pd.DataFrame(lines), "p") if lines else pd.DataFrame()


def power(d: pd.DataFrame) -> pd.DataFrame:
    """What the number of sets can show, by stratum and rate, in the ledger's reading: spread, half-width, sets needed.

    ``needed`` is the number of sets for 80 % power to show a difference of the smallest effect of interest at a level.
    """
    smallest = protocol().statistics["sesoi"]["f1"]

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        means = compare.by_set(part, "d")
        interval = named_d(means)
        shown = {"sets": len(means), "SD between sets": means.std(), "half-width": interval["high"] - interval["d"]}
        how = {"d": smallest / means.std(), "power": 0.8, "contrast": "one-sample"}
        for level in (".05", ".005"):
            shown[f"sets needed at {level}"] = float(np.ceil(pingouin.power_ttest(**how, alpha=float(level))))
        return shown

    part = d[d.reading == LEDGER].groupby("stratum").filter(lambda part: part.dataset.nunique() > 1)
    return compare.table(part, ["stratum", RATE], measure)


def human_noise(rows: pd.DataFrame) -> pd.DataFrame:
    """Labels of single raters: influence against random and against keeping everything, by set and over the sets."""
    rows = rows[rows.noise == HUMAN]
    if rows.empty:
        return pd.DataFrame()
    d = read_by(early_stopped(rows))

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        means = part.groupby("dataset", sort=False)[["d", "d_full", "realised_rate"]].mean()
        against_random = compare.mean_with_interval(means.d, "d against random")
        against_full = compare.mean_with_interval(means.d_full, "d against full")
        return {"noise (%)": 100 * means.realised_rate.mean()} | against_random | against_full | {"sets": len(means)}

    d = and_all(d.assign(on=d.dataset), "on")
    return compare.table(d, ["reading", "on"], measure)


def _on_all(crossover: pd.DataFrame, stratum: str) -> pd.DataFrame:
    return compare.rows_of_kind(crossover, stratum=stratum, **{"data sets": "all"})


def title_verdict(d: pd.DataFrame, crossover: pd.DataFrame) -> TitleVerdict:
    """The verdict on the title by version 2's rule, read on :func:`read_by` and :func:`crossovers`."""
    own = d[d.stratum == VERDICT["stratum"]]
    wide = {name: part.pivot_table("d", "dataset", "rate") for name, part in own.groupby("reading", sort=False)}
    at = _on_all(crossover, VERDICT["stratum"]).set_index("reading")
    limits = {name: (at.low[name], at.high[name]) for name in at.index} or dict.fromkeys(wide, (np.nan, np.nan))
    return ledger.title_verdict_2(sorted(own.rate.unique()), wide, limits)


def verdicts(d: pd.DataFrame, crossover: pd.DataFrame) -> list[Statement]:
    """The title's two statements, in the ledger's reading on the balanced sets: where the threshold is, and that there
    is no gain at or below it (the mean of d over the rates up to 15 %)."""
    verdict = title_verdict(d, crossover).measured()
    row = _on_all(crossover, VERDICT["stratum"]).set_index("reading").loc[LEDGER]
    raw = {"quota": READINGS[LEDGER][1], "keep_fraction": readings.PRIMARY_KEEP}
    raw |= {"noise": protocol().primary_cell["noise"], "train_cap": int(d.train_cap.iloc[0])}
    shown, judged = 100 * row[["crossover", "low", "high"]], {"verdict": verdict.verdict, "why": verdict.why}
    where = {"n": int(row.sets), "table": "crossover", "row": f"balanced, all, {LEDGER}", "raw": raw}
    low = d[(d.stratum == VERDICT["stratum"]) & (d.reading == LEDGER) & (d.rate <= THRESHOLD + 1e-9)]
    of_low = {"table": "primary", "row": f"balanced, {LEDGER}, mean of the rates up to 15 %", "raw": raw}
    return [
        Statement("TITLE.threshold", *shown, **judged, **where),
        ledger.judge("TITLE.only_when", compare.by_set(low, "d"), side="not_greater", **of_low),
    ]


def answer(crossover: pd.DataFrame, full: pd.DataFrame, by_size: pd.DataFrame) -> list[str]:
    """What to take home, in sentences that follow the numbers: against random by stratum, then against keeping all."""
    lines = []
    for stratum in STRATA:
        at = _on_all(crossover, stratum)
        if at.empty:
            continue
        least, most, low, high = _spread(at)
        spread = f"from {least} wrong labels on" if least == most else f"from {least} to {most} wrong labels on"
        lines.append(
            f"On {at.sets.max()} {stratum} data sets, with models that stop early, dropping 30 % by influence beats "
            f"dropping 30 % at random {spread}, depending on which of four scores is counted (95 % limits of all four: "
            f"{low} to {high})."
        )
    for stratum, part in by_size.groupby("stratum", sort=False) if len(by_size) else ():
        sizes = {name: _spread(at) for name, at in part.groupby("trained on", sort=False)}
        ranges = {name: low if low == high else f"from {low} to {high}" for name, (low, high, *_) in sizes.items()}
        each = [f"{rates} with {name} training examples" for name, rates in ranges.items()]
        lines.append(f"On {part.sets.max()} {stratum} data sets the same crossover is {'; '.join(each)}.")
    pruned = full[full.arm.isin(["influence, quota", "influence, no quota"])]
    for stratum, part in pruned.groupby("stratum", sort=False):
        best, ahead = part.loc[part.d.idxmax()], sorted(part[RATE][part.low > 0].unique())
        shown = f" [{100 * best.low:+.1f}, {100 * best.high:+.1f}]" if best.sets > 1 else ""
        where = sentences.listed((f"{rate:g} %" for rate in ahead), "no rate")
        lines.append(
            f"Against keeping everything it is ahead on {stratum} sets at {where} (unadjusted); the best mean is "
            f"{100 * best.d:+.1f} points of F1{shown}, at {best[RATE]:g} %."
        )
    return lines


def _spread(crossover: pd.DataFrame) -> list[str]:
    """The lowest and the highest crossover of a table's rows, and the ends of their limits, as words."""
    rates = crossover.lowest_rate.min(), crossover.highest_rate.max()
    ends = crossover.crossover.min(), crossover.crossover.max(), crossover.low.min(), crossover.high.max()
    return [stats.crossover_label(end, rates) for end in ends]
