"""Section 4.1's methods, each trained as long as its own noisy validation says."""

import itertools

import pandas as pd
import pytest

from datalab.framework import VARIANTS
from datalab.sections import readings, s4_1_main_results, s4_3_ablation
from datalab.sections.trials import arms, stopped_early

USUAL = 40  # the recipe's steps in these tests
TASK = {
    "dataset": "wine",
    "seed": 0,
    "root_seed": 7,
    "rates": [0.0, 0.2],
    "lengths": [5, 20],
    "caps": {"train": 90, "validation": 30, "test": 40},
    "encoder": "fast",
    "device": "cpu",
}


def test_every_method_is_trained_for_every_length_and_a_task_repeats_itself():
    rows = pd.DataFrame(stopped_early.run_task(**TASK))
    assert set(rows.method) == set(s4_1_main_results.ROWS)
    assert (rows.groupby(stopped_early.MODEL, dropna=False).steps.apply(tuple) == (5, 20)).all()
    for variant, own in rows[rows.part == stopped_early.ABLATION].groupby("variant"):
        assert len(own.drop_duplicates(list(arms.COMPONENTS))) == 8, variant
    pd.testing.assert_frame_equal(rows, pd.DataFrame(stopped_early.run_task(**TASK)))


def test_a_gain_is_over_vanilla_each_at_the_length_its_validation_chose():
    rows = []
    for dataset, lead in (("wine", 0.02), ("digits", 0.04)):
        vanilla = [("vanilla", USUAL, 0.5, 0.60), ("vanilla", 1000, 0.4, 0.9)]
        clean = [("clean", USUAL, 0.1, 0.7), ("clean", 1000, 0.2, 0.60 + lead)]
        for method, steps, seen, f1 in vanilla + clean:
            base = {"dataset": dataset, "seed": 0, "rate": 0.2, "method": method, "steps": steps}
            base |= {"part": readings.STOPPED} | dict.fromkeys(arms.COMPONENTS)
            rows.append(base | {"validation_f1": seen, "macro_f1": f1})
    table = stopped_early.gains(pd.DataFrame(rows), s4_1_main_results.ROWS).set_index("trained")
    assert table["less vanilla"][readings.STOPPED] == pytest.approx(0.03)
    assert table["less vanilla"][f"{USUAL} steps"] == pytest.approx(0.10)
    assert table["sets"].eq(2).all()


def test_a_removal_is_compared_with_the_whole_model_trained_alike():
    rows = []
    for dataset, on in itertools.product(("wine", "digits"), s4_3_ablation.SETS):
        for variant, (steps, seen, f1) in itertools.product(VARIANTS, ((USUAL, 0.5, 0.1), (1000, 0.6, 0.2))):
            base = {"part": stopped_early.ABLATION, "dataset": dataset, "seed": 0, "rate": 0.2, "steps": steps}
            base |= {"method": variant, "variant": variant, "validation_f1": seen}
            rows.append(base | dict(zip(arms.COMPONENTS, on, strict=True)) | {"macro_f1": f1 * sum(on)})
    table = (
        s4_3_ablation.stopped(pd.DataFrame(rows)).groupby(["trained", "configuration"])["less the full model"].mean()
    )
    assert table[f"{USUAL} steps", "w/o Regularization"] == pytest.approx(-0.1)
    assert table[readings.STOPPED, "w/o Regularization"] == pytest.approx(-0.2)
    assert table[readings.STOPPED, "w/o All (baseline)"] == pytest.approx(-0.6)
