"""Intervals, tests and effect sizes of paired differences: laws, limits, agreement with scipy and pingouin."""

import warnings

import numpy as np
import pingouin
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from datalab import stats
from datalab.errors import UserError

finite = st.floats(-5, 5, allow_subnormal=False).map(lambda x: round(x, 6))


def rng(seed=0):
    return np.random.default_rng(seed)


def units(n=15, shift=0.4, seed=0):
    return rng(seed).normal(shift, 1, n)


def test_the_t_interval_and_test_equal_scipys():
    d = rng(1).normal(0.2, 1, (4, 12))
    ours, theirs = stats.t_interval(d, 0.9), scipy_stats.ttest_1samp(d, 0, axis=-1)
    np.testing.assert_allclose([ours.low, ours.high], theirs.confidence_interval(0.9))
    np.testing.assert_allclose(stats.t_test(d).p, theirs.pvalue)


@settings(max_examples=40, deadline=None)
@given(st.lists(finite, min_size=4, max_size=20), st.floats(0.01, 100), st.integers(0, 2**31))
def test_intervals_and_p_values_follow_a_change_of_unit_and_of_sign(values, factor, seed):
    d = np.array(values)
    assume(np.std(d) > 1e-3)
    once, scaled, turned = (stats.paired_bootstrap(x, rng(seed), 199) for x in (d, factor * d, -d))
    assert scaled.p == once.p
    assert scaled.interval.low == pytest.approx(factor * once.interval.low, rel=1e-6, abs=1e-9)
    assert turned.p == once.p
    assert turned.interval.high == pytest.approx(-once.interval.low, rel=1e-6, abs=1e-9)
    assert stats.sign_flip_test(-d, rng(seed), 199).p == pytest.approx(stats.sign_flip_test(d, rng(seed), 199).p)


@settings(max_examples=60, deadline=None)
@given(st.lists(finite, min_size=5, max_size=20), st.integers(0, 2**31), st.sampled_from([0.8, 0.9, 0.95]))
def test_the_bootstraps_p_value_is_below_one_minus_confidence_just_when_0_lies_outside_its_interval(
    values, seed, confidence
):
    d = np.array(values)
    assume(np.std(d) > 1e-3)
    boot = stats.paired_bootstrap(d, rng(seed), 999, confidence)
    inside = boot.interval.low <= 0 <= boot.interval.high
    edge = min(abs(boot.interval.low), abs(boot.interval.high)) < 1e-9
    assert edge or inside == (boot.p > 1 - confidence + 1e-12)


def test_the_bootstrap_matches_a_plain_loop_over_the_same_resamples():
    d, resamples = units(12), 299
    counts = rng(7).multinomial(12, np.full(12, 1 / 12), size=resamples)
    t = abs(d.mean()) / scipy_stats.sem(d)
    t_star = np.array([abs(x.mean() - d.mean()) / scipy_stats.sem(x) for x in (np.repeat(d, row) for row in counts)])
    boot = stats.paired_bootstrap(d, rng(7), resamples, 0.95)
    assert boot.p == pytest.approx((1 + np.sum(t_star >= t)) / (resamples + 1))
    half = np.sort(t_star)[int(np.ceil(300 * 0.95)) - 1] * scipy_stats.sem(d)
    assert boot.interval.high - boot.interval.estimate == pytest.approx(half)


def test_a_batch_gives_what_its_rows_give_one_by_one():
    batch = rng(3).normal(0.3, 1, (2, 5, 18))
    for test in (
        lambda d: stats.paired_bootstrap(d, rng(4), 499).p,
        lambda d: stats.sign_flip_test(d, rng(4), 499).p,
        lambda d: stats.wilcoxon(d).p,
        lambda d: stats.t_test(d).p,
    ):
        together = test(batch)
        assert together.shape == (2, 5)
        np.testing.assert_allclose(together, [[test(row) for row in rows] for rows in batch])


def test_a_large_batch_is_computed_in_blocks_that_give_the_same(monkeypatch):
    batch = rng(3).normal(0.3, 1, (50, 9))
    whole = stats.paired_bootstrap(batch, rng(4), 99), stats.sign_flip_test(batch)
    monkeypatch.setattr("datalab.stats.paired._BLOCK", 1000)
    parts = stats.paired_bootstrap(batch, rng(4), 99), stats.sign_flip_test(batch)
    np.testing.assert_allclose(parts[0].interval.low, whole[0].interval.low)
    np.testing.assert_array_equal(parts[1].p, whole[1].p)


def test_a_resample_without_variation_counts_against_a_finding():
    # Of the 27 resamples of 3 units two repeat the first or the last alone: |t*| is infinite there, so p >= 2/27.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        boot = stats.paired_bootstrap(np.array([1.0, 1.001, 1.002]), rng(0), 9999, 0.95)
    assert boot.p == pytest.approx(2 / 27, abs=0.01)
    assert boot.interval.high == np.inf


@pytest.mark.parametrize("n", [2, 5, 9, 12])
def test_the_exact_sign_flip_p_equals_scipys_exhaustive_permutation_test(n):
    d = units(n, seed=n)
    theirs = scipy_stats.permutation_test((d,), lambda x, axis: abs(x.mean(axis=axis)), permutation_type="samples",
                                          alternative="greater", n_resamples=np.inf, vectorized=True)  # fmt: skip
    assert stats.sign_flip_test(d).p == pytest.approx(theirs.pvalue)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8), st.sampled_from([0.1, 1 / 3, 1e-7, 1e6]))
def test_ties_in_the_sign_flip_test_are_counted_exactly_whatever_the_unit(values, unit):
    whole = np.array(values)
    patterns = 1 - 2 * (np.arange(2 ** len(whole))[:, None] >> np.arange(len(whole)) & 1)
    expected = np.mean(np.abs(patterns @ whole) >= abs(whole.sum()))
    assert stats.sign_flip_test(whole * unit).p == pytest.approx(expected)


def test_the_sign_flip_test_enumerates_up_to_16_units_and_draws_from_17_on():
    assert stats.sign_flip_test(units(16)).floor == stats.p_floor(16)
    drawn = stats.sign_flip_test(units(17, 3), rng(), 999)
    assert drawn.p == drawn.floor == 1 / 1000  # the +1 rule: a drawn p is never 0
    with pytest.raises(UserError, match=r"^rng: 17 units"):
        stats.sign_flip_test(units(17))


def test_drawn_sign_flips_approach_the_exact_p_value(monkeypatch):
    d = units(14, 0.35, seed=5)
    exact = stats.sign_flip_test(d).p
    rules = dict(stats.paired.protocol().statistics) | {"max_exact_sign_patterns": 1}
    monkeypatch.setattr("datalab.stats.paired.protocol", lambda: type("Rules", (), {"statistics": rules}))
    drawn = stats.sign_flip_test(d, rng(), 40_000)
    assert drawn.p != exact  # drawn, not enumerated
    assert drawn.p == pytest.approx(exact, abs=4 * np.sqrt(exact / 40_000))


def test_wilcoxon_equals_scipys_and_pingouins_signed_rank_test():
    d = units(15)
    assert stats.wilcoxon(d).p == pytest.approx(scipy_stats.wilcoxon(d).pvalue)
    assert stats.wilcoxon(d).p == pytest.approx(pingouin.wilcoxon(d)["p_val"].iloc[0])


@pytest.mark.parametrize("n", [1, 5, 9, 13])
def test_no_paired_permutation_p_falls_below_its_floor_and_agreeing_signs_reach_it(n):
    d = np.linspace(1, 2, n)
    assert stats.sign_flip_test(d).p == stats.wilcoxon(d).p == stats.sign_flip_test(d).floor == stats.p_floor(n)


def test_identical_arms_give_p_1_and_equal_differences_give_no_p_at_all():
    zeros, equal = np.zeros(6), np.full(6, 0.1)
    boot = stats.paired_bootstrap(zeros, rng(), 99)
    assert (boot.p, boot.interval.low, boot.interval.high) == (1, 0, 0)
    assert stats.t_test(zeros).p == stats.sign_flip_test(zeros).p == stats.wilcoxon(zeros).p == 1
    assert np.isnan(stats.t_test(equal).p)
    assert np.isnan(stats.paired_bootstrap(equal, rng(), 99).p)
    assert np.isnan(stats.cohens_dz(equal).estimate)
    assert stats.sign_flip_test(equal).p == stats.p_floor(6)


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 60), st.floats(-3, 3), st.sampled_from([0.9, 0.95, 0.995]))
def test_at_the_limits_of_d_z_the_observed_t_is_a_tail_quantile_of_the_noncentral_t(n, shift, confidence):
    d = rng(n).normal(shift, 1, n)
    effect = stats.cohens_dz(d, confidence)
    t = effect.estimate * np.sqrt(n)
    assert effect.estimate == pytest.approx(pingouin.compute_effsize(d, 0))
    tails = scipy_stats.nct.cdf(t, n - 1, np.array([effect.high, effect.low]) * np.sqrt(n))
    np.testing.assert_allclose(tails, [(1 - confidence) / 2, (1 + confidence) / 2], atol=1e-6)


@pytest.mark.parametrize("n", [2, 3, 5, 15])
def test_the_interval_of_d_z_grows_in_proportion_to_a_huge_effect_and_turns_with_its_sign(n):
    d = rng(n).normal(size=n)
    d = (d - d.mean()) / d.std(ddof=1)
    shares = []
    for effect in (200.0, 2e3, 2e6):
        effect_of, turned = stats.cohens_dz(effect + d), stats.cohens_dz(-effect - d)
        shares.append((effect_of.low / effect, effect_of.high / effect))
        assert (turned.low, turned.high) == pytest.approx((-effect_of.high, -effect_of.low), rel=1e-5)
    np.testing.assert_allclose(shares[0], shares[2], rtol=2e-3)
    np.testing.assert_allclose(shares[1], shares[2], rtol=2e-3)
    assert shares[0][0] < 0.95 < 1.05 < shares[0][1]


def test_the_interval_of_d_z_excludes_0_just_when_the_t_test_rejects():
    for seed in range(40):
        d = units(13, 0.5, seed)
        assert (stats.cohens_dz(d, 0.95).low > 0) == (stats.t_test(d).p < 0.05 and d.mean() > 0)


def test_equivalence_agrees_with_pingouins_two_one_sided_tests():
    for seed in range(40):
        d = rng(seed).normal(0.002, 0.01, 15)
        mean, *narrow = stats.t_interval(d, 0.90)[:3]
        holds = stats.decide(mean, (-1, 1), narrow, "none", 0.005) == "holds"
        assert holds == (pingouin.tost(d, 0, bound=0.005)["pval"].iloc[0] < 0.05)


def test_the_summary_holds_the_same_numbers_as_the_functions_it_gathers():
    d = units(15)
    row = stats.paired_summary(d, rng(2))
    assert row["p_t"] == stats.t_test(d).p
    assert row["p_sign_flip"] == stats.sign_flip_test(d).p
    assert row["p_floor"] == 2 / 2**15
    assert row["t_low"] == stats.t_interval(d).low
    ranks = scipy_stats.rankdata(np.abs(d))
    assert row["rank_biserial"] == pytest.approx((ranks @ np.sign(d)) / ranks.sum())
    assert row["p_shapiro"] == pytest.approx(scipy_stats.shapiro(d).pvalue)


def test_a_guarded_limit_is_the_mean_at_which_halls_transformed_t_is_at_its_quantile_where_that_lies_further():
    x = np.random.default_rng(4).exponential(size=15)
    student, guarded = stats.t_interval(x, 0.99), stats.guarded_interval(x, 0.99)
    a, z = scipy_stats.skew(x), (x.mean() - guarded.high) / x.std(ddof=1)
    transformed = np.sqrt(15) * (z + a * z**2 / 3 + a**2 * z**3 / 27 + a / 90)
    assert transformed == pytest.approx(scipy_stats.t.ppf(0.005, 14))
    assert guarded.high > student.high  # away from the long tail Student's end is too near
    assert guarded.low == student.low  # and towards it is far enough
    mirrored = stats.guarded_interval(-x, 0.99)
    assert [-mirrored.high, -mirrored.low] == pytest.approx([guarded.low, guarded.high])
    assert stats.guarded_interval(np.ones(5))[:3] == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("n", [2, 3, 5, 24])
def test_guarded_limits_hold_students_and_are_students_where_units_are_symmetric(n):
    rng = np.random.default_rng(n)
    x = rng.normal(size=(300, n)) ** 3
    student, guarded = stats.t_interval(x), stats.guarded_interval(x)
    assert (guarded.low <= student.low).all()
    assert (guarded.high >= student.high).all()
    symmetric = np.concatenate([x, -x], axis=1)
    np.testing.assert_allclose(stats.guarded_interval(symmetric)[:3], stats.t_interval(symmetric)[:3], atol=1e-9)
