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
