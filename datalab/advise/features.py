"""From columns of any type to the numbers a model sees: what each column is, and encoders fitted on training rows."""

import copy
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datalab.advise.reading import IMAGES, Source
from datalab.data.encoders import DummyTable, TfidfSvd
from datalab.data.pretrained import embed_images, embed_texts
from datalab.errors import UserError

MISSING = ("", "na", "n/a", "nan", "null", "none", "nil", "?", "-", ".", "<na>", "nat")
USED = ("number", "date", "category", "text", "image", "vector")
IMAGE_SIDE, PRETRAINED_SIDE = 16, 96  # pixels a side that pictures are brought to
NEARLY = 0.95  # a column is of a kind when so many of its values are

Encode = Callable[[pd.DataFrame, NDArray], NDArray[np.float32]]


class Columns:
    """The kind of every feature column, decided on a sample, and the same columns of any block as typed values.

    With ``pretrained`` texts are embedded by MiniLM and pictures by EfficientNet-Lite0, where their weights are on
    disk. ``detected`` has a line for each kind. Raises UserError where no feature is left.
    """

    def __init__(self, sample: pd.DataFrame, source: Source, pretrained: bool = False):
        self.folder, self.pretrained = source.folder, pretrained
        self.columns: dict[str, list[str]] = {}
        for name in sample:
            self.columns.setdefault(self._kind(sample[name]), []).append(name)
        self.detected = [f"{kind}: {_listed(names)}" for kind, names in self.columns.items()]
        if not set(self.columns) & set(USED):
            raise UserError(f"{source.name}: no feature is left; {'; '.join(self.detected) or 'there is none'}")
        self.levels = {name: sorted(words(sample[name]).dropna().unique()) for name in self.columns.get("category", [])}

    def _kind(self, column: pd.Series) -> str:
        present = column.dropna()
        if len(present) and isinstance(present.iloc[0], np.ndarray | list):
            return "vector"
        values = numbers(column).dropna()
        text = pd.Series(dtype=object) if _is_number(column) else words(column).dropna()
        if _is_number(column) or len(values) >= NEARLY * max(len(text), 1):
            if values.nunique() < 2:
                return "left out, constant" if len(values) else "left out, empty"
            steps = np.diff(values.to_numpy())
            return "left out, a row number" if len(steps) > 20 and (steps == 1).all() else "number"
        distinct = text.nunique()
        if distinct < 2:
            return "left out, constant" if len(text) else "left out, empty"
        if text.str.lower().str.endswith(IMAGES).mean() >= NEARLY:
            return "image" if (self.folder / text.iloc[0]).is_file() else "left out, pictures that are not there"
        if pd.api.types.is_datetime64_any_dtype(column) or (
            text.str.contains(r"\d[-/.:]\d").mean() >= NEARLY and days(text).notna().mean() >= NEARLY
        ):
            return "date"
        if text.str.count(" ").mean() >= 2.5 and distinct > 0.3 * len(text):
            return "text"
        return "left out, different in nearly every row" if distinct > NEARLY * len(text) else "category"

    def typed(self, block: pd.DataFrame) -> pd.DataFrame:
        """The used columns of a block: float64 (infinities missing), categories of the sample's levels, and text."""
        of, made, wide = self.columns, {}, []
        for name in of.get("number", []):
            values = numbers(block[name])
            made[name] = values.where(np.isfinite(values))
        made |= {name: days(block[name]) for name in of.get("date", [])}
        for name in of.get("category", []):
            made[name] = pd.Categorical(words(block[name]), categories=self.levels[name])
        vectors = {name: _stacked(block[name]) for name in of.get("vector", [])}
        for name in of.get("text", []):
            text = words(block[name]).fillna("").astype(object)
            if self.pretrained:
                vectors[name] = embed_texts(text.tolist())
            else:
                made[name] = text.to_numpy()
        for name in of.get("image", []):
            side = PRETRAINED_SIDE if self.pretrained else IMAGE_SIDE
            pictures = [_grey(self.folder / str(path), side) for path in block[name]]
            vectors[name] = embed_images(pictures) if self.pretrained else np.stack(pictures).reshape(len(block), -1)
        wide = [pd.DataFrame(v, index=block.index).add_prefix(f"{name}[") for name, v in vectors.items()]
        return pd.concat([pd.DataFrame(made, index=block.index), *wide], axis=1)


def fit(frame: pd.DataFrame, rows: NDArray) -> Encode:
    """Encoders whose means, levels and vocabularies are those of these rows of a typed frame.

    Returns a function of any typed frame and row numbers (m,) to features (m, d).
    """
    texts = [name for name in frame if _is_text(frame[name])]
    with np.errstate(all="ignore"):
        words_ = {name: TfidfSvd(SimpleNamespace(features={"text": frame[name]})).fit(rows) for name in texts}
    table = frame.drop(columns=texts)
    plain = DummyTable(SimpleNamespace(features=table)).fit(rows) if len(table.columns) else None

    def encode(other: pd.DataFrame, at: NDArray) -> NDArray[np.float32]:
        parts = []
        for name, fitted in words_.items():
            moved = copy.copy(fitted)
            moved.texts = other[name]
            with np.errstate(all="ignore"):  # texts that are all alike have no spread to be divided by
                parts.append(np.nan_to_num(moved.transform(at), nan=0, posinf=0, neginf=0))
        if plain is not None:
            moved = copy.copy(plain)
            moved.features = other.drop(columns=texts)
            parts.append(moved.transform(at))
        return np.ascontiguousarray(np.concatenate(parts, axis=1), dtype=np.float32)

    return encode


def leaks(frame: pd.DataFrame, labels: NDArray) -> list[str]:
    """The columns that alone give nearly every row's label: a small tree on half the rows, asked about the rest."""
    from sklearn.tree import DecisionTreeClassifier

    half, found = len(labels) // 2, []
    usual = np.bincount(labels[half:]).max() / (len(labels) - half)
    for name in [name for name in frame if not _is_text(frame[name])][:300]:
        column = frame[name]
        values = (column.cat.codes if hasattr(column, "cat") else column.fillna(-1e9)).to_numpy(dtype=float)[:, None]
        tree = DecisionTreeClassifier(max_leaf_nodes=4 * (labels.max() + 1), random_state=0)
        hit = tree.fit(values[:half], labels[:half]).score(values[half:], labels[half:])
        if hit >= 0.98 and hit > usual + 0.05:
            found.append(f"'{name}' alone gives the label of {hit:.1%} of rows: known before the label is?")
    return found


def words(column: pd.Series, missing: tuple[str, ...] = MISSING) -> pd.Series:
    """A column as text without blanks at the ends; what stands for a missing value is missing."""
    if not isinstance(column.dtype, pd.StringDtype):
        column = column.astype(object).map(str, na_action="ignore")
    text = column.astype("string").str.strip()
    return text.mask(text.str.lower().isin(missing))


def numbers(column: pd.Series) -> pd.Series:
    """A column as float64; what is no number is missing."""
    if _is_number(column):
        return pd.Series(column.to_numpy(dtype=np.float64, na_value=np.nan), index=column.index)
    values = pd.to_numeric(words(column), errors="coerce")
    return pd.Series(values.to_numpy(dtype=np.float64, na_value=np.nan), index=column.index)


def days(column: pd.Series) -> pd.Series:
    """Dates as days since 1970; with dots the day comes first."""
    if not pd.api.types.is_datetime64_any_dtype(column):
        text = words(column)
        first = bool(text.str.contains(r"^\d{1,2}\.").any())
        column = pd.to_datetime(text, errors="coerce", format="mixed", dayfirst=first, utc=True)
    seconds = column.dt.tz_localize(None) if column.dt.tz is not None else column
    return (seconds - pd.Timestamp(0)) / pd.Timedelta(days=1)


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column.dtype) and not isinstance(column.dtype, pd.CategoricalDtype)


def _is_text(column: pd.Series) -> bool:
    return not _is_number(column) and not isinstance(column.dtype, pd.CategoricalDtype)


def _stacked(column: pd.Series) -> NDArray[np.float64]:
    try:
        return np.stack([np.asarray(value, dtype=np.float64).ravel() for value in column])
    except (ValueError, TypeError):
        raise UserError(f"column '{column.name}': its vectors differ in length, or hold other than numbers") from None


def _grey(path, side: int) -> NDArray[np.float32]:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("L").resize((side, side)), dtype=np.float32)
    except OSError:
        raise UserError(f"picture '{path.name}': cannot be read as an image") from None


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(f"'{name}'" for name in names[:4]) + more
