"""A pilot that takes seconds: short trainings on a small file with a fifth of its labels wrong."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from datalab import noise
from datalab.advise import advise, pilot


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
    monkeypatch.setattr(pilot, "REPEATS", 2)


@pytest.fixture
def pool(noisy: Noisy) -> pilot.Pool:
    x = ((noisy.x - noisy.x.mean(0)) / (noisy.x.std(0) + 1)).reshape(len(noisy.x), -1).astype(np.float32)
    return pilot.Pool(noisy.y, 4, None, lambda train: lambda at: x if at is None else x[at])


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, pilot.Pool]]:
    """An advice up to its pilot: the lines said before it, and the pool it begins with."""

    class Begun(Exception):
        pass

    def run(pool: pilot.Pool, *more: Any) -> None:
        raise Begun(pool)

    def begin(*data: Any, **given: Any) -> tuple[str, pilot.Pool]:
        lines: list[str] = []
        with pytest.raises(Begun) as caught:
            advise(*data, say=lines.append, **given)
        return "\n".join(lines), caught.value.args[0]

    monkeypatch.setattr(pilot, "run", run)
    return begin
