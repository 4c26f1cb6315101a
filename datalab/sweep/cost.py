"""What running something costs: seconds, and the most memory that tensors held."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch

Result = TypeVar("Result")


def timed(run: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds on the clock, and what ``run`` returns. Waits for the GPU before and after: its work is queued."""
    _wait()
    start = time.perf_counter()
    result = run()
    _wait()
    return time.perf_counter() - start, result


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory(run: Callable[[], object]) -> int:
    """The most bytes that tensors allocated while ``run`` held at one time, as torch's profiler counts them."""
    from torch.profiler import ProfilerActivity, profile

    with _deaf(), profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as seen:
        run()
    changes = [e.nbytes() for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    return int(np.cumsum(changes).max(initial=0))


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Without the process's stderr, to which torch's profiler writes from C++ whatever its log level."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
