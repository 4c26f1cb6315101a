"""The title's tables under version 2: what scipy says they are, and sentences that follow them."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from datalab import data
from datalab.sections import readings
from datalab.sections import s0_title_noise_threshold as s0

SETS = {"optdigits": 0.0, "penbased": 0.01, "mnist5k": -0.01, "adult": 0.02, "splice": 0.0, "credit": -0.02}
RATES = (0.0, 0.1, 0.2, 0.4)


@pytest.fixture
def rows() -> pd.DataFrame:
    """Rows of three balanced and three skewed sets: influence beats random by rate - 0.15, and each set's own shift."""
    made = []
    for (name, shift), seed, rate in ((s, i, r) for s in SETS.items() for i in range(2) for r in RATES):
        base = {"dataset": name, "noise": "symmetric", "seed": seed, "rate": rate, "realised_rate": rate, "draw": 0}
        base["train_cap"] = 1000
        base |= {"quota": "", "keep_fraction": 1.0, "reference_steps": 0, "reference_chosen": False}
        base |= {"dropped_largest": 0.3, "dropped_rest": 0.3, "largest_predicted": 0.4, "macro_precision": 0.7}
        base |= {"validation_accuracy": 0.5, "macro_f1_tau0.5": 0.7, "balanced_accuracy": 0.6}
        for steps in (100, 1000):
            at = base | {"steps": steps, "validation_f1": 0.5 + (steps == 100) / 10, "accuracy": 0.6, "macro_f1": 0.6}
            made.append(at | {"method": "full"})
            for quota in ("per_class", "global"):
                pruned = at | {"quota": quota, "keep_fraction": 0.7}
                made += [pruned | {"method": "random", "draw": draw} for draw in range(2)]
                gain = 0.6 + rate - 0.15 + shift + (steps == 1000)  # the longer training is not chosen
                own = pruned | {"method": "influence", "macro_f1": gain, "accuracy": gain - 0.05}
                made += [own | {"reference_steps": n, "reference_chosen": n == 100} for n in (100, 1000)]
    return pd.DataFrame(made)


def test_the_primary_table_is_what_scipy_says(rows):
    d = s0.read_by(readings.early_stopped(rows))
    table = s0.primary_table(d)
    at = table[(table.stratum == "balanced") & (table.reading == "F1, quota") & (table[readings.RATE] == 20)].iloc[0]
    means = np.array([0.05, 0.06, 0.04])
    interval = scipy_stats.t.interval(0.95, 2, means.mean(), scipy_stats.sem(means))
    assert [at.d, at.low, at.high] == pytest.approx([0.05, *interval])
    assert at.p == pytest.approx(scipy_stats.ttest_1samp(means, 0).pvalue)
    assert at.sets == 3


def test_the_notebooks_cell_computes_the_primary_tables_d_and_interval(rows, shown):
    names = shown("0_title_noise_threshold", "d-by-hand", synthetic=rows)
    table = s0.primary_table(s0.read_by(readings.early_stopped(rows)))
    own = table[(table.stratum == "balanced") & (table.reading == "F1, quota")]
    np.testing.assert_allclose(names["by_hand"], own[["d", "low", "high"]], atol=1e-12)


def test_strata_are_never_pooled_in_silence(rows):
    crossover = s0.crossovers(s0.read_by(readings.early_stopped(rows)), 0).set_index(
        ["stratum", "data sets", "reading"]
    )
    assert crossover.crossover["balanced", "all", "F1, quota"] == pytest.approx(0.15)
    assert crossover.crossover["balanced", "all", "accuracy, no quota"] == pytest.approx(0.20)
    assert set(crossover.loc[("all", "all"), "sets"]) == {6}
    assert set(crossover.loc[("balanced", "all"), "sets"]) == {3}


def test_the_readings_are_compared_on_the_same_data_sets_and_no_limit_leaves_the_rates(rows):
    apart = s0.readings_apart(s0.read_by(readings.early_stopped(rows)))
    own = apart[
        (apart.stratum == "balanced") & (apart["of"] == "F1, quota") & (apart["from"] == "accuracy, quota")
    ].iloc[0]
    assert own.difference == pytest.approx(-5)
    assert -40 <= own["low (all)"] <= own.low < -5 < own.high <= own["high (all)"] <= 40
    assert own.sets == 3


def test_every_length_of_training_and_of_references_has_its_crossover(rows):
    table = s0.by_length(rows, 0).set_index(["stratum", "reading", "reference", "trained"]).crossover.sort_index()
    at = table["balanced", "F1, quota"]
    assert set(at.index) == {(r, t) for r in ("stopped early", "100 steps", "1000 steps")
                             for t in ("stopped early", "100", "1000")}  # fmt: skip
    assert at["stopped early", "stopped early"] == pytest.approx(0.15)
    assert at["stopped early", "1000"] == -np.inf


def test_power_is_that_of_a_one_sample_t_test(rows):
    rng = np.random.default_rng(0)
    d = s0.read_by(readings.early_stopped(rows))
    d["d"] += rng.normal(0, 0.02, len(d))
    row = s0.power(d).iloc[0]
    effect, n = 0.01 / row["SD between sets"], int(row["sets needed at .05"])

    def power_of(n: int) -> float:
        critical = scipy_stats.t.ppf(0.975, n - 1)
        return 1 - scipy_stats.nct.cdf(critical, n - 1, effect * np.sqrt(n))

    assert power_of(n) >= 0.8 > power_of(n - 1)


def test_the_sentences_follow_the_tables(rows):
    stopped = readings.early_stopped(rows)
    crossover = s0.crossovers(s0.read_by(stopped), 0)
    by_size = s0.by_size(stopped, rows.assign(train_cap=5000), 0)
    lines = s0.answer(crossover, readings.against_full_table(stopped), by_size)
    assert "On 3 balanced data sets" in lines[0]
    assert "from 15.0 % to 20.0 % wrong labels on" in lines[0]
    assert "On 3 skewed data sets" in lines[1]
    assert lines[2].startswith("On 3 balanced data sets the same crossover is from 15.0 % to 20.0 % with up to 1,000")
    one = s0.answer(crossover, readings.against_full_table(stopped), by_size.drop_duplicates(["stratum", "trained on"]))
    assert re.match(r"On 3 balanced data sets the same crossover is [\d.]+ % with up to 1,000", one[2])
    assert lines[4].startswith("Against keeping everything ")  # as record.console looks for it
    assert "on balanced sets at 20 %, 40 % (unadjusted); the best mean is +25.0 points of F1" in lines[4]
    assert len(s0.answer(crossover, readings.against_full_table(stopped), pd.DataFrame())) == len(lines) - 2


def test_what_goes_with_the_crossover_is_spearmans_rho():
    names = list(data.COUNTED)[:8]
    frame = pd.DataFrame({"dataset": names, "reading": "F1, quota", "crossover": np.arange(8.0) / 10})
    frame["balance"], frame["classes"], frame["clean F1"] = np.arange(8), [2, 1, 4, 3, 6, 5, 8, 7], -np.arange(8)
    frame["d at 0 %"] = np.random.default_rng(0).normal(size=8)
    table = s0.goes_with(frame).set_index(["of", "with"])
    assert table.rho["crossover", "balance"] == pytest.approx(1)
    assert table.rho["crossover", "clean F1"] == pytest.approx(-1)
    expected = scipy_stats.spearmanr(frame.classes, frame["d at 0 %"])
    assert table.rho["d at 0 %", "classes"] == pytest.approx(expected.statistic)
