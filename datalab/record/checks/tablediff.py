"""Two tables as text, cell by cell: which rows belong together, and how far a pair of values is from being equal."""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd

from datalab.errors import UserError

Kind = Literal["same", "within tolerance", "agrees (other rounding)", "within interval", "different"]
SAME, TOLERANCE, ROUNDING, INTERVAL, DIFFERENT = Kind.__args__
AGREEING = (SAME, TOLERANCE, ROUNDING)

# Another processor rounds otherwise, and training carries that on. Two values mean the same where an estimate moved by
# under this share of its interval's half-width, and its limits by under that; what has no interval moved by under this
# share of itself, or, beside estimates that all agree, which it follows (a p-value, an effect size), by under that.
# With a tolerance of 0 nothing but bytes is asked for.
OF_HALF_WIDTH, OF_ITS_LIMITS, ALONE, FOLLOWING = 1 / 20, 1 / 5, 1e-3, 0.1

MOST_LETTERS, MOST_CELLS, MOST_COLUMNS = 2**25, 1_000_000, 1000  # of a table: it may be a stranger's
TINY = 1e-12  # what is left of zero after cancellation: two values this close are equal whatever their ratio
KEY_DIGITS = 4  # a fraction with more significant digits is a result; a setting (0.125, 12.5) has fewer
# Columns in which a table that repeats the claims (it has `measured`) repeats what was measured for one.
REPEATED = ("measured", "low", "high", "effect_size", "why")

_ANY_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
_BESIDE = re.compile(r"; paper .*")  # what a cell of a table in the paper's shape says of the paper
_NUMBER = re.compile(r"(?P<beyond>[<>] )?(?P<number>[-+]?(?:\d+(?:\.\d+)?(?:e[-+]?\d+)?|inf))(?P<unit> %)?")
_ESTIMATE = re.compile(r"(?P<value>[^\[\]]+) \[(?P<low>[^,]+), (?P<high>[^,]+)\]")
_LOW = re.compile(r"(?:^|(?<=[ _]))low(?=$|,)")
Texts = Sequence[str]
Row = Mapping[str, str]


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
    """What differs between two tables, or what is known of one that a record alone has (``only``; empty: both do).

    ``timing`` marks a table of measured time; ``key`` are the columns that name a row; empty where its number does.
    """

    path: str = ""
    timing: bool = False
    only: Literal["", "a", "b"] = ""
    key: tuple[str, ...] = ()
    compared: int = 0
    cells: tuple[Cell, ...] = ()
    rows_only_a: tuple[tuple[str, ...], ...] = ()
    rows_only_b: tuple[tuple[str, ...], ...] = ()
    columns_only_a: tuple[str, ...] = ()
    columns_only_b: tuple[str, ...] = ()
    reordered: bool = False

    def differs(self, timing: bool) -> bool:
        """Whether it differs in more than the tolerance and another rounding; measured time only with ``timing``."""
        if self.timing and not timing:
            return False
        listed = self.only or self.rows_only_a or self.rows_only_b or self.columns_only_a or self.columns_only_b
        return bool(listed) or any(cell.kind not in AGREEING and (timing or not cell.timing) for cell in self.cells)


class Number(NamedTuple):
    """A number with its unit; ``beyond`` is ``<`` or ``>`` where it lies past the end of a grid (``< 0 %``)."""

    printed: float
    unit: str
    beyond: str

    @property
    def value(self) -> float:
        """The number, as far as it is known: infinite past the end of a grid."""
        return {"<": -math.inf, ">": math.inf}.get(self.beyond, self.printed)


def read(path: Path) -> pd.DataFrame:
    """The ``.csv`` at ``path``, every cell as its text; what a row lacks is empty, what the head lacks is numbered.

    Raises :class:`UserError` where no section writes such a one: a name twice, too large, no CSV.
    """
    with open(path, encoding="utf-8", newline="") as stream:
        text = stream.read(MOST_LETTERS + 1)
    if len(text) > MOST_LETTERS:
        raise UserError(f"table {path.name}: more than {MOST_LETTERS:,} letters")
    try:
        columns, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
    except csv.Error as error:  # a cell of over 100,000 letters
        raise UserError(f"table {path.name}: {error}") from None
    width = max(map(len, (columns, *rows)))
    if len(rows) * width > MOST_CELLS or width > MOST_COLUMNS:
        raise UserError(f"table {path.name}: more than {MOST_CELLS:,} cells, or than {MOST_COLUMNS:,} columns")
    columns += [f"(column {i + 1})" for i in range(len(columns), width)]
    if len(set(columns)) < width:
        raise UserError(f"table {path.name}: two columns of one name")
    return pd.DataFrame([row + [""] * (width - len(row)) for row in rows], columns=columns, dtype=object)


def diff(a: pd.DataFrame, b: pd.DataFrame, tolerance: float, timed: Set[str] = frozenset()) -> TableDiff:
    """Compare two tables. ``timed`` are the claims whose measured value is time or memory, wherever it is repeated."""
    key = row_key(a, b)
    rows_a, rows_b = _by_key(a, key), _by_key(b, key)
    rows, columns = _shared(rows_a, rows_b), _shared(a.columns, b.columns)
    intervals = _shared(_intervals(a.columns), _intervals(b.columns))
    repeated = [column for column in REPEATED if "measured" in columns and column in columns]
    cells = []
    for row in rows:
        pair = rows_a[row], rows_b[row]
        is_timed = any(not timed.isdisjoint(side.values()) for side in pair)
        for column, kind in kinds(*pair, columns, intervals, tolerance).items():
            if kind != SAME:
                cells.append(Cell(row, column, *(side[column] for side in pair), kind, is_timed and column in repeated))
    return TableDiff(
        key=key,
        compared=len(rows) * len(columns),
        cells=tuple(cells),
        rows_only_a=tuple(row for row in rows_a if row not in rows_b),
        rows_only_b=tuple(row for row in rows_b if row not in rows_a),
        columns_only_a=tuple(column for column in a if column not in b),
        columns_only_b=tuple(column for column in b if column not in a),
        reordered=rows != _shared(rows_b, rows_a) or columns != _shared(b.columns, a.columns),
    )


def row_key(a: pd.DataFrame, b: pd.DataFrame) -> tuple[str, ...]:
    """The fewest leading columns that name each row of both tables; none where results would have to serve as names."""
    settings = []
    for column, other in zip(_shared(a.columns, b.columns), _shared(b.columns, a.columns), strict=True):
        if column != other or any(table[column].map(_is_result).any() for table in (a, b)):
            break
        settings.append(column)
        if not any(table.duplicated(settings).any() for table in (a, b)):
            return tuple(settings)
    return ()


def kind(a: str, b: str, tolerance: float, interval_a: Texts = (), interval_b: Texts = ()) -> Kind:
    """How far two cells are apart. An interval is the texts of its two limits; a cell ``2 [1, 3]`` has its own."""
    if a == b:
        return SAME
    numbers_a, numbers_b = _numbers(a), _numbers(b)
    if not numbers_a or not numbers_b or _BESIDE.findall(a) != _BESIDE.findall(b):
        return DIFFERENT
    pairs = zip(numbers_a, numbers_b, strict=False)
    if len(numbers_a) == len(numbers_b) and all(_near(x, y, tolerance) for x, y in pairs):
        return TOLERANCE
    limits_a = numbers_a[1:] or _all_numbers(interval_a)
    limits_b = numbers_b[1:] or _all_numbers(interval_b)
    if tolerance and _moved_little((numbers_a[0], *limits_a), (numbers_b[0], *limits_b)):
        return ROUNDING
    return INTERVAL if _inside(numbers_a[0], limits_b) and _inside(numbers_b[0], limits_a) else DIFFERENT


def _shared(names: Sequence, others: Sequence) -> list:
    return [name for name in names if name in others]


def _by_key(table: pd.DataFrame, key: Texts) -> dict[tuple[str, ...], Row]:
    rows = table.to_dict("records")
    names = ([row[column] for column in key] if key else [str(number)] for number, row in enumerate(rows))
    return dict(zip(map(tuple, names), rows, strict=True))


def _is_result(text: str) -> bool:
    """Whether a cell holds a measured fraction, which cannot name a row."""
    number = _NUMBER.fullmatch(text)
    if not number or not set(".e") & set(number["number"]):
        return False
    return len(re.sub(r"e.*|\D", "", number["number"]).strip("0")) > KEY_DIGITS


def _intervals(columns: Texts) -> list[tuple[str, str, str]]:
    """The columns of each interval: the value, its low and its high limit.

    ``F1 low`` belongs to ``F1``; a limit without a namesake (``low``, ``95 % low``) to the value it stands behind.
    """
    highs = {low: _LOW.sub("high", low) for low in columns if _LOW.search(low) and _LOW.sub("high", low) in columns}
    intervals, before = [], None
    for column in columns:
        if column in highs:
            namesake = " ".join(_LOW.sub("", column).split()).replace(" ,", ",")
            value = namesake if namesake in columns else before
            if value is not None:
                intervals.append((value, column, highs[column]))
        elif column not in highs.values():
            before = column
    return intervals


def kinds(
    a: Row, b: Row, columns: Texts, intervals: Sequence[tuple[str, str, str]], tolerance: float
) -> dict[str, Kind]:
    """The kind of each column's two cells in a pair of rows; of an interval are its value, low and high column.

    A limit is never inside its own interval: where it moved, it is as far off as the value whose limit it is.
    """
    limits = {value: (low, high) for value, low, high in reversed(intervals)}  # of several intervals the first
    by_column = {}
    for column in columns:
        texts = ([side[limit] for limit in limits.get(column, ())] for side in (a, b))
        by_column[column] = kind(a[column], b[column], tolerance, *texts)
    ends = {limit for _, *both in intervals for limit in both}
    for value, *both in intervals:
        as_far, numbers = by_column[value], (_all_numbers([side[name] for name in (value, *both)]) for side in (a, b))
        if tolerance and as_far in AGREEING and _moved_little(*numbers):
            as_far = ROUNDING
        if as_far in (ROUNDING, INTERVAL):
            by_column |= {limit: as_far for limit in both if by_column[limit] == DIFFERENT}
    estimates = [name for names in intervals for name in names if a[names[0]] and a[names[1]]]
    if tolerance and all(by_column[name] in AGREEING for name in estimates):
        share = FOLLOWING if estimates else ALONE
        beside = [column for column in columns if column not in ends or not estimates]
        by_column |= {c: ROUNDING for c in beside if by_column[c] == DIFFERENT and follows(a[c], b[c], share)}
    return by_column


def follows(a: str, b: str, share: float) -> bool:
    """Whether two cells say the same but for numbers, none of them a count, that moved by under ``share``."""
    if _ANY_NUMBER.sub("#", a) != _ANY_NUMBER.sub("#", b):
        return False
    pairs = zip(_ANY_NUMBER.findall(a), _ANY_NUMBER.findall(b), strict=True)
    return all(x == y or (set(".e") & {*x, *y} and math.isclose(float(x), float(y), rel_tol=share)) for x, y in pairs)


def _moved_little(a: Sequence[Number], b: Sequence[Number]) -> bool:
    """Whether an estimate with its two limits, those of ``a`` and ``b``, moved by under its shares of the half-width.

    A limit past the end of a grid must stay there; the half-width is then that of the other side.
    """
    if not len(a) == len(b) == 3 or any(x.unit != y.unit or x.beyond != y.beyond for x, y in zip(a, b, strict=True)):
        return False
    sides = [abs(limit.value - of[0].value) for of in (a, b) for limit in of[1:]]
    finite = [side for side in sides if math.isfinite(side)]
    half_width, shares = min(finite, default=0.0), (OF_HALF_WIDTH, OF_ITS_LIMITS, OF_ITS_LIMITS)
    pairs = zip(a, b, shares, strict=True)
    return all(x.value == y.value or abs(x.value - y.value) <= share * half_width for x, y, share in pairs)


def _numbers(text: str) -> tuple[Number, ...]:
    """The number a cell holds, with its interval's limits where it has them; nothing where it is text."""
    text = _BESIDE.sub("", text)
    estimate = _ESTIMATE.fullmatch(text)
    return _all_numbers(estimate.groups() if estimate else (text,))


def _all_numbers(texts: Texts) -> tuple[Number, ...]:
    """The numbers that ``texts`` are; nothing where one is none."""
    matches = [_NUMBER.fullmatch(text) for text in texts]
    if not all(matches):
        return ()
    return tuple(Number(float(m["number"]), m["unit"] or "", (m["beyond"] or "").strip()) for m in matches)


def _near(x: Number, y: Number, tolerance: float) -> bool:
    if x == y:
        return True
    known = x.unit == y.unit and not (x.beyond or y.beyond)
    return known and math.isclose(x.printed, y.printed, rel_tol=tolerance, abs_tol=TINY if tolerance else 0.0)


def _inside(x: Number, limits: Sequence[Number]) -> bool:
    return len(limits) == 2 and limits[0].value <= x.value <= limits[1].value and x.unit == limits[0].unit
