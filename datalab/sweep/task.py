"""A task: a function's dotted name and JSON-able parameters, and the file that keeps its rows.

The file's name holds the hash of both, of the code that can change the rows, and of the libraries that compute them: a
finished task is never run twice, and a task whose code has changed is never mistaken for finished.
"""

import contextlib
import functools
import hashlib
import importlib
import json
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from datalab.errors import UserError
from datalab.protocol import protocol
from datalab.sweep import kernels, reach, rowfiles

MOST = 100_000  # tasks of a section: a profile asks for hundreds, at most thousands
_left: ContextVar[list[int] | None] = ContextVar("_left", default=None)  # tasks that may still be made, and in all


@contextlib.contextmanager
def at_most(count: int = MOST) -> Iterator[None]:
    """Raise :class:`UserError` where the block makes more tasks: a stranger's parameters multiply to any number."""
    before = _left.set([count, count])
    try:
        yield
    finally:
        _left.reset(before)


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

    def __post_init__(self) -> None:
        """Count, where :func:`at_most` does."""
        if left := _left.get():
            left[0] -= 1
            if left[0] < 0:
                raise UserError(f"its parameters ask for more than {left[1]:,} tasks, and no section has as many")

    @functools.cached_property
    def key(self) -> str:
        """The hash (16 hex digits) of everything the rows depend on."""
        code = reach.code_hash(self.function), protocol().rules_sha256, _libraries()
        content = json.dumps([self.function, self.parameters, *code], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """The parameters that are plain words or numbers, for people: ``adult mlp symmetric 3``."""
        plain = (v for v in self.parameters.values() if isinstance(v, str | int) and not isinstance(v, bool))
        return " ".join(map(str, plain))

    def path(self, folder: Path) -> Path:
        """Where the finished task's rows lie before they are packed."""
        return folder / rowfiles.single_name(self.parameters, self.key)

    def rows(self) -> tuple[pd.DataFrame | str, float]:
        """Run it: its rows, or its error in one line; and its seconds."""
        start = time.perf_counter()
        try:
            module, _, name = self.function.partition(":")
            rows = pd.DataFrame(getattr(importlib.import_module(module), name)(**self.parameters))
            rows.attrs[rowfiles.PROCESSOR] = kernels.named()  # which need not be that of who writes them
        except Exception as error:  # a failed task must not lose the others; the caller raises with every failure named
            rows = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        return rows, time.perf_counter() - start

    def keep(self, rows: pd.DataFrame | str, folder: Path) -> str | None:
        """Write the rows to the task's file; return the error, if there is one."""
        if isinstance(rows, str):
            return rows
        try:
            processor = rows.attrs.get(rowfiles.PROCESSOR, "")
            finished = rowfiles.Finished(self.key, self.function, self.parameters, len(rows), processor)
            rowfiles.write(self.path(folder), rows, [finished])
        except Exception as error:  # as a failure of the task: the disk may be full
            return f"{type(error).__name__}: {error}"
        return None


@functools.cache
def _libraries() -> dict[str, str]:
    return {name: version(name) for name in ("numpy", "scipy", "scikit-learn", "torch", "pandas")}
