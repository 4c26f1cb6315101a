"""What stands behind one statement: the arithmetic, the table with its row, the raw rows."""

import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from datalab.record import folder, rawrows
from datalab.record.checks import tablediff
from datalab.record.tables import exact

MOST_ROWS = 3000  # raw rows on one page; beyond that it names the files
MOST_LINES, MOST_LETTERS = 2000, 500_000  # of a table on one page; beyond that it names the file
MOST_MEANS = 6  # outcomes whose means a data set's line shows
_FILE = "raw file"
_GRID = 16  # a column of fractions that has more values than this was measured: no axis of a study has as many
_FIRST = ("macro_f1", "accuracy", "balanced_accuracy", "precision", "recall", "ece")  # outcomes that most ask for
_CHECKS = "tables/1_checks.csv"
Text = tuple[str, ...]


class Lines(NamedTuple):
    """A table as text: its head, and its rows with whether each was asked for; a page takes the first ``fit``."""

    columns: Text
    rows: list[tuple[bool, Text]]
    fit: int


class DataSet(NamedTuple):
    """A data set's raw rows as text, by file; how many there are, shown or not; and its means."""

    name: str
    count: int
    means: Text
    files: dict[str, list[Text]]


class RawRows(NamedTuple):
    """The raw rows a statement rests on: what all have in common, and by data set the columns in which they differ.

    ``heads`` name the means: a measured column, and the method where these are few. ``left`` rows are only in files.
    """

    same: dict[str, str]
    columns: Text
    heads: Text
    sets: list[DataSet]
    seeds: int
    left: int


def checks(record: Path) -> dict[str, list[dict[str, str]]]:
    """The paper audit's recomputations by statement, from the record's own table; empty where it was not run."""
    if not folder.has(record, _CHECKS):
        return {}
    by_statement = tablediff.read(folder.inside(record, _CHECKS)).groupby("statement", sort=False)
    return {statement: rows.to_dict("records") for statement, rows in by_statement}


def table(record: Path, path: str, row: str | None) -> Lines:
    """A table of the record as text; marked are the rows that a statement's ``row`` names.

    Where ``row`` is the key of a row (its first cell, or its first cells joined by ", "), that row is marked; else
    those of whose cells the label holds the most letters.
    """
    frame = tablediff.read(folder.inside(record, path))
    rows = list(frame.itertuples(index=False, name=None))
    label = (row or "").casefold()
    marked = [label != "" and f"{', '.join(cells)}, ".casefold().startswith(f"{label}, ") for cells in rows]
    if not any(marked):
        letters = [_letters(cells, label) for cells in rows]
        most = max(letters, default=0)
        marked = [0 < n == most for n in letters]
    totals = itertools.accumulate(sum(map(len, cells)) for cells in rows[:MOST_LINES])
    fit = sum(total <= MOST_LETTERS for total in totals)
    return Lines(tuple(frame), list(zip(marked, rows, strict=True)), fit)


def _letters(cells: Text, label: str) -> int:
    """How many letters of a label are whole cells of a row."""
    words = {cell.casefold() for cell in cells if cell}
    here = (word for word in words if word in label)  # few of them: each costs a pattern
    return sum(len(word) for word in here if re.search(rf"(?<![\w.]){re.escape(word)}(?![\w.])", label))


def by_kind(paths: Sequence[str], read: Callable[[str], pd.DataFrame]) -> list[pd.DataFrame]:
    """The rows of raw files, without pixels, with each one's path: a frame for all files of the same columns.

    ``read`` gives the rows of one path.
    """
    kinds: dict[Text, list[pd.DataFrame]] = {}
    for path in paths:
        rows = read(path).drop(columns="pixels", errors="ignore").assign(**{_FILE: path})
        kinds.setdefault(tuple(rows), []).append(rows)
    return [pd.concat(parts, ignore_index=True) for parts in kinds.values()]


def raw_rows(where: rawrows.Where, kinds: Sequence[pd.DataFrame]) -> RawRows:
    """The rows of :func:`by_kind` that match ``where``, without columns that are empty in all of them.

    Of very many rows each data set shows as many as any other.
    """
    parts = [rows[rawrows.matches(rows, where)] for rows in kinds]
    rows = pd.concat([part for part in parts if len(part)], ignore_index=True).dropna(axis=1, how="all")
    files = rows.pop(_FILE)
    seeds = rows["seed"].nunique() if "seed" in rows else 0
    names = (rows.pop("dataset") if "dataset" in rows else pd.Series("", rows.index)).astype(str)
    same = {name: exact(rows[name].iloc[0]) for name in rows if len(rows) > 1 and rows[name].nunique(dropna=False) == 1}
    rows = rows.drop(columns=list(same))
    measured = [name for name in rows if rows[name].dtype.kind == "f" and rows[name].nunique() > _GRID]
    outcomes = [name for name in _FIRST if name in measured] or measured
    rows = rows[[*dict.fromkeys([*rows.columns.difference(measured, sort=False), *outcomes, *measured])]]
    method = (rows["method"] if "method" in rows else pd.Series("", rows.index)).fillna("").astype(str)
    method = method if method.nunique() <= MOST_MEANS else method.map(lambda _: "")
    means = rows[outcomes[: MOST_MEANS // method.nunique()]].groupby([names, method]).mean().unstack()
    texts = means.map(lambda value: "–" if pd.isna(value) else f"{value:.4g}")
    counts = names.value_counts(sort=False)
    sets = {name: DataSet(name, n, tuple(texts.loc[name]) if len(texts) else (), {}) for name, n in counts.items()}
    most = len(rows) if len(rows) <= MOST_ROWS else max(1, MOST_ROWS // len(counts))
    shown = rows[rows.groupby(names).cumcount() < most].astype(object).map(exact)
    for i, texts_of_row in zip(shown.index, shown.to_numpy().tolist(), strict=True):
        sets[names[i]].files.setdefault(files[i], []).append(tuple(texts_of_row))
    heads = tuple(", ".join(filter(None, column)) for column in means)
    return RawRows(same, tuple(rows), heads, list(sets.values()), seeds, len(rows) - len(shown))
