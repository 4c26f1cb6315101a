"""The files that keep tasks' rows: one a task while tasks are being finished, several to a file once they are packed.

A file says of itself what made its rows. Whoever reads one may be reading a stranger's: it is measured first.
"""

import functools
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from datalab import atomic

Content = TypeVar("Content")
LARGEST, MOST_VALUES = 2**28, 20_000_000  # bytes of a file, unpacked too; values in it
LONGEST = 2**22  # bytes of what a file says of itself
MOST_COLUMNS, MOST_LISTS = 1000, 500_000  # of a file: columns; rows, where a column holds lists, each an object
MOST_PACKED = 50_000  # values of a file of several tasks: with it no more is lost, and it is small enough to look into
# The key under which a file says what made its rows, as JSON: {"function", "processor", "parameters"} where they are
# one task's, who has its key in its name; {"function", "processor", "tasks": [[key, rows, parameters], ...]} where they
# are several's. Older files do not say the processor.
DESCRIPTION = "datalab.cell"
PROCESSOR = "processor"
LONGEST_PROCESSOR = 200  # characters


class Finished(NamedTuple):
    """A task whose rows a file has: its key (:attr:`datalab.sweep.Task.key`), what made them, how many there are.

    ``processor`` is where they were made (:func:`datalab.sweep.kernels.named`), empty where that is not said.
    """

    key: str
    function: str
    parameters: dict[str, Any]
    count: int
    processor: str = ""

    @property
    def order(self) -> tuple[str, str, str]:
        """Where it stands among others of its function: by its first parameter, most often the data set."""
        return _words(self.parameters, 1), json.dumps(self.parameters, sort_keys=True), self.key


def file_name(tasks: Collection[Finished]) -> str:
    """What the file of these tasks, in their order, is called: it names what is lost with it."""
    first, *others = tasks
    if not others:
        return single_name(first.parameters, first.key)
    key = hashlib.sha256(" ".join(task.key for task in tasks).encode()).hexdigest()[:16]
    module = first.function.rpartition(".")[2].replace(":", "_")
    ends = dict.fromkeys(_words(task.parameters, 1) for task in (first, others[-1]))
    return _plain("_".join([module, "_to_".join(ends), f"{len(tasks)}_tasks"]), key)


def single_name(parameters: Mapping[str, Any], key: str) -> str:
    """What the file of one task is called."""
    return _plain(_words(parameters, 4), key)


def _plain(words: str, key: str) -> str:
    """A name that every file system, and every page's link, takes as it is."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', words).lstrip('.-')[:150]}_{key}.parquet"


def _words(parameters: Mapping[str, Any], most: int) -> str:
    return "_".join(str(v) for v in list(parameters.values())[:most] if isinstance(v, str | int))


def write(path: Path, rows: pd.DataFrame | pa.Table, tasks: Collection[Finished]) -> None:
    """Write the rows of these tasks, of one function and processor, one after the other.

    Equal tasks and rows give equal bytes.
    """
    table = pa.Table.from_pandas(rows, preserve_index=False) if isinstance(rows, pd.DataFrame) else rows
    table = table.replace_schema_metadata(None).combine_chunks()  # pandas' description would be half of a small file
    first, *others = tasks
    several = {"tasks": [[task.key, task.count, task.parameters] for task in tasks]}
    made_by = {"function": first.function} | ({PROCESSOR: first.processor} if first.processor else {})
    made_by |= several if others else {"parameters": first.parameters}
    words = [field.name for field in table.schema if not types.is_floating(field.type)]  # scores rarely repeat
    how = {"compression": "zstd", "compression_level": 19, "write_statistics": False, "use_dictionary": words}
    with (
        atomic.replacing(path) as partial,
        pq.ParquetWriter(partial, table.schema, store_schema=False, write_page_checksum=True, **how) as writer,
    ):
        writer.write_table(table)
        writer.add_key_value_metadata({DESCRIPTION: json.dumps(made_by)})


def by_task(path: Path) -> list[tuple[Finished, pd.DataFrame]] | None:
    """The tasks of a file, each with its rows as they were.

    None when the file is absent, torn, altered (pages have checksums), silent on what made it, or larger than any may
    be: a compressed file of a stranger may hold a thousand times what it seems to.
    """
    return [(task, part.to_pandas()) for task, part in _parts(path)] or None


def tasks_in(path: Path) -> list[Finished]:
    """The tasks that a file says it has, by its last page alone; none where it cannot be read."""
    opened = _opened(path, _schema)
    return [] if opened is None else opened[0]


def rows_of(folder: Path, keys: Collection[str]) -> dict[str, pd.DataFrame]:
    """The rows of those of the tasks with these ``keys`` that are finished in ``folder``, by key."""
    rows: dict[str, pd.DataFrame] = {}
    for path in sorted(folder.glob("*.parquet")):
        if any(task.key in keys and task.key not in rows for task in tasks_in(path)):
            rows |= {task.key: part.to_pandas() for task, part in _parts(path) if task.key in keys}
    return rows


def pack(folder: Path, wanted: Mapping[str, object], whole: Collection[str] = ()) -> dict[str, str]:
    """Put finished tasks together in files of several; return the name of the file that has each, by its key.

    ``wanted`` has each task's key, and what parts it from others: only tasks of equal values, of one function, made on
    one processor and with the same columns share a file. A file is not written anew if ``whole`` has its name, and none
    is deleted. The same tasks give the same files, whatever order they were finished in. Raises ``OSError`` for a task
    that ``folder`` does not have, or has only in a file that cannot be read.
    """
    sources: dict[str, Path] = {}
    tables = functools.cache(lambda path: {task.key: part for task, part in _parts(path)})  # a file is read once
    groups: dict[tuple[object, ...], list[tuple[Finished, int]]] = {}
    for path in sorted(folder.glob("*.parquet"), key=lambda path: (path.name not in whole, path.name)):
        tasks, schema = _opened(path, _schema) or ([], ())
        new = [task for task in tasks if task.key in wanted and task.key not in sources]
        if path.name not in whole:
            new = [task for task in new if task.key in tables(path)]  # none of a torn file
        for task in new:
            sources[task.key] = path
            group = groups.setdefault((wanted[task.key], task.function, task.processor, str(schema)), [])
            group.append((task, task.count * len(schema)))
    if wanted.keys() - sources:
        raise OSError("raw rows that were there are gone")
    names = {}
    for group in groups.values():
        for tasks in _shared_out(sorted(group, key=lambda pair: pair[0].order)):
            name = file_name(tasks)
            names |= {task.key: name for task in tasks}
            if any(sources[task.key].name != name for task in tasks):
                if lost := [task for task in tasks if task.key not in tables(sources[task.key])]:
                    raise OSError(f"{sources[lost[0].key].name} cannot be read")
                rows = pa.concat_tables([tables(sources[task.key])[task.key] for task in tasks])
                write(folder / name, rows, tasks)
    return names


def _shared_out(group: Iterable[tuple[Finished, int]]) -> list[list[Finished]]:
    """Tasks with their numbers of values, in order, as they share files."""
    files: list[list[Finished]] = []
    held = 0
    for task, values in group:
        if not files or held + values > MOST_PACKED:
            files.append([])
            held = 0
        files[-1].append(task)
        held += values
    return files


def _parts(path: Path) -> list[tuple[Finished, pa.Table]]:
    """A file's tasks with their rows; none where it cannot be read."""
    tasks, table = _opened(path, _table) or ([], None)
    starts = itertools.accumulate((task.count for task in tasks), initial=0)
    return [(task, table.slice(start, task.count)) for task, start in zip(tasks, starts, strict=False)]


def _opened(path: Path, look: Callable[[pq.ParquetFile], Content]) -> tuple[list[Finished], Content] | None:
    """The tasks of a file and what a look into it gives; None where it is torn, or not what it says."""
    try:
        if (size := path.stat().st_size) > LARGEST:
            return None
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_nothing_beside(file.metadata, size)
            return _tasks(file, path), look(file)
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError, RecursionError):
        return None


def _check_nothing_beside(metadata: pq.FileMetaData, size: int) -> None:
    """Raise ``ValueError`` where a file holds more than its rows and one description of them."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    pages = sum(group.column(i).total_compressed_size for group in groups for i in range(group.num_columns))
    marks = 12  # bytes: the format's name at both ends, and the length of what describes it
    if pages + metadata.serialized_size + marks != size or len(metadata.metadata) > 1:
        raise ValueError("it holds something beside its rows")


def _tasks(file: pq.ParquetFile, path: Path) -> list[Finished]:
    described, rows = file.metadata.metadata[DESCRIPTION.encode()], file.metadata.num_rows
    if len(described) > LONGEST:
        raise ValueError("it says too much of itself")
    made_by = json.loads(described)
    if json.dumps(made_by) != described.decode():
        raise ValueError("it describes itself otherwise than a run does")
    if "tasks" not in made_by:
        made_by["tasks"] = [[path.stem.rpartition("_")[2], rows, made_by["parameters"]]]
    function, processor = made_by["function"], made_by.get(PROCESSOR, "")
    tasks = [Finished(key, function, parameters, count, processor) for key, count, parameters in made_by["tasks"]]
    for task in tasks:
        types = zip(task[:4], (str, str, dict, int), strict=True)
        if not all(isinstance(value, kind) for value, kind in types) or task.count < 0:
            raise ValueError("a task has a key, a function, parameters and a number of rows")
    if not isinstance(processor, str) or len(processor) > LONGEST_PROCESSOR or not processor.isprintable():
        raise ValueError("no processor is called so")
    if len(tasks) > max(rows, 1000):
        raise ValueError("it has more tasks without rows than any")
    if sum(task.count for task in tasks) != rows or len({task.key for task in tasks}) != len(tasks):
        raise ValueError("its tasks are not those of its rows")
    return tasks


def _schema(file: pq.ParquetFile) -> pa.Schema:
    return file.schema_arrow.remove_metadata()


def _table(file: pq.ParquetFile) -> pa.Table:
    """All rows. Raises ``ValueError`` where they are more than any file may have."""
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    values = sum(group.column(i).num_values for group in groups for i in range(group.num_columns))
    unpacked = sum(group.total_byte_size for group in groups)
    if values > MOST_VALUES or unpacked > LARGEST or len(file.schema_arrow) > MOST_COLUMNS:
        raise ValueError("it is too large")
    _check_kinds(file.schema_arrow, file.metadata.num_rows)
    # Of a dictionary of long texts each row may repeat the longest: read few rows at a time, and stop in time.
    batches, held = [], 0
    for batch in file.iter_batches(batch_size=max(1, LARGEST // max(unpacked, 1))):
        batches.append(batch)
        held += batch.nbytes
        if held > LARGEST:
            raise ValueError("it is too large")
    table = pa.Table.from_batches(batches, file.schema_arrow).replace_schema_metadata(None)
    if table.num_rows != file.metadata.num_rows:
        raise ValueError("its rows are not as many as it says")
    return table


def _check_kinds(schema: pa.Schema, rows: int) -> None:
    """Raise ``ValueError`` for a column that no task gives: dictionaries, objects in objects, another's own types."""
    for kind in schema.types:
        listed = types.is_list(kind)
        kind = kind.value_type if listed else kind
        plain = types.is_primitive(kind) or types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind)
        if not plain or (listed and rows > MOST_LISTS):
            raise ValueError(f"a column of {kind}")
