"""Input that the statistics cannot use is refused in one line that names it."""

import numpy as np
import pytest

from datalab import stats
from datalab.errors import UserError

RATES = np.array([0, 0.05, 0.10, 0.125, 0.15, 0.175, 0.20, 0.30, 0.40])


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: stats.t_interval([1.0]), "differences"),
        (lambda: stats.t_interval([1.0, np.nan, 2.0]), "differences: 1 of 3 are not finite"),
        (lambda: stats.t_interval([1.0, 2.0], 95), "confidence"),
        (lambda: stats.paired_bootstrap([1.0, 2.0, 3.0], rng(), 10, 0.99), "resamples"),
        (lambda: stats.cohens_dz(np.ones((2, 3))), "differences"),
        (lambda: stats.holm([0.1, np.nan]), "p-values"),
        (lambda: stats.bonferroni([]), "p-values"),
        (lambda: stats.p_floor(0), "n"),
        (lambda: stats.seeds_needed(0), "alpha"),
        (lambda: stats.nested_dz(0.01, 0, 0, 5), "sd_units"),
        (lambda: stats.crossover([0, 0.1, 0.1], [1, 2, 3]), "rates"),
        (lambda: stats.crossover([0, 0.1], [1, 2, 3]), "d"),
        (lambda: stats.crossover_bootstrap(np.zeros((1, 2, 9)), RATES, rng()), "d"),
        (lambda: stats.crossover_bootstrap(np.full((3, 2, 9), np.nan), RATES, rng()), "d"),
        (lambda: stats.crossover_bootstrap(np.zeros((3, 2, 9)), RATES, rng(), 0), "resamples"),
    ],
)
def test_input_that_cannot_be_used_is_refused_in_one_line_that_names_it(call, named):
    with pytest.raises(UserError, match=f"^{named}") as caught:
        call()
    assert "\n" not in str(caught.value)
