"""Sums of squares of levels: they add up, hold their level without an effect, and find one that is there."""

import numpy as np
import pytest

from datalab import stats

UNITS = np.repeat(np.arange(5), 6)


def studies(number: int, interaction: float, common: float = 0.0):
    """F1 (15 sets, 10 runs, 5 levels): sets differ by .18, runs by .02, and each set has a pattern of its own."""
    rng, levels = np.random.default_rng(0), np.arange(5) - 2.0
    for _ in range(number):
        own = interaction * rng.normal(size=(15, 1, 5))
        yield rng.normal(0, 0.18, (15, 1, 1)) + own + common * levels + rng.normal(0, 0.02, (15, 10, 5)), rng


@pytest.mark.parametrize("interaction", [0.0, 0.05])
def test_the_common_share_is_0_on_average_and_never_called_an_effect_where_sets_share_nothing(interaction):
    """eta squared is above 0 then, and its bootstrap less chance called it an effect in a fifth of such studies."""
    shares, called, eta = [], 0, []
    for y, _ in studies(150, interaction):
        share = stats.jackknifed(stats.common_share, y)
        shares.append(share.estimate)
        called += share.interval(0.995).low > 0
        ss = stats.sums_of_squares(np.concatenate(y), np.repeat(np.arange(15), 10))
        eta.append(ss.level / ss.total)
    assert abs(np.mean(shares)) < 0.25 * np.mean(eta)
    assert called <= 2
    assert stats.jackknifed(stats.common_share, y).n == 15  # the units are the sets


def test_levels_exchanged_within_sets_hold_their_level_though_sets_have_patterns_of_their_own():
    p = [stats.levels_exchanged(y, rng, 99) for y, rng in studies(200, 0.05)]
    assert np.mean(np.array(p) <= 0.1) < 0.17
    assert 0.4 < np.mean(p) < 0.6


def test_a_common_effect_is_found_at_its_share_of_the_variance():
    of_levels = [stats.common_share(y) * y.var() for y, _ in studies(40, 0.02, common=0.05)]
    assert np.mean(of_levels) == pytest.approx(2 * 0.05**2, rel=0.05)  # the variance of .05 x (-2 to 2)
    y, rng = next(studies(1, 0.02, common=0.05))
    assert stats.levels_exchanged(y, rng, 999) == 0.001
    assert stats.jackknifed(stats.common_share, y).interval(0.995).low > 0


def test_one_set_alone_has_no_common_share():
    y = np.random.default_rng(0).normal(size=(1, 4, 5))
    assert np.isnan(stats.common_share(y))
    assert np.isnan(stats.levels_exchanged(y, np.random.default_rng(0), 9))


def test_sums_of_squares_add_up_and_do_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(0)
    y = rng.standard_normal((30, 5)) + UNITS[:, None] + np.arange(5)
    ss = stats.sums_of_squares(y, UNITS)
    residual = y - y.mean(1, keepdims=True) - y.mean(0) + y.mean()
    assert ss.total == pytest.approx(ss.rows + ss.level + (residual**2).sum())
    between = 30 * np.var([y[unit == UNITS].mean() for unit in range(5)])  # six rows a unit
    assert ss.total == pytest.approx(ss.within + 5 * between)
    order = rng.permutation(30)
    np.testing.assert_allclose(stats.sums_of_squares(y[order], UNITS[order]), ss)


def test_no_level_is_moved_by_what_is_the_same_at_every_level():
    y = np.repeat(np.random.default_rng(0).standard_normal((30, 1)), 5, axis=1)
    ss = stats.sums_of_squares(y, UNITS)
    assert ss.level == pytest.approx(0, abs=1e-20)
    assert ss.level_within == pytest.approx(0, abs=1e-20)
