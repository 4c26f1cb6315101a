"""Section 3.4's simulated studies: their truths are what they say, equal seeds give equal rows, readings follow."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from datalab import stats
from datalab.errors import UserError
from datalab.protocol import protocol
from datalab.sections import s3_4_statistics as statistics
from datalab.sections import simulation, statistics_readings
from datalab.sections.parameters import resolve


def parameters(**given):
    return resolve(statistics.Parameters, given, "notebook 3_4_statistics")


def rows_of(*cells):
    return pd.concat([pd.DataFrame(cell) for cell in cells], ignore_index=True)


@pytest.mark.parametrize("shape", simulation.SHAPES)
def test_every_distribution_has_mean_0_and_standard_deviation_1(shape):
    d = simulation.draw(shape, np.random.default_rng(0), (400_000,))
    assert d.mean() == pytest.approx(0, abs=0.01)
    assert d.std() == pytest.approx(1, abs=0.05)
    assert (scipy_stats.skew(d) > 1.5) == (shape == "skewed")


def test_the_t_test_and_interval_hold_their_promise_on_normal_differences_and_the_percentile_interval_does_not():
    rows = rows_of(simulation.calibration("normal", 12, 4000, 1999, [0.05], root_seed=1))
    level = statistics.levels(rows).set_index("method")["rate"]
    assert level["t"] == pytest.approx(5, abs=4 * 0.345)
    assert (level < 5 + 4 * 0.345).all()
    covered = statistics.coverage(rows).set_index("method")["rate"]
    assert covered[["t", "d_z"]].to_numpy() == pytest.approx([95, 95], abs=4 * 0.345)
    assert covered["percentile"] < 93 < covered["bootstrap"]


def test_the_shortcut_for_the_coverage_of_d_z_counts_the_intervals_that_hold_the_truth():
    d = simulation.draw("normal", np.random.default_rng(3), (60, 12)) + simulation.TRUE_EFFECT
    found = [stats.cohens_dz(row, simulation.CONFIDENCE) for row in d]
    held = sum(interval.low <= simulation.TRUE_EFFECT <= interval.high for interval in found)
    assert simulation._dz_covers(d) == held < 60


def test_uncorrected_families_err_as_often_as_the_binomial_says_and_corrected_ones_at_the_level():
    rows = rows_of(simulation.family("independent", 0, 15, 9, 4000, [0.05], root_seed=1))
    rate = statistics.family_errors(rows).set_index("method")["rate"]
    assert rate["none"] == pytest.approx(100 * (1 - 0.95**15), abs=3.2)
    assert rate["Bonferroni"] == rate["Holm"] == pytest.approx(5, abs=1.4)


def test_simulated_power_meets_the_formula_and_five_seeds_have_none_by_permutation():
    p = parameters(simulations=2000, resamples=1999, seed_counts=[5], seed_sds=[0.01])
    rows = rows_of(simulation.power(5, 0.01, p.effect, 2000, 1999, p.levels, root_seed=1))
    table = statistics.powers(rows, p).set_index(["method", "alpha"])
    assert table.loc[("t", 0.05), "rate"] == pytest.approx(table.loc[("t", 0.05), "formula"], abs=4.5)
    assert (table.loc[["sign-flip", "Wilcoxon"], "rate"] == 0).all()


def test_the_crossovers_interval_covers_more_often_than_not_and_shrinks_with_data_sets():
    few, many = (
        simulation.crossover_coverage(
            "normal", units, 5, list(protocol().noise["rates"]), 0.15, 0.2, 0.02, 0.02, 60, 200, root_seed=1
        )[0]
        for units in (6, 40)
    )
    assert many["hits"] >= 50
    assert many["width"] < few["width"]


def test_equal_seeds_give_equal_rows_and_another_seed_does_not():
    first, again, other = (simulation.power(9, 0.02, 0.01, 300, 1999, [0.05], root_seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_every_cell_of_the_grid_is_a_function_called_with_its_parameters():
    grid = statistics.cells(parameters(profile="quick"))
    assert len({cell.key for cell in grid}) == len(grid) == 28
    for cell in grid:
        module, _, name = cell.function.partition(":")
        assert module == simulation.__name__
        code = getattr(simulation, name).__code__
        assert set(cell.parameters) == set(code.co_varnames[: code.co_argcount])
    assert 5 < statistics.estimate(parameters(profile="smoke")).seconds < 15
    assert statistics.estimate(parameters(profile="quick", workers=1)).seconds < 60


def test_a_change_of_the_statistics_room_gives_the_cells_other_keys(monkeypatch):
    before = {cell.key for cell in statistics.cells(parameters())}
    monkeypatch.setattr(simulation, "statistics_code", lambda: "changed")
    assert not before & {cell.key for cell in statistics.cells(parameters())}


def test_a_rate_is_called_off_only_when_its_whole_interval_is():
    rows = pd.DataFrame({"hits": [50, 20, 90, 55], "simulations": [1000] * 4})
    table = statistics.rated(rows, 0.05, ("conservative", "liberal"))
    assert table["reading"].tolist() == ["holds", "conservative", "liberal", "holds"]
    assert (table["low"] < table["rate"]).all()
    assert (table["rate"] < table["high"]).all()


def test_readings_are_computed_from_the_table():
    rows = pd.DataFrame(
        {
            "what": "calibration",
            "shape": ["normal", "normal"],
            "units": 12,
            "method": ["t", "Wilcoxon"],
            "alpha": 0.05,
            "hits": [40, 95],
            "simulations": 1000,
        }
    )
    text = statistics_readings.levels(statistics.levels(rows))
    assert "at every number of units: t." in text
    assert "Wilcoxon rejects too often in 1 of 1 cells, at worst 9.5 %" in text
    text = statistics_readings.floors([0.001, 0.02, 0.07], parameters())
    assert "3 printed *p*-values 2 lie below the first and 1 below both" in text


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"simulations": 3}, "simulations"),
        ({"units": [3]}, "units"),
        ({"seed_sds": [0.0]}, "seed_sds"),
        ({"resamples": 10}, "resamples"),
        ({"seeds": 5}, "seeds"),
    ],
)
def test_a_parameter_out_of_range_is_refused_by_name(given, named):
    with pytest.raises(UserError, match=named):
        parameters(**given)
