"""Section 3.3: the identity holds, the gap is a gap, test labels are untouched."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from datalab import framework
from datalab.record.parameters import resolve
from datalab.sections import s3_3_framework as s3_3

GIVEN = {"root_seed": 7, "caps": {"train": 120, "validation": 60, "test": 120}, "encoder": "fast", "device": "cpu"}


def test_the_identity_table_shows_equality_and_nothing_below():
    losses = np.random.default_rng(0).exponential(size=200)
    table = s3_3.identity(losses, (0.0, 0.1, 1.0, 100.0), 7, tries=200)
    np.testing.assert_allclose(table["at the optimal weights"], table.minimum, atol=1e-10)
    assert (table["best of random"] > table.minimum).all()
    assert table["ESS / n of the optimum"].is_monotonic_increasing


@pytest.mark.parametrize("lambda2", [0.0001, 0.1, 1.0, 10.0])
def test_the_minimum_in_the_notebooks_cell_is_the_tables(lambda2, shown):
    losses = 0.1 + np.random.default_rng(0).exponential(size=200)
    p = SimpleNamespace(picture_lambda2=lambda2)
    names = shown("3_3_framework", "tilted-by-hand", losses=losses, p=p)
    row = s3_3.identity(losses, (lambda2,), 7).iloc[0]
    assert names["minimum"] == pytest.approx(row.minimum, rel=1e-12)
    assert names["objective"] == pytest.approx(row["at the optimal weights"], rel=1e-12)


def test_the_setting_that_is_pictured_is_above_0():
    p = resolve(s3_3.Parameters, {"lambda2_sweep": [0, 100]}, "notebook 3_3_framework")
    assert p.picture_lambda2 == 100


def test_a_gap_is_never_below_zero():
    table = pd.DataFrame(s3_3.run_task(dataset="wine", seed=0, lambda2s=[0.0, 1.0], taus=[0.1, 10.0], **GIVEN))
    assert (table.gap > -1e-9).all()
    assert set(table.variant) == set(framework.VARIANTS)


def test_scrambled_test_labels_change_the_test_scores_of_a_task_and_nothing_else(only_scores_change):
    only_scores_change(lambda: s3_3.run_task(dataset="digits", seed=0, lambda2s=[0.0, 1.0], taus=[1.0], **GIVEN))


def test_the_collapse_is_judged_at_both_ends_of_the_sweep():
    rows = [
        {"dataset": name, "variant": "paper", "moved": "lambda2", "value": value, "ess": ess + shift}
        for name, shift in (("a", 0.0), ("b", 0.01), ("c", 0.02))
        for value, ess in ((0.0, 0.1), (1.0, 0.3), (100.0, 0.9))
    ]
    judged, *built = s3_3.verdicts(pd.DataFrame(rows))
    assert judged.measured == pytest.approx(0.8)
    assert judged.raw["value"] == [0.0, 100.0]
    assert [statement.measured for statement in built] == [None] * 3


def test_no_limit_lies_outside_what_a_figure_can_be():
    rng = np.random.default_rng(0)
    near = {"ess": 1.0000001, "weights_auroc": 0.99, "loss_auroc": 1.0, "rank_correlation": -0.98, "gap": -1e-9}
    rows = [
        {"dataset": name, "variant": "paper", "moved": "tau", "value": 1.0, "macro_f1": 0.97 - i / 100}
        | {column: value - (i > 1) * np.sign(value) * rng.uniform(0, 0.6) for column, value in near.items()}
        for i, name in enumerate("abcd")
    ]
    table = s3_3.sweep(pd.DataFrame(rows).assign(gap=lambda t: t.gap.abs()), "tau").iloc[0]
    for name, (least, most) in s3_3.COLUMNS.values():
        assert least <= table[f"{name} low"] <= table[name] <= table[f"{name} high"] <= most
