"""What longer training does to the title's crossover: of the models that are trained, and of those that rank.

The rows are those of :mod:`datalab.sections.trials.training_length`, at every length.
"""

import itertools

import numpy as np
import pandas as pd

from datalab.sections import compare, readings, sentences
from datalab.sections.compare import STOPPED

LONGER = "d less shortest"  # the mean of d over the rates


def by_length(rows: pd.DataFrame, root_seed: int) -> pd.DataFrame:
    """The crossover by the length of training and of the references, each fixed or chosen by noisy validation.

    ``rows`` are all of the task's rows. ``trained`` is in steps, or says that noisy validation chose. Beside it d at
    the lowest rate, and ``LONGER``: the mean of d over the rates less that of the models trained for the shortest
    length, paired by data set; 95 % t-intervals.
    """
    lengths = sorted(rows.steps.unique())
    trained = {f"{n:.0f}": rows[rows.steps == n] for n in lengths} | {STOPPED: readings.early_stopped(rows)}
    parts = []
    for (length, part), reading in itertools.product(trained.items(), readings.FEW_READINGS):
        d = readings.differences(part, readings.READINGS[reading])
        cases = d.groupby("reference_steps").size()
        everywhere = cases.index[cases == len(d[["dataset", "seed", "rate"]].drop_duplicates())]
        fixed = d[d.reference_steps.isin(everywhere)]
        reference = fixed.reference_steps.map("{:.0f} steps".format)
        d = pd.concat([fixed.assign(reference=reference), d[d.reference_chosen].assign(reference=STOPPED)])
        parts.append(d.assign(reading=reading, trained=length))
    by = ["stratum", "reading", "reference", "trained"]
    d = compare.together(readings.with_strata(pd.concat(parts)), by)
    shortest = d[d.trained == next(iter(trained))].groupby([*by[:3], "dataset"]).d.mean()

    def measure(part: pd.DataFrame) -> dict[str, float]:
        line, length = tuple(part[by[:3]].iloc[0]), part.trained.iloc[0]
        longer = [] if length == next(iter(trained)) else compare.by_set(part, "d") - shortest.loc[line]
        clean = compare.mean_with_interval(compare.by_set(part, "d", rate=d.rate.min()), readings.at_lowest(d))
        return clean | compare.mean_with_interval(longer, LONGER)

    return compare.crossovers_beside(d, root_seed, by, measure)


def by_ranking(by_length: pd.DataFrame, stratum: str) -> dict[str, pd.DataFrame]:
    """The rows of a stratum's trained models that stop early, by how long the models that rank were trained."""
    chosen = by_length[(by_length.trained == STOPPED) & (by_length.stratum == stratum)]
    return dict(list(chosen.groupby("reference", sort=False)))


def length_title(by_length: pd.DataFrame) -> str:
    """The figure's title: the crossover by the shortest models that rank, and by those that stop early."""
    stratum = by_length.stratum.iloc[0]
    ranked = list(by_ranking(by_length, stratum).items())
    each = [
        readings.from_rate(at).removeprefix("from ")
        + f" if ranked by models {length if length == STOPPED else f'of {length}'}"
        for length, at in (ranked[0], ranked[-1])
    ]
    return f"Crossover on {stratum} sets, trained models stopped early: {', '.join(each)}"


def length_reading(by_length: pd.DataFrame) -> str:
    """Whether longer training makes pruning pay, by stratum; what it gains where no label is wrong."""
    lines = []
    for stratum, part in by_length[by_length.trained != STOPPED].groupby("stratum", sort=False):
        first, second, last = part.trained.unique()[[0, min(1, part.trained.nunique() - 1), -1]]
        own = {length: part[part.trained == length] for length in (second, last)}
        words = [f"{n} steps, {sentences.tallied(at, LONGER)}" for n, at in own.items()]
        clean = next(name for name in part if name.startswith("d at "))
        crossovers = part.groupby(["reading", "reference"], sort=False).crossover
        falls = [bool((line[1:] <= line[:-1]).all()) for line in crossovers.apply(np.asarray)]
        gains = "failed" if (own[last][f"{clean} low"] > 0).any() else "open"
        ranked = [
            f"{length}, {readings.from_rate(at).removeprefix('from ')} (limits {' to '.join(readings.spread(at)[2:])})"
            for length, at in by_ranking(by_length, stratum).items()
        ]
        lines.append(
            f"On {stratum} sets longer training makes pruning pay: **{sentences.judged(own[last], LONGER)}**. Mean d "
            f"over the rates less that at {first} steps, in points: {'; '.join(words)} pairs of reading and reference. "
            f"The crossover never rises from one length to the next in {sum(falls)} of {len(falls)}. Nothing is gained "
            f"where no label is flipped: **{gains}** ({clean}, {last} steps, {sentences.tallied(own[last], clean)}). "
            f"With the trained models stopped early, the crossover by how long the models that rank were trained: "
            f"{'; '.join(ranked)}."
        )
    return "\n\n".join(lines)
