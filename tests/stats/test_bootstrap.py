"""Percentile bootstraps: their coverage, what they resample, and that their arrays agree with one another."""

import numpy as np
import pytest

from datalab import stats


def relative_gain(ours, base):
    return ours.mean((-2, -1)) / base.mean((-2, -1)) - 1


def test_the_nested_bootstrap_of_a_relative_gain_covers_what_it_should():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        base = rng.normal(0.7, 0.05, (20, 1)) + rng.normal(0, 0.01, (20, 5))
        ours = base + rng.normal(0.02, 0.02, (20, 1)) + rng.normal(0, 0.01, (20, 5))
        gain = stats.nested_bootstrap(relative_gain, ours, base, rng=rng, resamples=400)
        inside += gain.low < 0.02 / 0.7 < gain.high
    assert 0.88 < inside / 200 < 0.99


def test_a_nested_bootstrap_has_no_limits_on_one_unit_and_the_figure_of_the_scores_as_estimate():
    ours, base = np.full((1, 3), 0.8), np.full((1, 3), 0.4)
    gain = stats.nested_bootstrap(relative_gain, ours, base, rng=np.random.default_rng(0), resamples=10)
    assert gain.estimate == pytest.approx(1.0)
    assert np.isnan(gain.low)
    assert np.isnan(gain.high)


def test_a_nested_bootstrap_draws_repeats_within_their_unit():
    scores = np.repeat(np.arange(4.0)[:, None], 5, axis=1)  # no variation within a unit
    rng = np.random.default_rng(0)
    gain = stats.nested_bootstrap(lambda x: x.mean((-2, -1)), scores, rng=rng, resamples=2000)
    exact = stats.resampled_means(np.arange(4.0)[:, None], np.random.default_rng(1), 2000)
    assert gain.low == pytest.approx(np.percentile(exact, 2.5), abs=0.13)
    assert gain.high == pytest.approx(np.percentile(exact, 97.5), abs=0.13)


def test_resampled_means_share_their_draws_and_have_the_standard_error_of_a_mean():
    values = np.random.default_rng(0).normal(size=(30, 2))
    values[:, 1] = 2 * values[:, 0]
    means = stats.resampled_means(values, np.random.default_rng(1), 4000)
    np.testing.assert_allclose(means[:, 1], 2 * means[:, 0])
    assert means[:, 0].mean() == pytest.approx(values[:, 0].mean(), abs=0.02)
    assert means[:, 0].std() == pytest.approx(values[:, 0].std() / np.sqrt(30), rel=0.05)
