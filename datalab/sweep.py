"""A grid of cells -> rows: resumable by content, on a pool of single-threaded processes.

A cell is a function's dotted name and JSON-able parameters. Its file's name holds the hash of both, of the code of the
package that can change its rows, and of the libraries that compute them: a finished cell is never run twice, and a cell
whose code has changed is never mistaken for finished.
"""

import ast
import functools
import hashlib
import importlib
import json
import os
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from datalab import cluster
from datalab.errors import UserError
from datalab.protocol import protocol

# A cell's rows depend on the rooms below the sweep and on its own experiment, not on how they are run or shown.
_RESULT_FREE = (
    "cli.py",
    "__main__.py",
    "claims.py",
    "cluster.py",
    "sweep.py",
    "record",
    "report",
    "experiments",
    "stats",
)
_LIBRARIES = ("numpy", "scipy", "scikit-learn", "torch", "pandas")
_ATTEMPTS = 3
DESCRIPTION = "datalab.cell"  # key under which a cell's file says what made it: function and parameters, as JSON
# Of a local pool's workers, dask's among them: one thread a process, and freed blocks kept (by default glibc maps and
# unmaps every large buffer, and dask trims them, which doubles the cost of small trainings).
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": "268435456",
    "MALLOC_MMAP_THRESHOLD_": "268435456",
}

Progress = Callable[[int, int, int, str], None]


@dataclass(frozen=True)
class Cell:
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
        module = self.function.partition(":")[0]
        depends = [self.function, self.parameters, code_hash(module), protocol().rules_sha256, _libraries()]
        content = json.dumps(depends, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """The parameters that are plain words or numbers, for people: ``adult mlp symmetric 3``."""
        return " ".join(
            str(v) for v in self.parameters.values() if isinstance(v, str | int) and not isinstance(v, bool)
        )

    def path(self, folder: Path) -> Path:
        """Where the finished cell's rows lie."""
        words = [str(v) for v in list(self.parameters.values())[:4] if isinstance(v, str | int)]
        return folder / f"{'_'.join(words)}_{self.key}.parquet".replace("/", "-")


class SweepError(RuntimeError):
    """Some cells failed; the finished ones are kept. The message names each failed cell's parameters and error."""


@functools.cache
def code_hash(module: str) -> str:
    """The hash of the package's source that a cell of ``module`` depends on."""
    root = Path(__file__).parent
    own = _with_imported(root.parent.joinpath(*module.split(".")).with_suffix(".py"), root / "experiments")
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        part = path.relative_to(root).parts[0]
        relevant = path.suffix in {".py", ".txt", ".yaml"} and part not in _RESULT_FREE and part != "claims.yaml"
        if path in own or (relevant and part != "protocol.yaml"):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _with_imported(path: Path, folder: Path) -> set[Path]:
    """A module's file and, of those in ``folder``, the modules it imports, and those that these import."""
    found, waiting = set(), [path]
    while waiting:
        path = waiting.pop()
        if path in found or not path.is_file():
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                files = [folder.parents[1].joinpath(*name.split(".")).with_suffix(".py") for name in names]
                waiting += [file for file in files if file.is_relative_to(folder)]
    return found


@functools.cache
def _libraries() -> dict[str, str]:
    return {name: version(name) for name in _LIBRARIES}


def available_cores() -> int:
    """The processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    cells: Sequence[Cell], folder: Path, workers: int | None = None, progress: Progress | None = None
) -> pd.DataFrame:
    """Run the cells that are not finished and return the rows of all, in the cells' order.

    Parameters
    ----------
    cells
        The grid; a repeated cell is run once.
    folder
        One parquet file per finished cell, written to a temporary name and renamed.
    workers
        Processes, each with one thread; None for one a core, 1 to run in this process. Not used where the environment
        names a scheduler (:mod:`datalab.cluster`).
    progress
        Called with (done, total, failed, text) at the start and after every cell.

    Raises :class:`SweepError` after all cells were tried, if any failed. A worker that dies (killed, out of memory)
    costs only its cell, which is tried again up to 2 times.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cells = list({cell.key: cell for cell in cells}.values())
    missing = [cell for cell in cells if read(cell.path(folder)) is None]
    workers = workers or available_cores()
    state = _State(total=len(cells), done=len(cells) - len(missing), progress=progress)
    state.report(f"{state.done} of {len(cells)} cells were finished before" if state.done else "")
    if missing:
        scheduler = cluster.address()
        if scheduler is not None:
            for cell, rows, seconds in cluster.results(missing, scheduler):
                state.note(cell, _keep(rows, cell, folder), seconds)
        elif workers == 1:
            for cell in missing:
                state.note(cell, *_attempt(cell, folder))
        else:
            _run_pool(missing, folder, workers, state)
    if state.failures:
        lines = [f"{cell.function} {json.dumps(cell.parameters)}: {error}" for cell, error in state.failures]
        count = f"{len(lines)} of {len(cells)} cells failed (the others are kept)"
        raise SweepError("\n  ".join([f"{count}, the first because of {state.failures[0][1]}", *lines]))
    return pd.concat([read(cell.path(folder)) for cell in cells], ignore_index=True)


def read(path: Path) -> pd.DataFrame | None:
    """A cell's rows, or None where :func:`described` is."""
    found = described(path)
    return None if found is None else found[1]


def described(path: Path) -> tuple[dict[str, Any], pd.DataFrame] | None:
    """What made a cell's file, ``{"function", "parameters"}``, and its rows.

    None when the file is absent, torn, altered (pages have checksums) or silent on what made it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            about = json.loads(file.metadata.metadata[DESCRIPTION.encode()])
            return about, file.read().to_pandas()
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError):
        return None


class _State:
    def __init__(self, total: int, done: int, progress: Progress | None):
        self.total, self.done, self.progress = total, done, progress
        self.failures: list[tuple[Cell, str]] = []

    def note(self, cell: Cell, error: str | None, seconds: float) -> None:
        if error is None:
            self.done += 1
        else:
            self.failures.append((cell, error))
        self.report(f"{cell.label}: {'failed, ' + error if error else f'{seconds:.1f} s'}")

    def report(self, text: str) -> None:
        if self.progress is not None:
            self.progress(self.done, self.total, len(self.failures), text)


def _run_pool(missing: list[Cell], folder: Path, workers: int, state: _State) -> None:
    from joblib.externals.loky import ProcessPoolExecutor
    from joblib.externals.loky.process_executor import BrokenProcessPool

    # A worker whose memory has grown is replaced between two cells: nothing is lost, and its path is not for a record.
    warnings.filterwarnings("ignore", message="A worker stopped while some jobs", category=UserWarning)
    attempts = dict.fromkeys((cell.key for cell in missing), 0)
    waiting = list(missing)
    while waiting:
        # Only as many cells as workers are handed out at a time, so that a dead worker puts no other cell in doubt.
        executor = ProcessPoolExecutor(
            max_workers=min(workers, len(waiting)),
            initializer=_start_worker,
            initargs=(os.getpid(),),
            env=WORKER_ENVIRONMENT,
        )
        running: dict[Any, Cell] = {}
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    cell = waiting.pop(0)
                    running[executor.submit(_attempt, cell, folder)] = cell
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    state.note(running[future], *future.result())
                    del running[future]
        except BrokenProcessPool:
            for cell in running.values():
                attempts[cell.key] += 1
                if read(cell.path(folder)) is not None:
                    state.note(cell, None, 0.0)
                elif attempts[cell.key] >= _ATTEMPTS:
                    state.note(cell, f"its worker process died {_ATTEMPTS} times (killed, or out of memory)", 0.0)
                else:
                    waiting.insert(0, cell)
        except BaseException:
            executor.shutdown(wait=True, kill_workers=True)
            raise
        executor.shutdown(wait=True, kill_workers=True)


def _start_worker(parent: int) -> None:
    """Workers are deaf to Ctrl-C (the parent decides), and gone when the parent is gone, however it died."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _attempt(cell: Cell, folder: Path) -> tuple[str | None, float]:
    """Run one cell and write its rows; return (error or None, seconds)."""
    rows, seconds = rows_of(cell)
    return _keep(rows, cell, folder), seconds


def rows_of(cell: Cell) -> tuple[pd.DataFrame | str, float]:
    """A cell's rows, or its error in one line, and its seconds."""
    start = time.perf_counter()
    try:
        module, _, name = cell.function.partition(":")
        rows = pd.DataFrame(getattr(importlib.import_module(module), name)(**cell.parameters))
    except UserError as error:
        return str(error), time.perf_counter() - start
    except Exception as error:  # a failed cell must not lose the others; the caller raises with every failure named
        return f"{type(error).__name__}: {error}", time.perf_counter() - start
    return rows, time.perf_counter() - start


def _keep(rows: pd.DataFrame | str, cell: Cell, folder: Path) -> str | None:
    """Write the rows to the cell's file; return the error, if there is one."""
    if isinstance(rows, str):
        return rows
    try:
        _write(rows, cell, cell.path(folder))
    except Exception as error:  # as a failure of the cell: the disk may be full
        return f"{type(error).__name__}: {error}"
    return None


def _write(rows: pd.DataFrame, cell: Cell, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(rows, preserve_index=False)
    table = table.replace_schema_metadata(None)  # pandas' own description would be half of a small file
    about = json.dumps({"function": cell.function, "parameters": cell.parameters})
    partial = path.with_suffix(f".{os.getpid()}.partial")
    words = [field.name for field in table.schema if not pa.types.is_floating(field.type)]  # scores rarely repeat
    how = {"compression": "zstd", "compression_level": 19, "write_statistics": False, "use_dictionary": words}
    try:
        with pq.ParquetWriter(partial, table.schema, store_schema=False, write_page_checksum=True, **how) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({DESCRIPTION: about})
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
