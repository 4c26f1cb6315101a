"""What people have as one thing: a :class:`Source`, whose rows come in blocks, with a line for whatever was detected.

Text tables and Parquet are read in blocks, several times, and never held whole; what else there is becomes a data
frame. Nothing is ever unpickled.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from datalab.data.encoders import TEXT_COMPONENTS, WIDE_FROM
from datalab.errors import MOST, UserError, did_you_mean

BLOCK, CSV_BLOCK = 4096, 2 << 20  # rows of a block; bytes of a text table's
TOO_LONG = f"row of over {CSV_BLOCK >> 20} MB (a quotation mark that is never closed?)"
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
FEATURES, LABELS = ("x", "features", "embeddings", "embedding", "data"), ("y", "label", "labels", "target", "targets")
PACKED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".z", ".zip", ".7z", ".rar", ".tar", ".tgz", ".tbz2", ".txz")
PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pth")
TEXT = (".csv", ".tsv", ".txt", ".tab")
TABS = {"\\t": "\t", "tab": "\t"}  # a tab, as it is typed in a shell
KINDS = ".csv, .tsv, .parquet, .npz, .npy, or as a folder of images by class"
# A number with one and with the other decimal mark, or with several of the other between thousands.
COMMA = r"[-+]?(?:[\d.]*\d,\d+|\d{1,3}(?:\.\d{3}){2,})"
POINT = r"[-+]?(?:\d+\.\d+|\d{1,3}(?:,\d{3}){2,})"
UNSURE = r"[-+]?[1-9]\d{0,2}(?:,\d{3}|(?:\.\d{3})+)"  # whose mark may as well lie between thousands
UNIT = r"^(?:[$€£¥₹] ?|[A-Z]{3} )(?=[-+\d])|(?<=\d)(?: ?[%$€£¥₹]| [A-Z]{3})$"


@dataclass
class Source:
    """``data`` gives rows, as data frames of the columns named, as often as it is called; ``columns`` are all names.

    ``detected`` has a line for each thing that was guessed; ``folder`` is where relative paths in it start; ``label``
    is the label's column, ``key`` that which names a row, and ``rows`` how many there are, once the source knows it;
    ``texts`` says that the columns are a list of texts, ``grid`` is the height and width of pictures that they are;
    ``decimal`` is the mark of numbers that are text; ``directions`` brings rows to the columns, where a sparse matrix
    had more; ``path`` is that of a file which is read anew each time.
    """

    name: str
    data: Callable[[list[str]], Iterable[pd.DataFrame]]
    columns: list[str]
    detected: list[str]
    folder: Path = Path()
    label: str | None = None
    key: str | None = None
    texts: bool = False
    grid: tuple[int, int] | None = None
    decimal: str = "."
    rows: int | None = None
    directions: Callable[[Any], np.ndarray] | None = None
    path: Path | None = None

    def __post_init__(self) -> None:
        self._written = self._stamp()
        if twice := sorted(name for name, count in Counter(self.columns).items() if count > 1):
            raise UserError(f"{self.name}: two columns are called '{twice[0]}'; rename one (or is there no header?)")

    def blocks(self, columns: list[str] | None = None) -> Iterator[pd.DataFrame]:
        """The rows in order as frames of these columns (None: all), some thousand each; the index is a row's number.

        Raises UserError for a file that breaks off or changes on the way.
        """
        start, most = 0, np.inf if self.rows is None else self.rows
        try:
            for block in self.data(self.columns if columns is None else columns):
                block = block.set_axis(range(start, start := start + len(block)))
                if start > most:
                    break
                yield block
        except (ValueError, OSError) as error:
            raise unreadable(f"file '{self.name}'", error) from None
        if self.rows not in (None, start) or self._stamp() != self._written:
            raise UserError(f"{self.name}: it has changed since it was first read; leave it until the answer is there")
        self.rows = start

    def _stamp(self) -> tuple[int, ...]:
        """What tells that the file is as it was."""
        written = self.path.stat() if self.path else None
        return (written.st_ino, written.st_size, written.st_mtime_ns) if written else ()

    def take(self, columns: list[str] | None = None, at: np.ndarray | None = None) -> pd.DataFrame:
        """The rows of these numbers (None: all), in their order here. Raises UserError for a source without rows."""
        parts = [block if at is None else block[block.index.isin(at)] for block in self.blocks(columns)]
        if not self.rows:
            raise UserError(f"{self.name}: it has no rows")
        return pd.concat(parts)

    def count(self) -> int:
        """How many rows there are; they are read for it where they never were."""
        return sum(map(len, self.blocks(self.columns[:1]))) if self.rows is None else self.rows

    def need(self, column: str, what: str) -> str:
        """The column's name. Raises UserError, with the closest name, where there is none."""
        if column not in self.columns:
            raise UserError(f"{what} '{column}': no such column in {self.name}{did_you_mean(column, self.columns)}")
        return column


def of_frame(name: str, frame: pd.DataFrame, line: str, **more: Any) -> Source:
    """A frame in memory, its index left out."""
    frame, starts = native(frame.set_axis([str(column) for column in frame], axis=1)), range(0, len(frame), BLOCK)
    more["rows"] = len(frame)
    return Source(name, lambda names: (frame.iloc[i : i + BLOCK][names] for i in starts), list(frame), [line], **more)


def native(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with all bytes in this machine's order, as pandas needs them.

    Raises UnicodeEncodeError for half a letter, which no file can hold; pandas itself lets some of it pass.
    """
    for name, column in frame.items():
        values = column.cat.categories if hasattr(column, "cat") else column
        for value in (name, *(values if values.dtype.kind == "O" else ())):
            if isinstance(value, str):
                value.encode()
    other = [i for i, dtype in enumerate(frame.dtypes) if isinstance(dtype, np.dtype) and not dtype.isnative]
    return frame.apply(lambda column: column.astype(column.dtype.newbyteorder("="))) if other else frame


def of_array(x: Any, name: str, extra: dict[str, Any] | None = None, label: str | None = None) -> Source:
    """An array (n, ...), every example flat, with further columns (n,), one of which may be the label."""
    if x.ndim < 2 or not x.size or x.dtype.kind not in "biufUSO":
        raise UserError(f"{name}: need features (n, d) of numbers or text, got {x.dtype} of shape {x.shape}")
    frame = pd.DataFrame(x.reshape(len(x), -1)).assign(**(extra or {}))
    line = f"array: {x.shape[0]:,} rows of {' x '.join(map(str, x.shape[1:]))}"
    return of_frame(name, frame, line, grid=x.shape[1:3] if x.ndim == 3 else None, label=label)


def unreadable(what: str, error: Exception) -> UserError:
    """The refusal of what its reader gave up on: the reader's own, if it is one."""
    why = " ".join(str(error).split()).rpartition("Invalid: ")[2][:160]
    if "pickle" in why:
        held = "no file of NumPy's, or one of pickled objects"
        why = f"it is {held}, which can run code and are never opened; save numbers or text"
    elif "straddling" in why:
        why = f"a {TOO_LONG}"
    elif isinstance(error, UnicodeDecodeError) or "invalid UTF8" in why:
        why += "; if it is text, name its encoding"
    return error if isinstance(error, UserError) else UserError(f"{what}: cannot be read ({why})")


def options(given: Any, *data: Any) -> dict[str, str]:
    """What is given of the ``delimiter``, ``decimal`` and ``encoding`` of text tables, of which ``data`` have one."""
    if not isinstance(given, dict | None) or any(not isinstance(of, str | None) for of in (given or {}).values()):
        raise UserError(f"read: must be a dict of text such as {{'delimiter': ';'}}, got {str(given)[:80]!r}")
    made = {option: of for option, of in (given or {}).items() if of is not None}
    if unknown := sorted({*made} - {"delimiter", "decimal", "encoding"}):
        raise UserError(f"read: unknown '{unknown[0]}'; delimiter, decimal and encoding can be given")
    if made and not any(isinstance(of, str | Path) and Path(of).suffix.lower() in TEXT for of in data):
        tables = f"of text tables alone ({', '.join(TEXT)})"
        raise UserError(f"{', '.join(made)}: {tables}, and neither the data nor the test rows are one; leave it out")
    return made


def read(data: Any, delimiter: str | None = None, decimal: str | None = None, encoding: str | None = None) -> Source:
    """The source of a path, or of data in memory. Raises UserError, one line, for what cannot be read."""
    path = Path(data).absolute() if isinstance(data, str | Path) else None  # a link's own name says its kind
    try:
        if path is None:
            return in_memory(data)
        if path.is_dir():
            return image_folder(path)
        if not path.is_file():
            other = "it is no regular file, and is read several times; save it as one"
            raise UserError(f"file '{data}': {other if Path(data).exists() else 'there is no such file'}")
        if path.stat().st_size == 0:
            raise UserError(f"file '{path.name}' is empty; it needs a header and rows")
        kind = path.suffix.lower()
        if kind in (".parquet", ".pq"):
            return parquet(path)
        if kind in (".npz", ".npy"):
            return numpy_file(path)
        if kind in TEXT:
            return separated(path, delimiter, decimal, encoding)
    except Exception as error:  # zipfile's, zlib's, pyarrow's: every reader has its own
        raise unreadable(f"file '{path.name}'" if path else "the data", error) from None
    why, cure = f"'{kind}' is no kind that is read" if kind else "its name has no ending that says its kind", "save it"
    if kind in PACKED:
        why, cure = f"'{kind}' is packed", "unpack it first, or save it"
    elif kind in PICKLES:
        why = "a pickle can run code, and is never opened"
    raise UserError(f"file '{path.name}': {why}; {cure} as {KINDS}")


def separated(path: Path, delimiter: str | None, decimal: str | None, encoding: str | None) -> Source:
    """A CSV or TSV: encoding, delimiter and decimal mark are found where they are not given; all columns are text."""
    import pyarrow as pa
    import pyarrow.csv as pacsv

    encoding, delimiter = encoding or _encoding(path), TABS.get(delimiter and delimiter.lower(), delimiter)
    if delimiter and (len(delimiter) > 1 or not delimiter.isascii() or delimiter in '\r\n"'):
        raise UserError(f"delimiter: must be a 1-character string of ASCII, no quotation mark, got {delimiter!r}")
    if decimal not in (None, ".", ","):
        raise UserError(f"decimal: must be '.' or ',', got {decimal!r}")
    with open(path, encoding=encoding, newline="") as stream:
        head = stream.read(1 << 18)
    if "\x00" in head:
        raise UserError(f"file '{path.name}': holds NUL bytes, so it is no text table")
    excel = re.match(r"sep=(.)(\r\n?|\n)", head)  # a line that Excel reads before the header
    skipped = {"skip_rows": 1 if excel else 0, "encoding": encoding}

    def opened(
        mark: str, ragged: Callable | None = None, names: Sequence = (), **converting: Any
    ) -> pacsv.CSVStreamingReader:
        reading = pacsv.ReadOptions(use_threads=False, block_size=CSV_BLOCK, column_names=names, **skipped)
        parsing = pacsv.ParseOptions(delimiter=mark, newlines_in_values=True, invalid_row_handler=ragged)
        return pacsv.open_csv(path, reading, parsing, pacsv.ConvertOptions(**converting))

    def cut(mark: str) -> tuple[float, list[str]]:
        """The share of the first rows that a mark cuts into as many cells as the header, and the header."""
        ragged: list = []
        # A reader that fails reads on in a thread that may outlive Python, and aborts if it has a function of Python's.
        for handler in (None, lambda row: ragged.append(row) or "skip"):
            try:
                reader = opened(mark, handler)
                rows, header = 1 + len(next(iter(reader), ())), reader.schema.names
                break
            except pa.ArrowInvalid as error:
                if "Expected" not in str(error):  # no line ends in what is read at once
                    return 0.0, []
        return rows / (rows + len(ragged)) if len(header) > 1 else 0.0, header

    delimiter = delimiter or (excel and excel[1])
    cuts = {mark: cut(mark) for mark in ([delimiter] if delimiter else ",;\t|")}
    delimiter = max(cuts, key=lambda mark: (cuts[mark][0], len(cuts[mark][1])))
    written = cuts[delimiter][1]
    if not written:
        raise UserError(f"{path.name}: a header, and no rows under it, or a {TOO_LONG}")
    columns = [" ".join(cell.split()) for cell in written]
    if columns.count("") > 1:  # a spreadsheet's empty columns
        columns = [name or f"column {i}" for i, name in enumerate(columns, 1)]
    if len(columns) < 2:
        raise UserError(f"file '{path.name}': one column '{columns[0][:40]}', two are needed (delimiter?)")

    def data(names: list[str]) -> Iterable[pd.DataFrame]:
        text, header = dict.fromkeys(columns, pa.string()), 1  # which is a row, where the names are given
        for batch in opened(delimiter, names=columns, column_types=text, include_columns=names):
            yield batch.slice(header).to_pandas()[names]  # asked for no column, pyarrow gives all
            header -= min(header, len(batch))

    source = Source(path.name, data, columns, [], path.parent, path=path)
    sample = next((block for block in data(columns) if len(block)), None)
    if sample is None:
        raise UserError(f"{path.name}: a header, and no rows under it")
    if decimal is None:
        cells = bare(sample[:5000].stack())
        comma, point, unsure = (cells.str.fullmatch(number) for number in (COMMA, POINT, UNSURE))
        more = comma.astype(int) - point.astype(int)
        ahead = more[~unsure].sum() or (delimiter == ";") * more.sum()
        decimal = "," if ahead > 0 and delimiter != "," else "."
    source.decimal, shown = decimal, "tab" if delimiter == "\t" else f"'{delimiter}'"
    line = f"text table: {len(columns)} columns, delimiter {shown}, decimal '{decimal}', encoding {encoding}"
    source.detected.append(line)
    if any(re.fullmatch(f"{COMMA}|{POINT}", column) for column in columns) or all(map(str.isdigit, columns)):
        line = f"no header? the first row is taken for the columns' names: {str(columns[:4])[1:-1]}"
        source.detected.append(line)
    return source


def bare(text: pd.Series) -> pd.Series:
    """Numbers as people write them, without blanks, a unit of money or % at an end; a typeset minus is one."""
    return text.str.strip().str.replace("\u2212", "-", regex=False).str.replace(UNIT, "", regex=True)


def _encoding(path: Path) -> str:
    with open(path, "rb") as stream:
        start = stream.read(3)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    try:
        with open(path, encoding="utf-8") as stream:
            for _ in stream:
                pass
    except UnicodeDecodeError:
        return "cp1252"  # of which Latin-1's printed letters are a part
    return "utf-8-sig" if start == b"\xef\xbb\xbf" else "utf-8"


def parquet(path: Path) -> Source:
    """A Parquet file, nullable types and categories included."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path, pre_buffer=False)  # buffered ahead, it holds the whole file in the end
    schema, rows = file.schema_arrow, file.metadata.num_rows
    columns = [name for name in schema.names if not re.fullmatch(r"__index_level_\d+__", name)]

    def nullable(kind: pa.DataType) -> Any:
        named = str(kind).replace("uint", "UInt").replace("int", "Int")
        return pd.api.types.pandas_dtype(named) if pa.types.is_integer(kind) else None

    def data(names: list[str]) -> Iterable[pd.DataFrame]:
        for batch in file.iter_batches(BLOCK, columns=names):
            holey = any(column.null_count and pa.types.is_integer(column.type) for column in batch.columns)
            # By pandas' own metadata a named index would be no column; whole numbers beside a gap stay what they are.
            yield batch.to_pandas(ignore_metadata=True, types_mapper=nullable if holey else None)

    line = f"Parquet: {rows:,} rows, {len(columns)} columns"
    source = Source(path.name, data, columns, [line], path.parent, rows=rows, path=path)
    if len(columns) < len(schema.names):
        source.detected.append("index: pandas' own, without a name, is left out")
    return source


def numpy_file(path: Path) -> Source:
    """An array (columns called 0, 1, ...), or features and labels of an ``.npz``; pickled objects are refused."""
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return of_array(loaded, path.name)
    named = {name: array for name, array in loaded.items() if isinstance(array, np.ndarray)}  # a zip may hold others
    tables = [name for name, array in named.items() if array.ndim > 1 and array.shape[1] > 1]
    if not tables:
        raise UserError(f"file '{path.name}': no features (n, d) among its arrays: {', '.join(named) or 'none'}")
    other = re.compile("|".join((*map(re.escape, LABELS), ".*(test|val).*")))  # one-hot labels, other rows
    likely = [name for name in tables if not other.fullmatch(name.lower())] or tables
    key = next((name for name in likely if name.lower() in FEATURES), likely[0])
    n = len(named[key])
    rows = {name: array.ravel() for name, array in named.items() if max(array.shape, default=0) == array.size == n}
    label = next((name for name in rows if name.lower() in LABELS), None)
    source = of_array(named[key], path.name, rows, label)
    source.detected.append(f"features from '{key}'; columns from {', '.join(rows) or 'no other array'}")
    return source


def in_memory(data: Any) -> Source:
    """A frame, an array, a sparse matrix, texts, a Hugging Face or a torch data set."""
    if hasattr(data, "to_pandas"):  # a Hugging Face data set, polars, pyarrow
        data = data.to_pandas()
    if hasattr(data, "nnz") and hasattr(data, "toarray"):  # first, as SciPy's dok_matrix is a dict too
        return _dense(data.tocsr())
    if isinstance(data, dict | pd.DataFrame):
        data = pd.DataFrame(data)
        return of_frame("the table", data, f"table: {len(data):,} rows, {data.shape[1]} columns")
    if hasattr(data, "detach"):
        data = data.detach().cpu().numpy()
    if not hasattr(data, "__array__") and hasattr(data, "__getitem__") and not isinstance(data, list | tuple):
        if not isinstance(first := data[0], tuple | list):
            raise UserError(f"the data set: need (features, label) of each example, got a {type(first).__name__}")
        x, y = (np.stack([np.asarray(data[i][part]) for i in range(len(data))]) for part in (0, 1))  # torch: (x, y)
        return of_array(x, "the data set", {"label": y}, "label")
    array = np.asanyarray(data)  # masked ones too
    if array.ndim == 1 and any(isinstance(row, str) for row in array):
        return of_frame("the texts", pd.DataFrame({"text": array}), f"texts: {len(array):,}", texts=True)
    return of_array(array, "the array")


@threadpool_limits.wrap(1)  # the order of a sum must not depend on the number of threads
def _dense(x: Any) -> Source:
    if x.shape[1] <= WIDE_FROM:
        return of_array(x.toarray(), "the sparse matrix")
    if x.dtype.kind not in "biuf" or not np.isfinite(x.data).all():
        raise UserError(
            f"the sparse matrix: of more than {WIDE_FROM} columns, it must hold real and finite numbers alone"
        )
    from sklearn.decomposition import TruncatedSVD

    svd = TruncatedSVD(TEXT_COMPONENTS, random_state=0).fit(x.astype(np.float64))
    svd.components_ /= svd.transform(x).std() or 1
    line = f"sparse matrix: {x.shape[0]:,} rows, {x.shape[1]:,} columns brought to {TEXT_COMPONENTS} directions"
    return of_frame("the sparse matrix", pd.DataFrame(svd.transform(x)), line, directions=svd.transform)


def image_folder(path: Path) -> Source:
    """A folder with a folder of images for each class: a column of paths, and one of class names."""
    inside = sorted(path.glob("[!.]*/[!.]*"))
    files = [file for file in inside if file.suffix.lower() in IMAGES and file.is_file()]
    if not files:
        raise UserError(f"folder '{path.name}': no images by class in it (class/picture.png); or name a file")
    table = pd.DataFrame([(f"{f.parent.name}/{f.name}", f.parent.name) for f in files], columns=["image", "class"])
    line = f"folder: {len(files):,} images in {table['class'].nunique()} classes"
    source = of_frame(path.name, table, line, folder=path, label="class", key="image")
    others = Counter(file.suffix.lower() or file.name for file in inside if file.suffix.lower() not in IMAGES)
    if others:
        left_out = ", ".join(f"{count:,} {kind}" for kind, count in others.most_common(MOST))
        source.detected.append(f"folder: left out, no pictures by their names: {left_out}")
    if empty := sorted({file.name for file in path.glob("[!.]*/")} - {*table["class"]}):
        source.detected.append(f"folder: no pictures in {str(empty[:MOST])[1:-1]}, so no class of that name")
    return source
