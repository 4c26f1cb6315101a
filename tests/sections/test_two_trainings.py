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
