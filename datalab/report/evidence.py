"""What stands behind one statement: the arithmetic, the table with its row, the raw rows."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from datalab.record import folder, rawrows, tablediff
from datalab.record.tables import exact

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 3000  # raw rows on one page; beyond that it names the files
_CHECKS = "tables/1_checks.csv"
Text = tuple[str, ...]


class Lines(NamedTuple):
    """A table as text: its head, and its rows with whether each is one that was asked for."""

    columns: Text
    rows: list[tuple[bool, Text]]


class RawRows(NamedTuple):
    """All raw rows a statement rests on, as text, by file. ``left`` more are in the files, for want of room."""

    columns: Text
    files: dict[str, list[Text]]
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
    keys = [[", ".join(cells[:width]).casefold() for width in range(1, len(cells) + 1)] for cells in rows]
    marked = [label != "" and label in of_row for of_row in keys]
    if not any(marked):
        letters = [_letters(cells, label) for cells in rows]
        marked = [0 < n == max(letters) for n in letters]
    return Lines(tuple(frame), list(zip(marked, rows, strict=True)))


def _letters(cells: Text, label: str) -> int:
    """How many letters of a label are whole cells of a row."""
    words = {cell.casefold() for cell in cells if cell}
    return sum(len(word) for word in words if re.search(rf"(?<![\w.]){re.escape(word)}(?![\w.])", label))


def raw_rows(where: rawrows.Where, cells: Sequence[str], read: "Callable[[str], pd.DataFrame]") -> RawRows:
    """The raw rows of ``cells`` that match ``where``, without pixels and without columns that are empty in all of them.

    ``read`` gives the rows of one cell's path.
    """
    parts, count = {}, 0
    for path in cells:
        part = read(path)[rawrows.matches(read(path), where)]
        if len(part) and count < MOST_ROWS:
            parts[path] = part.head(MOST_ROWS - count)
        count += len(part)
    names = dict.fromkeys(name for part in parts.values() for name in part if name != "pixels")
    columns = [name for name in names if any(name in part and part[name].notna().any() for part in parts.values())]
    files = {path: part.reindex(columns=columns).astype(object).map(exact) for path, part in parts.items()}
    texts = {path: list(file.itertuples(index=False, name=None)) for path, file in files.items()}
    return RawRows(tuple(columns), texts, max(0, count - MOST_ROWS))
