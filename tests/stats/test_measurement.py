"""One measurement: estimate, interval and effect size of one quantity, inside what it can be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from datalab import stats
from datalab.errors import UserError


def test_a_measurement_of_differences_is_students_interval_and_their_d_z():
    d = np.random.default_rng(0).normal(0.02, 0.03, 15)
    measured = stats.Measurement(d)
    interval = measured.interval(0.9)
    assert (interval.low, interval.high) == pytest.approx(scipy_stats.t.interval(0.9, 14, d.mean(), scipy_stats.sem(d)))
    assert measured.effect_size == pytest.approx(d.mean() / d.std(ddof=1))
    against = stats.Measurement(d, against=0.02)
    assert against.interval(0.9) == interval
    assert against.effect_size == pytest.approx((d.mean() - 0.02) / d.std(ddof=1))


@pytest.mark.parametrize(("bounds", "values"), [((0, 1), [0.99, 0.97, 1.0, 0.7]), ((-1, 1), [-0.99, -1.0, -0.6])])
def test_limits_of_a_bounded_quantity_lie_inside_its_bounds_where_students_do_not(bounds, values):
    plain, inside = stats.t_interval(values, 0.995), stats.t_interval(values, 0.995, bounds)
    assert plain.low < bounds[0] or plain.high > bounds[1]
    assert bounds[0] < inside.low < inside.estimate < inside.high < bounds[1]
    assert inside.estimate == plain.estimate


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.floats(0.5, 0.999))
def test_no_share_has_a_limit_that_cannot_be(values, confidence):
    i = stats.t_interval(values, confidence, (0, 1))
    assert 0 <= i.low <= i.estimate + 1e-12
    assert i.estimate - 1e-12 <= i.high <= 1


def test_far_from_its_bounds_a_limit_is_students_and_a_ratio_stays_above_0():
    values = np.random.default_rng(0).normal(0.5, 0.001, 20)
    assert stats.t_interval(values, 0.95, (0, 1)) == pytest.approx(stats.t_interval(values, 0.95), rel=1e-5)
    ratio = stats.t_interval([0.1, 0.2, 2.0], 0.95, (0, np.inf))
    assert 0 < ratio.low < ratio.estimate < ratio.high
    with pytest.raises(UserError, match="bounds"):
        stats.t_interval([1.2, 1.3], 0.95, (0, 1))


def test_an_effect_size_excludes_0_exactly_where_the_means_interval_does():
    d = np.random.default_rng(0).normal(0.5, 1, 15)
    size, mean = stats.EffectSize(d), stats.Measurement(d)
    assert size.estimate == size.effect_size == pytest.approx(d.mean() / d.std(ddof=1))
    p = stats.t_test(d).p
    for confidence in (1 - p - 1e-6, 1 - p + 1e-6):
        assert (size.interval(confidence).low > 0) == (mean.interval(confidence).low > 0)


def test_a_jackknifed_mean_is_the_mean_and_a_jackknifed_ratio_the_ratio_with_the_delta_methods_error():
    rng = np.random.default_rng(0)
    x, y = rng.normal(1, 0.1, 200), rng.normal(2, 0.1, 200)
    np.testing.assert_allclose(stats.jackknifed(np.mean, x).values, x)
    ratio = stats.jackknifed(lambda a, b: a.mean() / b.mean(), x, y)
    assert ratio.estimate == pytest.approx(x.mean() / y.mean())
    linear = (x - x.mean()) / y.mean() - x.mean() / y.mean() ** 2 * (y - y.mean())
    assert scipy_stats.sem(ratio.values) == pytest.approx(scipy_stats.sem(linear), rel=0.02)


def test_one_unit_and_a_value_that_is_missing_settle_nothing():
    for values in ([0.3], [0.3, np.nan]):
        measured = stats.Measurement(np.array(values))
        assert not measured.settled
        assert np.isnan(measured.interval()[1:3]).all()
    assert np.isnan(stats.EffectSize(np.array([0.3])).estimate)


def test_what_a_verdict_is_read_on_excludes_0_for_an_effect_size_exactly_where_it_does_for_the_mean():
    rng = np.random.default_rng(6)
    excluded = []
    for _ in range(60):
        values = rng.exponential(size=12) - rng.uniform(0, 2)
        mean, size = (stats.guarded(kind(values), 0.95) for kind in (stats.Measurement, stats.EffectSize))
        assert (mean.low > 0, mean.high < 0) == (size.low > 0, size.high < 0)
        excluded.append(mean.low > 0 or mean.high < 0)
    assert 10 < sum(excluded) < 50


def test_it_stays_inside_the_bounds_and_is_nowhere_without_units():
    near = stats.guarded(stats.Measurement(np.array([0.99, 0.98, 1.0, 0.6]), bounds=(0, 1)))
    assert 0 <= near.low < near.high <= 1
    assert np.isnan(stats.guarded(stats.Measurement(np.array([0.5]))).low)


def test_a_shares_limits_are_cut_where_it_cannot_be_and_its_estimate_is_not():
    share = stats.Share(np.array([-0.03, 0.01, 0.02, -0.01]))
    student = stats.t_interval(share.values)
    assert student.low < 0
    assert share.interval()[:3] == (share.estimate, 0.0, student.high)
    assert stats.guarded(share).low <= student.low  # so that no verdict is easier for it
