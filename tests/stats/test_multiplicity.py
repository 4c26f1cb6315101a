"""Corrections for several questions: agreement with pingouin, one family a row."""

import numpy as np
import pingouin
from hypothesis import given, settings
from hypothesis import strategies as st

from datalab import stats


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_corrections_equal_pingouins_and_holm_never_exceeds_bonferroni(values):
    p = np.array(values)
    np.testing.assert_allclose(stats.bonferroni(p), pingouin.multicomp(p, method="bonf")[1], atol=1e-12)
    np.testing.assert_allclose(stats.holm(p), pingouin.multicomp(p, method="holm")[1], atol=1e-12)
    assert np.all(p <= stats.holm(p))
    assert np.all(stats.holm(p) <= stats.bonferroni(p) + 1e-15)


def test_corrections_treat_every_row_as_a_family_of_its_own():
    p = np.random.default_rng(0).uniform(size=(3, 2, 15))
    for correct in (stats.bonferroni, stats.holm):
        np.testing.assert_array_equal(correct(p)[1, 1], correct(p[1, 1]))
