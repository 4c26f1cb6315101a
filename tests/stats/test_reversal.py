"""The clearest reversal of a pair is the one that trying all of them finds."""

import itertools

import numpy as np
import pytest
from scipy import stats as scipy_stats

from datalab import stats


@pytest.mark.parametrize("units", [2, 15])
def test_it_is_the_pair_whose_smaller_paired_t_is_largest(units):
    rng = np.random.default_rng(units)
    first, others = rng.normal(size=(5, units)), rng.normal(size=(3, 5, units))
    smaller = {
        (of, a, b): min(
            scipy_stats.ttest_rel(first[a], first[b]).statistic,
            scipy_stats.ttest_rel(others[of, b], others[of, a]).statistic,
        )
        for of, (a, b) in itertools.product(range(3), itertools.permutations(range(5), 2))
    }
    assert stats.clearest_reversal(first, others) == max(smaller, key=smaller.get)


def test_one_unit_has_no_error_and_the_sizes_decide():
    first, others = np.array([[0.0], [1.0], [5.0]]), np.array([[[2.0], [1.0], [0.0]]])
    assert stats.clearest_reversal(first, others) == (0, 2, 0)
