"""What every section's tables are made of: means over data sets with their t-intervals. The data set is the unit."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from datalab import stats


def mean_with_interval(values: ArrayLike, name: str, confidence: float = 0.95) -> dict[str, float]:
    """``name``, ``name low`` and ``name high`` of values (n,), one a data set: without limits on fewer than two.

    Values that are not a number (a data set without the figure) are left out.
    """
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    low = high = np.nan
    if len(values) > 1:
        i = stats.t_interval(values, confidence)
        low, high = i.low, i.high
    return {name: values.mean() if len(values) else np.nan, f"{name} low": low, f"{name} high": high}


def by_set(rows: pd.DataFrame, column: str, /, **where: object) -> pd.Series:
    """The mean of a column over the rows that fit ``where``, one value a data set, in the rows' order of data sets."""
    for name, wanted in where.items():
        rows = rows[rows[name] == wanted]
    return rows.groupby("dataset", sort=False)[column].mean()


def digits(value: float, decimals: int = 3) -> str:
    """A number with its sign for a sentence: ``+0.012``."""
    return f"{value:+.{decimals}f}"


def cell_text(row: Mapping[str, float], name: str, printed: float | None, decimals: int = 3) -> str:
    """One cell of a table in the paper's shape: ``0.712 [0.650, 0.774]; paper 0.65``."""
    value, low, high = (row[each] for each in (name, f"{name} low", f"{name} high"))
    limits = "" if np.isnan(low) else f" [{low:.{decimals}f}, {high:.{decimals}f}]"
    return f"{value:.{decimals}f}{limits}; paper {'prints none' if printed is None else f'{printed:g}'}"


def with_holm(table: pd.DataFrame) -> pd.DataFrame:
    """The table with ``p (Holm)`` after its last column: ``p (Wilcoxon)`` corrected over all rows that have one."""
    tested = table["p (Wilcoxon)"].notna()
    corrected = stats.holm(table.loc[tested, "p (Wilcoxon)"].to_numpy()) if tested.any() else []
    table.loc[tested, "p (Holm)"] = corrected
    return table
