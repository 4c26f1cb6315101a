"""From paired differences to a verdict: the intervals it is read on, and claims that need several effects at once."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from datalab import ledger
from datalab.ledger import claim_verdict
from datalab.protocol import protocol

WHERE = {"table": "cells", "row": "a row"}


def differences(mean: float, spread: float = 0.01, n: int = 15) -> np.ndarray:
    d = np.random.default_rng(0).standard_normal(n)
    return mean + spread * (d - d.mean()) / d.std(ddof=1)


@pytest.mark.parametrize(
    ("mean", "side", "verdict"),
    [
        (0.05, "greater", ledger.DIRECTION),
        (0.05, "less", ledger.OPPOSITE),
        (-0.05, "greater", ledger.OPPOSITE),
        (0.0, "greater", ledger.NULL),
        (0.009, "greater", ledger.INCONCLUSIVE),
        (0.0, "none", ledger.DIRECTION),
        (-0.05, "not_greater", ledger.DIRECTION),
    ],
)
def test_a_verdict_is_read_on_the_protocols_intervals(mean, side, verdict):
    d = differences(mean)
    statement = ledger.judge("T1.full_vs_vanilla", d, side=side, **WHERE)
    assert statement.verdict == verdict
    interval = scipy_stats.t.interval(0.95, 14, d.mean(), scipy_stats.sem(d))
    assert (statement.measured, statement.low, statement.high) == pytest.approx((d.mean(), *interval))
    assert statement.effect_size == pytest.approx(d.mean() / d.std(ddof=1))


def test_an_interval_that_excludes_0_at_95_but_not_at_the_protocols_level_settles_nothing():
    d = differences(0.012, 0.02)
    low = [scipy_stats.t.interval(c, 14, d.mean(), scipy_stats.sem(d))[0] for c in (0.95, 0.995)]
    assert low[0] > 0 > low[1]
    assert protocol().statistics["alpha"] == 0.005
    assert ledger.judge("T1.full_vs_vanilla", d, side="greater", **WHERE).verdict == ledger.INCONCLUSIVE


def test_a_level_is_judged_by_its_difference_to_the_base_row_on_the_papers_side():
    base = np.linspace(0.6, 0.8, 15)
    level = base + differences(0.05)
    statement = ledger.judge_level("T1.if.f1", level, base, **WHERE)
    assert statement.measured == pytest.approx(level.mean())
    assert statement.verdict == ledger.DIRECTION  # the paper's is 0.15 above vanilla's
    assert "+0.0500" in statement.why
    assert (
        ledger.judge_level("T1.full.precision", level, base, **WHERE).verdict == ledger.OPPOSITE
    )  # printed 0.03 below
    assert ledger.judge_level("T1.vanilla.f1", base, base, **WHERE).verdict == ledger.SHOWN


def test_a_level_is_shown_in_the_papers_unit_and_judged_as_a_fraction():
    base = np.linspace(0.6, 0.8, 15)
    statement = ledger.judge_level(
        "T1.oracle.accuracy", base + differences(0.05), base, metric="accuracy", scale=100, **WHERE
    )
    assert statement.measured == pytest.approx(100 * (base.mean() + 0.05))
    assert statement.verdict == ledger.DIRECTION


def test_a_claim_of_several_effects_is_read_on_the_one_least_in_its_favour():
    effects = {"strong": differences(0.1), "weak": differences(0.001, 0.05), "middling": differences(0.02)}
    statement = ledger.judge_all("T1.full_vs_vanilla", effects, side="greater", **WHERE)
    assert statement.why.startswith("weakest of 3: weak")
    assert statement.verdict == ledger.INCONCLUSIVE
    effects["against"] = differences(-0.02, 0.005)
    statement = ledger.judge_all("T1.full_vs_vanilla", effects, side="greater", **WHERE)
    assert statement.verdict == ledger.OPPOSITE
    assert "against" in statement.why


def test_a_part_that_is_shown_to_be_null_settles_a_claim_that_all_parts_hold():
    effects = {"large": differences(0.1), "null": differences(0.005, 0.001)}
    statement = ledger.judge_all("T1.full_vs_vanilla", effects, side="greater", **WHERE)
    assert statement.verdict == ledger.NULL
    assert "null" in statement.why


def test_below_is_the_mirror_of_above():
    up = {"a": differences(0.1), "b": differences(0.02)}
    down = {name: -d for name, d in up.items()}
    above = ledger.judge_all("S4.2.gap_widens", up, side="greater", **WHERE)
    below = ledger.judge_all("S4.2.baseline_drops", down, side="less", **WHERE)
    assert below.verdict == above.verdict == ledger.DIRECTION
    assert below.measured == pytest.approx(-above.measured)
    assert "weakest of 2: b" in above.why
    assert "weakest of 2: b" in below.why


def test_one_data_set_settles_nothing():
    statement = ledger.judge("T1.full_vs_vanilla", [0.1], side="greater", **WHERE)
    assert statement.verdict == ledger.INCONCLUSIVE
    assert statement.n == 1


@pytest.mark.parametrize(
    ("claim_id", "side"), [("T1.if.f1", "greater"), ("T1.full.precision", "less"), ("S4.2.gap_widens", "greater")]
)
def test_the_claimed_side_is_where_the_papers_figures_lie(claim_id, side):
    assert claim_verdict.reported_side(ledger.find(claim_id)) == side
