"""Of all pairs of systems the one whose order a second score reverses most clearly."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def clearest_reversal(first: ArrayLike, others: ArrayLike) -> tuple[int, int, int]:
    """Which of ``others`` (k, systems, units) most clearly orders a pair of systems unlike ``first`` (systems, units).

    As its index, and the pair: the system that ``first`` favours and the one that the other score does. Both
    differences of means are taken in standard errors, and the smaller of the two is the largest there is. Of units that
    do not vary, and of one unit, the size of the difference is all there is.
    """
    first, others = np.asarray(first, dtype=float), np.asarray(others, dtype=float)
    ahead = _in_errors(first[:, None] - first[None])  # (systems, systems)
    behind = _in_errors(others[:, None] - others[:, :, None])  # (k, systems, systems)
    clear = np.minimum(ahead, behind)
    clear[:, *np.diag_indices(len(first))] = -np.inf
    of, a, b = np.unravel_index(clear.argmax(), clear.shape)
    return int(of), int(a), int(b)


def _in_errors(d: NDArray[np.float64]) -> NDArray[np.float64]:
    """The means of differences (..., units) in their standard errors."""
    n = d.shape[-1]
    error = np.maximum(d.std(axis=-1, ddof=1) / np.sqrt(n), 1e-9) if n > 1 else 1.0
    return d.mean(axis=-1) / error
