"""The title: at what noise rate does influence pruning start to beat random subsampling?

Version 2 of the study: every arm trained for several lengths (:mod:`datalab.sections.trials.training_length`), balanced
and skewed data sets apart, and what is counted named in every table. ``d`` is a paired difference on the clean test
set. Beside it version 1's study at one fixed length (:mod:`datalab.sections.trials.version_1`), whose rule and result
stay.
"""

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pingouin

from datalab import data, ledger, stats
from datalab.ledger.title import TitleVerdict
from datalab.protocol import protocol
from datalab.record import Statement
from datalab.sections import compare, readings, sentences
from datalab.sections.parameters import estimated
from datalab.sections.readings import ALL, RATE, READINGS, RULES, STRATA, THRESHOLD, and_all, named_d
from datalab.sections.trials import fine_tuned, once_more, training_length, version_1

VERDICT, LEDGER = RULES["title_verdict"], RULES["ledger_reading"]
# Of the balanced sets (`parts`), by number of classes and by clean F1.
TWO, MORE, SPLIT = "two classes", "three or more classes", "two less three or more"
EASY, HARD = "a clean F1 at their median or above", "a clean F1 below their median"
BOTH, OTHERS = f"{MORE} and {EASY}", "fewer classes or a lower clean F1"
TITLE, AGAINST_ALL = "the title", "against all"  # lines of `answer`
BRIEF = (VERDICT["stratum"], f"{VERDICT['stratum']}, {AGAINST_ALL}", TITLE)


class Parameters(version_1.VersionOneParameters, once_more.OnceMoreParameters, fine_tuned.FineTunedParameters):
    @property
    def unfit(self) -> str:
        """Version 1's rivals are run at the rates that both of its lists have."""
        apart = f"parameter 'arm_noise_rates': must have a rate in common with noise_rates, {list(self.noise_rates)}"
        return super().unfit or ("" if set(self.arm_noise_rates) & set(self.noise_rates) else apart)


def tasks(p: Parameters) -> list:
    """Every task of the section: version 2's, then version 1's."""
    return training_length.tasks(p) + version_1.tasks(p)


def memory(p: Parameters) -> float:
    """What a process needs, in bytes."""
    usual = 0.9e9 + 160_000 * (max(p.caps["train"], p.large_train if p.large_datasets else 0) + p.caps["test"])
    return max(usual, 1.9e9 if p.fine_tuned_datasets else 0.0)


PARTS = (training_length, version_1, once_more, fine_tuned)  # each with its tasks
estimate = estimated(lambda p: [task for part in PARTS for task in part.tasks(p)], memory, start=25.0)


def crossovers(d: pd.DataFrame, root_seed: int) -> pd.DataFrame:
    """The crossover by stratum and reading: on the untouched sets (the confirmation), on those looked at, on all."""
    by = ["stratum", "data sets", "reading"]
    d = and_all(and_all(d, "data sets"), "stratum")
    for column, order in {"data sets": (readings.UNTOUCHED, readings.LOOKED_AT), "stratum": STRATA}.items():
        d = d.sort_values(column, key=lambda s, order=order: s.map([*order, ALL].index), kind="stable")
    return compare.crossovers(d, "d", root_seed, by)


def readings_apart(d: pd.DataFrame) -> pd.DataFrame:
    """By how much two readings' crossovers differ on the same data sets, in points of noise rate.

    A crossover beyond the rates studied counts at the first or the last of them. ``low``, ``high``: 95 % limits of
    :func:`stats.crossovers_apart`; ``low (all)``, ``high (all)`` hold for all pairs of a stratum at once (Bonferroni).
    """
    lines = []
    several = d.groupby("stratum").filter(lambda part: part.dataset.nunique() > 1)
    for stratum, part in several.groupby("stratum", sort=False):
        of = {reading: compare.curves(own, "d") for reading, own in part.groupby("reading", sort=False)}
        pairs = list(itertools.combinations(of, 2))
        for a, b in pairs:
            (ours, rates), (theirs, _) = of[a], of[b]
            one, all_of_them = (stats.crossovers_apart(ours, theirs, rates, 1 - 0.05 / n) for n in (1, len(pairs)))
            apart = {"difference": 100 * one.estimate, "low": 100 * one.low, "high": 100 * one.high}
            apart |= {"low (all)": 100 * all_of_them.low, "high (all)": 100 * all_of_them.high}
            lines.append({"stratum": stratum, "of": a, "from": b} | apart | {"sets": one.n})
    return pd.DataFrame(lines)


def goes_with(by_dataset: pd.DataFrame) -> pd.DataFrame:
    """Spearman correlations over the data sets of the crossover and of d with clean labels with what a set is like.

    ``by_dataset`` is the table of that name; all sets, and each stratum alone, where balance hardly varies and is left
    out. 95 % limits by Fisher's z (pingouin); p unadjusted, Holm beside it.
    """
    at_0 = next(name for name in by_dataset if name.startswith("d at "))
    likes, lines = ("balance", "classes", "clean F1"), []
    groups = {ALL: by_dataset} | dict(iter(by_dataset.groupby("stratum", sort=False)))
    for (stratum, group), y in itertools.product(groups.items(), ("crossover", at_0)):
        for reading, part in group.groupby("reading", sort=False):
            for x in likes[stratum != ALL :] if len(part) > 4 else ():
                found = pingouin.corr(part[x], part[y].clip(-1, 1), method="spearman").iloc[0]
                low, high = found.filter(like="CI95").iloc[0]
                line = {"stratum": stratum, "reading": reading, "of": y, "with": x, "rho": found.r}
                lines.append(line | {"low": low, "high": high, "p": found.p_val, "sets": found.n})
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

    part = and_all(d[d.reading == LEDGER], "stratum").groupby("stratum").filter(lambda part: part.dataset.nunique() > 1)
    return compare.table(part, ["stratum", RATE], measure)


def _on_all(crossover: pd.DataFrame, stratum: str) -> pd.DataFrame:
    return compare.rows_of_kind(crossover, stratum=stratum, **{"data sets": ALL})


def title_verdict(d: pd.DataFrame, crossover: pd.DataFrame) -> TitleVerdict:
    """The verdict on the title by version 2's rule, read on :func:`readings.read_by` and :func:`crossovers`."""
    return _verdict(d[d.stratum == VERDICT["stratum"]], _on_all(crossover, VERDICT["stratum"]))


def _verdict(d: pd.DataFrame, crossover: pd.DataFrame) -> TitleVerdict:
    wide = {name: part.pivot_table("d", "dataset", "rate") for name, part in d.groupby("reading", sort=False)}
    at = crossover.set_index("reading")
    limits = {name: (at.low[name], at.high[name]) for name in at.index} or dict.fromkeys(wide, (np.nan, np.nan))
    return ledger.title_verdict_2(sorted(d.rate.unique()), wide, limits)


def parts(d: pd.DataFrame, clean: pd.Series, root_seed: int) -> pd.DataFrame:
    """The balanced sets by number of classes, by their ``clean`` F1 and by both, the untouched alone, and without
    those added late: crossover and d.

    Only the untouched were set apart before any result. By part and reading: the crossover, d at the lowest rate and
    its mean over the rates up to 15 %, with 95 % t-intervals, and what the title's rule says of the part (its p, after
    Holm over the readings). ``SPLIT`` is the difference of the first two parts, which share no set: Welch's interval.
    """
    d = d[d.stratum == VERDICT["stratum"]]
    two = d.dataset.map(lambda name: data.REGISTRY[name].classes) == 2
    easy = d.dataset.map(clean) >= clean[d.dataset.unique()].median()
    late, untouched = d.dataset.isin(readings.LATE), d["data sets"] == readings.UNTOUCHED
    masks = {TWO: two, MORE: ~two, EASY: easy, HARD: ~easy, BOTH: ~two & easy, OTHERS: two | ~easy}
    masks |= {"untouched": untouched, "untouched, less late": untouched & ~late, "all, less late": ~late}
    named = {name: d[mask] for name, mask in masks.items() if d[mask].dataset.nunique() > 1}
    at_0, low = readings.at_lowest(d), f"d to {100 * THRESHOLD:g} %"

    def values(part: pd.DataFrame) -> dict[str, pd.Series]:
        early = part[part.rate <= THRESHOLD + 1e-9]
        return {at_0: compare.by_set(part, "d", rate=part.rate.min()), low: compare.by_set(early, "d")}

    def measure(part: pd.DataFrame) -> dict[str, float]:
        return {k: x for name, v in values(part).items() for k, x in compare.mean_with_interval(v, name).items()}

    tables = {}
    for name, own in named.items():
        frame = compare.crossovers_beside(own, root_seed, ["reading"], measure)
        verdict = _verdict(own, frame)
        p = [condition.p for condition in verdict.conditions if condition.role == "refutes"]  # in the readings' order
        p = frame.reading.map(dict(zip(READINGS, p, strict=True)))
        tables[name] = frame.assign(**{"p (Holm)": p, "by the rule": verdict.verdict})
    if {TWO, MORE} <= named.keys():
        split = []
        for reading in READINGS:
            two, more = (values(named[part][named[part].reading == reading]) for part in (TWO, MORE))
            line = {"reading": reading} | compare.apart(two[at_0], more[at_0], at_0)
            split.append(line | compare.apart(two[low], more[low], low))
        tables = {TWO: tables[TWO], MORE: tables[MORE], SPLIT: pd.DataFrame(split)} | tables
    return compare.below(tables, "part") if tables else pd.DataFrame()


def verdicts(d: pd.DataFrame, crossover: pd.DataFrame) -> list[Statement]:
    """The title's two statements, in the ledger's reading on the balanced sets: where the threshold is, and that there
    is no gain at or below it (the mean of d over the rates up to 15 %)."""
    verdict = title_verdict(d, crossover).measured()
    row = _on_all(crossover, VERDICT["stratum"]).set_index("reading").loc[LEDGER]
    raw = {"quota": READINGS[LEDGER][1], "keep_fraction": readings.PRIMARY_KEEP}
    raw |= {"noise": protocol().primary_cell["noise"], "train_cap": int(d.train_cap.iloc[0]), "share": None}
    shown, judged = 100 * row[["crossover", "low", "high"]], {"verdict": verdict.verdict, "why": verdict.why}
    where = {"n": int(row.sets), "table": "crossover", "row": f"balanced, all, {LEDGER}", "raw": raw}
    low = d[(d.stratum == VERDICT["stratum"]) & (d.reading == LEDGER) & (d.rate <= THRESHOLD + 1e-9)]
    of_low = {"table": "primary", "row": f"balanced, {LEDGER}, mean of the rates up to 15 %", "raw": raw}
    of_low["beside"] = "limits moved out where differences are skewed"
    at_threshold = low[np.isclose(low.rate, THRESHOLD)]
    if len(at_threshold):
        own = compare.mean_with_interval(compare.by_set(at_threshold, "d"), "d")
        of_low["beside"] += f"; at {100 * THRESHOLD:g} % itself {sentences.with_limits(own, 'd', 4)}"
    excluded = ledger.excluded(ledger.find("TITLE.threshold"), (shown.low, shown.high))  # as its rule, at 95 %
    return [
        Statement("TITLE.threshold", *shown, excluded=excluded, **judged, **where),
        ledger.judge("TITLE.only_when", compare.by_set(low, "d"), side="not_greater", **of_low),
    ]


def answer(
    crossover: pd.DataFrame,
    parts: pd.DataFrame,
    by_size: pd.DataFrame,
    full: pd.DataFrame,
    full_crossover: pd.DataFrame,
) -> dict[str, str]:
    """What to take home, in sentences that follow the numbers: against random by stratum, then against keeping all.

    ``BRIEF`` names the shortest of it. The tables are :func:`crossovers`, :func:`parts`,
    :func:`once_more.by_size`, :func:`readings.full_by_reading`, :func:`readings.full_crossover`.
    """
    lines = {}
    for stratum in [name for name in STRATA if name in set(crossover.stratum)]:
        at = _on_all(crossover, stratum)
        least, most, *limits = readings.spread(at)
        never = f" {most.capitalize()}: at no rate studied." if least != most and most.startswith("above") else ""
        by = "whichever" if least == most else "depending on which"
        lines[stratum] = (
            f"On {at.sets.max()} {stratum} data sets, with models that stop early, dropping 30 % by influence beats "
            f"dropping 30 % at random {readings.from_rate(at, ' wrong labels on')}, {by} of four scores is counted "
            f"(95 % limits of all four: {' to '.join(limits)}).{never}"
        )
        if stratum == VERDICT["stratum"]:
            lines[stratum] += " Below 0 %: with clean labels already." if least == "below 0 %" else ""
            if kinds := kinds_apart(parts, (BOTH, OTHERS)):
                lines["kinds"] = kinds
    for stratum, part in by_size[by_size.stratum != ALL].groupby("stratum", sort=False) if len(by_size) else ():
        each = [
            f"{readings.from_rate(at)} with {name} training examples"
            for name, at in part.groupby("trained on", sort=False)
        ]
        lines[f"{stratum}, size"] = f"On {part.sets.max()} {stratum} data sets the same crossover: {'; '.join(each)}."
    for stratum, part in full[full.stratum != ALL].groupby("stratum", sort=False):
        own = full_crossover[full_crossover.stratum == stratum]
        lines[f"{stratum}, {AGAINST_ALL}"] = " ".join(
            [against_full(part), *([readings.caught_up(own)] if len(own) else [])]
        )
    return lines


def kinds_apart(parts: pd.DataFrame, kinds: tuple[str, ...] = (TWO, MORE, EASY, HARD, BOTH, OTHERS)) -> str:
    """The balanced sets apart by their number of classes, by how easy they are, and by both, from :func:`parts`."""
    words = []
    for name, part in parts[parts.part.isin(kinds)].groupby("part", sort=False) if len(parts) else ():
        limits = " to ".join(readings.spread(part)[2:])
        words.append(f"on the {part.sets.iloc[0]:.0f} with {name} {readings.from_rate(part, ' on')} (limits {limits})")
    if not words:
        return ""
    return f"By number of classes and by clean F1, splits made after the results were seen: {'; '.join(words)}."


def parts_reading(parts: pd.DataFrame) -> str:
    """How the two kinds of balanced sets differ, and what the title's rule says of every part, from :func:`parts`."""
    split = parts[parts.part == SPLIT] if len(parts) else parts
    if split.empty:
        return "Too few balanced sets of either kind."
    names = [name for name in parts if name.startswith("d ") and not name.endswith(("low", "high"))]
    words = [f"{name}: {sentences.tallied(split, name)} readings" for name in names]
    alike = "failed" if any(sentences.judged(split, name) == "held" for name in names) else "open"
    rule = parts.dropna(subset="sets").drop_duplicates("part")
    verdicts = [f"{row.part} ({row.sets:.0f} sets) {row['by the rule']}" for _, row in rule.iterrows()]
    return (
        f"{kinds_apart(parts)} The two kinds are alike: **{alike}** ({SPLIT}, in points: {'; '.join(words)}).\n\n"
        f"The title's rule says of {'; '.join(verdicts)}: of the kinds by classes and by clean F1 this is no verdict."
    )


def against_full(table: pd.DataFrame) -> str:
    """One stratum of :func:`readings.full_by_reading`, in words."""
    best, sides = table.loc[table.d.idxmax()], []
    for side in ("ahead", "behind"):
        named = [f"{row[side]} ({row.reading})" for _, row in table.iterrows() if row[side] != "no rate"]
        sides.append(f"{side} at {'; '.join(named) or 'no rate'}")
    least = table[readings.LEAST].min()
    adjusted = f"Holm's smallest p of a gain, over these {len(table)} scores and all rates, is {least:.2g}"
    shown = ((table[readings.ABOVE_P] < 0.05) & (table[readings.ABOVE] > 0)).sum()
    return (
        f"Against keeping everything it is, on {best.sets} {best.stratum} sets, {', '.join(sides)} (95 % intervals, "
        f"unadjusted; {'no p' if np.isnan(least) else adjusted}). The best mean is "
        f"{sentences.points(best, 'd', '')} points, {best.reading}, at {best[RATE]:g} %. The mean of "
        f"the rates above 15 %, asked for after the results were seen, in points: "
        f"{sentences.tallied(table, readings.ABOVE)} scores; a gain shown, adjusted for these, in {shown}."
    )


def both_verdicts(rule: TitleVerdict, first: TitleVerdict, statements: list[Statement]) -> str:
    """The verdicts on the title and why, in a clause each: where the threshold is, and that below it nothing is won."""
    refutes, reproduces = ([c for c in rule.conditions if c.role == role] for role in ("refutes", "reproduces"))
    least = min(refutes, key=lambda condition: condition.p).detail
    low = statements[1]
    ends = (np.nan if x is None else 100 * x for x in (low.measured, low.low, low.high))  # of sets all alike
    d = "{:.2f} [{:.2f}, {:.2f}]".format(*ends)
    return (
        f"The title is {rule.verdict} by version 2's rule, {first.verdict} by version 1's: of {len(refutes)} scores "
        f"{sum(c.held for c in refutes)} show a gain at 10 % or less or a loss at 20 % or more (smallest {least}), and "
        f"in {sum(c.held for c in reproduces)} the crossover's interval has 15 % inside (5, 30) %. Its other half, no "
        f"gain up to 15 %, is {low.verdict}: up to there the mean of d, {LEDGER}, is {d} points."
    )


def crossover_title(crossover: pd.DataFrame) -> str:
    """The figure's title: the means' crossovers by stratum, over all data sets."""
    strata = {stratum: _on_all(crossover, stratum) for stratum in STRATA}
    words = [
        f"{stratum} sets {readings.from_rate(at).removeprefix('from ')}" for stratum, at in strata.items() if len(at)
    ]
    return f"Crossover of the mean, by what is counted: {'; '.join(words)}"


# --- was it as expected? each follows an expectation in the notebook ------------------------------------------------


def as_expected(primary: pd.DataFrame, apart: pd.DataFrame) -> str:
    """That pruning loses with clean labels, and that the four readings agree: by stratum, from the intervals."""
    lines = []
    for stratum in STRATA:
        clean = primary[(primary.stratum == stratum) & (primary[RATE] == primary[RATE].min())]
        if len(clean) and clean.sets.min() > 1:
            came = f"**{sentences.judged(clean, 'd', below=True)}** ({sentences.tallied(clean, 'd')})"
            lines.append(f"On {stratum} sets pruning loses with clean labels: {came}.")
        pairs = apart[apart.stratum == stratum] if len(apart) else apart
        if len(pairs):
            apart_in = int(((pairs["low (all)"] > 0) | (pairs["high (all)"] < 0)).sum())
            came = f"**{'failed' if apart_in else 'open'}** (crossovers differ in {apart_in} of {len(pairs)} pairs)"
            lines.append(f"There the readings agree: {came}.")
    return " ".join(lines)


def goes_reading(goes_with: pd.DataFrame, by_dataset: pd.DataFrame) -> str:
    """What the crossover goes with, by stratum; and the one set that moves the mean of d with clean labels most."""
    rows = goes_with[(goes_with["with"] == "clean F1") & (goes_with.of == "crossover")] if len(goes_with) else goes_with
    at_0, lines = next(name for name in by_dataset if name.startswith("d at ")), []
    if len(rows):
        rows = rows.assign(on=rows.stratum + ", " + rows.reading)
        lines.append(f"The crossover with clean F1 (higher: easier), rho: {sentences.standing(rows, 'rho', 'on', 2)}")
    several = by_dataset.groupby(["reading", "stratum"]).filter(lambda part: len(part) > 2)  # two move a mean alike
    for (reading, stratum), part in several.groupby(["reading", "stratum"], sort=False):
        values = part.set_index("dataset")[at_0]
        others = (values.sum() - values) / (len(values) - 1)
        name = (others - values.mean()).abs().idxmax()
        means = f"{values[name]:+.3f}, the mean {values.mean():+.3f} with it, {others[name]:+.3f} without"
        lines.append(f"{at_0}, {stratum}, {reading}: {name} moves the mean most ({means}).")
    return "\n\n".join([*lines[:1], " ".join(lines[1:])]) or "Too few sets to say which of them moves a mean most."
