"""The audit: interval arithmetic on printed figures, and its agreement with what the ledger declares."""

import dataclasses
import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalab import audit, ledger
from datalab.audit.check import (
    CONSISTENT,
    INCONSISTENT,
    UNCHECKABLE,
    Figures,
    correlation_with_rank,
    equals,
    order,
    relative_gain,
    sign,
)
from datalab.audit.tables import corrected, harmonic_mean, positive_rate
from datalab.ledger.rounding import RoundingInterval, corners, exact, have_common_point, hull

LEDGER = ledger.claims()
OUTCOMES = audit.outcomes(LEDGER)
DECLARED = [key for key, claim in LEDGER.items() if claim.paper_check.recomputed is not None]

percent = st.integers(1, 99).map(lambda number: RoundingInterval.printed(number / 100, 2))
unit = st.fractions(0, 1, max_denominator=100)


def inside(interval, share):
    """A point of the interval, ``share`` of the way up."""
    return interval.low + share * (interval.high - interval.low)


@pytest.mark.parametrize("statement_id", DECLARED)
def test_the_code_and_the_ledger_say_the_same(statement_id):
    outcome, declared = OUTCOMES[statement_id], LEDGER[statement_id].paper_check
    assert audit.agrees(outcome, declared), f"{outcome} against {declared}"


def test_every_declared_recomputation_has_a_check_and_no_check_is_without_one():
    assert set(OUTCOMES) == set(DECLARED)
    assert len(DECLARED) == 141


def test_a_reading_of_the_text_is_never_shown_as_computed():
    for key, claim in LEDGER.items():
        assert (audit.basis(key) == "declared") == (claim.paper_check.recomputed is None), key
    assert audit.basis("ABS.n_open_problems") == "figures and text"
    assert audit.basis("S3.3.kl_prevents_collapse") == "simulation"


def moved(statement_id, value):
    """The ledger with one printed figure changed."""
    claim = LEDGER[statement_id]
    return {**LEDGER, statement_id: dataclasses.replace(claim, reported={**claim.reported, "value": value})}


@pytest.mark.parametrize(
    ("statement_id", "value", "check"),
    [
        ("T1.ln.f1", 0.68, "T1.ln.f1"),
        ("T2.low.gap_pp", 17.0, "T2.low.gap_pp"),
        ("T3.full.delta", 0.0, "T3.full.delta"),
        ("T4.100K.rel_gain", 112.0, "T4.100K.rel_gain"),
        ("T5.total.mem", 14.26, "T5.total.mem"),
        ("S1.n_instances", 48128, "ABS.vs.S1.n_instances"),
        ("T3.wo_all.f1", 0.60, "S4.3.gain_sign"),
        ("S3.2.grid", 162, "S3.2.grid_prime"),
        ("S3.2.n_seeds", 13, "S3.4.min_p"),
        ("T2.extreme.baseline_f1", 0.60, "S4.2.baseline_drops"),
        ("T5.aw.infer", 0.0, "T5.aw.infer"),
        ("S4.1.headline_f1", 0.80, "S4.1.unlisted_implied"),
        ("S4.1.headline_rel", 17.0, "S4.1.mean_of_listed"),
        ("S4.3.share_reg", 50.8, "S6.via"),
    ],
)
def test_a_check_turns_when_the_printed_figure_it_objects_to_is_put_right(statement_id, value, check):
    assert OUTCOMES[check].status == INCONSISTENT
    assert audit.outcomes(moved(statement_id, value))[check].status == CONSISTENT


def test_a_printed_p_contradicts_nothing_by_itself():
    """Before, p .002 "contradicted" a corrected threshold that the paper does not say it passes."""
    assert OUTCOMES["T1b.C.p"].recomputed == {"passes": 0, "undetermined": 0, "fails": 1}
    assert OUTCOMES["T1b.C.p"].status == UNCHECKABLE
    assert OUTCOMES["S3.4.bonferroni_passed"].status == INCONSISTENT


def test_a_printed_figure_is_the_decimal_and_not_the_nearest_binary_float():
    assert exact(0.1) == Fraction(1, 10)
    assert RoundingInterval.printed(0.65, 2) == RoundingInterval(
        Fraction(129, 200), Fraction(131, 200), Fraction(13, 20)
    )
    assert RoundingInterval.printed(15, None).half_width == 0


@given(percent, percent, unit, unit)
def test_interval_arithmetic_holds_every_value_its_parts_can_take(one, other, share, other_share):
    a, b = inside(one, share), inside(other, other_share)
    assert (one + other).contains(a + b)
    assert (one - other).contains(a - b)
    assert (-3 * one).contains(-3 * a)
    assert relative_gain(one, other).contains(100 * (a / b - 1))
    assert harmonic_mean(one, other).contains(2 * a * b / (a + b))


@given(percent, percent, percent, unit, unit, unit)
def test_the_implied_positive_rate_holds_every_value_its_parts_can_take(p, r, a, x, y, z):
    precision, recall, accuracy = inside(p, x), inside(r, y), inside(a, z)
    rate = (1 - accuracy) / ((1 - recall) + recall * (1 - precision) / precision)
    assert positive_rate(p, r, a).contains(rate)


@given(percent, percent)
def test_corners_is_no_wider_than_the_image_of_a_monotone_function(one, other):
    box = corners(lambda a, b: a / b, one, other)
    assert (box.low, box.high) == (one.low / other.high, one.high / other.low)


@settings(max_examples=25, deadline=None)
@given(st.lists(percent, min_size=5, max_size=5), st.lists(unit, min_size=5, max_size=5))
def test_no_unrounded_column_has_a_correlation_outside_the_interval(column, shares):
    if len({box.middle for box in column}) == 1:
        return  # a constant column has no correlation
    values = np.array([float(inside(box, share)) for box, share in zip(column, shares, strict=True)])
    if np.ptp(values) < 1e-3:
        return
    low, high = correlation_with_rank(column).floats()
    assert low - 1e-6 <= np.corrcoef(np.arange(5), values)[0, 1] <= high + 1e-6


def test_the_search_finds_the_extreme_inside_an_edge_that_the_corners_miss():
    column = Figures(LEDGER).table("T2").ours_f1
    at_corners = [
        np.corrcoef(np.arange(5), np.array(ends, dtype=float))[0, 1]
        for ends in itertools.product(*((box.low, box.high) for box in column))
    ]
    assert float(correlation_with_rank(column).high) > max(at_corners) + 0.005


@given(percent, percent)
def test_two_figures_agree_exactly_when_one_number_rounds_to_both(one, other):
    assert one.meets(other) == (have_common_point([one, other])) == (one.gap(other) == 0)
    assert equals(one, other, "").status == (CONSISTENT if one.meets(other) else INCONSISTENT)
    both = hull([one, other])
    assert all(both.contains(end) for end in (one.low, one.high, other.low, other.high))


def test_figures_that_touch_at_the_rounding_edge_still_agree():
    assert equals(RoundingInterval.printed(0.65, 2), RoundingInterval.printed(0.64, 2), "").status == CONSISTENT
    assert equals(RoundingInterval.printed(0.66, 2), RoundingInterval.printed(0.64, 2), "").status == INCONSISTENT


def test_an_order_is_violated_only_when_no_rounding_can_save_it():
    big, same, small = (RoundingInterval.printed(value, 2) for value in (0.68, 0.68, 0.67))
    assert order([(big, RoundingInterval.printed(0.66, 2))], "").recomputed == {"holds": 1, "tie": 0, "violated": 0}
    assert order([(big, same)], "").recomputed == {"holds": 0, "tie": 1, "violated": 0}
    assert order([(small, big)], "").recomputed == {"holds": 0, "tie": 0, "violated": 1}
    assert order([(small, big)], "", strict=False).recomputed == {"holds": 0, "tie": 1, "violated": 0}


def test_a_sign_is_undecided_when_rounding_alone_could_turn_it():
    around_zero = RoundingInterval.printed(0.001, 2)
    assert sign(around_zero, "positive", "").status == UNCHECKABLE
    assert sign(around_zero, "zero", "").status == CONSISTENT
    assert sign(RoundingInterval.printed(0.05, 2), "negative", "").status == INCONSISTENT
    assert sign(RoundingInterval.printed(-0.05, 2), "not negative", "").status == INCONSISTENT


def test_a_bound_too_loose_for_a_threshold_is_undetermined_and_not_failed():
    bound = RoundingInterval(Fraction(0), Fraction(1, 1000), Fraction(1, 1000))
    assert corrected([bound], Fraction(1, 100)) == {"passes": 1, "undetermined": 0, "fails": 0}
    assert corrected([bound], Fraction(1, 3000)) == {"passes": 0, "undetermined": 1, "fails": 0}
    assert corrected([RoundingInterval.printed(0.002, 3)], Fraction(1, 3000)) == {
        "passes": 0,
        "undetermined": 0,
        "fails": 1,
    }


def test_a_difference_in_the_last_digit_or_the_status_breaks_the_agreement():
    outcome, declared = OUTCOMES["T1.if.f1"], LEDGER["T1.if.f1"].paper_check
    assert not audit.agrees(dataclasses.replace(outcome, recomputed=0.7335), declared)
    assert not audit.agrees(dataclasses.replace(outcome, status=CONSISTENT), declared)
    assert not audit.agrees(dataclasses.replace(outcome, interval=None), declared)
    assert not audit.same(True, 1)
    assert not audit.same({"a": 1, "b": 2}, {"a": 1})
