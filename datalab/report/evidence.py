"""What stands behind one statement: the arithmetic, the table with its row, the raw rows."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from datalab.record import rawrows, tablediff
from datalab.record.manifest import SectionRecord
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
    if not (record / _CHECKS).exists():
        return {}
    by_statement = tablediff.read(record / _CHECKS).groupby("statement", sort=False)
    return {statement: rows.to_dict("records") for statement, rows in by_statement}


def table(record: Path, path: str, row: str | None) -> Lines:
    """A table of the record as text; marked are the rows that a statement's ``row`` names.

    Where ``row`` is the key of a row (its first cell, or its first cells joined by ", "), that row is marked; else
    those of whose cells the label holds the most letters.
    """
    frame = tablediff.read(record / path)
    rows = list(frame.itertuples(index=False, name=None))
    label = (row or "").casefold()
    marked = [_is_key(cells, label) for cells in rows]
    if not any(marked):
        letters = [_letters(cells, label) for cells in rows]
        most = max(letters, default=0)
        marked = [0 < n == most for n in letters]
    return Lines(tuple(frame), list(zip(marked, rows, strict=True)))


def _is_key(cells: Text, label: str) -> bool:
    keys = (", ".join(cells[:width]).casefold() for width in range(1, len(cells) + 1))
    return label != "" and label in keys


def _letters(cells: Text, label: str) -> int:
    """How many letters of a label are whole cells of a row."""
    words = {cell.casefold() for cell in cells if cell}
    return sum(len(word) for word in words if re.search(rf"(?<![\w.]){re.escape(word)}(?![\w.])", label))


class Raw:
    """The raw rows of a record's sections; a section's files are read once."""

    def __init__(self, record: Path) -> None:
        self._record = record
        self._read: dict[str, pd.DataFrame] = {}

    def of(self, claim: Mapping[str, Any], entry: SectionRecord) -> RawRows:
        """The raw rows that a claim names, without pixels and without columns that are empty in all of them."""
        parts, count = {}, 0
        for path in entry.cells:
            if path not in self._read:
                self._read[path] = rawrows.read(self._record / path)[1]
            part = self._read[path][rawrows.matches(self._read[path], claim["raw"]["where"])]
            if len(part) and count < MOST_ROWS:
                parts[path] = part.head(MOST_ROWS - count)
            count += len(part)
        filled = dict.fromkeys(c for part in parts.values() for c in part if c != "pixels" and part[c].notna().any())
        columns = [c for c in dict.fromkeys(c for part in parts.values() for c in part) if c in filled]
        files = {path: _texts(part.reindex(columns=columns)) for path, part in parts.items()}
        return RawRows(tuple(columns), files, max(0, count - MOST_ROWS))


def _texts(frame: "pd.DataFrame") -> list[Text]:
    rows = frame.astype(object).itertuples(index=False, name=None)
    return [tuple(exact(value) for value in row) for row in rows]
