"""Scoring streams: what it holds does not grow with the number of examples."""

import torch
from torch import nn

from datalab.influence import EKFAC, GradDot
from datalab.sweep.cost import peak_memory

EXAMPLE = 1024  # bytes
SCORES = 32  # bytes an example: its scores, and what sorts and joins them


def held(n: int, **options: int) -> int:
    """Bytes of tensors held at the most beside ``n`` examples: counted, as resident memory is by 10 MB a run not."""
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    x, y = torch.rand(n, 256), torch.randint(0, 10, (n,))

    def run() -> None:
        estimator = EKFAC(model, fisher="sampled", **options).fit(x, y)
        estimator.self_influence(x, y)
        estimator.influence_on(x, y, x[:1000], y[:1000])
        GradDot(model, **options).fit(x, y).self_influence(x, y)

    return peak_memory(run)


def test_scoring_holds_no_more_of_more_examples_than_their_scores():
    assert held(6_000) - held(3_000) < 3_000 * SCORES
    at_once = {"batch_size": 2_000}
    assert held(2_000, **at_once) - held(1_000, **at_once) > 1_000 * EXAMPLE  # all at once: the measure sees it
