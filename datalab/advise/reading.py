"""What people have as one thing: a :class:`Source`, whose rows come in blocks, with a line for whatever was detected.

CSV and TSV, Parquet, ``.npy`` and ``.npz``, a folder of images by class; data frames, arrays, sparse matrices, Hugging
Face and torch data sets. Nothing is ever unpickled. A file is read in blocks, several times, and never held whole.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datalab.errors import UserError, did_you_mean

BLOCK, CSV_BLOCK = 50_000, 16 << 20  # rows of a block; bytes of a text table's
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
FEATURES, LABELS = ("x", "features", "embeddings", "embedding", "data"), ("y", "label", "labels", "target", "targets")
COMMA, POINT = r"\s*[-+]?\d[\d.]*,\d+\s*", r"\s*[-+]?\d+\.\d+\s*"  # a number with one and with the other decimal mark


@dataclass
class Source:
    """``blocks(columns)`` yields frames of these columns (None: all) in order, as often as it is called.

    ``detected`` has a line for each thing that was guessed; ``folder`` is where relative paths in it start; ``label``
    is the label's column where the source knows it; ``grid`` the height and width of pictures that the columns are.
    """

    name: str
    columns: list[str]
    blocks: Callable[[Sequence[str] | None], Iterator[pd.DataFrame]]
    detected: list[str]
    folder: Path = Path()
    label: str | None = None
    grid: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if twice := sorted({column for column in self.columns if self.columns.count(column) > 1}):
            raise UserError(f"{self.name}: two columns are called '{twice[0]}'; rename one")

    def whole(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """All rows of these columns at once. Raises UserError where there are none."""
        if not sum(map(len, parts := list(self.blocks(columns)))):
            raise UserError(f"{self.name}: a header, and no rows under it")
        return pd.concat(parts, ignore_index=True)

    def need(self, column: str, what: str) -> str:
        """The column's name. Raises UserError, with the closest name, where there is none."""
        if column in self.columns:
            return column
        near = did_you_mean(column, self.columns)
        near = near if "did you mean" in near else f"; it has {', '.join(self.columns[:8])}, ..."
        raise UserError(f"{what} '{column}': no such column in {self.name}{near}")


def read(data: Any, delimiter: str | None = None, decimal: str | None = None, encoding: str | None = None) -> Source:
    """The source of a path, or of data in memory. Raises UserError, one line, for what cannot be read."""
    if not isinstance(data, str | Path):
        return in_memory(data)
    path, kind = Path(data), Path(data).suffix.lower()
    if path.is_dir():
        return image_folder(path)
    if not path.is_file():
        raise UserError(f"file '{path}': there is no such file")
    if path.stat().st_size == 0:
        raise UserError(f"file '{path.name}' is empty; it needs a header and rows")
    try:
        if kind in (".parquet", ".pq"):
            return parquet(path)
        if kind in (".npz", ".npy"):
            return numpy_file(path)
        if kind in (".csv", ".tsv", ".txt", ".tab"):
            return separated(path, delimiter, decimal, encoding)
    except (OSError, LookupError, UnicodeError) as error:
        raise UserError(f"file '{path.name}': cannot be read ({str(error)[:100]})") from None
    hint = "; a pickle can run code, and is never opened: save a table instead" if kind in (".pkl", ".pickle") else ""
    raise UserError(f"file '{path.name}': read are .csv, .tsv, .parquet, .npz, .npy and folders of images{hint}")


def separated(path: Path, delimiter: str | None, decimal: str | None, encoding: str | None) -> Source:
    """A CSV or TSV: encoding, delimiter and decimal mark are found where they are not given; all columns are text."""
    import pyarrow as pa
    import pyarrow.csv as pacsv

    encoding = encoding or _encoding(path)
    with open(path, encoding=encoding, newline="") as stream:
        head = stream.read(1 << 18)
    if "\x00" in head:
        raise UserError(f"file '{path.name}': holds NUL bytes, so it is no text table")
    delimiter = delimiter or max(",;\t|", key=lambda mark: _fit(head, mark))
    table = list(csv.reader(io.StringIO(head), delimiter=delimiter))[:500]
    columns = [column.strip() for column in table[0]] if table else []
    if len(columns) < 2:
        raise UserError(
            f"file '{path.name}': one column '{columns[0][:40]}'; a feature and a label need two (delimiter?)"
        )
    cells = [cell for row in table[1:] for cell in row]
    marks = [sum(re.fullmatch(mark, cell) is not None for cell in cells) for mark in (COMMA, POINT)]
    decimal = decimal or ("," if marks[0] > marks[1] and delimiter != "," else ".")
    reading = pacsv.ReadOptions(encoding=encoding, block_size=CSV_BLOCK, column_names=columns, skip_rows=1)
    parsing = pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True)

    def blocks(wanted: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        names = columns if wanted is None else list(wanted)
        text = pacsv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()), include_columns=names)
        try:
            with pacsv.open_csv(path, reading, parsing, text) as batches:
                for batch in batches:
                    block = batch.to_pandas()
                    yield block.apply(_with_points) if decimal == "," else block
        except (pa.ArrowInvalid, UnicodeError) as error:
            raise UserError(f"file '{path.name}': {str(error).splitlines()[0][:160]}") from None

    shown = "tab" if delimiter == "\t" else f"'{delimiter}'"
    line = f"text table: {len(columns)} columns, delimiter {shown}, decimal '{decimal}', encoding {encoding}"
    return Source(path.name, columns, blocks, [line], path.parent)


def _encoding(path: Path) -> str:
    start = path.open("rb").read(3)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    try:
        with open(path, encoding="utf-8") as stream:
            while stream.read(1 << 22):
                pass
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8-sig" if start == b"\xef\xbb\xbf" else "utf-8"


def _fit(head: str, mark: str) -> tuple[float, int]:
    """The share of rows that a delimiter cuts into as many cells as the first, and how many these are."""
    rows = [row for row in csv.reader(io.StringIO(head), delimiter=mark) if row][:200]
    width = len(rows[0]) if rows else 0
    return (sum(len(row) == width for row in rows) / len(rows) if width > 1 else 0.0, width)


def _with_points(column: pd.Series) -> pd.Series:
    number = column.str.fullmatch(COMMA).fillna(False).astype(bool)
    plain = column[number].str.replace(".", "", regex=False).str.replace(",", ".", regex=False)
    return column.mask(number, plain)


def parquet(path: Path) -> Source:
    """A Parquet file, nullable types and categories included."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def damaged(error: Exception) -> UserError:
        return UserError(f"file '{path.name}': not a whole Parquet file ({str(error).splitlines()[0][:80]})")

    try:
        file = pq.ParquetFile(path, pre_buffer=False)  # buffered ahead, it holds the whole file in the end
    except (pa.ArrowException, OSError) as error:
        raise damaged(error) from None
    columns = [str(column) for column in file.schema_arrow.names]

    def blocks(wanted: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        try:
            for batch in file.iter_batches(BLOCK, columns=None if wanted is None else list(wanted)):
                yield batch.to_pandas()
        except (pa.ArrowException, OSError) as error:
            raise damaged(error) from None

    line = f"Parquet: {file.metadata.num_rows:,} rows, {len(columns)} columns"
    return Source(path.name, columns, blocks, [line], path.parent)


def numpy_file(path: Path) -> Source:
    """An array (columns called 0, 1, ...), or features and labels of an ``.npz``; pickled objects are refused."""
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        named = {"": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except Exception as error:  # also zipfile's, zlib's and the header parser's
        reason = f"not a whole NumPy file ({str(error)[:80]})"
        if "pickle" in str(error):
            reason = "holds pickled objects, which can run code and are never opened; save numbers or text"
        raise UserError(f"file '{path.name}': {reason}") from None
    if "" in named:
        return of_array(named[""], path.name)
    named = {name: array for name, array in named.items() if isinstance(array, np.ndarray)}  # a zip may hold others
    key = next((name for name in named if name.lower() in FEATURES and named[name].ndim > 1), None)
    key = key or next((name for name, array in named.items() if array.ndim > 1 and array.shape[1] > 1), None)
    if key is None:
        raise UserError(f"file '{path.name}': no features (n, d) among its arrays: {', '.join(named) or 'none'}")
    rows = {name: array.ravel() for name, array in named.items() if array.size == len(named[key])}
    source = of_array(named[key], path.name, rows)
    source.label = next((name for name in rows if name.lower() in LABELS), None)
    source.detected.append(f"features from '{key}'; columns from {', '.join(rows) or 'no other array'}")
    return source


def of_array(x: Any, name: str, extra: dict[str, Any] | None = None) -> Source:
    """A dense or sparse array (n, ...), every example flat, with further columns (n,)."""
    extra = extra or {}
    if x.dtype.names:
        return of_frame(pd.DataFrame({field: x[field] for field in x.dtype.names}), name)
    if x.ndim < 2 or x.dtype.kind not in "biufUSO":
        raise UserError(f"{name}: need features (n, d) of numbers or text, got {x.dtype} of shape {x.shape}")
    width = int(np.prod(x.shape[1:]))
    own = [str(i) for i in range(width)]
    step = max(1, min(BLOCK, (1 << 25) // max(width, 1)))

    def blocks(wanted: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        names = [*own, *extra] if wanted is None else list(wanted)
        at = [int(c) for c in names if c not in extra]
        for start in range(0, x.shape[0], step):
            part = x[start : start + step]
            part = np.asarray(part.toarray() if hasattr(part, "toarray") else part).reshape(part.shape[0], width)
            frame = pd.DataFrame(part if at == list(range(width)) else part[:, at], columns=[own[i] for i in at])
            more = {c: extra[c][start : start + step] for c in extra if c in names}
            yield frame.assign(**more) if more else frame

    grid = x.shape[1:3] if x.ndim == 3 else None
    line = f"array: {x.shape[0]:,} rows of {' x '.join(map(str, x.shape[1:]))}"
    return Source(name, [*own, *extra], blocks, [line], grid=grid)


def of_frame(frame: pd.DataFrame, name: str) -> Source:
    """A data frame; its index is left out."""
    columns = [str(column) for column in frame.columns]
    frame = frame.set_axis(columns, axis=1).reset_index(drop=True)

    def blocks(wanted: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        for start in range(0, len(frame), BLOCK):
            yield frame.iloc[start : start + BLOCK][columns if wanted is None else list(wanted)]

    return Source(name, columns, blocks, [f"table: {len(frame):,} rows, {len(columns)} columns"])


def in_memory(data: Any) -> Source:
    """A source of data in memory: a frame, an array, a sparse matrix, texts, a Hugging Face or a torch data set."""
    if hasattr(data, "to_pandas"):  # a Hugging Face data set, polars, pyarrow
        data = data.to_pandas()
    if isinstance(data, pd.DataFrame):
        return of_frame(data, "the table")
    if hasattr(data, "nnz") and hasattr(data, "tocsr"):
        return of_array(data.tocsr(), "the sparse matrix")
    if hasattr(data, "detach"):
        data = data.detach().cpu().numpy()
    if isinstance(data, list | tuple | pd.Series) and len(data) and isinstance(next(iter(data)), str):
        return of_frame(pd.DataFrame({"text": list(data)}), "the texts")
    if np.ma.isMaskedArray(data):
        data = data.astype(float).filled(np.nan)
    if not hasattr(data, "__array__") and hasattr(data, "__getitem__") and not isinstance(data, list | tuple):
        pairs = [data[i] for i in range(len(data))]  # a torch data set of (x, y)
        x, y = (np.stack([np.asarray(pair[i]) for pair in pairs]) for i in (0, 1))
        source = of_array(x, "the data set", {"label": y})
        source.label = "label"
        return source
    return of_array(np.asarray(data), "the array")


def image_folder(path: Path) -> Source:
    """A folder with a folder of images for each class: a column of paths, and one of class names."""
    files = [file for file in sorted(path.glob("*/*")) if file.suffix.lower() in IMAGES]
    if not files:
        raise UserError(f"folder '{path.name}': no images by class in it (class/picture.png); or name a file")
    table = pd.DataFrame(
        {"image": [f"{f.parent.name}/{f.name}" for f in files], "class": [f.parent.name for f in files]}
    )
    source = of_frame(table, path.name)
    source.detected = [f"folder: {len(files):,} images in {table['class'].nunique()} classes"]
    source.folder, source.label = path, "class"
    return source
