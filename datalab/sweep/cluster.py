"""The sweep on dask.distributed: a scheduler on this machine or elsewhere hands out the tasks (extra ``dask``).

A task travels as its function's name and parameters; a worker reads data sets from its own cache, by content hash. It
refuses a task whose key it does not arrive at: its code or libraries are others. Rows come back to the caller, which
writes them, so that workers need no shared disk.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from datalab.errors import UserError
from datalab.sweep.pool import WORKER_ENVIRONMENT, Executor, available_cores
from datalab.sweep.task import Task

if TYPE_CHECKING:
    import pandas as pd

SCHEDULER = "DATALAB_SCHEDULER"  # the address, told to the kernels
_CONNECT = "5s"


def address() -> str | None:
    """The scheduler that this process is to use; None: the local pool."""
    return os.environ.get(SCHEDULER) or None


def executor() -> Executor | None:
    """What runs tasks on the scheduler at :func:`address`; None: the local pool does."""
    scheduler = address()
    return None if scheduler is None else lambda tasks: results(tasks, scheduler)


@contextlib.contextmanager
def use(scheduler: str | None, local: bool, workers: int | None) -> Iterator[str | None]:
    """Make the sweeps of this process and its kernels use a scheduler; yields a line about it, or None.

    ``scheduler`` is an address, checked by connecting to it; ``local`` starts one here with ``workers`` processes (one
    a core by default), each with its share of the memory as its limit. Raises :class:`UserError` when both are given,
    dask is not installed or nobody answers.
    """
    if scheduler and local:
        raise UserError("--scheduler and --cluster: give one of them")
    if not scheduler and not local:
        yield None
        return
    try:
        import dask
        import distributed
    except ImportError:
        raise UserError("dask is not installed; install it with: pip install 'datalab-reproduction[dask]'") from None
    before = os.environ.get(SCHEDULER)
    with contextlib.ExitStack() as stack:
        if local:
            stack.enter_context(dask.config.set({"distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT}))
            started = distributed.LocalCluster(
                n_workers=workers or available_cores(),
                threads_per_worker=1,
                dashboard_address="127.0.0.1:0",
                silence_logs=50,
            )
            cluster = stack.enter_context(started)
            scheduler, link = cluster.scheduler_address, cluster.dashboard_link
            line = f"Cluster: {len(cluster.workers)} workers at {scheduler}, dashboard {link}"
        else:
            line = _answering(scheduler)
        os.environ[SCHEDULER] = scheduler
        try:
            yield line
        finally:
            os.environ.pop(SCHEDULER) if before is None else os.environ.update({SCHEDULER: before})


def _answering(scheduler: str) -> str:
    import distributed

    try:
        with distributed.Client(scheduler, timeout=_CONNECT) as client:
            workers = len(client.scheduler_info(n_workers=-1)["workers"])
            return f"Cluster: {workers} workers at {scheduler}, dashboard {client.dashboard_link}"
    except (OSError, ValueError) as error:
        text = str(error).splitlines()[0]
        raise UserError(
            f"--scheduler: nobody answers at '{scheduler}', give one like tcp://host:8786 ({text})"
        ) from None


def results(tasks: Sequence[Task], scheduler: str) -> Iterator[tuple[Task, "pd.DataFrame | str", float]]:
    """Each task with its rows, or with what went wrong, and its seconds, as they are finished.

    A worker that dies costs only its task, which the scheduler tries elsewhere, three times in all.
    """
    import distributed

    with distributed.Client(scheduler, timeout=_CONNECT) as client:
        futures = {client.submit(compute, task.function, task.parameters, task.key, pure=False): task for task in tasks}
        try:
            for future in distributed.as_completed(futures):
                error = future.exception()
                rows, seconds = (_why(error), 0.0) if error is not None else future.result()
                yield futures[future], rows, seconds
                future.release()
        except BaseException:
            client.cancel(list(futures))
            raise


def _why(error: BaseException) -> str:
    import distributed

    if isinstance(error, distributed.KilledWorker):
        return "its worker process died 3 times (killed, or out of memory)"
    return f"{type(error).__name__}: {error}"


def compute(function: str, parameters: dict[str, Any], key: str) -> tuple["pd.DataFrame | str", float]:
    """On a worker: a task's rows, or its error in one line, and its seconds."""
    import torch
    from threadpoolctl import threadpool_limits

    task = Task(function, parameters)
    if task.key != key:
        raise UserError("this worker's code or libraries are not the caller's; install the same commit and lock there")
    torch.set_num_threads(1)
    with threadpool_limits(1):
        return task.rows()
