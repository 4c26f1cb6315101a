"""Sentences that follow the numbers: ahead, behind or open, with the interval. One maker for all sections."""

from collections.abc import Iterable

import pandas as pd


def digits(value: float, decimals: int = 3) -> str:
    """A number with its sign: ``+0.012``."""
    return f"{value:+.{decimals}f}"


def listed(names: Iterable[object], none: str = "none") -> str:
    """``a, b, c``, or ``none``."""
    return ", ".join(map(str, names)) or none


def standing(frame: pd.DataFrame, value: str, label: str, decimals: int = 3) -> str:
    """Which rows of a table are ahead (interval above 0), behind (below) and open, each with value and interval.

    ``value`` names the column, whose limits are ``value low`` and ``value high`` (else ``low`` and ``high``); ``label``
    names the column that says what the row is of.
    """
    low, high = (f"{value} {end}" if f"{value} {end}" in frame else end for end in ("low", "high"))

    def shown(row: pd.Series) -> str:
        interval = "" if pd.isna(row[low]) else f" [{row[low]:.{decimals}f}, {row[high]:.{decimals}f}]"
        name = f"{row[label]:g}" if isinstance(row[label], float) else row[label]
        return f"{name} ({digits(row[value], decimals)}{interval})"

    def named(part: pd.DataFrame) -> str:
        return listed(shown(row) for _, row in part.iterrows())

    ahead, behind = frame[frame[low] > 0], frame[frame[high] < 0]
    open_ = frame.drop(ahead.index.union(behind.index))
    return f"**Ahead**: {named(ahead)}. **Behind**: {named(behind)}. **Open**: {named(open_)}."
