"""The title's study once more, on some of its data sets: on more training examples, and with other shares dropped.

Does the crossover move with the number of examples, and with how much is dropped? One share is no constant: as many
examples as confident learning doubts, anew for every data set and noise rate. So may a practitioner do who does not
know how many labels are wrong.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pandas as pd
import pydantic

from datalab import data, stats
from datalab.protocol import protocol
from datalab.sections import compare, readings, sentences
from datalab.sections.parameters import AnyDatasets, Fractions, Rates
from datalab.sections.readings import ALL, LEAST, PRIMARY_KEEP, STRATA, read_by
from datalab.sections.trials import training_length
from datalab.sections.trials.training_length import DOUBTED
from datalab.sweep import Task

LATER, CLEAN = "crossover", "d with clean labels"
ONCE_MORE = ("share", "large")


class OnceMoreParameters(training_length.LengthParameters):
    """Beside these: what is run once more on more training examples (large), and with other shares dropped (share)."""

    share_datasets: AnyDatasets
    share_rates: Rates = pydantic.Field(min_length=2)
    share_keep_fractions: Fractions
    large_datasets: AnyDatasets
    large_train: Annotated[int, pydantic.Field(ge=20, strict=True)]
    large_rates: Rates = pydantic.Field(min_length=2)

    @classmethod
    def of_profile(cls, profile: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Of the profile's, what ``length_...`` leaves out is not run once more; none is where too little is left."""
        left: dict[str, Any] = {}
        for kind in ONCE_MORE if profile else ():
            for of in ("datasets", "rates"):
                own = given.get(f"length_{of}", profile[f"length_{of}"])
                own = own if isinstance(own, list | tuple) else ()  # of another type it is refused
                left[f"{kind}_{of}"] = [value for value in profile[f"{kind}_{of}"] if value in own]
            sets, rates = f"{kind}_datasets", f"{kind}_rates"
            if not {sets, rates} & given.keys() and (_all_alone(left[sets]) or len(left[rates]) < 2):
                left |= {sets: [], rates: profile[rates]}
        return {**profile, **left}

    @pydantic.model_validator(mode="after")
    def _among_the_titles(self) -> "OnceMoreParameters":
        for kind, of in itertools.product(ONCE_MORE, ("datasets", "rates")):
            own, titles = getattr(self, f"{kind}_{of}"), getattr(self, f"length_{of}")
            if getattr(self, f"{kind}_datasets") and not set(own) <= set(titles):
                raise ValueError(
                    f"{kind}_{of} must be among length_{of}, with which they are compared; got {list(own)}"
                )
        if self.share_datasets and self.share_rates[0] > 0:
            raise ValueError("share_rates must include 0, where no label is wrong")
        if self.share_datasets and not set(self.share_keep_fractions) - {PRIMARY_KEEP, 1}:
            raise ValueError(f"share_keep_fractions must include one below 1 beside {PRIMARY_KEEP:g}, the title's own")
        return self

    @property
    def unfit(self) -> str:
        """Balanced and skewed sets are read apart, and one set alone has no interval."""
        alone = [kind for kind in ONCE_MORE if (names := getattr(self, f"{kind}_datasets")) and _all_alone(names)]
        few = "name none, or two or more that are balanced, or two or more that are skewed"
        return super().unfit or (f"parameter '{alone[0]}_datasets': {few}" if alone else "")


def _all_alone(names: Sequence[str]) -> bool:
    strata = [data.stratum(name) for name in names]
    return len(set(strata)) == len(strata)


def tasks(p: OnceMoreParameters) -> list[Task]:
    """All of both kinds."""
    return larger_tasks(p) + share_tasks(p)


def larger_tasks(p: OnceMoreParameters) -> list[Task]:
    """The same on as many as ``large_train`` training examples: a task a data set, of the first seed's."""
    how = {"noise_kind": protocol().primary_cell["noise"], "seed": 0, "rates": list(p.large_rates)} | p.of_trial
    how |= {"caps": p.of_trial["caps"] | {"train": p.large_train}, "keep_fractions": [PRIMARY_KEEP]}
    how |= {"lengths": list(p.lengths), "reference_lengths": [max(p.lengths)]}
    return [training_length.task({"dataset": name} | how) for name in p.large_datasets]


def sized(rows: pd.DataFrame, larger: pd.DataFrame) -> pd.DataFrame:
    """:func:`read_by` of the same data sets and rates with fewer and with more training examples, stopped early.

    ``rows`` has one row a model, ``larger`` all rows of :func:`larger_tasks`; ``trained on`` says which of both a
    row is of. Strata apart, and together as ``ALL``. Empty where nothing was trained on more.
    """
    if larger.empty:
        return pd.DataFrame()
    both = readings.matching(rows, larger), readings.early_stopped(larger)
    d = pd.concat(map(read_by, both), ignore_index=True)
    d["trained on"] = d.train_cap.map("up to {:,.0f}".format)
    return readings.and_all(d, "stratum")


def by_size(d: pd.DataFrame, root_seed: int) -> pd.DataFrame:
    """The crossover by stratum, reading and number of training examples; ``d`` is :func:`sized`."""
    by = ["stratum", "reading", "trained on"]
    return compare.crossovers(compare.together(d, by), "d", root_seed, by) if len(d) else d


def larger_less_smaller(d: pd.DataFrame) -> pd.DataFrame:
    """By stratum, reading and rate: d with more training examples less d with fewer, paired by data set: t-intervals.

    ``d`` is :func:`sized`.
    """

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        fewer, more = (compare.by_set(own, "d") for _, own in part.groupby("train_cap"))
        return compare.mean_with_interval(more - fewer, "difference") | {"sets": len(more)}

    by = ["stratum", "reading", readings.RATE]
    return compare.table(compare.together(d[d.stratum != ALL], by[:2]), by, measure) if len(d) else d


def size_reading(larger: pd.DataFrame) -> str:
    """Where more training examples change d, by stratum and rate."""
    if larger.empty:
        return "No set was run on more examples in this profile."
    lines = []
    for stratum, part in larger.groupby("stratum", sort=False):
        moved = (part["difference low"] > 0) | (part["difference high"] < 0)
        by_rate = [f"{rate:g} %: {sentences.tallied(at, 'difference')}" for rate, at in part.groupby(readings.RATE)]
        word = f"**failed**, {moved.sum()} of {len(part)} intervals exclude 0" if moved.any() else "**open**"
        lines.append(
            f"On {stratum} sets more examples change little: {word}. In points: {'; '.join(by_rate)} readings."
        )
    return "\n\n".join(lines)


def share_tasks(p: OnceMoreParameters) -> list[Task]:
    """A task a data set, of the first seed's: what the title's own rows, of 30 % dropped, do not have."""
    others = [keep for keep in p.share_keep_fractions if keep != PRIMARY_KEEP]
    how = {"noise_kind": protocol().primary_cell["noise"], "seed": 0, "rates": list(p.share_rates)} | p.of_trial
    how |= {"keep_fractions": others, "lengths": list(p.lengths)}
    pruned = 2 * (len(others) + 1) * (protocol().protocol_2["random_subsets"] + 1)
    return [training_length.costed("run_shares", {"dataset": name} | how, 3 + pruned) for name in p.share_datasets]


def by_share(stopped: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """:func:`read_by` of every share ``dropped``, the least first, on the same data sets, rates and seed.

    ``stopped`` are the title's rows, one a model; ``rows`` all rows of :func:`share_tasks`, or none.
    """
    if rows.empty:
        return rows
    d = {f"{100 * (1 - PRIMARY_KEEP):g} %": read_by(readings.matching(stopped, rows))}
    full, pruned = rows[rows.method == "full"], rows[rows.share != ""]
    for share, part in pruned.groupby("share", sort=False):
        d[share] = read_by(pd.concat([full, part]), keep=None)
    order = [*sorted(d.keys() - {DOUBTED}, key=lambda share: float(share.split()[0])), DOUBTED]
    return compare.below({share: d[share] for share in order}, "dropped")


def share_crossovers(d: pd.DataFrame, root_seed: int) -> pd.DataFrame:
    """The crossover by stratum, reading and share dropped, and d at the lowest rate; ``d`` is :func:`by_share`."""
    if d.empty:
        return d
    by, clean = ["stratum", "reading", "dropped"], readings.at_lowest(d)
    d = compare.together(d, by)

    def measure(part: pd.DataFrame) -> dict[str, float]:
        return compare.mean_with_interval(compare.by_set(part, "d", rate=d.rate.min()), clean)

    return compare.crossovers_beside(d, root_seed, by, measure)


def share_apart(d: pd.DataFrame) -> pd.DataFrame:
    """The largest constant share dropped less the smallest, by stratum and reading, on the same sets: 95 % limits.

    Of the crossover, in shares of wrong labels (:func:`stats.crossovers_apart`), and of d at the lowest rate, paired by
    data set. ``d`` is :func:`by_share`.
    """
    if d.empty:
        return d
    constant = d[d.dropped != DOUBTED]
    least, most = constant.dropped.iloc[[0, -1]]

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        (more, rates), (fewer, _) = (compare.curves(part[part.dropped == share], "d") for share in (most, least))
        later = stats.crossovers_apart(more, fewer, rates)
        clean = part[part.rate == part.rate.min()]
        loss = compare.by_set(clean, "d", dropped=most) - compare.by_set(clean, "d", dropped=least)
        moved = {"of": most, "from": least, LATER: later.estimate}
        moved |= {f"{LATER} low": later.low, f"{LATER} high": later.high}
        return moved | compare.mean_with_interval(loss, CLEAN) | {"sets": later.n}

    several = constant.groupby("stratum").filter(lambda part: part.dataset.nunique() > 1)
    return compare.table(several, ["stratum", "reading"], measure)


def share_against_full(d: pd.DataFrame) -> pd.DataFrame:
    """:func:`readings.full_by_reading` for every share dropped; Holm's method takes the shares of a stratum together.

    ``d`` is :func:`by_share`.
    """
    if d.empty:
        return d
    parts = d.assign(d=d.d_full).groupby("dropped", sort=False)
    table = compare.below({share: readings.primary_table(part) for share, part in parts}, "dropped")
    by = ["stratum", "reading", "dropped"]
    return readings.best_gains(compare.together(table[table.stratum != ALL], by, readings.RATE), by)


def share_reading(apart: pd.DataFrame, full: pd.DataFrame) -> str:
    """What became of what was expected: later where more is dropped; and no gain on keeping everything, whatever is."""
    lines = []
    for stratum in STRATA if len(apart) else ():
        moved, gains = (table[table.stratum == stratum] for table in (apart, full))
        if moved.empty:
            continue
        of, less = moved[["of", "from"]].iloc[0]
        later = f"in points of wrong labels {sentences.tallied(moved, LATER)} readings"
        clean = f"in points {sentences.tallied(moved, CLEAN)}"
        best, least = gains.loc[gains.d.idxmax()], gains[LEAST].min()
        word = "held" if not least < 0.05 else "failed"
        smallest = "no mean is a gain" if pd.isna(least) else f"smallest p {least:.2g}"
        lines.append(
            f"On {stratum} sets dropping {of} pays later than dropping {less}: **{sentences.judged(moved, LATER)}** "
            f"({later}), and loses more where no label is wrong: **{sentences.judged(moved, CLEAN, below=True)}** "
            f"({clean}). Against keeping everything no share shows a gain after adjusting: **{word}** ({smallest}; "
            f"best mean {sentences.points(best, 'd')} points, {best.dropped}, {best.reading}, at "
            f"{best[readings.RATE]:g} %)."
        )
    return "\n\n".join(lines) or "No other share was dropped in this profile."
