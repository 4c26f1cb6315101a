"""Scoring streams: what it holds does not grow with the number of examples."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch
from torch import nn
from datalab.influence import EKFAC, GradDot

n = int(sys.argv[1])
model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
x = torch.empty(n, 256)
for part in x.split(1000):
    part.uniform_()
y = torch.randint(0, 10, (n,))
EKFAC(model).fit(x[:600], y[:600]).influence_on(x[:600], y[:600], x[:60], y[:60])  # what the libraries load once
estimator = EKFAC(model, fisher="sampled").fit(x, y)
for scores in (
    estimator.self_influence(x, y),
    estimator.influence_on(x, y, x[:1000], y[:1000]),
    GradDot(model).fit(x, y).self_influence(x, y),
):
    assert torch.isfinite(scores).all()
# of this program alone: getrusage's would begin with what the parent held
peak = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"peak": peak, "data": 4 * x.numel()}))
"""


def measured(n: int) -> dict[str, int]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(n)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory as Linux counts it")
def test_the_peak_beyond_the_data_is_small_and_the_same_for_ten_times_the_examples():
    beyond = {n: run["peak"] - run["data"] for n in (10_000, 100_000) for run in [measured(n)]}
    if max(beyond.values()) >= 1.1 * min(beyond.values()):
        # Where the system backs memory by huge pages, one run may be lent more than it asked for: ask again.
        beyond = {n: min(held, run["peak"] - run["data"]) for n, held in beyond.items() for run in [measured(n)]}
    beyond = list(beyond.values())
    assert max(beyond) / min(beyond) < 1.1
    assert max(beyond) < 400e6
