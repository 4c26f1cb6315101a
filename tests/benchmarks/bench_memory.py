"""Memory of fit, self-influence, influence on a target and top k, for up to a million examples on disk.

``python tests/benchmarks/bench_memory.py``: anonymous memory (what the program holds; pages of the mapped file are not
counted), its peak and at the end, each size in a process of its own, at the default batch size.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pandas as pd
import torch
from torch import nn

from datalab.influence import EKFAC

WIDTH, CLASSES = 32, 10


def anonymous() -> float:
    """MB."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) / 1024


def measured(path: str, n: int) -> dict[str, float]:
    """Of one program that scores n examples of the file."""
    warnings.simplefilter("ignore")
    x = np.memmap(path, np.float32, "r", shape=(n, WIDTH))
    y = np.arange(n, dtype=np.uint8) % CLASSES
    model = nn.Sequential(nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, CLASSES))
    x = torch.from_numpy(x)
    EKFAC(model).fit(x[:600], y[:600]).self_influence(x[:600], y[:600])  # what the libraries load once
    peak, done = [anonymous()], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], anonymous())

    before = anonymous()
    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    estimator = EKFAC(model).fit(x, y)
    kept = [estimator.self_influence(x, y), estimator.influence_on(x, y, x[:500], y[:500])]
    if hasattr(estimator, "top"):
        kept.append(estimator.top(x, y, x[:20], y[:20], k=10))
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    return {"n": n, "before": before, "peak": peak[0], "after": anonymous(), "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.of:
        print(json.dumps(measured(arguments.of[0], int(arguments.of[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.f32"
        rows = np.random.default_rng(0)
        with path.open("wb") as file:
            for _ in range(0, max(arguments.sizes), 10_000):
                file.write(rows.random((10_000, WIDTH), np.float32).tobytes())
        command = [sys.executable, __file__, "--of", str(path)]
        runs = [subprocess.run([*command, str(n)], capture_output=True, text=True, check=True) for n in arguments.sizes]
    print(pd.DataFrame([json.loads(run.stdout) for run in runs]).round(1).to_string(index=False))


if __name__ == "__main__":
    main()
