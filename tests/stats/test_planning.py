"""Floors of p, power and the effects it needs."""

import pytest

from datalab import stats


def test_five_seeds_cannot_reach_0_0625_nine_reach_the_level_and_thirteen_the_corrected_one():
    assert stats.p_floor(5) == 0.0625
    assert stats.p_floor_unpaired(5) == pytest.approx(2 / 252)
    assert stats.seeds_needed(0.005) == 9
    assert stats.seeds_needed(0.005 / 15) == 13
    assert stats.p_floor(12) > 0.005 / 15 >= stats.p_floor(13)


def test_power_and_the_effect_it_needs_are_each_others_inverse_and_power_at_no_effect_is_the_level():
    effect = stats.effect_needed(13, 0.005, 0.8)
    assert stats.power(effect, 13, 0.005) == pytest.approx(0.8, abs=1e-6)
    assert stats.power(0, 13, 0.005) == pytest.approx(0.005)
    assert stats.power(0.5, 20, 0.05) == pytest.approx(0.5645, abs=1e-4)


def test_seeds_average_away_their_own_spread_and_never_that_between_data_sets():
    assert stats.nested_dz(0.01, 0, 0.02, 4) == pytest.approx(1)
    assert stats.nested_dz(0.01, 0.02, 0.02, 10**9) == pytest.approx(0.5)
