"""The raw result rows of a record: read back with what made them, and those that one statement rests on."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datalab.errors import UserError
from datalab.sweep import Finished, rowfiles

MOST_BYTES = 2**30  # of a section's raw rows unpacked; the paper's largest have a hundredth of it
Where = Mapping[str, Any] | Sequence[Mapping[str, Any]]
LENGTHS = "lengths"  # of a task: those that each of its models chose from; its rows do not repeat them


def with_lengths(frame: pd.DataFrame, parameters: Mapping[str, Any]) -> pd.DataFrame:
    """A task's rows with :data:`LENGTHS` as a column, where its ``parameters`` name any and no column tells them."""
    lengths = parameters.get(LENGTHS)
    if not lengths or "steps" in frame:
        return frame
    return frame.assign(**{LENGTHS: ", ".join(map(str, lengths))})


def matches(frame: pd.DataFrame, where: Where) -> np.ndarray:
    """Which rows (n,) have, in each column named in ``where``, its value or one of its values.

    Of several mappings any one will do. Numbers match to 9 digits. A frame that lacks a column has no such row: a
    record's cells differ in kind; but where the value is ``None``, such rows are those that have none.
    """
    if not isinstance(where, Mapping):
        return np.logical_or.reduce([matches(frame, condition) for condition in where])
    needed = {column for column, value in where.items() if value is not None}
    mask = np.full(len(frame), needed <= set(frame.columns))
    for column in frame.columns.intersection(list(where)) if mask.any() else ():
        values = where[column] if isinstance(where[column], list | tuple) else [where[column]]
        mask &= np.logical_or.reduce([_equal(frame[column], value) for value in values])
    return mask


def counted(frames: Iterable[pd.DataFrame], where: Where, claim_id: str) -> dict[str, Any]:
    """``where`` as JSON can hold it, with the number of rows in ``frames`` that match it.

    Raises :class:`UserError` when there are none.
    """
    plain = _plain(where)
    rows = sum(int(matches(frame, plain).sum()) for frame in frames)
    if not rows:
        raise UserError(f"claim {claim_id}: no raw row of this section has {plain}")
    return {"where": plain, "rows": rows}


class Reader:
    """Reads file after file, to :data:`MOST_BYTES` in all: small ones, each within its bounds, unpack to any memory."""

    def __init__(self) -> None:
        self._left = MOST_BYTES

    def by_task(self, path: Path) -> list[tuple[Finished, pd.DataFrame]]:
        """A file's tasks, as it describes them, each with its rows.

        Raises :class:`UserError` where it is torn, too large, too much with those before it, or does not say what made
        it.
        """
        parts = rowfiles.by_task(path)
        if parts is None:
            words = "torn, too large, or silent on what made them; run the section again"
            raise UserError(f"raw rows {path.name}: {words}")
        self._left -= sum(int(frame.memory_usage(deep=True).sum()) for _, frame in parts)
        if self._left < 0:
            raise UserError(f"raw rows: unpacked they are more than {MOST_BYTES >> 20} MiB, and no section's are")
        return parts


def _equal(column: pd.Series, value: Any) -> np.ndarray:
    if value is None:
        return column.isna().to_numpy()
    if isinstance(value, int | float) and not isinstance(value, bool):
        numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float)
        return abs(numbers - value) <= 1e-9 * max(1.0, abs(value))
    return (column == value).to_numpy(dtype=bool)


def _plain(value: Any) -> Any:
    if isinstance(value, str | bool):
        return value
    if isinstance(value, Mapping):
        return {column: _plain(wanted) for column, wanted in value.items()}
    if hasattr(value, "__iter__"):
        return [_plain(wanted) for wanted in value]
    value = value.item() if hasattr(value, "item") else value
    return int(value) if isinstance(value, float) and math.isfinite(value) and value == int(value) else value
