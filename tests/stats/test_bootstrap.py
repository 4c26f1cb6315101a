"""Resampled means: their draws are shared, and their spread is that of a mean."""

import numpy as np
import pytest

from datalab import stats


def test_resampled_means_share_their_draws_and_have_the_standard_error_of_a_mean():
    values = np.random.default_rng(0).normal(size=(30, 2))
    values[:, 1] = 2 * values[:, 0]
    means = stats.resampled_means(values, np.random.default_rng(1), 4000)
    np.testing.assert_allclose(means[:, 1], 2 * means[:, 0])
    assert means[:, 0].mean() == pytest.approx(values[:, 0].mean(), abs=0.02)
    assert means[:, 0].std() == pytest.approx(values[:, 0].std() / np.sqrt(30), rel=0.05)
