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

def peak():  # of this program alone: getrusage's would begin with what the parent held
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

n, options = int(sys.argv[1]), json.loads(sys.argv[2])
model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
x = torch.empty(n, 256)
for part in x.split(1000):
    part.uniform_()
y = torch.randint(0, 10, (n,))
EKFAC(model).fit(x[:600], y[:600]).influence_on(x[:600], y[:600], x[:60], y[:60])  # what the libraries load once
before = peak()
estimator = EKFAC(model, fisher="sampled", **options).fit(x, y)
for scores in (
    estimator.self_influence(x, y),
    estimator.influence_on(x, y, x[:1000], y[:1000]),
    GradDot(model, **options).fit(x, y).self_influence(x, y),
):
    assert torch.isfinite(scores).all()
print(peak() - before)
"""
EXAMPLE = 1024  # bytes


def held(n: int, **options: int) -> int:
    """Bytes at the most for ``n`` examples, beside these and what the libraries hold."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(n), json.dumps(options)]
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory as Linux counts it")
def test_scoring_holds_a_small_part_of_what_the_examples_take():
    assert held(40_000) < 40_000 * EXAMPLE / 4
    assert held(10_000, batch_size=10_000) > 10_000 * EXAMPLE  # all at once: the measure sees it
