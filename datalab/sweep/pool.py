"""A grid of tasks -> rows: resumable by content, on a pool of single-threaded processes or an executor handed in."""

import atexit
import contextlib
import functools
import json
import os
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path
from typing import Any

import pandas as pd

from datalab.sweep import kernels, rowfiles
from datalab.sweep.task import Task

_ATTEMPTS = 3
_IDLE_SECONDS = 60.0  # after which a worker that has nothing to do ends, and gives its memory back
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
# One thread a process, and freed blocks kept (by default glibc maps and unmaps every large buffer, and dask trims them,
# which doubles the cost of small trainings).
_LEAN = ONE_THREAD | {"MALLOC_TRIM_THRESHOLD_": "268435456", "MALLOC_MMAP_THRESHOLD_": "268435456"}
WORKER_ENVIRONMENT = _LEAN | kernels.held()  # of a local pool's workers, dask's among them

Progress = Callable[[int, int, int, str, float], None]
Attempt = tuple[Task, pd.DataFrame | str, float]  # a task; its rows, or what went wrong; its seconds
Executor = Callable[[Sequence[Task]], Iterator[Attempt]]


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
    """Run the tasks that are not finished and return the rows of all, in the tasks' order; a repeated one is run once.

    ``folder`` has the files of finished tasks; those finished now have one each, written to a temporary name and
    renamed. ``workers`` are processes, each with one thread: None for one a core, 1 to run in this process.
    ``progress`` is called with (done, total, failed, text, ahead) at the start and after every task: what the tasks
    left will cost, in multiples of what those finished now have cost, 0 before one is. ``executor`` runs the tasks
    elsewhere (:func:`datalab.sweep.cluster.results`), instead of ``workers`` here.

    Raises :class:`SweepError` after all tasks were tried, if any failed. A worker that dies (killed, out of memory)
    costs only its task, which is tried again up to 2 times.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tasks = list({task.key: task for task in tasks}.values())
    finished = rowfiles.rows_of(folder, {task.key for task in tasks})
    missing = [task for task in tasks if task.key not in finished]
    done = len(tasks) - len(missing)
    spent, cost = 0.0, sum(task.cost for task in missing)
    failures: list[tuple[Task, str]] = []

    def report(text: str) -> None:
        if progress is not None:
            progress(done, len(tasks), len(failures), text, (cost - spent) / spent if spent else 0.0)

    report("these were finished before" if done else "")
    if executor is None or not missing:
        workers = workers or available_cores()
        executor = _here if workers == 1 else functools.partial(in_processes, workers=workers)
    with contextlib.closing(executor(missing)) as attempts:
        for task, rows, seconds in attempts:
            spent += task.cost
            error = task.keep(rows, folder)
            if error is None:
                done += 1
            else:
                failures.append((task, error))
            report(f"{task.label}: {f'{seconds:.1f} s' if error is None else f'failed, {error}'}")
    if failures:
        head = f"{len(failures)} of {len(tasks)} tasks failed (the others are kept), the first because of"
        lines = [f"{task.function} {json.dumps(task.parameters)}: {error}" for task, error in failures]
        raise SweepError("\n  ".join([f"{head} {failures[0][1]}", *lines]))
    finished |= {task.key: rowfiles.by_task(task.path(folder))[0][1] for task in missing}
    return pd.concat([finished[task.key] for task in tasks], ignore_index=True) if tasks else pd.DataFrame()


def _here(tasks: Sequence[Task]) -> Iterator[Attempt]:
    for task in tasks:
        yield task, *task.rows()


# Workers that a finished sweep has left, by whether their kernels are held.
_left: dict[bool, list[Any]] = {True: [], False: []}


def in_processes(tasks: Sequence[Task], workers: int, held: bool = True) -> Iterator[Attempt]:
    """A pool of one process a worker, each with one task at a time: one that dies is charged to its own task alone.

    Workers that a finished sweep leaves are the next one's: they have imported what tasks need, which takes seconds.
    ``held`` is whether they compute by the kernels of :func:`datalab.sweep.kernels.held`, or by the processor's own.
    """
    from joblib.externals.loky.process_executor import BrokenProcessPool

    # A worker whose memory has grown is replaced between two tasks: nothing is lost, and its path is not for a record.
    warnings.filterwarnings("ignore", message="A worker stopped while some jobs", category=UserWarning)
    died = Counter[str]()
    waiting, left = list(tasks), _left[held]
    idle = [left.pop() if left else _worker(held) for _ in range(min(workers, len(waiting)))]
    running: dict[Any, tuple[Task, Any]] = {}

    def another(dead: Any) -> Any:
        _end([dead])
        return _worker(held)

    try:
        while waiting or running:
            while waiting and idle:
                task, worker = waiting.pop(0), idle.pop()
                try:
                    future = worker.submit(task.rows)
                except BrokenProcessPool:  # it was killed while it had nothing to do
                    worker = another(worker)
                    future = worker.submit(task.rows)
                running[future] = task, worker
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task, worker = running.pop(future)
                try:
                    rows, seconds = future.result()
                except BrokenProcessPool:
                    idle.append(another(worker))
                    died[task.key] += 1
                    if died[task.key] < _ATTEMPTS:
                        waiting.insert(0, task)
                        continue
                    rows, seconds = f"its worker process died {_ATTEMPTS} times (killed, or out of memory)", 0.0
                else:
                    idle.append(worker)
                yield task, rows, seconds
        left.extend(idle)
        idle.clear()
    finally:
        _end([*idle, *(worker for _, worker in running.values())])


def _worker(held: bool) -> Any:
    from joblib.externals.loky import ProcessPoolExecutor

    own = _LEAN | dict.fromkeys(kernels.held().keys() & os.environ.keys(), "")  # this process may be held itself
    start = {"initializer": _start_worker, "initargs": (os.getpid(),), "env": WORKER_ENVIRONMENT if held else own}
    return ProcessPoolExecutor(1, timeout=_IDLE_SECONDS, **start)


def _end(workers: list[Any]) -> None:
    while workers:
        workers.pop().shutdown(wait=True, kill_workers=True)


for workers_left in _left.values():  # before the interpreter takes apart what their ending needs
    atexit.register(_end, workers_left)


def _start_worker(parent: int) -> None:
    """Workers are deaf to Ctrl-C (the parent decides), and gone when the parent is gone, however it died."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
