"""A grid of tasks -> rows: resumable by content, on a pool of single-threaded processes or an executor handed in."""

import json
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path
from typing import Any

import pandas as pd

from datalab.sweep.task import Task, read

_ATTEMPTS = 3
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
Executor = Callable[[Sequence[Task]], Iterator[tuple[Task, "pd.DataFrame | str", float]]]


class SweepError(RuntimeError):
    """Some tasks failed; the finished ones are kept. The message names each failed task's parameters and error."""


def available_cores() -> int:
    """The processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    tasks: Sequence[Task],
    folder: Path,
    workers: int | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> pd.DataFrame:
    """Run the tasks that are not finished and return the rows of all, in the tasks' order.

    Parameters
    ----------
    tasks
        The grid; a repeated task is run once.
    folder
        One parquet file per finished task, written to a temporary name and renamed.
    workers
        Processes, each with one thread; None for one a core, 1 to run in this process. Not used where the environment
        names a scheduler (:mod:`datalab.sweep.cluster`).
    progress
        Called with (done, total, failed, text) at the start and after every task.
    executor
        Runs the tasks elsewhere (:func:`datalab.sweep.cluster.results`), instead of ``workers`` here.

    Raises :class:`SweepError` after all tasks were tried, if any failed. A worker that dies (killed, out of memory)
    costs only its task, which is tried again up to 2 times.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tasks = list({task.key: task for task in tasks}.values())
    missing = [task for task in tasks if read(task.path(folder)) is None]
    workers = workers or available_cores()
    state = _State(total=len(tasks), done=len(tasks) - len(missing), progress=progress)
    state.report(f"{state.done} of {len(tasks)} tasks were finished before" if state.done else "")
    if missing:
        if executor is not None:
            for task, rows, seconds in executor(missing):
                state.note(task, task.keep(rows, folder), seconds)
        elif workers == 1:
            for task in missing:
                state.note(task, *_attempt(task, folder))
        else:
            _run_pool(missing, folder, workers, state)
    if state.failures:
        lines = [f"{task.function} {json.dumps(task.parameters)}: {error}" for task, error in state.failures]
        count = f"{len(lines)} of {len(tasks)} tasks failed (the others are kept)"
        raise SweepError("\n  ".join([f"{count}, the first because of {state.failures[0][1]}", *lines]))
    return pd.concat([read(task.path(folder)) for task in tasks], ignore_index=True)


class _State:
    def __init__(self, total: int, done: int, progress: Progress | None):
        self.total, self.done, self.progress = total, done, progress
        self.failures: list[tuple[Task, str]] = []

    def note(self, task: Task, error: str | None, seconds: float) -> None:
        if error is None:
            self.done += 1
        else:
            self.failures.append((task, error))
        self.report(f"{task.label}: {'failed, ' + error if error else f'{seconds:.1f} s'}")

    def report(self, text: str) -> None:
        if self.progress is not None:
            self.progress(self.done, self.total, len(self.failures), text)


def _run_pool(missing: list[Task], folder: Path, workers: int, state: _State) -> None:
    from joblib.externals.loky import ProcessPoolExecutor
    from joblib.externals.loky.process_executor import BrokenProcessPool

    # A worker whose memory has grown is replaced between two tasks: nothing is lost, and its path is not for a record.
    warnings.filterwarnings("ignore", message="A worker stopped while some jobs", category=UserWarning)
    attempts = dict.fromkeys((task.key for task in missing), 0)
    waiting = list(missing)
    while waiting:
        # Only as many tasks as workers are handed out at a time, so that a dead worker puts no other task in doubt.
        executor = ProcessPoolExecutor(
            max_workers=min(workers, len(waiting)),
            initializer=_start_worker,
            initargs=(os.getpid(),),
            env=WORKER_ENVIRONMENT,
        )
        running: dict[Any, Task] = {}
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    task = waiting.pop(0)
                    running[executor.submit(_attempt, task, folder)] = task
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    state.note(running[future], *future.result())
                    del running[future]
        except BrokenProcessPool:
            for task in running.values():
                attempts[task.key] += 1
                if read(task.path(folder)) is not None:
                    state.note(task, None, 0.0)
                elif attempts[task.key] >= _ATTEMPTS:
                    state.note(task, f"its worker process died {_ATTEMPTS} times (killed, or out of memory)", 0.0)
                else:
                    waiting.insert(0, task)
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


def _attempt(task: Task, folder: Path) -> tuple[str | None, float]:
    """Run one task and write its rows; return (error or None, seconds)."""
    rows, seconds = task.rows()
    return task.keep(rows, folder), seconds
