"""The title's study once more on more training examples: does its crossover move with their number?"""

from typing import Annotated, Any

import pandas as pd
import pydantic

from datalab.protocol import protocol
from datalab.sections import compare, sentences
from datalab.sections.parameters import TITLES, AnyDatasets, Rates
from datalab.sections.readings import PRIMARY_KEEP, RATE, and_all, early_stopped, matching, read_by
from datalab.sections.trials import training_length
from datalab.sweep import Task


class LargeParameters(training_length.LengthParameters):
    """Beside these: what is run once more on more training examples."""

    large_datasets: Annotated[AnyDatasets, TITLES]
    large_train: Annotated[int, pydantic.Field(ge=20, strict=True)]
    large_rates: Annotated[Rates, TITLES]


def tasks(p: LargeParameters) -> list[Task]:
    """The same on as many as ``large_train`` training examples: a task a data set, of the first seed's."""
    if not p.large_rates:
        return []
    how = {"noise_kind": protocol().primary_cell["noise"], "seed": 0, "rates": list(p.large_rates)} | p.of_trial
    how |= {"caps": p.of_trial["caps"] | {"train": p.large_train}, "keep_fractions": [PRIMARY_KEEP]}
    how |= {"lengths": list(p.lengths), "reference_lengths": [max(p.lengths)]}
    return [training_length.task({"dataset": name} | how) for name in p.large_datasets]


def sized(rows: pd.DataFrame, larger: pd.DataFrame) -> pd.DataFrame:
    """:func:`read_by` of the same data sets and rates with fewer and with more training examples, stopped early.

    ``rows`` has one row a model, ``larger`` all rows of :func:`tasks`; ``trained on`` says which of both a row is of.
    Strata apart, and together as "all". Empty where nothing was trained on more.
    """
    if larger.empty:
        return pd.DataFrame()
    d = pd.concat([read_by(matching(rows, larger)), read_by(early_stopped(larger))], ignore_index=True)
    d["trained on"] = d.train_cap.map("up to {:,.0f}".format)
    return and_all(d, "stratum")


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

    by = ["stratum", "reading", RATE]
    return compare.table(compare.together(d[d.stratum != "all"], by[:2]), by, measure) if len(d) else d


def size_reading(larger: pd.DataFrame) -> str:
    """Where more training examples change d, by stratum and rate."""
    if larger.empty:
        return "No set was run on more examples in this profile."
    lines = []
    for stratum, part in larger.groupby("stratum", sort=False):
        moved = (part["difference low"] > 0) | (part["difference high"] < 0)
        by_rate = [f"{rate:g} %: {sentences.tallied(at, 'difference')}" for rate, at in part.groupby(RATE)]
        word = f"**failed**, {moved.sum()} of {len(part)} intervals exclude 0" if moved.any() else "**open**"
        lines.append(
            f"On {stratum} sets more examples change little: {word}. In points: {'; '.join(by_rate)} readings."
        )
    return "\n\n".join(lines)
