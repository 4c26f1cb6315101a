"""The ledger and the verdict rules."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalab import ledger
from datalab.errors import UserError
from datalab.ledger import claim as claim_rules
from datalab.protocol import protocol

RATES = np.array(protocol().profiles["quick"]["noise_rates"])
VALUE_CLAIM = "TITLE.threshold"  # a rerun claim whose ceiling is the value
DIRECTION_CLAIM = "S4.1.baseline_f1"  # a rerun claim that can only reach the direction
limits = st.tuples(st.floats(-1, 1), st.floats(-1, 1)).map(lambda pair: tuple(sorted(pair)))


def title_limits(lower=0.001, upper=0.008, from_rate=0.15, late=(0.02, 0.06)):
    """Limits of d(rate) that reproduce the title: negligible early, clearly positive late."""
    low = np.where(from_rate <= RATES, late[0], -lower)
    high = np.where(from_rate <= RATES, late[1], upper)
    return low, high


def test_the_ledger_holds_277_statements_with_unique_ids_in_the_papers_order():
    known = ledger.claims()
    assert len(ledger) == 277
    assert next(iter(ledger)) == "TITLE.threshold"
    assert all(claim.id == key for key, claim in ledger.items())


def test_the_ledger_cannot_be_written_to():
    claim = ledger.claims()["TITLE.threshold"]
    with pytest.raises(TypeError):
        ledger.claims()["new"] = claim
    with pytest.raises(TypeError):
        claim.reported["value"] = 16
    with pytest.raises(AttributeError):
        claim.text = "other"


def test_every_contradiction_has_a_strength_and_every_strength_a_contradiction():
    for claim in ledger.claims().values():
        check = claim.paper_check
        contradicted = ledger.paper_column(claim).verdict == "contradicted"
        assert contradicted == (check.strength in claim_rules.STRENGTHS) == (check.contradiction is not None), claim.id


def test_the_contradictions_are_the_31_of_the_ledger():
    slugs = {claim.paper_check.contradiction for claim in ledger.claims().values()} - {None}
    assert sorted(slug[:3] for slug in slugs) == [f"C{number:02d}" for number in range(1, 32)]


def test_every_testable_statement_has_a_ceiling_and_every_untestable_one_a_reason():
    for claim in ledger.claims().values():
        assert (claim.testability == "rerun") == (claim.verdict_ceiling in ("direction", "value")), claim.id
        if claim.testability == "untestable":
            assert claim.untestable_because, claim.id


def test_a_printed_figure_stands_for_its_rounding_interval_exactly():
    cell = ledger.claims()["T1.if.f1"].printed()
    assert (cell.low, cell.high) == (Fraction(795, 1000), Fraction(805, 1000))
    assert ledger.claims()["ABS.n_instances"].printed().half_width == 0
    bound = ledger.claims()["T1b.A.p"].printed()
    assert (bound.low, bound.high) == (0, Fraction(1, 1000))
    assert ledger.claims()["S5.3.ensemble"].printed("n_models").half_width == 0


def test_a_reported_figure_is_shown_with_the_digits_that_were_printed():
    shown = {key: ledger.claims()[key].reported_text() for key in ("T1.if.f1", "ABS.framework_f1_ci", "T1b.A.p")}
    assert shown == {"T1.if.f1": "0.80", "ABS.framework_f1_ci": "[0.73, 0.76]", "T1b.A.p": "< 0.001"}
    assert ledger.claims()["TITLE.only_when"].reported_text() == ""


def test_an_unknown_claim_is_refused_with_a_suggestion():
    with pytest.raises(UserError, match=r"unknown claim 'TITLE\.treshold'; did you mean 'TITLE\.threshold'\?"):
        ledger.find("TITLE.treshold")
    with pytest.raises(UserError, match="datalab claims"):
        ledger.find("??")


def test_the_paper_column_says_strength_and_missing_support():
    column = ledger.paper_column(ledger.claims()["S1.formal_guarantees"])
    assert str(column) == "contradicted (strict), unsupported"
    assert str(ledger.paper_column(ledger.claims()["S1.n_domains"])) == "uncheckable"


@pytest.mark.parametrize("claim_id", ["ABS.vs.S1.n_instances", "ABS.n_datasets"])
def test_a_statement_no_run_can_reach_is_untestable_whatever_was_measured(claim_id):
    verdict = claim_rules.measured_verdict(ledger.claims()[claim_id], estimate=1.0, interval=(0.9, 1.1))
    assert verdict.verdict == ledger.UNTESTABLE
    assert verdict.why


def measured(claim_id=DIRECTION_CLAIM, **found):
    return claim_rules.measured_verdict(ledger.claims()[claim_id], **found).verdict


@pytest.mark.parametrize(
    ("side", "estimate", "interval", "narrow", "expected"),
    [
        ("greater", 0.05, (0.01, 0.09), (0.02, 0.08), ledger.DIRECTION),
        ("greater", 0.005, (0.001, 0.009), (0.002, 0.008), ledger.NULL),  # significant, but too small to matter
        ("greater", 0.0, (-0.012, 0.012), (-0.009, 0.009), ledger.NULL),
        ("greater", -0.05, (-0.09, -0.01), (-0.08, -0.02), ledger.OPPOSITE),
        ("greater", 0.05, (-0.01, 0.11), (0.0, 0.10), ledger.INCONCLUSIVE),
        ("less", -0.05, (-0.09, -0.01), (-0.08, -0.02), ledger.DIRECTION),
        ("less", 0.05, (0.01, 0.09), (0.02, 0.08), ledger.OPPOSITE),
        ("none", 0.0, (-0.012, 0.012), (-0.009, 0.009), ledger.DIRECTION),
        ("none", 0.05, (0.01, 0.09), (0.02, 0.08), ledger.OPPOSITE),
        ("none", 0.0, (-0.05, 0.05), (-0.04, 0.04), ledger.INCONCLUSIVE),
        ("not_greater", -0.05, (-0.09, 0.005), (-0.08, 0.0), ledger.DIRECTION),
        ("not_greater", 0.05, (0.01, 0.09), (0.02, 0.08), ledger.OPPOSITE),
        ("not_greater", 0.0, (-0.05, 0.05), (-0.04, 0.04), ledger.INCONCLUSIVE),
        ("not_less", 0.05, (-0.005, 0.09), (0.0, 0.08), ledger.DIRECTION),
        ("not_less", -0.05, (-0.09, -0.01), (-0.08, -0.02), ledger.OPPOSITE),
    ],
)
def test_each_verdict_follows_from_its_intervals(side, estimate, interval, narrow, expected):
    assert measured(side=side, estimate=estimate, interval=interval, narrow=narrow) == expected


@given(limits, limits, st.sampled_from(["greater", "not_greater"]))
def test_mirroring_effect_and_claim_leaves_the_verdict(interval, narrow, side):
    mirrored = {"greater": "less", "not_greater": "not_less"}[side]
    here = measured(side=side, estimate=sum(interval) / 2, interval=interval, narrow=narrow)
    there = measured(
        side=mirrored,
        estimate=-sum(interval) / 2,
        interval=(-interval[1], -interval[0]),
        narrow=(-narrow[1], -narrow[0]),
    )
    assert here == there


@given(limits, st.sampled_from(claim_rules.SIDES), st.floats(0, 1))
def test_an_interval_that_holds_zero_and_large_effects_is_never_called_a_failure(interval, side, stretch):
    low, high = -0.011 - abs(interval[0]), 0.011 + stretch
    assert measured(side=side, estimate=(low + high) / 2, interval=(low, high), narrow=(low, high)) == "inconclusive"


def test_reproduced_needs_the_value_within_tolerance_and_the_direction():
    near = measured(VALUE_CLAIM, estimate=15.0, interval=(8.0, 22.0), narrow=(12.0, 18.0))
    low = measured(VALUE_CLAIM, estimate=15.0, interval=(8.0, 22.0), narrow=(10.0, 18.0))
    wide = measured(VALUE_CLAIM, estimate=15.0, interval=(8.0, 22.0), narrow=(12.0, 20.0))
    unsure = measured(VALUE_CLAIM, estimate=15.0, interval=(-1.0, 31.0), narrow=(12.0, 18.0))
    assert (near, low, wide) == (ledger.REPRODUCED, ledger.DIRECTION, ledger.DIRECTION)
    assert unsure == ledger.INCONCLUSIVE


@given(st.sampled_from([c.id for c in ledger.claims().values() if c.verdict_ceiling == "direction"]), limits)
def test_no_claim_passes_its_ceiling(claim_id, narrow):
    assert measured(claim_id, estimate=1.0, interval=(0.5, 1.5), narrow=narrow) != ledger.REPRODUCED
    effect = claim_rules.reported_effect(ledger.claims()[claim_id])
    if effect is not None and claim_rules.base_row(ledger.claims()[claim_id]) != claim_id:
        exact = (float(effect.middle), float(effect.middle))
        side = "greater" if effect.middle > 0 else "less"
        assert measured(claim_id, side=side, estimate=exact[0], interval=exact, narrow=exact) != ledger.REPRODUCED


def test_a_base_row_is_shown_and_its_tables_levels_are_judged_by_their_difference_to_it():
    known = ledger.claims()
    assert measured("T1.vanilla.f1", estimate=0.7, interval=(0.6, 0.8)) == ledger.SHOWN
    assert claim_rules.base_row(ledger["T1.if.f1"]) == "T1.vanilla.f1"
    effect = claim_rules.reported_effect(ledger["T1.if.f1"])
    assert effect.middle == Fraction(15, 100)
    assert effect.half_width == Fraction(1, 100)
    assert claim_rules.base_row(ledger["T2.low.cohen_d"]) is None
    assert claim_rules.base_row(ledger["T5.fe.train"]) is None
    assert measured(estimate=0.7) == ledger.SHOWN


def test_the_tolerance_is_the_larger_of_its_two_parts_plus_the_rounding():
    cell = ledger.claims()["T1.if.f1"]
    assert claim_rules.tolerance(cell, claim_rules.reported_effect(cell)) == pytest.approx(0.25 * 0.15 + 0.01)
    small = ledger.claims()["T3.wo_all.f1"]
    assert claim_rules.tolerance(small, claim_rules.reported_effect(small)) == pytest.approx(0.02 + 0.01)
    percent = ledger.claims()[VALUE_CLAIM]  # no F1 in its unit: the relative part alone
    assert claim_rules.tolerance(percent, claim_rules.reported_effect(percent)) == pytest.approx(0.25 * 15 + 0.5)


def test_bad_input_is_refused_in_one_line():
    with pytest.raises(UserError, match="unknown side 'grater'; did you mean 'greater'"):
        measured(side="grater", estimate=1.0, interval=(0, 1))
    with pytest.raises(UserError, match="low <= high"):
        measured(estimate=1.0, interval=(1, 0))
    with pytest.raises(UserError, match="low <= high"):
        measured(estimate=1.0, interval=(float("nan"), 1))
    with pytest.raises(UserError, match="unknown metric"):
        measured(estimate=1.0, interval=(0, 1), metric="bleu")
    assert measured(estimate=float("nan"), interval=(0, 1), side="not_less") == ledger.INCONCLUSIVE


def title(low, high, crossover=(0.10, 0.20), n_datasets=15, rates=RATES):
    return ledger.title_verdict(rates, low, high, crossover, n_datasets=n_datasets)


def test_the_title_is_reproduced_when_every_condition_holds():
    result = title(*title_limits())
    assert result.verdict == "reproduced"
    assert all(condition.held == (condition.role != "refutes") for condition in result.conditions)
    assert result.measured().verdict == ledger.REPRODUCED


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
