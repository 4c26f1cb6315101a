"""From rows to a comparison over data sets. The data set is the unit; it counts by its mean over seeds and draws.

Every table of a section is :func:`table`: a row a group, made of the columns below. Intervals are t-intervals over the
data sets: they speak of new data sets like these.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import ttest_ind

from datalab import data, seeds, stats
from datalab.protocol import protocol
from datalab.record import Statement, rawrows
from datalab.sections import sentences

FIXED, STOPPED = "the recipe's length", "stopped early"  # how long a model was trained: see ``by_training``
Bounds = tuple[float, float] | None  # the ends of a quantity's range
SHARE, SIGNED, RATIO = (0.0, 1.0), (-1.0, 1.0), (0.0, np.inf)  # an F1 or an AUROC; a correlation; a ratio


def table(
    rows: pd.DataFrame, by: str | Sequence[str], measure: Callable[[pd.DataFrame], Mapping], dropna: bool = True
) -> pd.DataFrame:
    """A row per group of ``by``, in order of appearance: the group's key, then the columns ``measure`` gives of it.

    ``dropna``: leave out the rows whose key is missing; else they are a group.
    """
    by = [by] if isinstance(by, str) else list(by)
    groups = rows.groupby(by, sort=False, dropna=dropna)
    lines = [dict(zip(by, key, strict=True)) | measure(part) for key, part in groups]
    return pd.DataFrame(lines, columns=None if lines else by)  # of no rows it has its key's columns


def means(rows: pd.DataFrame, by: str | Sequence[str], columns: Mapping[str, tuple[str, Bounds]]) -> pd.DataFrame:
    """A row per group of ``by``: each column's mean over the data sets' means, with its 95 % t-interval, and ``sets``.

    ``columns`` gives a column's name in the table, and the ends of what it can be.
    """

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        row = {}
        for column, (name, bounds) in columns.items():
            row |= mean_with_interval(by_set(part, column), name, bounds=bounds)
        return row | {"sets": part.dataset.nunique()}

    return table(rows, by, measure)


def below(parts: Mapping[str, pd.DataFrame], name: str) -> pd.DataFrame:
    """Tables of equal columns one below the other, the key of each in the first column, ``name``."""
    return pd.concat(parts, names=[name]).reset_index(name).reset_index(drop=True)


def by_training(
    rows: pd.DataFrame, stopped: pd.DataFrame, measure: Callable[[pd.DataFrame], pd.DataFrame]
) -> pd.DataFrame:
    """``measure``'s table of models trained for the recipe's length and of the same stopped early, ``trained`` first.

    Of ``rows`` those of the data sets and seeds that ``stopped`` has.
    """
    return below({FIXED: measure(_alike(rows, stopped)), STOPPED: measure(stopped)}, "trained")


def _alike(rows: pd.DataFrame, stopped: pd.DataFrame) -> pd.DataFrame:
    unit = ["dataset", "seed"]
    return rows[pd.MultiIndex.from_frame(rows[unit]).isin(pd.MultiIndex.from_frame(stopped[unit]))]


def between_trainings(
    rows: pd.DataFrame, stopped: pd.DataFrame, effect: Callable[[pd.DataFrame], pd.DataFrame]
) -> pd.DataFrame:
    """How much larger an effect is at the recipe's length than stopped early, a row a column of ``effect``'s table.

    That table has a row a data set, which is the unit; ``larger`` has 95 % limits, paired by data set. Of ``rows``
    those of the data sets and seeds that ``stopped`` has.
    """
    d = effect(_alike(rows, stopped)) - effect(stopped)
    return pd.DataFrame([{"of": name} | mean_with_interval(d[name], "larger") | {"sets": len(d)} for name in d])


def raw_of(rows: pd.DataFrame) -> dict[str, Any]:
    """What tells the raw rows of this training from those of another: the lengths that its models chose from."""
    (lengths,) = rows[rawrows.LENGTHS].unique() if rawrows.LENGTHS in rows else [None]  # of one training
    return {rawrows.LENGTHS: lengths}


def verdicts_by_training(stopped: Sequence[Statement], fixed: Sequence[Statement]) -> pd.DataFrame:
    """A row a statement that both have: what was measured and its verdict, stopped early and at the recipe's length."""
    of = ["id", "measured", "verdict"]
    early, late = (pd.DataFrame(map(vars, made), columns=of) for made in (stopped, fixed))
    both = early.merge(late, on="id", suffixes=("", f", {FIXED}")).rename(columns={"id": "statement"})
    return both.assign(**{"the same": both.verdict == both[f"verdict, {FIXED}"]})


def tally(
    frame: pd.DataFrame, rows: str, columns: str, order: Sequence[str], names: Sequence[str] | None = None
) -> pd.DataFrame:
    """Counts of ``columns`` (in ``order``) per value of ``rows`` (in ``names``' order), with a total row and column."""
    names = frame[rows].unique() if names is None else names
    counted = pd.crosstab(frame[rows], frame[columns], margins=True, margins_name="all")
    counted = counted.reindex(index=[*names, "all"], columns=[*order, "all"], fill_value=0)
    return counted.rename_axis(index=rows, columns=None).reset_index()


def and_papers(values: ArrayLike, name: str, printed: float | None, bounds: Bounds = None) -> dict[str, float | None]:
    """``<name>, paper`` with the printed figure, then the mean of values (n,), one a data set, with its interval."""
    return {f"{name}, paper": printed} | mean_with_interval(values, name, bounds=bounds)


def relative_to(base: ArrayLike) -> dict[str, float]:
    """How a gain over F1s ``base`` is judged: in %, the least that matters being the least effect over their mean."""
    return {"scale": 100, "smallest": protocol().statistics["sesoi"]["f1"] / np.mean(base)}


def rows_of_kind(rows: pd.DataFrame, /, **where: object) -> pd.DataFrame:
    """The rows whose columns have the values that ``where`` names."""
    for name, wanted in where.items():
        rows = rows[rows[name] == wanted]
    return rows


def by_set(rows: pd.DataFrame, column: str, /, **where: object) -> pd.Series:
    """The mean of a column over the rows that fit ``where``, one value a data set, in the rows' order of data sets."""
    rows = rows_of_kind(rows, **where)
    return rows[column].groupby(rows["dataset"], sort=False).mean()


def mean_with_interval(
    values: ArrayLike, name: str, confidence: float = 0.95, bounds: Bounds = None
) -> dict[str, float]:
    """``name``, ``name low`` and ``name high`` of values (n,), one a data set: without limits on fewer than two.

    Values that are not a number (a data set without the figure) are left out. ``bounds``, such as (0, 1) of a score,
    hold the limits inside what can be (:func:`stats.t_interval`).
    """
    values = np.asarray(values, dtype=float)
    return measured(stats.Measurement(values[np.isfinite(values)], bounds), name, confidence)


def measured(of: stats.Measurement, name: str, confidence: float = 0.95, scale: float = 1.0) -> dict[str, float]:
    """``name``, ``name low`` and ``name high`` of a measurement, times ``scale``."""
    i = of.interval(confidence)
    return {name: scale * i.estimate, f"{name} low": scale * i.low, f"{name} high": scale * i.high}


def tests(d: ArrayLike) -> dict[str, float]:
    """Cohen's d_z and the Wilcoxon test's p of paired differences (n,), one a data set; nan on fewer than two."""
    if len(d) < 2:
        return {"d_z": np.nan, "p (Wilcoxon)": np.nan}
    return {"d_z": stats.cohens_dz(d).estimate, "p (Wilcoxon)": stats.wilcoxon(d).p}


def difference(d: ArrayLike, name: str = "d") -> dict[str, float]:
    """Paired differences (n,), one a data set: mean with interval, d_z, Wilcoxon's p."""
    return mean_with_interval(d, name) | tests(np.asarray(d, dtype=float))


def apart(a: pd.Series, b: pd.Series, name: str) -> dict[str, float]:
    """The mean of values (n,) less that of values (m,) of other data sets, with Welch's 95 % interval."""
    limits = ttest_ind(a, b, equal_var=False).confidence_interval(0.95) if min(len(a), len(b)) > 1 else [np.nan] * 2
    return dict(zip((name, f"{name} low", f"{name} high"), (a.mean() - b.mean(), *limits), strict=True))


def with_correction(
    frame: pd.DataFrame,
    p: str = "p (Wilcoxon)",
    name: str = "p (Holm)",
    correct: Callable[[np.ndarray], np.ndarray] = stats.holm,
) -> pd.DataFrame:
    """The table with the column ``name`` after its last: ``p`` corrected over all rows that have one."""
    frame, tested = frame.copy(), frame[p].notna()
    frame.loc[tested, name] = correct(frame.loc[tested, p].to_numpy()) if tested.any() else []
    return frame


def tuned_elsewhere(rows: pd.DataFrame, setting: str, value: str, alone: object) -> pd.DataFrame:
    """Each data set's row at the ``setting`` whose ``value`` is best on the mean of all the *others*, by data set.

    So no score is reported where it was tuned. ``rows`` has one row a data set and setting; ``alone`` is the choice
    where there are no others.
    """
    wide = rows.pivot(index="dataset", columns=setting, values=value)
    others = {name: wide.drop(index=name) for name in wide.index}
    chosen = [(name, scores.mean().idxmax() if len(scores) else alone) for name, scores in others.items()]
    return rows.set_index(["dataset", setting]).loc[chosen].droplevel(setting)


def cell_text(row: Mapping[str, float], name: str, printed: float | None, decimals: int = 3) -> str:
    """Ours beside the paper's, if it prints any, in one cell: ``0.712 [0.650, 0.774]; paper 0.65``."""
    ours = sentences.with_limits(row, name, decimals, sign="")
    return f"{ours}; paper {'prints none' if pd.isna(printed) else f'{printed:g}'}"


def beside_paper(
    frame: pd.DataFrame, label: str, columns: Mapping[str, str], decimals: Mapping[str, int] | None = None
) -> pd.DataFrame:
    """Of a table with columns ``F1`` and ``F1, paper``: ours with its interval beside the paper's, in one cell each.

    A row a ``label``; ``columns`` maps the names of ours to the names in the paper; ``decimals`` of a column are 3
    unless it names others.
    """
    made = frame[[label]].reset_index(drop=True)
    for name, title in columns.items():
        places = (decimals or {}).get(name, 3)
        made[title] = [cell_text(row, name, row[f"{title}, paper"], places) for _, row in frame.iterrows()]
    return made


def paper_shape(cells: pd.DataFrame, rows: str, columns: str, decimals: int = 3) -> pd.DataFrame:
    """A table with the paper's rows and columns from a long one: a row per ``rows``, a column per ``columns``.

    Each cell sets the column ``ours`` with its interval beside ``paper``; last is the number of data sets.
    """

    def line(part: pd.DataFrame) -> dict[str, Any]:
        texts = {cell[columns]: cell_text(cell, "ours", cell.paper, decimals) for _, cell in part.iterrows()}
        return texts | {"n (data sets)": part.sets.iloc[0]}

    return table(cells, rows, line)


def together(rows: pd.DataFrame, by: str | Sequence[str], then: str = "rate") -> pd.DataFrame:
    """Rows of equal keys together, in the keys' order of appearance; within a key ``then`` rises."""
    place = rows.groupby(by, sort=False).ngroup()
    return rows.assign(place=place).sort_values(["place", then], kind="stable", ignore_index=True)


def curves(rows: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    """A column as an array (sets, seeds, rates), and the noise rates (rates,); one row a data set, seed and rate."""
    wide = rows.pivot(index=["dataset", "seed"], columns="rate", values=column)
    sets, seeds_of_set = np.unique(wide.index.codes[0], return_counts=True)
    shape = len(sets), *set(seeds_of_set), len(wide.columns)  # as many seeds of each
    places = wide.index.levels[0].get_indexer(rows.dataset.unique())
    return wide.to_numpy().reshape(shape)[places], wide.columns.to_numpy()


def crossovers(d: pd.DataFrame, column: str, root_seed: int, by: Sequence[str]) -> pd.DataFrame:
    """For each group of ``by``, the noise rate at which a difference turns positive, with its interval over the sets.

    Fractions; -inf where it is positive at every rate, inf where at none. A group with one data set or one rate is left
    out.
    """

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        values, rates = curves(part, column)
        rng = seeds.generator(root_seed, "crossover", column, *part[list(by)].iloc[0])
        b = stats.crossover_bootstrap(values, rates, rng)
        limits = {"crossover": b.estimate, "low": b.low, "high": b.high, "p_always": b.p_always, "p_never": b.p_never}
        return limits | {"sets": b.sets, "lowest_rate": rates.min(), "highest_rate": rates.max()}

    several = d.groupby(list(by)).filter(lambda part: part.dataset.nunique() > 1 and part.rate.nunique() > 1)
    return table(several, by, measure)


def crossovers_beside(
    d: pd.DataFrame, root_seed: int, by: Sequence[str], measure: Callable[[pd.DataFrame], Mapping]
) -> pd.DataFrame:
    """:func:`crossovers` of ``d``, and what ``measure`` says of the same groups."""
    shown = crossovers(d, "d", root_seed, by).drop(columns=["p_always", "p_never"])
    return shown.merge(table(d, by, measure), on=list(by))


LEFT_OUT = {"a data set": lambda name: name, "all sets of a domain": lambda name: data.REGISTRY[name].domain}


def without_one(d: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """How far each group's crossover and its upper limit hang on any one data set, or domain (:func:`crossovers`).

    ``least``, ``most`` and ``highest limit`` are those of all sets but those ``left out``, ``without`` names these; it
    is empty where none moves it. A group that has fewer than two sets without them, or one rate, is left out.
    """
    ends = {"least": (0, np.argmin), "most": (0, np.argmax), "highest limit": (2, np.argmax)}

    def enough(part: pd.DataFrame) -> bool:
        sets = part.groupby("group").dataset.nunique()
        return part.rate.nunique() > 1 and sets.sum() - sets.max() > 1

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        values, rates = curves(part, "d")
        groups = part.drop_duplicates("dataset").group
        without = stats.crossovers_without(values, rates, groups)
        names, limits, row = list(without), np.array(list(without.values())), {}
        for end, (column, extreme) in ends.items():
            at = extreme(limits[:, column])
            moved = limits[:, column].min() < limits[:, column].max()
            row |= {end: limits[at, column], f"{end}, without": names[at] if moved else ""}
        return row | {"sets": len(groups), "lowest_rate": rates.min(), "highest_rate": rates.max()}

    parts = {}
    for kind, group_of in LEFT_OUT.items():
        grouped = d.assign(group=d.dataset.map(group_of))
        parts[kind] = table(grouped.groupby(list(by)).filter(enough), by, measure)
    return below(parts, "left out")


RATES_SHOWN = ("crossover", "low", "high", "least", "most", "highest limit")  # columns of noise rates


def readable(crossovers: pd.DataFrame) -> pd.DataFrame:
    """A table of crossovers for people: percentages, ``< 0 %`` for always better and ``> 40 %`` for never."""
    if crossovers.empty:
        return crossovers
    frame = crossovers.copy()
    for name in frame.columns.intersection(RATES_SHOWN, sort=False):
        limits = zip(frame[name], frame.lowest_rate, frame.highest_rate, strict=True)
        frame[name] = [None if np.isnan(x) else stats.crossover_label(x, [low, high]) for x, low, high in limits]
    if "keep_fraction" in frame:
        pruned = (100 * (1 - frame.keep_fraction)).round(6)
        frame.insert(list(frame).index("keep_fraction"), "pruned (%)", pruned)
    names = {"p_always": "P(always better)", "p_never": "P(never better)", "low": "95 % low", "high": "95 % high"}
    return frame.drop(columns=["lowest_rate", "highest_rate", "keep_fraction"], errors="ignore").rename(columns=names)
