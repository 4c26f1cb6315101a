"""Stacked training beside the ordinary loop, on one thread, in one run: ``python tests/benchmarks/bench_training.py``.

The loop is what everybody writes: one ``nn.Module``, autograd and ``torch.optim.Adam`` per model, on the same rows in
the same order. Times are the least of a few interleaved repetitions; the ratio is what carries over to other machines.
"""

import os
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from looped import fit_loop

from datalab import models
from datalab.training import Recipe, fit_many

SIZE, ROWS, STEPS, REPETITIONS = 64, 1000, 50, 3


def main() -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    print(f"{SIZE} models, {STEPS} steps of 64 rows, one thread")
    print(f"{'architecture':>12} {'precision':>9} {'loop (s)':>9} {'stack (s)':>9} {'ratio':>6} {'max difference':>15}")
    for architecture, grid in (("softmax", (1, 1, 64)), ("mlp", (1, 1, 64)), ("cnn", (1, 8, 8))):
        for dtype in (torch.float64, torch.float32):
            x = torch.as_tensor(rng.standard_normal((ROWS, 64)), dtype=dtype)
            labels = rng.integers(0, 10, (SIZE, ROWS))
            kept = rng.random((SIZE, ROWS)) < 0.7
            seeds = list(range(SIZE))
            module, recipe = models.build(architecture, grid, 10), Recipe(STEPS)
            loop_time = stack_time = np.inf
            for _ in range(REPETITIONS):
                start = time.perf_counter()
                looped = fit_loop(module, x, labels, kept, seeds, recipe)
                loop_time = min(loop_time, time.perf_counter() - start)
                start = time.perf_counter()
                stack = fit_many(module, x, labels, kept, seeds, recipe)
                stack_time = min(stack_time, time.perf_counter() - start)
            difference = max(
                (parameter - stack.parameters[name][s]).abs().max().item()
                for s, model in enumerate(looped)
                for name, parameter in model.named_parameters()
            )
            print(
                f"{architecture:>12} {str(dtype)[6:]:>9} {loop_time:9.2f} {stack_time:9.3f} "
                f"{loop_time / stack_time:6.1f} {difference:15.1e}"
            )


if __name__ == "__main__":
    main()
