"""Two tables as text, cell by cell: which rows belong together, and how far a pair of values is from being equal."""

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Literal, NamedTuple

Kind = Literal["same", "within tolerance", "within interval", "different"]
SAME, TOLERANCE, INTERVAL, DIFFERENT = KINDS = ("same", "within tolerance", "within interval", "different")

TINY = 1e-12  # what is left of zero after cancellation: two values this close are equal whatever their ratio
KEY_DIGITS = 4  # a fraction with more significant digits is a result; a setting (0.125, 12.5) has fewer
# Columns in which a table that repeats the claims (it has `measured`) repeats what was measured for one.
REPEATED = ("measured", "low", "high", "effect_size", "why")

_NUMBER = re.compile(r"(?P<beyond>[<>] )?(?P<number>[-+]?(?:\d+(?:\.\d+)?(?:e[-+]?\d+)?|inf))(?P<unit> %)?")
_ESTIMATE = re.compile(r"(?P<value>[^\[\]]+) \[(?P<low>[^,]+), (?P<high>[^,]+)\]")
_LOW = re.compile(r"(?:^|(?<=[ _]))low(?=$|,)")
Pair = tuple[str, str]


@dataclass(frozen=True)
class Grid:
    """A ``.csv`` as text: its columns' names and its rows."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def as_dicts(self) -> list[dict[str, str]]:
        """Each row by its columns' names; a cell that a short row lacks is empty."""
        return [dict.fromkeys(self.columns, "") | dict(zip(self.columns, row, strict=False)) for row in self.rows]


@dataclass(frozen=True)
class Cell:
    """A cell whose text differs. ``row`` are the values of the table's key columns, or the row's number alone."""

    row: tuple[str, ...]
    column: str
    a: str
    b: str
    kind: Kind
    timing: bool = False


@dataclass(frozen=True)
class TableDiff:
    """What differs between two tables. ``key`` are the columns that name a row; empty where its number does."""

    key: tuple[str, ...] = ()
    compared: int = 0
    cells: tuple[Cell, ...] = ()
    rows_only_a: tuple[tuple[str, ...], ...] = ()
    rows_only_b: tuple[tuple[str, ...], ...] = ()
    columns_only_a: tuple[str, ...] = ()
    columns_only_b: tuple[str, ...] = ()
    reordered: bool = False


class Number(NamedTuple):
    """A number with its unit; ``beyond`` is ``<`` or ``>`` where it lies past the end of a grid (``< 0 %``)."""

    printed: float
    unit: str
    beyond: str

    @property
    def value(self) -> float:
        """The number, as far as it is known: infinite past the end of a grid."""
        return {"<": -math.inf, ">": math.inf}.get(self.beyond, self.printed)


def read(path: Path) -> Grid:
    """The ``.csv`` at ``path``, every cell as the text it is."""
    with open(path, encoding="utf-8", newline="") as stream:
        columns, *rows = list(csv.reader(stream)) or [[]]
    return Grid(tuple(columns), tuple(map(tuple, rows)))


def diff(a: Grid, b: Grid, tolerance: float, timed: Set[str] = frozenset()) -> TableDiff:
    """Compare two tables. ``timed`` are the claims whose measured value is time or memory, wherever it is repeated."""
    shared = [column for column in a.columns if column in b.columns]
    key = row_key(a, b)
    rows_a, rows_b = (_by_key(grid, key) for grid in (a, b))
    both = [name for name in rows_a if name in rows_b]
    ends = _agreed(_ends(a.columns), _ends(b.columns))
    cells = (
        Cell(
            name,
            column,
            rows_a[name][column],
            rows_b[name][column],
            kind,
            _is_timed([rows_a[name], rows_b[name]], column, timed),
        )
        for name in both
        for column, kind in _kinds(rows_a[name], rows_b[name], shared, ends, tolerance)
    )
    return TableDiff(
        key=key,
        compared=len(both) * len(shared),
        cells=tuple(cells),
        rows_only_a=tuple(name for name in rows_a if name not in rows_b),
        rows_only_b=tuple(name for name in rows_b if name not in rows_a),
        columns_only_a=tuple(column for column in a.columns if column not in b.columns),
        columns_only_b=tuple(column for column in b.columns if column not in a.columns),
        reordered=both != [name for name in rows_b if name in rows_a]
        or shared != [column for column in b.columns if column in a.columns],
    )


def row_key(a: Grid, b: Grid) -> tuple[str, ...]:
    """The fewest leading columns that name each row of both tables; none where results would have to serve as names."""
    orders = ([c for c in one.columns if c in other.columns] for one, other in ((a, b), (b, a)))
    leading = [one for one, other in takewhile(lambda pair: pair[0] == pair[1], zip(*orders, strict=True))]
    grids = [grid.as_dicts() for grid in (a, b)]
    settings = list(takewhile(lambda column: not any(_is_result(row[column]) for g in grids for row in g), leading))
    for width in range(1, len(settings) + 1):
        key = settings[:width]
        if all(len({tuple(row[c] for c in key) for row in grid}) == len(grid) for grid in grids):
            return tuple(key)
    return ()


def kind(a: str, b: str, interval_a: Pair | None, interval_b: Pair | None, tolerance: float) -> Kind:
    """How far two cells are apart. An interval is the texts of its two limits; a cell ``2 [1, 3]`` has its own."""
    if a == b:
        return SAME
    numbers_a, numbers_b = _numbers(a), _numbers(b)
    if not numbers_a or not numbers_b:
        return DIFFERENT
    if len(numbers_a) == len(numbers_b) and all(
        _near(x, y, tolerance) for x, y in zip(numbers_a, numbers_b, strict=True)
    ):
        return TOLERANCE
    limits_a = numbers_a[1:] or _limits(interval_a)
    limits_b = numbers_b[1:] or _limits(interval_b)
    inside = _inside(numbers_a[0], limits_b) and _inside(numbers_b[0], limits_a)
    return INTERVAL if inside else DIFFERENT


def _by_key(grid: Grid, key: Sequence[str]) -> dict[tuple[str, ...], dict[str, str]]:
    rows = grid.as_dicts()
    if not key:
        return {(str(number),): row for number, row in enumerate(rows)}
    return {tuple(row[column] for column in key): row for row in rows}


def _is_result(text: str) -> bool:
    """Whether a cell holds a measured fraction, which cannot name a row."""
    number = _NUMBER.fullmatch(text)
    if not number or not set(".e") & set(number["number"]):
        return False
    return len(re.sub(r"e.*|\D", "", number["number"]).strip("0")) > KEY_DIGITS


def _ends(columns: Sequence[str]) -> dict[str, tuple[str, str, str]]:
    """For each limit of an interval: the column it is the limit of, and the interval's low and high column.

    ``F1 low`` belongs to ``F1``; a limit without a namesake (``low``, ``95 % low``) to the value it stands behind.
    """
    found: dict[str, tuple[str, str, str]] = {}
    pairs = {c: (c, _LOW.sub("high", c)) for c in columns if _LOW.search(c) and _LOW.sub("high", c) in columns}
    limits = {end for pair in pairs.values() for end in pair}
    for place, low in enumerate(columns):
        if low in pairs:
            namesake = " ".join(_LOW.sub("", low).split()).replace(" ,", ",")
            before = [column for column in columns[:place] if column not in limits]
            value = namesake if namesake in columns else before[-1] if before else None
            if value is not None:
                found |= dict.fromkeys(pairs[low], (value, *pairs[low]))
    return found


def _agreed(
    a: Mapping[str, tuple[str, str, str]], b: Mapping[str, tuple[str, str, str]]
) -> dict[str, tuple[str, str, str]]:
    return {end: where for end, where in a.items() if b.get(end) == where}


def _kinds(
    a: Mapping[str, str],
    b: Mapping[str, str],
    shared: Sequence[str],
    ends: Mapping[str, tuple[str, str, str]],
    tolerance: float,
) -> Iterator[tuple[str, Kind]]:
    """The columns of one pair of rows in which they differ, each with its kind.

    A limit is never inside its own interval: where it moved, it is as far off as the value whose limit it is.
    """
    intervals: dict[str, Pair] = {}
    for value, low, high in ends.values():
        intervals.setdefault(value, (low, high))

    def of(column: str) -> Kind:
        pair = None if column in ends else intervals.get(column)
        limits = [None if pair is None else (row[pair[0]], row[pair[1]]) for row in (a, b)]
        return kind(a[column], b[column], limits[0], limits[1], tolerance)

    for column in shared:
        found = of(column)
        if found == DIFFERENT and column in ends and of(ends[column][0]) == INTERVAL:
            found = INTERVAL
        if found != SAME:
            yield column, found


def _is_timed(rows: Sequence[Mapping[str, str]], column: str, timed: Set[str]) -> bool:
    repeats = column in REPEATED and all("measured" in row for row in rows)
    return repeats and any(not timed.isdisjoint(row.values()) for row in rows)


def _numbers(text: str) -> tuple[Number, ...]:
    """The number a cell holds, with its interval's limits where it has them; nothing where it is text."""
    estimate = _ESTIMATE.fullmatch(text)
    parts = estimate.groups() if estimate else (text,)
    found = [_number(part) for part in parts]
    return () if None in found else tuple(found)


def _number(text: str) -> Number | None:
    match = _NUMBER.fullmatch(text)
    return Number(float(match["number"]), match["unit"] or "", (match["beyond"] or "").strip()) if match else None


def _near(x: Number, y: Number, tolerance: float) -> bool:
    if x == y:
        return True
    if x.unit != y.unit or not (math.isfinite(x.value) and math.isfinite(y.value)):
        return False
    allowed = max(tolerance * max(abs(x.value), abs(y.value)), TINY if tolerance else 0.0)
    return abs(x.value - y.value) <= allowed


def _limits(interval: Pair | None) -> tuple[Number, ...]:
    found = [_number(text) for text in interval or ()]
    return () if None in found else tuple(found)


def _inside(x: Number, limits: Sequence[Number]) -> bool:
    return len(limits) == 2 and limits[0].value <= x.value <= limits[1].value and x.unit == limits[0].unit
