"""Statements read on one training beside the same on another."""

import numpy as np
import pandas as pd
import pytest

from datalab import ledger
from datalab.sections import compare


def test_raw_rows_are_those_of_one_training():
    rows = pd.DataFrame({"f1": [0.1, 0.2]})
    assert compare.raw_of(rows) == {"lengths": None}
    assert compare.raw_of(rows.assign(lengths="100, 400")) == {"lengths": "100, 400"}
    with pytest.raises(ValueError, match="unpack"):
        compare.raw_of(rows.assign(lengths=["100, 400", "60, 200"]))


def test_verdicts_of_two_trainings_stand_beside_each_other_by_statement():
    d = {"A": np.full(20, 0.05) + np.linspace(-0.01, 0.01, 20), "B": np.linspace(-0.3, 0.3, 20)}
    ids = ("S5.3.ensemble", "S5.3.curriculum")
    stopped, fixed = (
        [
            ledger.judge(one, d[name], side="greater", table="t", row="r", raw={})
            for one, name in zip(ids, names, strict=True)
        ]
        for names in ("AB", "BB")
    )
    table = compare.verdicts_by_training(stopped, fixed[::-1]).set_index("statement")
    assert table.loc[ids[0], "verdict"] == ledger.DIRECTION
    assert table.loc[ids[0], "verdict, the recipe's length"] == ledger.INCONCLUSIVE
    assert table["the same"].to_dict() == dict(zip(ids, (False, True), strict=True))
    assert len(compare.verdicts_by_training(stopped, fixed[:1])) == 1


def test_what_an_effect_differs_by_between_trainings_is_paired_by_data_set_and_of_the_same_runs():
    sets = [f"set{i}" for i in range(6)]
    level = dict(zip(sets, np.linspace(0.3, 0.9, 6), strict=True))  # data sets differ by far more than trainings

    def trained(gain: float, seeds: int) -> pd.DataFrame:
        return pd.DataFrame(
            {"dataset": name, "seed": seed, "f1": level[name] + gain + seed + 0.001 * i}
            for seed in range(seeds)
            for i, name in enumerate(sets)
        )

    def effect(rows: pd.DataFrame) -> pd.DataFrame:
        return rows.groupby("dataset").f1.mean().to_frame("weights")

    apart = compare.between_trainings(trained(0.05, seeds=3), trained(0.02, seeds=1), effect).iloc[0]
    assert apart.larger == pytest.approx(0.03)
    assert [apart["larger low"], apart["larger high"]] == pytest.approx([0.03, 0.03])
    assert (apart["of"], apart.sets) == ("weights", 6)
