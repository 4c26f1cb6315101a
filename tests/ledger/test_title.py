"""The title's rules, versions 1 and 2."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from datalab import ledger, stats
from datalab.errors import UserError
from datalab.protocol import protocol
from datalab.stats import verdict_levels

RATES = np.array(protocol().profiles["quick"]["noise_rates"])
limits = st.tuples(st.floats(-1, 1), st.floats(-1, 1)).map(lambda pair: tuple(sorted(pair)))


def title_limits(lower=0.001, upper=0.008, from_rate=0.15, late=(0.02, 0.06)):
    """Limits of d(rate) that reproduce the title: negligible early, clearly positive late."""
    low = np.where(from_rate <= RATES, late[0], -lower)
    high = np.where(from_rate <= RATES, late[1], upper)
    return low, high


def title(low, high, crossover=(0.10, 0.20), n_datasets=15, rates=RATES):
    return ledger.title_verdict(rates, low, high, crossover, n_datasets=n_datasets)


def test_the_title_is_reproduced_when_every_condition_holds():
    result = title(*title_limits())
    assert result.verdict == "reproduced"
    assert all(condition.held == (condition.role != "refutes") for condition in result.conditions)
    assert result.measured().verdict == ledger.REPRODUCED


def test_a_verdict_that_is_open_says_what_either_side_lacks():
    why = title(*title_limits(), crossover=(0.04, 0.20)).measured().why
    assert why.startswith("not refuted, for it is not shown: influence beats random at a rate, uncorrected, <= 10 % (")
    assert why.endswith("; not reproduced: the crossover interval lies inside (5, 30) % ([4.0 %, 20.0 %])")
    open_ended = title(*title_limits(), crossover=(-np.inf, np.inf)).measured().why
    assert open_ended.endswith("([< 0 %, > 40 %])")
    assert title(*title_limits(), n_datasets=2).measured().why.startswith("not concluded: at least 15 data sets (2); ")


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.10])
def test_one_early_rate_where_influence_beats_random_refutes_the_title(rate):
    low, high = title_limits()
    low[rate == RATES] = 1e-6
    result = title(low, high)
    assert result.verdict == "refuted"
    assert result.measured().verdict == ledger.OPPOSITE


@pytest.mark.parametrize("rate", [0.20, 0.30, 0.40])
def test_one_late_rate_where_random_beats_influence_refutes_the_title(rate):
    low, high = title_limits()
    low[rate == RATES], high[rate == RATES] = -0.05, -1e-6
    assert title(low, high).verdict == "refuted"


@pytest.mark.parametrize("rate", [0.125, 0.15, 0.175])
def test_rates_between_the_two_rules_refute_nothing(rate):
    for sign in (-1, 1):
        low, high = title_limits()
        low[rate == RATES], high[rate == RATES] = sorted((sign * 0.01, sign * 0.05))
        assert title(low, high).verdict == "reproduced"


@pytest.mark.parametrize(
    "crossover",
    [(0.16, 0.20), (0.10, 0.149), (0.05, 0.20), (0.10, 0.30), (0.0, 0.2), (0.1, np.inf), (np.nan, np.nan)],
)
def test_a_crossover_interval_without_15_percent_or_beyond_its_bounds_is_inconclusive(crossover):
    assert title(*title_limits(), crossover=crossover).verdict == "inconclusive"


def test_a_wide_interval_at_no_noise_or_an_unclear_gain_at_high_noise_is_inconclusive():
    low, high = title_limits()
    high[RATES == 0.05] = protocol().statistics["sesoi"]["f1"]
    assert title(low, high).verdict == "inconclusive"
    low, high = title_limits()
    low[RATES == 0.40] = 0.0
    assert title(low, high).verdict == "inconclusive"


def test_too_few_data_sets_conclude_nothing():
    low, high = title_limits()
    assert title(low, high, n_datasets=14).verdict == "inconclusive"
    assert title(low + 0.1, high + 0.1, n_datasets=3).verdict == "inconclusive"


def test_a_grid_without_low_or_high_rates_cannot_reproduce_the_title():
    low, high = title_limits()
    for kept in (RATES > 0.05, RATES < 0.30):
        assert title(low[kept], high[kept], rates=RATES[kept]).verdict == "inconclusive"


@given(st.permutations(range(len(RATES))))
def test_the_order_of_the_rates_does_not_matter(order):
    low, high = title_limits()
    assert title(low[order], high[order], rates=RATES[order]).verdict == "reproduced"


@given(st.lists(limits, min_size=len(RATES), max_size=len(RATES)), limits)
def test_refuted_and_reproduced_are_exactly_the_protocols_rules(pairs, crossover):
    low, high = np.array(pairs).T
    expected = "inconclusive"
    if any(lo > 0 for lo, r in zip(low, RATES, strict=True) if r <= 0.10) or any(
        hi < 0 for hi, r in zip(high, RATES, strict=True) if r >= 0.20
    ):
        expected = "refuted"
    elif (
        crossover[0] <= 0.15 <= crossover[1]
        and crossover[0] > 0.05
        and crossover[1] < 0.30
        and all(high[RATES <= 0.05] < 0.01)
        and all(low[RATES >= 0.30] > 0)
    ):
        expected = "reproduced"
    assert title(low, high, crossover).verdict == expected


def test_a_malformed_title_input_is_refused():
    low, high = title_limits()
    for rates, lower, upper in (
        (RATES, low[:3], high),
        (RATES, low, high[:3]),
        (RATES * 100, low, high),
        (RATES, high, low),
        (RATES, low * np.nan, high),
    ):
        with pytest.raises(UserError, match="title verdict"):
            title(lower, upper, rates=rates)


RULE_2 = protocol().protocol_2
RATES_2 = (0.0, 0.05, 0.10, 0.15, 0.20, 0.30, 0.40)


def title_2(mean, sets=24, spread=0.005, crossover=(0.10, 0.20), **other):
    """Version 2's verdict where every reading's d has this mean by rate, or ``other``'s by reading."""
    shifts = np.linspace(-spread, spread, sets)[:, None]
    d = {reading: np.asarray(other.get(reading, mean)) + shifts for reading in RULE_2["readings"]}
    return ledger.title_verdict_2(RATES_2, d, dict.fromkeys(RULE_2["readings"], crossover))


RISING = np.array([-0.02, -0.01, -0.005, 0.0, 0.005, 0.02, 0.03])


def test_version_2_reproduces_the_title_when_every_reading_crosses_at_15():
    assert title_2(RISING).verdict == "reproduced"
    assert title_2(RISING, crossover=(0.16, 0.20)).verdict == "inconclusive"
    assert title_2(RISING, crossover=(0.04, 0.20)).verdict == "inconclusive"


@pytest.mark.parametrize("reading", RULE_2["readings"])
def test_version_2_is_refuted_by_any_reading_with_an_early_gain_or_a_late_loss(reading):
    early, late = RISING + np.array([0, 0, 0.02, 0, 0, 0, 0]), RISING - np.array([0, 0, 0, 0, 0.02, 0, 0])
    assert title_2(RISING, **{reading: early}).verdict == "refuted"
    assert title_2(RISING, **{reading: late}).verdict == "refuted"


def test_version_2_concludes_nothing_on_too_few_sets_and_refuses_other_readings():
    assert title_2(RISING, sets=19).verdict == "inconclusive"
    with pytest.raises(UserError, match="they must be"):
        ledger.title_verdict_2(RATES_2, {"F1": np.zeros((24, 7))}, {"F1": (0.1, 0.2)})
    d = {reading: np.zeros((24, 6)) for reading in RULE_2["readings"]}
    with pytest.raises(UserError, match="one column a rate"):
        ledger.title_verdict_2(RATES_2, d, dict.fromkeys(d, (0.1, 0.2)))


def test_version_2_refutes_a_true_title_no_more_often_than_its_level_allows_and_version_1_more_often():
    """With no effect at any rate, which is the boundary of what the title says."""
    hits = {}
    for version, of in ((1, protocol().title_verdict), (2, RULE_2["title_verdict"])):
        given = (list(RATES if version == 1 else RATES_2), of, 0.01, 1 if version == 1 else 4, 800)
        (row,) = verdict_levels.title_level(version, "no effect", "normal", 24, *given, root_seed=1)
        hits[version] = row["hits"] / 800
    assert hits[2] <= RULE_2["title_verdict"]["refuted"]["alpha"] + 3 * np.sqrt(0.025 * 0.975 / 800)
    assert hits[1] > 0.09  # six rates, none corrected for: its conditions say so
    refuting = title(*title_limits()).conditions[1:3]
    assert all("uncorrected" in condition.text for condition in refuting)


@pytest.mark.parametrize("version", [1, 2])
def test_the_simulation_of_3_4_says_of_each_study_what_the_rule_says(version):
    """Many at once there, one by one here, on studies that give all three words."""
    rng, sets, said = np.random.default_rng(version), 24, set()
    rates = RATES if version == 1 else np.array(RATES_2)
    readings = [""] if version == 1 else RULE_2["readings"]
    rule = protocol().title_verdict if version == 1 else RULE_2["title_verdict"]
    shift = rng.normal(0, 0.01, (60, 1, sets, 1)) + rng.normal(0, 0.02, (60, len(readings), sets, len(rates)))
    shift[:30, ..., -1] *= 6  # so that the largest rate may be unclear where the one before it is not
    slope, crosses = rng.choice([0.03, 0.15], (60, 1, 1, 1)), rng.choice([0.03, 0.1, 0.15, 0.2], (60, 1, 1, 1))
    d = slope * (rates - crosses) + shift
    for study, word in zip(d, verdict_levels.title_words(version, d, rates, rule, 0.01), strict=True):
        boots = [stats.crossover_bootstrap(of[:, None], rates, rng, 1) for of in study]
        ends = {name: (boot.low, boot.high) for name, boot in zip(readings, boots, strict=True)}
        if version == 1:
            limits = stats.t_interval(study[0].T)
            own = ledger.title_verdict(rates, limits.low, limits.high, ends[""], n_datasets=sets)
        else:
            own = ledger.title_verdict_2(rates, dict(zip(readings, study, strict=True)), ends)
        assert own.verdict == word
        said.add(word)
    assert said == {"refuted", "reproduced", "inconclusive"}


def test_a_p_that_refutes_is_scipys_smallest_one_sided_one_times_their_number():
    rng = np.random.default_rng(0)
    early, late = rng.normal(0.2, 1, (30, 3)), rng.normal(0, 1, (30, 4))
    ahead = scipy_stats.ttest_1samp(early, 0, alternative="greater").pvalue
    behind = scipy_stats.ttest_1samp(late, 0, alternative="less").pvalue
    assert stats.refuting_p(np.hstack([early, -late]).T) == pytest.approx(7 * min(*ahead, *behind))
    assert stats.refuting_p(np.empty((0, 30))) == 1
