"""A data set as read from its files, and how columns get their types: what every loader shares."""

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass
class RawTable:
    """A data set as read: ``features`` one row per example, ``labels`` as text, and what only some sets have."""

    features: pd.DataFrame
    labels: np.ndarray
    groups: np.ndarray | None = None  # (n,) who or what a row was taken from
    votes: list[np.ndarray] | None = None  # per row, the class each of its raters chose


def as_numbers(values: pd.DataFrame | np.ndarray, prefix: str = "x", dtype: str | None = None) -> pd.DataFrame:
    frame = pd.DataFrame(np.asarray(values))
    frame.columns = [f"{prefix}{i}" for i in range(frame.shape[1])]
    return frame.astype(dtype) if dtype else frame


def as_text(values: pd.Series) -> pd.DataFrame:
    return pd.DataFrame({"text": np.asarray(values, dtype=object)})


def as_categories(frame: pd.DataFrame) -> pd.DataFrame:
    """Every column that is not a number becomes a category with its levels sorted."""
    frame = frame.reset_index(drop=True)
    for column in frame.columns[[not pd.api.types.is_numeric_dtype(dtype) for dtype in frame.dtypes]]:
        values = frame[column].astype(object)
        levels = sorted({str(value) for value in values.dropna()})
        codes = pd.Index(levels).get_indexer(values.map(str, na_action="ignore"))
        frame[column] = pd.Categorical.from_codes(codes, levels)
    return frame


def as_labels(values: pd.Series | np.ndarray) -> np.ndarray:
    return np.asarray([str(value).strip() for value in np.asarray(values, dtype=object)], dtype=object)
