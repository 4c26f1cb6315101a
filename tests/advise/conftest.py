"""A pilot that takes seconds: short trainings on a small file with a fifth of its labels wrong."""

from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from datalab import noise
from datalab.advise import pilot, scoring


class Noisy(NamedTuple):
    """Features (n, 8, 8), labels as observed and as they are, and which were flipped."""

    x: NDArray
    y: NDArray
    true: NDArray
    flipped: NDArray


@pytest.fixture
def noisy() -> Noisy:
    from sklearn.datasets import load_digits

    x, true = load_digits(n_class=4, return_X_y=True)
    x, true = x[:360].reshape(-1, 8, 8), true[:360]
    y = noise.corrupt(true, "symmetric", 0.2, 4, np.random.default_rng(0))
    return Noisy(x, y, true, y != true)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pilot, "LENGTHS", (25, 50))
    monkeypatch.setattr(scoring, "REPEATS", 2)


@pytest.fixture
def pool(noisy: Noisy) -> pilot.Pool:
    x = ((noisy.x - noisy.x.mean(0)) / (noisy.x.std(0) + 1)).reshape(len(noisy.x), -1).astype(np.float32)
    return pilot.Pool(noisy.y, 4, None, lambda train: lambda at: x if at is None else x[at])
