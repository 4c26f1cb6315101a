"""Sums of squares of levels: they add up, hold their level without an effect, and find one that is there."""

import numpy as np
import pytest

from datalab import stats

UNITS, BLOCKS = np.repeat(np.arange(5), 6), np.repeat(np.arange(15), 2)


def test_without_an_effect_the_permutation_holds_its_level_though_rows_of_a_block_are_alike():
    rng, p = np.random.default_rng(0), []
    for _ in range(120):
        shared = np.repeat(rng.standard_normal((15, 5)), 2, axis=0)  # two methods, trained on the same sets
        y = shared + 0.3 * rng.standard_normal((30, 5))
        ss = stats.sums_of_squares(y, UNITS)
        permuted = stats.permuted_levels(y, UNITS, BLOCKS, rng, 60)
        p.append(stats.permutation_p([ss.level, ss.level_within], permuted)[0])
    assert 0.4 < np.mean(p) < 0.6
    assert np.mean(np.array(p) <= 0.1) < 0.2


def test_an_effect_of_the_level_is_found_and_its_share_is_above_chance_beyond_the_bootstrap():
    rng = np.random.default_rng(0)
    y = rng.standard_normal((30, 5)) + np.arange(5)
    ss, permuted = stats.sums_of_squares(y, UNITS), stats.permuted_levels(y, UNITS, BLOCKS, rng, 99)
    assert stats.permutation_p([ss.level], permuted[:, :1])[0] == 0.01
    chance = (permuted[:, 0] / ss.total).mean()
    low, high = np.quantile(stats.resampled_eta_squared(y, UNITS, rng, 99), [0.0025, 0.9975])
    assert chance < low < ss.level / ss.total < high


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
    np.testing.assert_allclose(stats.permuted_levels(y, UNITS, BLOCKS, np.random.default_rng(1), 5), 0, atol=1e-20)
