"""How fast this machine trains, beside the one on which the costs of cells were measured: a second of training."""

import functools
import time

import numpy as np
import torch

from datalab import models, seeds
from datalab.training import Recipe, fit_many

REFERENCE = 2.0e-5  # seconds a step of one MLP took on a core of that machine, as measured below


@functools.cache
def pace() -> float:
    """By how much a core here is slower (above 1) or faster than that machine's."""
    return seconds_per_step() / REFERENCE


def gpu() -> tuple[str, float] | None:
    """The CUDA device's name, and how many cores of this machine train as fast as it; ``None`` where there is none."""
    if not torch.cuda.is_available():
        return None
    on_gpu = seconds_per_step("cuda", size=2048, steps=50)
    return torch.cuda.get_device_name(0), seconds_per_step() / on_gpu


@functools.cache
def seconds_per_step(device: str = "cpu", size: int = 64, steps: int = 20) -> float:
    """Seconds that a training step of one MLP takes, in a stack of ``size`` as the study stacks them; on one core.

    On a CPU these are the process's own seconds: what else keeps the machine busy at the moment does not make a study
    of hours longer, and must not be taken for a slow core.
    """
    now = time.process_time if device == "cpu" else time.perf_counter
    rng = seeds.generator(0, "calibration")
    x = torch.as_tensor(rng.standard_normal((1000, 64), dtype=np.float32), device=device)
    labels = rng.integers(0, 10, (size, 1000))
    module = models.build("mlp", (1, 1, 64), 10)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    best = np.inf
    try:
        for _ in range(10):  # the least of them: the caches are shared with whatever else runs
            start = now()
            stack = fit_many(module, x, labels, None, [0] * size, Recipe(steps))
            stack.flat.sum().item()  # waits for the device
            best = min(best, now() - start)
    finally:
        torch.set_num_threads(threads)
    return best / (size * steps)
