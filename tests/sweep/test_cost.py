"""What running something costs."""

import pytest
import torch

from datalab.sweep import cost


def test_peak_memory_is_that_of_the_tensors_held_at_once():
    def run() -> None:
        a = torch.ones(1000, 1000)
        b = a + 1
        del a
        (b * 2).sum()

    assert cost.peak_memory(run) == pytest.approx(2 * 4e6, rel=0.01)


def test_work_queued_on_a_gpu_is_waited_for_before_the_clock_starts_and_before_it_stops(monkeypatch):
    order = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: order.append("wait"))
    monkeypatch.setattr(cost.time, "perf_counter", lambda: order.append("clock") or float(len(order)))
    seconds, result = cost.timed(lambda: order.append("run") or "done")
    assert order == ["wait", "clock", "run", "wait", "clock"]
    assert (seconds, result) == (3.0, "done")
