"""Beyond the paper: when does pruning pay, what foretells it, and what else does as well?

The rows are section 0's (:mod:`datalab.sections.trials.training_length`). A *case* is a data set, seed and noise rate,
trained for one length. Everything that a rule may look at is known without a clean label; what it is judged by is the
clean test set. Rules are fitted on the data sets that had been looked at before version 2 of the protocol, in all
trainings together, and read on the untouched ones, in each training by itself.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from datalab import data, stats
from datalab.sections import compare, foretelling, readings, sentences
from datalab.sections.compare import STOPPED
from datalab.sections.parameters import estimated
from datalab.sections.readings import RATE, RULES, THRESHOLD, WORDS, named_d, with_strata
from datalab.sections.sentences import points
from datalab.sections.trials.training_length import LengthParameters, tasks
from datalab.sections.trials.trial import HUMAN

MARGIN = RULES["when_to_prune"]["margin"]
BALANCED = RULES["title_verdict"]["stratum"]
SHOWN_AT = 100 * RULES["title_verdict"]["refuted"]["behind_at_rate_at_least"]  # the rate (%) that sentences speak of
LEVEL = 0.05  # of a p after Holm's correction, two-sided: that of the 95 % intervals
BY_SCORE = ("influence, quota", "influence, no quota", "loss, quota", "loss, no quota")
PRUNED_ARMS = (*BY_SCORE, "confident learning")
DROPPING = (*PRUNED_ARMS, "AUM, no quota", "cross-validated loss, no quota", "influence, quota of estimated shares")
CLASSES = ("two classes", "three or more")
LESS = "less keep all, stopped early"

Parameters = LengthParameters
estimate = estimated(tasks, lambda p: 0.9e9 + 160_000 * (p.caps["train"] + p.caps["test"]), start=15.0)


def by_training(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of synthetic noise, one a model, by how training ended: early, at the second length, at the longest."""
    rows = rows[rows.noise != HUMAN]
    lengths = sorted(rows.steps.unique())
    fixed = {f"{n:.0f} steps": rows[rows.steps == n] for n in (lengths[min(1, len(lengths) - 1)], lengths[-1])}
    return {STOPPED: readings.early_stopped(rows)} | fixed


def against_everything(every: Mapping[str, pd.DataFrame], metric: str = "macro_f1") -> pd.DataFrame:
    """Every arm less keeping everything, trained alike: by training, stratum, arm and noise rate, over the sets.

    Stopped early and trained to the end. ``p`` is the t-test's, Holm's correction is over the whole table.
    """

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        means = compare.by_set(part, "d").dropna()
        p = stats.t_test(means).p if len(means) > 1 and means.any() else np.nan
        return named_d(means) | {"p": p, "p (Holm)": np.nan, "sets": len(means)}

    ends = (STOPPED, list(every)[-1])
    tables = {trained: readings.against_full_table(every[trained], metric, measure) for trained in ends}
    return compare.with_correction(compare.below(tables, "trained"), "p")


def by_classes(stopped: pd.DataFrame) -> pd.DataFrame:
    """Arms that prune by a score less keeping everything, all stopped early, by classes of the balanced sets.

    Two classes, three or more, and how far the latter are ahead (Welch's 95 % interval), at the lowest rate and from
    the example's on. Nobody had asked for it before the results were seen.
    """

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        two, more = (compare.by_set(part, "d", classes=kind) for kind in CLASSES)
        shown = compare.mean_with_interval(two, CLASSES[0]) | compare.mean_with_interval(more, CLASSES[1])
        return shown | compare.apart(more, two, "apart")

    d = compare.below({word: readings.against_full(stopped, metric) for word, metric in WORDS.items()}, "score")
    d = with_strata(d[d.arm.isin([*BY_SCORE, "AUM, no quota"])])
    d = d[(d.stratum == BALANCED) & ((d.rate == d.rate.min()) | (d[RATE] > SHOWN_AT - 1e-9))]
    several = {name: data.REGISTRY[name].classes > 2 for name in d.dataset.unique()}
    d["classes"] = d.dataset.map(several).map({False: CLASSES[0], True: CLASSES[1]})
    by = ["score", "arm", RATE]
    return compare.table(compare.together(d, by[:2]), by, measure)


def stopped_or_pruned(every: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Macro-F1 of keeping everything and of pruning 30 %, stopped early and trained for fixed lengths, over the sets.

    Beside each its difference from keeping everything and stopping early, paired over the sets.
    """
    frame = compare.below({name: readings.arms(part) for name, part in every.items()}, "trained")
    names = {"keep all": "keep all", "influence, no quota": "prune 30 %", "oracle": "oracle"}
    frame = frame[frame.arm.isin(names)].astype({"macro_f1": float})
    frame = frame.assign(arm=frame.arm.map(names) + ", " + frame.trained)
    base = frame.arm == f"keep all, {STOPPED}"
    kept = frame[base].set_index(readings.CASE)[["macro_f1"]].add_prefix("kept ")
    frame = frame.join(kept, on=readings.CASE)
    frame[LESS] = (frame.macro_f1 - frame["kept macro_f1"]).mask(base)
    by = ["stratum", "arm", RATE]
    frame = compare.together(with_strata(frame), by[:2])
    return compare.means(frame, by, {"macro_f1": ("F1", compare.SHARE), LESS: (LESS, None)})


def rules(stopped: pd.DataFrame) -> pd.DataFrame:
    """What each rule would have gained over always keeping everything, all stopped early, in macro-F1.

    A row a stratum, data sets and rule: the mean gain with its interval over sets, how often it decides to prune, and
    how often it loses more than the margin. The pilot's rule takes the pruned arm with the best macro-F1 on the noisy
    validation labels if that is ahead of keeping everything by more than the margin. The best arm in hindsight is what
    there is to win.
    """
    d = readings.against_full(stopped)
    d, unit = d[d.arm.isin(PRUNED_ARMS)], ["dataset", "seed", "rate"]
    gain = d.pivot(index=unit, columns="arm", values="d")[list(PRUNED_ARMS)]
    seen = d.pivot(index=unit, columns="arm", values="validation_d")[list(PRUNED_ARMS)]
    rate = gain.index.get_level_values("rate")
    picked = gain.to_numpy()[np.arange(len(gain)), seen.to_numpy().argmax(1)]
    always = gain["influence, quota"]
    decided = {  # whether each rule prunes, case by case, and what is gained if it does
        "pilot: the best arm on noisy validation, if ahead by a point": (seen.max(axis=1) > MARGIN, picked),
        "the title: prune above 15 % noise": (rate > THRESHOLD, always),
        "always prune 30 %": (True, always),
        "always what confident learning flags": (True, gain["confident learning"]),
        "hindsight: the best arm on the test set": (gain.max(axis=1) > 0, gain.max(axis=1)),
    }
    made = {rule: gain[[]].assign(prunes=prunes, d=np.where(prunes, d, 0)) for rule, (prunes, d) in decided.items()}
    frame = compare.below({rule: part.reset_index() for rule, part in made.items()}, "rule")
    frame = with_strata(frame.assign(loses=frame.d < -MARGIN))
    by = ["stratum", "data sets", "rule"]

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        shares = {f"{word} (%)": 100 * compare.by_set(part, word).mean() for word in ("prunes", "loses")}
        return named_d(compare.by_set(part, "d")) | shares | {"sets": part.dataset.nunique()}

    return compare.table(compare.together(frame, by), by, measure)


def recommended(full: pd.DataFrame, accuracy: pd.DataFrame) -> list[str]:
    """Keep everything or prune, all stopped early, by the comparisons that show a gain; then which were made.

    The tables are those of :func:`against_everything`.

    Shown is a gain, or a loss, whose p is below the level when corrected over all that were compared; large enough to
    be acted on is a gain whose lower limit is above a point as well.
    """
    tables = compare.below({"F1": full, "accuracy": accuracy}, "score")
    asked = tables[(tables.trained == STOPPED) & tables.arm.isin(DROPPING)]
    asked = compare.with_correction(asked, "p")
    ahead = asked[asked.low > 0]
    losses = int(((asked.high < 0) & (asked["p (Holm)"] < LEVEL)).sum())
    shown = ahead[ahead["p (Holm)"] < LEVEL]
    large = shown[shown.low > MARGIN]
    where = sentences.listed(
        f"{r.arm}, {r.score} on {r.stratum} sets at {r[RATE]:g} % wrong labels, in points {points(r, 'd')}, "
        f"p {r['p (Holm)']:.2g}"
        for _, r in shown.iterrows()
    )
    influence = int(shown.arm.str.startswith("influence").sum())
    keep = "Keep everything, and stop training early"
    advice = f"{keep}, but prune where that gains a point" if len(large) else keep
    return [
        f"**{advice}.** Dropping some examples was compared with keeping all in {len(asked)} settings. Each taken by "
        f"itself, dropping is better in {len(ahead)}. Corrected for so many looks (Holm's method), it is better in "
        f"{len(shown)} and worse in {losses}; of the better, {influence} by influence, {len(large)} by a point or more "
        f"for certain.",
        f"The settings are {asked.arm.nunique()} ways to choose what is dropped, {asked[RATE].nunique()} shares of "
        f"wrong labels, {asked.stratum.nunique()} kinds of data sets, {asked.score.nunique()} scores. The gain that is "
        f"shown: {where}.",
    ]


def classes_apart(by_classes: pd.DataFrame) -> str:
    """What pruning by influence gains over keeping everything in sets of two classes and of more."""
    own = by_classes[(by_classes.score == "F1") & (by_classes.arm == BY_SCORE[0])].dropna(subset=CLASSES)
    two, more = CLASSES
    if own.empty:
        return f"The balanced sets are all of {two}, or all of {more}: they are not split."
    each = [f"at {r[RATE]:g} % {points(r, two)} and {points(r, more)}" for r in own.to_dict("records")]
    return (
        f"Split after the look, balanced sets of {two} and of {more}: {BY_SCORE[0]} less keeping "
        f"everything, in points of F1, {'; '.join(each)}."
    )


def levels(stopped_or_pruned: pd.DataFrame) -> list[str]:
    """Macro-F1 at one noise rate, stopped early or not, everything kept or pruned; a sentence a stratum."""
    lines = []
    at = stopped_or_pruned[stopped_or_pruned[RATE].sub(SHOWN_AT).abs() < 1e-6]
    for stratum, part in at[~at.arm.str.startswith("oracle")].groupby("stratum", sort=False):
        each = []
        for r in part.to_dict("records"):
            less = f" ({points(r, LESS)})" if pd.notna(r[LESS]) else ""
            each.append(f"{r['arm']} {r['F1']:.3f}{less}")
        rate, sets = f"{SHOWN_AT:g} % wrong labels", f"{part.sets.max()} {stratum} sets"
        lines.append(f"F1 at {rate} on {sets} (in brackets: points {LESS}): {'; '.join(each)}.")
    return lines


def answer(
    full: pd.DataFrame,
    accuracy: pd.DataFrame,
    by_classes: pd.DataFrame,
    stopped_or_pruned: pd.DataFrame,
    predictors: pd.DataFrame,
    rules: pd.DataFrame,
) -> list[str]:
    """What to take home, as sentences that follow the tables of those names; the recommendation first."""
    lines = [*recommended(full, accuracy), *levels(stopped_or_pruned)]
    lines += [classes_apart(by_classes)] if len(by_classes) else []
    lines += [foretelling.foretells(part) for _, part in predictors.groupby("data sets", sort=False)]
    own = predictors[predictors.trained == STOPPED]
    lines.append(foretelling.expectation(own))
    for (stratum, which), part in rules.groupby(["stratum", "data sets"], sort=False):
        each = [f"{r.rule} {points(r, 'd', decimals=2)}" for _, r in part.iterrows()]
        lines.append(f"F1 points gained over always keeping everything, {stratum} sets {which}: {'; '.join(each)}.")
    return lines
