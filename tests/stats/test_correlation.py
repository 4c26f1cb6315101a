"""Correlation from moments is scipy's, and its interval covers what it should when clusters are drawn."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from datalab import stats


def test_r_from_moments_is_scipys_and_the_moments_of_a_union_are_their_sum():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 40))
    parts = np.array([stats.moments(x[:10], y[:10]), stats.moments(x[10:], y[10:])])
    assert stats.pearson(parts.sum(0)) == pytest.approx(scipy_stats.pearsonr(x, y).statistic)
    wanted = [scipy_stats.pearsonr(x[part], y[part]).statistic for part in (slice(10), slice(10, None))]
    np.testing.assert_allclose(stats.pearson(parts), wanted)


def test_r_is_nan_where_nothing_varies_and_one_cluster_has_no_limits():
    assert np.isnan(stats.pearson(stats.moments([1, 2, 3], [4, 4, 4])))
    alone = stats.clustered_correlation([stats.moments([1, 2, 3], [1, 3, 2])])
    assert alone.estimate == pytest.approx(0.5)
    assert np.isnan(alone.interval()[1:3]).all()


def test_the_mean_of_the_clusters_own_correlations_has_limits_inside_what_can_be():
    steep = [stats.moments([1, 2, 3], [1, 2, 3 + 0.9 * i]) for i in range(4)]
    r = stats.mean_correlation([*steep, stats.moments([1, 2, 3], [4, 4, 4])])  # the last does not vary: 0
    own = [*stats.pearson(steep), 0.0]
    assert r.estimate == pytest.approx(np.mean(own))
    assert -1 < r.interval(0.995).low < r.interval(0.995).high < 1


def test_the_interval_over_clusters_covers_the_correlation_of_their_population():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(150):
        shift = rng.standard_normal((25, 1))
        x = rng.standard_normal((25, 6)) + shift
        y = rng.standard_normal((25, 6)) + shift  # r = 1/2: shared between the clusters alone
        clusters = [stats.moments(a, b) for a, b in zip(x, y, strict=True)]
        interval = stats.clustered_correlation(clusters).interval()
        inside += interval.low < 0.5 < interval.high
    assert 0.85 < inside / 150 < 0.99
