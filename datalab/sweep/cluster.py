"""The sweep on dask.distributed: a scheduler on this machine or elsewhere hands out the tasks (extra ``dask``).

A task travels as its function's name and parameters; a worker reads data sets from its own cache, by content hash. It
refuses a task whose key it does not arrive at: its code or libraries are others. Rows come back to the caller, which
writes them, so that workers need no shared disk.
"""

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import pandas as pd

from datalab.errors import UserError
from datalab.sweep.pool import WORKER_ENVIRONMENT, Attempt, Executor, available_cores
from datalab.sweep.task import Task

SCHEDULER = "DATALAB_SCHEDULER"  # the environment variable that tells a notebook's kernel the address
_CONNECT = "5s"


def executor() -> Executor | None:
    """What runs tasks on the scheduler that this process was told of; None: the local pool does."""
    scheduler = os.environ.get(SCHEDULER)
    return functools.partial(results, scheduler=scheduler) if scheduler else None


@contextlib.contextmanager
def scheduler_of(scheduler: str | None, local: bool, workers: int | None) -> Iterator[str | None]:
    """The address of the scheduler to use, None for the local pool.

    ``scheduler`` is an address; ``local`` starts one here with ``workers`` processes (one a core by default), each with
    its share of the memory as its limit. Raises :class:`UserError` when both are given, or ``local`` where dask is not
    installed.
    """
    if scheduler and local:
        raise UserError("--scheduler and --cluster: give one of them")
    if not local:
        yield scheduler
        return
    dask, distributed = _dask()
    given = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    with (
        dask.config.set({"distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT}),
        distributed.LocalCluster(n_workers=workers or available_cores(), **given) as cluster,
    ):
        yield cluster.scheduler_address


def summary(scheduler: str) -> str:
    """A scheduler's workers and dashboard, in a line. Raises :class:`UserError` when nobody answers at its address."""
    _, distributed = _dask()
    try:
        with distributed.Client(scheduler, timeout=_CONNECT) as client:
            workers = len(client.scheduler_info(n_workers=-1)["workers"])
            return f"Cluster: {workers} workers at {scheduler}, dashboard {client.dashboard_link}"
    except (OSError, ValueError) as error:
        words = f"nobody answers at '{scheduler}', give one like tcp://host:8786 ({str(error).splitlines()[0]})"
        raise UserError(f"--scheduler: {words}") from None


def _dask() -> tuple[ModuleType, ModuleType]:
    try:
        import dask
        import distributed
    except ImportError:
        raise UserError("dask is not installed; install it with: pip install 'datalab-reproduction[dask]'") from None
    return dask, distributed


def results(tasks: Sequence[Task], scheduler: str) -> Iterator[Attempt]:
    """Each task with its rows, or with what went wrong, and its seconds, as they are finished.

    A worker that dies costs only its task, which the scheduler tries elsewhere, three times in all.
    """
    import distributed

    with distributed.Client(scheduler, timeout=_CONNECT) as client:
        futures = {client.submit(compute, task.function, task.parameters, task.key, pure=False): task for task in tasks}
        try:
            for future in distributed.as_completed(futures):
                try:
                    rows, seconds = future.result()
                except distributed.KilledWorker:
                    rows, seconds = "its worker process died 3 times (killed, or out of memory)", 0.0
                except Exception as error:
                    rows, seconds = f"{type(error).__name__}: {error}", 0.0
                yield futures[future], rows, seconds
                future.release()
        except BaseException:
            client.cancel(list(futures))
            raise


def compute(function: str, parameters: dict[str, Any], key: str) -> tuple[pd.DataFrame | str, float]:
    """On a worker: a task's rows, or its error in one line, and its seconds."""
    import torch
    from threadpoolctl import threadpool_limits

    task = Task(function, parameters)
    if task.key != key:
        raise UserError("this worker's code or libraries are not the caller's; install the same commit and lock there")
    torch.set_num_threads(1)
    with threadpool_limits(1):
        return task.rows()
