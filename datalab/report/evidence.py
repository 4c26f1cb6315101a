"""What stands behind one statement: the arithmetic, the table with its row, the raw rows."""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datalab.record import rawrows
from datalab.record.manifest import SectionRecord
from datalab.record.tables import exact

MOST_ROWS = 3000  # raw rows on one page; beyond that it names the files
_CHECKS = "tables/1_checks.csv"


@dataclass(frozen=True)
class Lines:
    """A table as text: its head, and its rows with whether each is one that was asked for."""

    columns: tuple[str, ...]
    rows: tuple[tuple[bool, tuple[str, ...]], ...]


@dataclass(frozen=True)
class RawFile:
    """The raw rows of one file that a statement rests on, their values as text in the page's columns."""

    path: str
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class RawRows:
    """All raw rows a statement rests on, by file. ``left`` more are in the files, for want of room."""

    columns: tuple[str, ...]
    files: tuple[RawFile, ...]
    left: int


def checks(record: Path) -> dict[str, list[dict[str, str]]]:
    """The paper audit's recomputations by statement, from the record's own table; empty where it was not run."""
    path, found = record / _CHECKS, {}
    if path.exists():
        with open(path, encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                found.setdefault(row["statement"], []).append(row)
    return found


def table(record: Path, path: str, row: str | None) -> Lines:
    """A table of the record; marked are the rows that the statement's ``row`` names."""
    with open(record / path, encoding="utf-8", newline="") as stream:
        columns, *rows = csv.reader(stream)
    named = [_named(cells, (row or "").casefold()) for cells in rows]
    most = max(named, default=0)
    return Lines(tuple(columns), tuple((0 < most == n, tuple(cells)) for n, cells in zip(named, rows, strict=True)))


def _named(cells: list[str], label: str) -> int:
    """How many letters of a label are whole cells of a row."""
    found = {cell.casefold() for cell in cells if cell}
    return sum(len(cell) for cell in found if re.search(rf"(?<![\w.]){re.escape(cell)}(?![\w.])", label))


class Raw:
    """The raw rows of a record's sections; a section's files are read once."""

    def __init__(self, record: Path) -> None:
        self._record = record
        self._read: dict[str, Any] = {}

    def of(self, claim: Mapping[str, Any], entry: SectionRecord) -> RawRows | None:
        """The raw rows of a claim; ``None`` where it names none."""
        if not claim.get("raw"):
            return None
        parts, count = [], 0
        for path, frame in self._frames(entry):
            part = frame[rawrows.matches(frame, claim["raw"]["where"])]
            if len(part) and count < MOST_ROWS:
                parts.append((path, part.head(MOST_ROWS - count)))
            count += len(part)
        columns = [c for c in dict.fromkeys(c for _, part in parts for c in part) if c != "pixels"]
        columns = [c for c in columns if any(c in part and part[c].notna().any() for _, part in parts)]
        files = tuple(RawFile(path, tuple(_texts(part.reindex(columns=columns)))) for path, part in parts)
        return RawRows(tuple(columns), files, max(0, count - MOST_ROWS))

    def _frames(self, entry: SectionRecord) -> Iterator[tuple[str, Any]]:
        for path in entry.cells:
            if path not in self._read:
                self._read[path] = rawrows.read(self._record / path)[1]
            yield path, self._read[path]


def _texts(frame: Any) -> Iterator[tuple[str, ...]]:
    for row in frame.astype(object).itertuples(index=False, name=None):
        yield tuple(exact(value) for value in row)
