"""A task for the tests of the sweep, which workers and children of a test import."""

import hashlib
import os
import signal
import time
from pathlib import Path
from typing import Any

from datalab.sweep import Task

SQUARE = "sweep_fakes:square"
MATRIX = "sweep_fakes:matrix"


def square(number: int, log: str, fault: str = "", seconds: float = 0.0) -> list[dict[str, Any]]:
    """Append to ``log``, so that a test can count how often a task really ran; then do the ``fault``, if any."""
    with open(log, "a") as file:
        file.write(f"{number}\n")
    time.sleep(seconds)
    if fault == "raise":
        raise ValueError("a bad task")
    if fault == "kill once" and Path(log).read_text().split().count(str(number)) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "kill always":
        os.kill(os.getpid(), signal.SIGKILL)
    return [{"number": number, "square": number**2}]


def process(number: int) -> list[dict[str, Any]]:
    """The process that this task ran in; it takes long enough for another worker to have another one."""
    time.sleep(0.3)
    return [{"number": number, "process": os.getpid()}]


def matrix(seed: int) -> list[dict[str, Any]]:
    """The hashes of numbers whose last digits are those of kernels: numpy's, OpenBLAS's, torch's own and its MKL's."""
    import numpy as np
    import torch

    a = np.random.default_rng(seed).standard_normal((300, 300))
    b = torch.from_numpy(a.astype(np.float32))
    results = {"numpy": np.exp(a), "openblas": a @ a, "torch": b.log_softmax(1).numpy(), "mkl": (b @ b).numpy()}
    return [{name: hashlib.sha256(result.tobytes()).hexdigest() for name, result in results.items()}]


def tasks(folder: Path, count: int = 4, **faults: str) -> list[Task]:
    """A grid of them that logs in ``folder``; ``at2="raise"`` is the fault of number 2."""
    log = str(folder / "log")
    return [Task(SQUARE, {"number": i, "log": log, "fault": faults.get(f"at{i}", "")}) for i in range(count)]
