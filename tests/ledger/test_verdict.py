"""The measured column's rules."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalab import ledger
from datalab.errors import UserError
from datalab.ledger import verdict as rules
from datalab.ledger.claim import base_row, reported_effect

VALUE_CLAIM = "TITLE.threshold"  # a rerun claim whose ceiling is the value
DIRECTION_CLAIM = "S4.1.baseline_f1"  # a rerun claim that can only reach the direction
limits = st.tuples(st.floats(-1, 1), st.floats(-1, 1)).map(lambda pair: tuple(sorted(pair)))


@pytest.mark.parametrize("claim_id", ["ABS.vs.S1.n_instances", "ABS.n_datasets"])
def test_a_statement_no_run_can_reach_is_untestable_whatever_was_measured(claim_id):
    verdict = rules.measured_verdict(ledger.claims()[claim_id], estimate=1.0, interval=(0.9, 1.1))
    assert verdict.verdict == ledger.UNTESTABLE
    assert verdict.why


def measured(claim_id=DIRECTION_CLAIM, **found):
    return rules.measured_verdict(ledger.claims()[claim_id], **found).verdict


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
        ("none", 0.05, (0.01, 0.09), (0.02, 0.08), ledger.DIFFERENCE),
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


@given(limits, st.sampled_from(rules.SIDES), st.floats(0, 1))
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
    effect = reported_effect(ledger.claims()[claim_id])
    if effect is not None and base_row(ledger.claims()[claim_id]) != claim_id:
        exact = (float(effect.middle), float(effect.middle))
        side = "greater" if effect.middle > 0 else "less"
        assert measured(claim_id, side=side, estimate=exact[0], interval=exact, narrow=exact) != ledger.REPRODUCED


def test_a_base_row_is_shown_and_its_tables_levels_are_judged_by_their_difference_to_it():
    assert measured("T1.vanilla.f1", estimate=0.7, interval=(0.6, 0.8)) == ledger.SHOWN
    assert base_row(ledger.claims()["T1.if.f1"]) == "T1.vanilla.f1"
    effect = reported_effect(ledger.claims()["T1.if.f1"])
    assert effect.middle == Fraction(15, 100)
    assert effect.half_width == Fraction(1, 100)
    assert base_row(ledger.claims()["T2.low.cohen_d"]) is None
    assert base_row(ledger.claims()["T5.fe.train"]) is None
    assert measured(estimate=0.7) == ledger.SHOWN


def test_the_tolerance_is_the_larger_of_its_two_parts_plus_the_rounding():
    cell = ledger.claims()["T1.if.f1"]
    assert rules.tolerance(cell, reported_effect(cell)) == pytest.approx(0.25 * 0.15 + 0.01)
    small = ledger.claims()["T3.wo_all.f1"]
    assert rules.tolerance(small, reported_effect(small)) == pytest.approx(0.02 + 0.01)
    percent = ledger.claims()[VALUE_CLAIM]  # no F1 in its unit: the relative part alone
    assert rules.tolerance(percent, reported_effect(percent)) == pytest.approx(0.25 * 15 + 0.5)


def test_bad_input_is_refused_in_one_line():
    with pytest.raises(UserError, match="unknown side 'grater'; did you mean 'greater'"):
        measured(side="grater", estimate=1.0, interval=(0, 1))
    with pytest.raises(UserError, match="low <= high"):
        measured(estimate=1.0, interval=(1, 0))
    with pytest.raises(UserError, match="low <= high"):
        measured(estimate=1.0, interval=(float("nan"), 1))
    with pytest.raises(UserError, match="unknown metric"):
        rules.sesoi("bleu")
    assert measured(estimate=float("nan"), interval=(0, 1), side="not_less") == ledger.INCONCLUSIVE
