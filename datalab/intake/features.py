"""From columns of any type to the numbers a model sees: what each column is, and encoders fitted on training rows."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from datalab.data.encoders import CLIP, RARE_SHARE, TEXT_COMPONENTS
from datalab.data.pretrained import embed_images, embed_texts
from datalab.errors import UserError
from datalab.intake.reading import IMAGES, Source, bare

MISSING = ("", "na", "n/a", "nan", "null", "none", "nil", "?", "-", ".", "<na>", "nat")
LEFT_OUT = "left out, "
ADDRESS = r"<.* at 0x[0-9a-fA-F]+>"  # how Python writes an object that says nothing else of itself
SIDES = {False: 16, True: 96}  # pixels a side that pictures are brought to, for pixels and for the pretrained network
HASHES = 1 << 14  # columns that words are counted in: more make the directions slow
GROUPED = r"[-+]?[1-9]\d{0,2}(?:[,' \u00a0]\d{3})+(?:\.\d+)?"  # a number with marks between thousands
POINT = "number, decimal point"  # beside decimal commas in other columns
UNIT_NAME = r"^([A-Z]{3}) [-+\d]|\d ([A-Z]{3})$"
NEARLY = 0.95  # a column is of a kind when so many of its values are
# Year, month and day; the year of two digits at least, or a version's three numbers would be one.
DATE = r"(?=.*\d{2}\D*$|\d{4})(?:\d{1,4}|[A-Za-z]{3,9})[-/. ]+(?:\d{1,2}|[A-Za-z]{3,9})[-/., ]+\d{1,4}"
SPACED = r"[ \u0e00-\u0e7f\u3040-\u30ff\u4e00-\u9fff]"  # what there is one of between words, or in place of them
LOOKED_AT = 300  # columns, for leaks
# A split's time is training's, in proportion to the numbers a row. Of more than WIDE, so many principal directions are
# trained on 2 to 4 times sooner, and as well (measured on two tables of 1,500 columns).
WIDE, DIRECTIONS = 500, 250


class Columns:
    """The kind of every feature column, decided on a sample, and the same columns of any block as typed values.

    With ``pretrained`` texts are embedded by MiniLM and pictures by EfficientNet-Lite0, where their weights are on
    disk. ``detected`` has a line for each kind; ``alone`` are the columns that mean something each by itself, as a
    pixel does not. Raises UserError where no feature is left.
    """

    def __init__(self, sample: pd.DataFrame, source: Source, pretrained: bool = False):
        self.source, self.pretrained = source, pretrained
        self.kinds = {name: self._kind(sample[name]) for name in sample}
        self.used = {name: kind for name, kind in self.kinds.items() if not kind.startswith(LEFT_OUT)}
        together = ("image", "vector", "text")
        self.alone = [name for name, kind in self.used.items() if kind not in together and not source.grid]
        self.detected = []
        for kind in dict.fromkeys(self.kinds.values()):
            names = [name for name, other in self.kinds.items() if other == kind]
            most = 20 if kind.startswith(LEFT_OUT) else 4
            more = f" and {len(names) - most} more" if len(names) > most else ""
            size = f" (grey, {SIDES[pretrained]} x {SIDES[pretrained]})" if kind == "image" else ""
            self.detected.append(f"{kind}{size}: {str(names[:most])[1:-1]}{more}")
        if pretrained and not {"text", "image"} & {*self.used.values()}:
            self.detected.append("pretrained: no column is text or a picture's path, so nothing is embedded")
        if not self.used:
            raise UserError(
                f"{source.name}: no feature is left; {'; '.join(self.detected) or 'it has no further column'}"
            )

    def _kind(self, column: pd.Series) -> str:
        present = column.dropna()
        if len(present) and _is_array(present.iloc[0]):
            try:
                for value in present:
                    np.asarray(value, dtype=np.float64)
            except (ValueError, TypeError, RuntimeError):  # tags, a picture as a Hugging Face data set has it
                return LEFT_OUT + "neither numbers nor text"
            return "vector"
        text, kind = words(column).dropna(), "number"
        if text.str.fullmatch(ADDRESS).any():  # what another object's is next time
            return LEFT_OUT + "neither numbers nor text"
        values, distinct = numbers(column, self.source.decimal).dropna(), text.nunique()
        if self.source.decimal == "," and len(values) < NEARLY * len(text):
            kind, values = POINT, numbers(column).dropna()
        if distinct < 2:
            gaps = distinct and 0.01 * len(column) < len(column) - len(text)  # whether it is there tells something
            return "category" if gaps else LEFT_OUT + ("constant" if distinct else "empty")
        units = text.str.extract(UNIT_NAME)
        if units[0].fillna(units[1]).nunique() > 1:  # "MAT 101", "PHY 101": no unit of one quantity
            values = values[:0]
        if column.dtype.kind in "biuf" or len(values) >= NEARLY * len(text):
            offsets = [values - sign * values.index for sign in (1, -1)]  # from the row's number, up and down
            counts = any(of.nunique() == 1 for of in offsets) or self._permutes(values)
            return LEFT_OUT + "a row number" if counts and len(values) > 20 and (values % 1 == 0).all() else kind
        if text.str.lower().str.endswith(IMAGES).mean() >= NEARLY:
            there = any(os.path.isfile(self.source.folder / path) for path in text)  # False, too, for what is no path
            return "image" if there else LEFT_OUT + "pictures that are not there"
        if text.str.contains(DATE).mean() >= NEARLY and days(column).notna().sum() >= NEARLY * len(text):
            parts = text.str.extract(r"^(\d{1,2})([-/.])(\d{1,2})[-/.]\d").dropna()
            first, second = (parts[i].astype(int).gt(12).sum() for i in (0, 2))  # days, so the other is the month
            dayfirst = first > second or (first == second and parts[1].eq(".").any())
            return f"date ({'day' if dayfirst else 'month'} first)" if len(parts) else "date"
        if self.source.texts or (distinct > 0.3 * len(text) and _prose(text)):
            return "text"
        return LEFT_OUT + "different in nearly every row" if distinct > NEARLY * len(text) else "category"

    def _permutes(self, values: pd.Series) -> bool:
        """Whether the values are rows' numbers from 0 or 1, in whichever order."""
        rows, least = self.source.count(), values.min()
        return values.is_unique and least in (0, 1) and values.max() - least < rows and len(values) > 0.5 * rows

    def typed(self, block: pd.DataFrame, source: Source | None = None) -> pd.DataFrame:
        """A block's used columns as its ``source`` (None: the sample's) means them: float64 (what is no number or
        infinite is missing), categories and text."""
        source = source or self.source
        return pd.concat([self._typed(block[name], kind, source) for name, kind in self.used.items()], axis=1)

    def _typed(self, column: pd.Series, kind: str, source: Source) -> pd.Series | pd.DataFrame:
        if kind in ("number", POINT):
            return numbers(column, "." if kind == POINT else source.decimal)
        if kind.startswith("date"):
            return days(column, "day" in kind)
        if kind == "category":
            return words(column).fillna("").astype("category")
        if kind == "text":
            text = words(column).fillna("").astype("str")
            if not self.pretrained:
                return text
            vectors = embed_texts(text.tolist())
        elif kind == "image":
            side, paths = SIDES[self.pretrained], words(column).items()
            pictures = [_grey(source.folder, path, side, f"column '{column.name}', row {row}") for row, path in paths]
            vectors = embed_images(pictures) if self.pretrained else np.stack(pictures).reshape(len(column), -1)
        else:
            try:
                vectors = np.stack([np.asarray(value, dtype=np.float64).ravel() for value in column])
            except (ValueError, TypeError):
                different = "its vectors differ in length, are missing, or hold other than numbers"
                raise UserError(f"column '{column.name}': {different}; leave these rows or the column out") from None
        vectors = np.where(np.abs(vectors) <= np.finfo(np.float32).max, vectors, np.nan)  # as of numbers
        return pd.DataFrame(vectors, index=column.index).add_prefix(f"{column.name}[")


@np.errstate(invalid="ignore")  # the directions of texts without a word explain 0 of 0
@threadpool_limits.wrap(1)  # the order of a sum must not depend on the number of threads
def fit(frame: pd.DataFrame) -> Callable[[pd.DataFrame], NDArray[np.float32]]:
    """Encoders of a typed frame (n, ...) that take means, levels and vocabularies from these rows alone.

    Numbers are z-scores cut at ten, missing ones the median with a column that says so; levels of under 1 % of the rows
    share one; texts are TF-IDF on 64 singular directions, and more than ``WIDE`` numbers their ``DIRECTIONS`` principal
    ones. Returns a function of a typed frame to features (m, d).
    """
    from sklearn.compose import make_column_transformer
    from sklearn.decomposition import PCA, TruncatedSVD
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

    fill = SimpleImputer(strategy="median", keep_empty_features=True, add_indicator=True)
    number = make_pipeline(fill, StandardScaler(), FunctionTransformer(np.clip, kw_args={"min": -CLIP, "max": CLIP}))
    columns = list(frame.select_dtypes("number"))
    if len(columns) > WIDE:
        kept = min(DIRECTIONS, len(frame))
        directions = PCA(kept, svd_solver="randomized", random_state=0)
        scale = FunctionTransformer(lambda x: x * (kept / len(columns)) ** 0.5)  # their mean variance is 1 at most
        number = make_pipeline(number, FunctionTransformer(np.float32), directions, scale)
    level = OneHotEncoder(min_frequency=RARE_SHARE, handle_unknown="infrequent_if_exist", sparse_output=False)

    def text(column: pd.Series) -> Any:
        spaced = column.str.count(" ").mean() >= 2.5  # else too few words, or none apart
        cut = {"token_pattern": r"(?u)\b\w+\b"} if spaced else {"analyzer": "char_wb", "ngram_range": (1, 3)}
        return make_pipeline(
            HashingVectorizer(n_features=HASHES, norm=None, alternate_sign=False, **cut),
            TfidfTransformer(sublinear_tf=True),
            TruncatedSVD(TEXT_COMPONENTS, random_state=0),
            FunctionTransformer(lambda x: x * TEXT_COMPONENTS**0.5),  # of length 1 before: variance 1 at most
        )

    parts = [(number, columns), (level, list(frame.select_dtypes("category")))]
    parts += [(text(frame[name]), name) for name in frame.select_dtypes("str")]
    encoder = make_column_transformer(*parts, sparse_threshold=0).fit(frame)

    @threadpool_limits.wrap(1)
    def encode(rows: pd.DataFrame) -> NDArray[np.float32]:
        return np.ascontiguousarray(encoder.transform(rows), dtype=np.float32)

    return encode


def fingerprints(frame: pd.DataFrame) -> pd.Series:
    """A number for every typed row, equal for features that are equal to the models: numbers in float32."""
    numbers = frame.select_dtypes("number")
    return pd.util.hash_pandas_object(frame.assign(**numbers.astype(np.float32)), index=False)


def leaks(frame: pd.DataFrame, labels: NDArray) -> list[str]:
    """The columns that alone give nearly every row's label: a small tree on half a class, asked about the rest."""
    from sklearn.model_selection import train_test_split
    from sklearn.tree import DecisionTreeClassifier

    half, rest = train_test_split(np.arange(len(labels)), test_size=0.5, stratify=labels, random_state=0)
    usual, lines = np.bincount(labels[rest]).max() / len(rest), []
    for name in list(frame)[:LOOKED_AT]:
        column = frame[name].cat.codes if hasattr(frame[name], "cat") else frame[name]
        tree = DecisionTreeClassifier(max_leaf_nodes=4 * (labels.max() + 1), random_state=0)
        values = column.to_numpy(dtype=float)[:, None]
        hit = tree.fit(values[half], labels[half]).score(values[rest], labels[rest])
        if hit >= 0.98 and 1 - hit < (1 - usual) / 4:  # of the errors of guessing, a quarter is left at most
            lines.append(f"leak? '{name}' alone gives the label of {hit:.1%} of rows: known before the label is?")
    if frame.shape[1] > LOOKED_AT:
        lines.append(f"leak? only the first {LOOKED_AT} of {frame.shape[1]:,} columns were looked at, each alone")
    return lines


def _prose(text: pd.Series) -> bool:
    """Whether a column is of several words, or of fewer that come again in other rows, as those of no id do."""
    blanks = text.str.count(SPACED).mean()
    counts = text.str.lower().str.findall(r"\b[^\W\d_]{3,}\b").explode().value_counts()
    return blanks >= 2.5 or (blanks >= 0.5 and counts[counts.between(2, len(text) / 2)].sum() >= len(text))


def words(column: pd.Series, missing: tuple[str, ...] = MISSING) -> pd.Series:
    """A column as text without blanks at the ends; what stands for a missing value is missing."""
    if not isinstance(column.dtype, pd.StringDtype):
        column = column.astype(object).map(str, na_action="ignore").astype("str")
    text = column.str.strip()
    return text.mask(text.str.lower().isin(missing))


def numbers(column: pd.Series, decimal: str = ".") -> pd.Series:
    """A column as float64; what is no number, or infinite in the models' float32, is missing.

    Text may have a unit of money or %, and marks between thousands: ``1,234.50 EUR``. Where the decimal mark is a comma
    a point is one of these, as to ``pandas.read_csv(decimal=",", thousands=".")``.
    """
    if column.dtype.kind in "cM":
        return pd.Series(np.nan, index=column.index, name=column.name)
    if column.dtype.kind == "m":
        column = column.dt.total_seconds()
    text = isinstance(column.dtype, pd.StringDtype)
    if text and decimal == ",":
        column = column.str.replace(".", "'", regex=False).str.replace(",", ".", regex=False)
    values = pd.to_numeric(column, errors="coerce").astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
    if text and (left := np.isnan(values) & column.notna().to_numpy()).any():
        rest = bare(column[left])
        rest = rest.mask(rest.str.fullmatch(GROUPED), rest.str.replace(r"[^\d.+-]", "", regex=True))
        values[left] = pd.to_numeric(rest, errors="coerce")
    finite = np.abs(values) <= np.finfo(np.float32).max
    return pd.Series(np.where(finite, values, np.nan), index=column.index, name=column.name)


def days(column: pd.Series, dayfirst: bool = False) -> pd.Series:
    """Dates as days since 1970, of any year."""
    text = words(column)
    if dayfirst:  # which pandas takes for year, day, month where the year is first
        text = text.str.replace(r"^(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})", r"\3.\2.\1", regex=True)
    moments = pd.to_datetime(text, errors="coerce", format="mixed", dayfirst=dayfirst, utc=True)
    return (moments.dt.as_unit("ms") - pd.Timestamp(0, tz="UTC").as_unit("ms")) / pd.Timedelta(days=1)


def _is_array(value: Any) -> bool:
    made = hasattr(value, "__array__") or hasattr(value, "__array_interface__")  # tensors, pictures
    return isinstance(value, list | tuple | dict) or (made and not isinstance(value, np.generic))


def prevailing(frame: pd.DataFrame, marked: NDArray[np.bool_]) -> str:
    """The level that most of the ``marked`` rows (n,) share and most rows have not, in words; "" where there is none.

    Of typed features the categories are looked at; ten marked rows or more say something.
    """
    levels = []
    for name in frame.select_dtypes("category") if marked.sum() >= 10 else ():
        level = frame.loc[marked, name].value_counts().index[0]
        has = (frame[name] == level).to_numpy()
        levels.append((has[marked].mean(), has.mean(), level, name))
    share, every, level, name = max(levels, key=lambda of: of[0] - of[1], default=(0, 1, "", ""))
    if share < 0.8 or every > 0.5:
        return ""
    return f"{share:.0%} of them have '{level}' in column '{name}', as {every:.0%} of all rows have"


def picture(path: Path) -> Any:
    """The picture upright, what is transparent white, one of 16 bits or more in floats; None where there is none."""
    from PIL import Image, ImageOps

    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        with Image.open(path) as opened:
            made = ImageOps.exif_transpose(opened)
            if made.mode[0] in "IF":
                return Image.fromarray(np.asarray(made, dtype=np.float32) / (1 if made.mode == "F" else 257))
            if made.has_transparency_data:
                made = made.convert("RGBA")
                made = Image.alpha_composite(Image.new("RGBA", made.size, "white"), made)
            return made.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _grey(folder: Path, path: Any, side: int, where: str) -> NDArray[np.float32]:
    image = None if pd.isna(path) else picture(folder / path)
    if image is None:
        what = "no picture" if pd.isna(path) else f"picture '{path}' cannot be read as an image"
        raise UserError(f"{where}: {what}; leave the row out")
    return np.asarray((image if image.mode == "F" else image.convert("L")).resize((side, side)), dtype=np.float32)
