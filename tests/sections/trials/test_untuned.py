"""Section 4.1's methods with nothing tuned, each trained as long as its own noisy validation says."""

import itertools

import pandas as pd
import pytest

from datalab.framework import VARIANTS
from datalab.sections import compare, s4_1_main_results, s4_3_ablation
from datalab.sections.trials import arms, untuned

USUAL = 40  # the recipe's steps in these tests
TASK = {
    "dataset": "wine",
    "architecture": "mlp",
    "seed": 0,
    "root_seed": 7,
    "rates": [0.0, 0.2],
    "lengths": [5, 20],
    "caps": {"train": 90, "validation": 30, "test": 40},
    "encoder": "fast",
    "device": "cpu",
}


def test_every_method_and_ablation_has_a_row_and_a_task_repeats_itself():
    rows = pd.DataFrame(untuned.run_task(**TASK))
    assert set(rows.method) == set(s4_1_main_results.ROWS)
    methods = rows[rows.part == "main"]
    assert methods.groupby("rate").method.apply(set).eq(set(s4_1_main_results.ROWS)).all()
    for variant, own in rows[rows.part == "ablation"].groupby("variant"):
        assert len(own) == len(own.drop_duplicates(list(arms.COMPONENTS))) == 8, variant
    pd.testing.assert_frame_equal(rows, pd.DataFrame(untuned.run_task(**TASK)))


def test_with_one_length_stopping_early_is_training_for_it():
    fixed = pd.DataFrame(untuned.run_task(**TASK | {"lengths": []}))
    pd.testing.assert_frame_equal(fixed, pd.DataFrame(untuned.run_task(**TASK | {"lengths": [USUAL]})))
    assert not fixed.equals(pd.DataFrame(untuned.run_task(**TASK | {"lengths": [5]})))


def test_the_upper_bounds_length_is_chosen_by_clean_labels_and_the_others_by_noisy_ones(monkeypatch):
    asked = []
    read_off = untuned.trials.read_off
    monkeypatch.setattr(untuned.trials, "read_off", lambda *given: (asked.append(given[3]), read_off(*given))[1])
    rows = pd.DataFrame(untuned.run_task(**TASK))
    clean, noisy = [v for v in asked if v.ndim == 1], [v for v in asked if v.ndim == 2]
    assert len(clean) == 1
    assert len(noisy) == len(asked) - 1 > 8
    assert (noisy[0][0] == clean[0]).all()  # nothing is flipped at the first rate
    assert (noisy[0][1] != clean[0]).any()
    assert rows[rows.method == "clean"].groupby("part").size().to_dict() == {"main": 2}


def test_a_removal_is_compared_with_the_whole_model_trained_alike():
    def of_training(f1: float) -> pd.DataFrame:
        rows = []
        for dataset, on, variant in itertools.product(("wine", "digits"), s4_3_ablation.SETS, VARIANTS):
            base = {"part": "ablation", "dataset": dataset, "seed": 0, "rate": 0.2, "variant": variant}
            rows.append(base | dict(zip(arms.COMPONENTS, on, strict=True)) | {"macro_f1": f1 * sum(on)})
        return pd.DataFrame(rows)

    table = compare.by_training(of_training(0.1), of_training(0.2), s4_3_ablation.removals)
    table = table.groupby(["trained", "configuration"])["less the full model"].mean()
    assert table[compare.FIXED, "w/o Regularization"] == pytest.approx(-0.1)
    assert table[compare.STOPPED, "w/o Regularization"] == pytest.approx(-0.2)
    assert table[compare.STOPPED, "w/o All (baseline)"] == pytest.approx(-0.6)
