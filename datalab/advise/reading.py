"""What people have as one thing: a :class:`Source`, whose rows come in blocks, with a line for whatever was detected.

CSV and TSV, Parquet, ``.npy`` and ``.npz``, a folder of images by class; data frames, arrays, sparse matrices, Hugging
Face and torch data sets. Nothing is ever unpickled. A file is read in blocks, twice or more, and never held whole.
"""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datalab.errors import UserError, did_you_mean

BLOCK = 50_000  # rows of a block
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
FEATURES, LABELS = ("x", "features", "embeddings", "embedding", "data"), ("y", "label", "labels", "target", "targets")

Blocks = Callable[[Sequence[str] | None], Iterator[pd.DataFrame]]


@dataclass
class Source:
    """``blocks(columns)`` yields frames of these columns (None: all) in order, as often as it is called.

    ``detected`` has a line for each thing that was guessed; ``folder`` is where relative paths in it start;
    ``text`` says that every column is text as a CSV has it, ``label`` the label's column where the source knows it.
    """

    name: str
    columns: list[str]
    blocks: Blocks
    detected: list[str] = field(default_factory=list)
    folder: Path = Path()
    text: bool = False
    label: str | None = None
    grid: tuple[int, int] | None = None  # height and width of pictures whose pixels are the columns

    def need(self, column: str, what: str) -> str:
        """The column's name. Raises UserError, with the closest name, where there is none."""
        if column not in self.columns:
            raise UserError(
                f"{what} '{column}': no such column in {self.name}{did_you_mean(column, self.columns[:50])}"
            )
        return column


def read(data: Any, delimiter: str | None = None, decimal: str | None = None, encoding: str | None = None) -> Source:
    """The source of a path, or of data in memory. Raises UserError, one line, for what cannot be read."""
    if not isinstance(data, str | Path):
        return in_memory(data)
    path = Path(data)
    name = path.name or str(path)
    if path.is_dir():
        return image_folder(path)
    if not path.exists():
        near = [each.name for each in path.parent.iterdir()][:200] if path.parent.is_dir() else []
        raise UserError(f"file '{path}': there is no such file{did_you_mean(name, near) if near else ''}")
    if path.stat().st_size == 0:
        raise UserError(f"file '{name}' is empty; it needs a header and rows")
    kind = path.suffix.lower()
    try:
        if kind in (".parquet", ".pq"):
            return parquet(path)
        if kind in (".npz", ".npy"):
            return numpy_file(path)
        if kind in (".csv", ".tsv", ".txt", ".tab"):
            return separated(path, delimiter, decimal, encoding)
    except OSError as error:
        raise UserError(f"file '{name}': cannot be read ({error.strerror or error})") from None
    hint = "; a pickle can run code, and is never opened: save a table instead" if kind in (".pkl", ".pickle") else ""
    raise UserError(f"file '{name}': read are .csv, .tsv, .parquet, .npz, .npy and folders of images{hint}")


def separated(path: Path, delimiter: str | None, decimal: str | None, encoding: str | None) -> Source:
    """A CSV or TSV: encoding, delimiter and decimal mark are found where they are not given; all columns are text."""
    import pyarrow as pa
    import pyarrow.csv as pacsv

    encoding = encoding or _encoding(path)
    with open(path, encoding=encoding, newline="", errors="strict") as stream:
        head = stream.read(1 << 18)
    if "\x00" in head:
        raise UserError(f"file '{path.name}': holds NUL bytes, so it is no text table")
    delimiter = delimiter or _delimiter(head)
    sample = list(csv.reader(io.StringIO(head), delimiter=delimiter))[:-1][:500] or [
        head.splitlines()[0].split(delimiter)
    ]
    columns = [column.strip() for column in sample[0]]
    if len(columns) < 2:
        raise UserError(
            f"file '{path.name}': one column '{columns[0][:40]}'; features and a label need two (--delimiter?)"
        )
    if twice := [column for column, count in Counter(columns).items() if count > 1]:
        raise UserError(f"file '{path.name}': two columns are called '{twice[0]}'; rename one")
    cells = [cell.strip() for row in sample[1:] for cell in row]
    comma = sum(bool(re.fullmatch(r"-?\d+,\d+(e[-+]?\d+)?", cell)) for cell in cells)
    point = sum(bool(re.fullmatch(r"-?\d+\.\d+(e[-+]?\d+)?", cell)) for cell in cells)
    decimal = decimal or ("," if comma > point and delimiter != "," else ".")
    options = {
        "read_options": pacsv.ReadOptions(encoding=encoding, block_size=16 << 20, column_names=columns, skip_rows=1),
        "parse_options": pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
    }

    def blocks(wanted: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        convert = pacsv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.string()),
            strings_can_be_null=False,
            include_columns=list(wanted) if wanted is not None else columns,
        )
        try:
            with pacsv.open_csv(path, convert_options=convert, **options) as reader:
                for batch in reader:
                    yield batch.to_pandas()
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise UserError(f"file '{path.name}': {str(error).splitlines()[0][:160]}") from None

    shown = {"\t": "tab"}.get(delimiter, f"'{delimiter}'")
    line = f"text table: {len(columns)} columns, delimiter {shown}, decimal '{decimal}', encoding {encoding}"
    source = Source(path.name, columns, blocks, [line], path.parent, text=True)
    return source if decimal == "." else _with_points(source)


def _with_points(source: Source) -> Source:
    """The same with decimal points; only cells that are numbers as a whole change."""
    inner = source.blocks

    def blocks(wanted: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        for block in inner(wanted):
            yield block.apply(lambda column: column.str.replace(r"^(\s*[-+]?[\d.]*),(\d+\s*)$", _point, regex=True))

    source.blocks = blocks
    return source


def _point(match: re.Match) -> str:
    return match[1].replace(".", "") + "." + match[2]


def _encoding(path: Path) -> str:
    with open(path, "rb") as stream:
        start = stream.read(4)
        if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-16"
        if start[:3] == codecs.BOM_UTF8:
            return "utf-8-sig"
        decoder = codecs.getincrementaldecoder("utf-8")()
        stream.seek(0)
        try:
            while piece := stream.read(1 << 24):
                decoder.decode(piece)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252" if _fits(path, "cp1252") else "latin-1"
    return "utf-8"


def _fits(path: Path, encoding: str) -> bool:
    try:
        with open(path, encoding=encoding, newline="") as stream:
            while stream.read(1 << 22):
                pass
    except UnicodeDecodeError:
        return False
    return True


def _delimiter(head: str) -> str:
    """The mark that cuts most rows into as many cells as the header; of equal ones that of most cells."""

    def fit(mark: str) -> tuple[float, int]:
        rows = [row for row in csv.reader(io.StringIO(head), delimiter=mark) if row][:200]
        width = len(rows[0]) if rows else 0
        return (sum(len(row) == width for row in rows) / len(rows) if width > 1 else 0, width)

    return max((",", ";", "\t", "|"), key=fit)


def parquet(path: Path) -> Source:
    """A Parquet file, nullable types and categories included."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowException as error:
        raise UserError(f"file '{path.name}': not a whole Parquet file ({str(error).splitlines()[0][:100]})") from None
    columns = [str(column) for column in file.schema_arrow.names]

    def blocks(wanted: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        try:
            for batch in file.iter_batches(BLOCK, columns=None if wanted is None else list(wanted)):
                yield batch.to_pandas()
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"file '{path.name}': damaged ({str(error).splitlines()[0][:100]})") from None

    line = f"Parquet: {file.metadata.num_rows:,} rows, {len(columns)} columns"
    return Source(path.name, columns, blocks, [line], path.parent)


def numpy_file(path: Path) -> Source:
    """An array (columns called 0, 1, ...), or features and labels of an ``.npz``; pickled objects are refused."""
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        named = {"": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except ValueError as error:
        reason = "holds a pickled object, which can run code; save numbers or text" if "pickle" in str(error) else error
        raise UserError(f"file '{path.name}': {reason}") from None
    except Exception as error:  # zipfile's own errors, and a torn header's
        raise UserError(f"file '{path.name}': not a whole NumPy file ({str(error)[:100]})") from None
    if "" in named:
        return of_array(named[""], path.name)
    arrays = {name: array for name, array in named.items() if array.ndim > 1}
    rows = {name: array.ravel() for name, array in named.items() if array.ndim == 1 or array.shape[1:] == (1,)}
    if not arrays:
        raise UserError(f"file '{path.name}': no features (n, d) among its arrays {', '.join(named)}")
    key = next((name for name in arrays if name.lower() in FEATURES), next(iter(arrays)))
    extra = {name: array for name, array in rows.items() if len(array) == len(arrays[key])}
    source = of_array(arrays[key], path.name, extra)
    source.label = next((name for name in extra if name.lower() in LABELS), None)
    source.detected.append(f"features from '{key}' {arrays[key].shape}, columns {', '.join(extra) or 'none'}")
    return source


def of_array(x: Any, name: str, extra: dict[str, Any] | None = None) -> Source:
    """A dense or sparse array (n, ...), every example flat, with further columns (n,)."""
    extra = extra or {}
    if x.dtype.names:
        return of_frame(pd.DataFrame({field: x[field] for field in x.dtype.names} | extra), name)
    if x.ndim < 2 or x.dtype.kind not in "biufUSO":
        raise UserError(f"{name}: need features (n, d) of numbers, got {x.dtype} of shape {x.shape}")
    width = int(np.prod(x.shape[1:]))
    columns = [str(i) for i in range(width)]
    if clash := sorted(set(columns) & set(extra)):
        raise UserError(f"{name}: '{clash[0]}' names a feature's column too; rename that array")

    def blocks(wanted: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        step = max(1, min(BLOCK, (1 << 25) // max(width, 1)))
        own = [int(c) for c in columns] if wanted is None else [int(c) for c in wanted if c not in extra]
        for start in range(0, x.shape[0], step):
            part = x[start : start + step]
            part = np.asarray(part.toarray() if hasattr(part, "toarray") else part).reshape(part.shape[0], -1)
            frame = pd.DataFrame(part[:, own], columns=[columns[i] for i in own])
            more = [c for c in extra if wanted is None or c in wanted]
            yield pd.concat([frame, pd.DataFrame({c: extra[c][start : start + step] for c in more})], axis=1)

    grid = x.shape[1:3] if x.ndim == 3 else None
    shown = f", pictures of {grid[0]} x {grid[1]}" if grid else ""
    detected = [f"array: {x.shape[0]:,} rows, {width} numbers each{shown}"]
    return Source(name, [*columns, *extra], blocks, detected, grid=grid)


def of_frame(frame: pd.DataFrame, name: str) -> Source:
    """A data frame; its index is left out."""
    columns = [str(column) for column in frame.columns]
    if twice := [column for column, count in Counter(columns).items() if count > 1]:
        raise UserError(f"{name}: two columns are called '{twice[0]}'; rename one")
    frame = frame.set_axis(columns, axis=1).reset_index(drop=True)

    def blocks(wanted: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        for start in range(0, len(frame), BLOCK):
            yield frame.iloc[start : start + BLOCK][columns if wanted is None else list(wanted)]

    return Source(name, columns, blocks, [f"table: {len(frame):,} rows, {len(columns)} columns"])


def in_memory(data: Any) -> Source:
    """A source of data in memory: a frame, an array, a sparse matrix, texts, a Hugging Face or a torch data set."""
    if isinstance(data, pd.Series):
        data = data.to_frame(str(data.name or "0"))
    if isinstance(data, pd.DataFrame):
        return of_frame(data, "the data frame")
    if hasattr(data, "to_pandas"):  # a Hugging Face data set, polars, pyarrow
        return of_frame(data.to_pandas(), "the data set")
    if hasattr(data, "nnz") and hasattr(data, "tocsr"):
        return of_array(data.tocsr(), "the sparse matrix")
    if hasattr(data, "detach"):
        data = data.detach().cpu().numpy()
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, np.ndarray | list | tuple):
        pairs = [data[i] for i in range(len(data))]  # a torch data set of (x, y)
        if pairs and isinstance(pairs[0], tuple) and len(pairs[0]) == 2:
            x = np.stack([np.asarray(x) for x, _ in pairs])
            source = of_array(x, "the data set", {"label": np.asarray([int(y) for _, y in pairs])})
            source.label = "label"
            return source
    if isinstance(data, list | tuple) and data and isinstance(data[0], str):
        return of_frame(pd.DataFrame({"text": list(data)}), "the texts")
    if np.ma.isMaskedArray(data):
        data = data.filled(np.nan) if data.dtype.kind == "f" else data.astype(float).filled(np.nan)
    return of_array(np.asarray(data), "the array")


def image_folder(path: Path) -> Source:
    """A folder with a folder of images for each class: a column of paths, and one of class names."""
    found = [
        (str(file.relative_to(path)), folder.name)
        for folder in sorted(path.iterdir())
        if folder.is_dir()
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in IMAGES
    ]
    if not found:
        raise UserError(
            f"folder '{path.name}': no images in it; it needs a folder of images for each class, or name a file"
        )
    source = of_frame(pd.DataFrame(found, columns=["image", "class"]), path.name)
    source.detected = [f"folder: {len(found):,} images in {len({label for _, label in found})} classes"]
    source.folder, source.label = path, "class"
    return source
