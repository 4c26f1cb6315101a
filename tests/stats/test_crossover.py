"""The crossover and its two-level bootstrap: laws, conventions, a plain loop, agreement with scikit-learn."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from sklearn.isotonic import isotonic_regression

from datalab import stats
from datalab.errors import UserError
from datalab.stats import simulation

RATES = np.array([0, 0.05, 0.10, 0.125, 0.15, 0.175, 0.20, 0.30, 0.40])
finite = st.floats(-5, 5, allow_subnormal=False).map(lambda x: round(x, 6))


def rng(seed=0):
    return np.random.default_rng(seed)


@settings(max_examples=80, deadline=None)
@given(st.lists(finite, min_size=1, max_size=12))
def test_the_isotonic_fit_equals_scikit_learns(values):
    np.testing.assert_allclose(stats.isotonic(values), isotonic_regression(values), atol=1e-9)


def test_a_straight_line_crosses_where_it_is_0():
    assert stats.crossover(RATES, RATES - 0.137) == pytest.approx(0.137)


@settings(max_examples=60, deadline=None)
@given(st.lists(finite, min_size=9, max_size=9), st.floats(0.001, 1000))
def test_the_crossover_keeps_under_scaling_of_d_and_moves_with_the_unit_of_the_rates(values, factor):
    d = np.array(values)
    boot = stats.crossover(RATES, d)
    assert stats.crossover(RATES, factor * d) == pytest.approx(boot, abs=1e-9)
    assert stats.crossover(100 * RATES, d) == pytest.approx(100 * boot, abs=1e-7)
    if np.isfinite(boot):
        assert np.interp(boot, RATES, stats.isotonic(d)) == pytest.approx(0, abs=1e-9)


def test_a_difference_above_0_everywhere_is_always_below_or_at_0_everywhere_is_never():
    assert stats.crossover(RATES, np.full(9, 0.01)) == -np.inf
    assert stats.crossover(RATES, np.full(9, -0.01)) == np.inf
    assert stats.crossover(RATES, np.zeros(9)) == np.inf
    # A dip that the monotone fit pools away leaves "always"; the first zero of a flat stretch is its first rate.
    assert stats.crossover([0, 1, 2], [3, -1, 5]) == -np.inf
    assert stats.crossover([0, 1, 2, 3], [-1, 0, 0, 1]) == 1
    assert stats.crossover([0, 1, 2], [0, 0, 1]) == 0
    assert [stats.crossover_label(x, RATES) for x in (-np.inf, 0.1419, np.inf)] == ["< 0 %", "14.2 %", "> 40 %"]


def loop_bootstrap(d, rates, generator, resamples):
    sets, seeds, _ = d.shape
    chosen = generator.integers(0, sets, size=(resamples, sets, 1))
    inner = generator.integers(0, seeds, size=(resamples, sets, seeds))
    return np.array([stats.crossover(rates, d[chosen[b], inner[b]].mean(axis=(0, 1))) for b in range(resamples)])


def test_the_two_level_bootstrap_matches_a_plain_loop_and_its_shares_count_the_open_ends():
    d = (RATES - 0.15) * 0.3 + rng(1).normal(0, 0.08, (6, 1, 1)) + rng(2).normal(0, 0.03, (6, 4, 9))
    boot = stats.crossover_bootstrap(d, RATES, rng(3), 300)
    draws = loop_bootstrap(d, RATES, rng(3), 300)
    np.testing.assert_allclose(boot.draws, draws, atol=1e-9)
    assert boot.p_always == np.mean(draws == -np.inf) > 0
    assert boot.p_never == np.mean(draws == np.inf) > 0
    assert boot.low <= boot.estimate <= boot.high


def test_the_crossovers_limits_are_where_the_t_limits_of_the_difference_cross_zero_whatever_the_generator():
    d = (RATES - 0.15) * 0.3 + rng(1).normal(0, 0.02, (9, 1, 1)) + rng(2).normal(0, 0.005, (9, 4, 9))
    boot, other = (stats.crossover_bootstrap(d, RATES, rng(seed), 300) for seed in (3, 4))
    assert (boot.low, boot.high) == (other.low, other.high)
    half = scipy_stats.t.ppf(0.975, 8) * d.mean(1).std(0, ddof=1) / 3
    limits = [stats.crossover(RATES, d.mean((0, 1)) + side * half) for side in (1, -1)]
    assert (boot.low, boot.high) == pytest.approx(limits)


def test_the_crossovers_interval_covers_at_the_titles_slope_where_the_percentile_one_falls_short():
    """At the slope, spread and truth of the first record's primary cell: the percentile interval covers some 90 %."""
    rows = simulation.crossover_coverage("normal", 15, 5, RATES, 0.016, 0.075, 0.025, 0.02, 400, 300, root_seed=1)
    hits = {row["method"]: row["hits"] / 400 for row in rows}
    assert hits["t-limits"] > 0.925
    assert hits["percentile"] < hits["t-limits"]


def test_without_spread_the_crossovers_interval_is_a_point():
    d = np.broadcast_to(RATES - 0.137, (5, 3, 9))
    boot = stats.crossover_bootstrap(d, RATES, rng(), 200)
    assert (boot.low, boot.high) == pytest.approx((0.137, 0.137))
    assert boot.p_always == boot.p_never == 0


def test_seeds_vary_within_their_data_set_only():
    # Seeds differ, data sets do not: with the seeds held at their mean no resample would move.
    d = (RATES - 0.15) + np.array([-0.05, 0.05])[None, :, None] + np.zeros((8, 1, 1))
    assert np.std(stats.crossover_bootstrap(d, RATES, rng(), 500).draws) > 0.005
    flat = d.mean(axis=1, keepdims=True)
    assert np.std(stats.crossover_bootstrap(flat, RATES, rng(), 500).draws) == pytest.approx(0, abs=1e-12)


def test_twenty_crossover_bootstraps_of_the_papers_size_take_under_two_cpu_seconds():
    d = (RATES - 0.15) + rng(0).normal(0, 0.1, (23, 13, 9))
    start = time.process_time()
    for seed in range(20):
        stats.crossover_bootstrap(d, RATES, rng(seed), 2000)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("seed", range(5))
def test_two_crossovers_differ_by_their_own_limits_squared_and_added_the_other_way_round_with_the_sign_turned(seed):
    shift = rng(seed).normal(0, 0.02, (2, 12, 2, 1))
    a, b = RATES - np.array([0.12, 0.2])[:, None, None, None] + shift
    apart, back = stats.crossovers_apart(a, b, RATES), stats.crossovers_apart(b, a, RATES)
    one, two = (stats.crossover_bootstrap(d, RATES, rng()) for d in (a, b))
    assert apart.estimate == pytest.approx(one.estimate - two.estimate)
    assert apart.estimate - apart.low == pytest.approx(np.hypot(one.estimate - one.low, two.high - two.estimate))
    assert [back.low, back.high] == pytest.approx([-apart.high, -apart.low])
    assert apart.n == 12


def test_a_crossover_beyond_the_rates_counts_at_their_end_and_so_do_its_limits():
    noise = rng().normal(0, 0.01, (2, 9, 1, 9))
    never, always = -0.2 + noise[0], 0.2 + noise[1]
    assert stats.crossovers_apart(never, always, RATES)[:3] == pytest.approx((0.4, 0.4, 0.4))
    with pytest.raises(UserError, match="shapes"):
        stats.crossovers_apart(never[:8], always, RATES)


def test_without_each_set_or_group_the_crossover_and_its_limits_are_those_of_the_others():
    d = (RATES - 0.15) * 0.3 + rng(1).normal(0, 0.02, (5, 1, 1)) + rng(2).normal(0, 0.005, (5, 2, 9))
    d[3] -= 0.1  # one set pays much later
    for groups in ([0, 1, 2, 3, 4], ["a", "b", "a", "c", "b"]):
        without = stats.crossovers_without(d, RATES, groups)
        assert list(without) == list(dict.fromkeys(groups))
        for group, limits in without.items():
            kept = [place for place, of in enumerate(groups) if of != group]
            others = stats.crossover_bootstrap(d[kept], RATES, rng(0), 1)
            assert limits == (others.estimate, others.low, others.high)
        assert min(without, key=without.get) == groups[3]
    with pytest.raises(UserError, match="without 'a' fewer than 2 sets"):
        stats.crossovers_without(d, RATES, ["a", "a", "a", "a", "b"])
    with pytest.raises(UserError, match=r"\(4,\)"):
        stats.crossovers_without(d, RATES, range(4))
