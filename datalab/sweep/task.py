"""A task: a function's dotted name and JSON-able parameters, and the file that keeps its rows.

The file's name holds the hash of both, of the code that can change the rows, and of the libraries that compute them: a
finished task is never run twice, and a task whose code has changed is never mistaken for finished.
"""

import functools
import hashlib
import importlib
import json
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from datalab import atomic
from datalab.errors import UserError
from datalab.protocol import protocol
from datalab.sweep import reach

LARGEST, MOST_VALUES = 2**28, 20_000_000  # bytes of a file, unpacked too; values in it
DESCRIPTION = "datalab.cell"  # key under which a file says what made its rows: function and parameters, as JSON


@dataclass(frozen=True)
class Task:
    """One unit of work: ``function`` ("package.module:name") called with ``parameters`` returns a list of row dicts.

    For estimates, and not part of the key: ``cost``, its expected time in seconds on one core, and ``models``, how many
    it trains.
    """

    function: str
    parameters: dict[str, Any]
    cost: float = field(default=1.0, compare=False)
    models: int = field(default=0, compare=False)

    @functools.cached_property
    def key(self) -> str:
        """The hash (16 hex digits) of everything the rows depend on."""
        code = reach.code_hash(self.function), protocol().rules_sha256, _libraries()
        content = json.dumps([self.function, self.parameters, *code], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """The parameters that are plain words or numbers, for people: ``adult mlp symmetric 3``."""
        return " ".join(
            str(v) for v in self.parameters.values() if isinstance(v, str | int) and not isinstance(v, bool)
        )

    def path(self, folder: Path) -> Path:
        """Where the finished task's rows lie."""
        words = [str(v) for v in list(self.parameters.values())[:4] if isinstance(v, str | int)]
        return folder / f"{'_'.join(words)}_{self.key}.parquet".replace("/", "-")

    def rows(self) -> tuple[pd.DataFrame | str, float]:
        """Run it: its rows, or its error in one line; and its seconds."""
        start = time.perf_counter()
        try:
            module, _, name = self.function.partition(":")
            rows = pd.DataFrame(getattr(importlib.import_module(module), name)(**self.parameters))
        except Exception as error:  # a failed task must not lose the others; the caller raises with every failure named
            rows = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        return rows, time.perf_counter() - start

    def keep(self, rows: pd.DataFrame | str, folder: Path) -> str | None:
        """Write the rows to the task's file; return the error, if there is one."""
        if isinstance(rows, str):
            return rows
        try:
            self._write(rows, self.path(folder))
        except Exception as error:  # as a failure of the task: the disk may be full
            return f"{type(error).__name__}: {error}"
        return None

    def _write(self, rows: pd.DataFrame, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pandas(rows, preserve_index=False)
        table = table.replace_schema_metadata(None)  # pandas' own description would be half of a small file
        made_by = json.dumps({"function": self.function, "parameters": self.parameters})
        words = [field.name for field in table.schema if not pa.types.is_floating(field.type)]  # scores rarely repeat
        how = {"compression": "zstd", "compression_level": 19, "write_statistics": False, "use_dictionary": words}
        with (
            atomic.replacing(path) as partial,
            pq.ParquetWriter(partial, table.schema, store_schema=False, write_page_checksum=True, **how) as writer,
        ):
            writer.write_table(table)
            writer.add_key_value_metadata({DESCRIPTION: made_by})


@functools.cache
def _libraries() -> dict[str, str]:
    return {name: version(name) for name in ("numpy", "scipy", "scikit-learn", "torch", "pandas")}


def read(path: Path) -> pd.DataFrame | None:
    """A task's rows, or None where :func:`described` is."""
    content = described(path)
    return None if content is None else content[1]


def described(path: Path) -> tuple[dict[str, Any], pd.DataFrame] | None:
    """What made a file, ``{"function", "parameters"}``, and its rows.

    None when the file is absent, torn, altered (pages have checksums), silent on what made it, or larger than any
    task's: a compressed file of a stranger may hold a thousand times what it seems to, so it is measured first.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.stat().st_size > LARGEST:
            return None
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            made_by = json.loads(file.metadata.metadata[DESCRIPTION.encode()])
            if not (isinstance(made_by["function"], str) and isinstance(made_by["parameters"], dict)):
                return None
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            values = sum(group.column(i).num_values for group in groups for i in range(group.num_columns))
            unpacked = sum(group.total_byte_size for group in groups)
            coded = any(pa.types.is_dictionary(column.type) for column in file.schema_arrow)
            if values > MOST_VALUES or unpacked > LARGEST or coded:
                return None
            # Of a dictionary of long texts each row may repeat the longest: read few rows at a time, and stop in time.
            batches, held = [], 0
            for batch in file.iter_batches(batch_size=max(1, LARGEST // max(unpacked, 1))):
                batches.append(batch)
                held += batch.nbytes
                if held > LARGEST:
                    return None
            return made_by, pa.Table.from_batches(batches, file.schema_arrow).to_pandas()
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError, RecursionError):
        return None
