"""When pruning pays: predictors that never saw the set they speak of, and rules read against keeping everything."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from datalab import data
from datalab.sections import readings
from datalab.sections import s7_when_to_prune as s7

LOOKED_AT = [name for name in data.COUNTED if data.REGISTRY[name].looked_at][:6]
UNTOUCHED = [name for name in data.COUNTED if not data.REGISTRY[name].looked_at][:4]


@pytest.fixture
def cases() -> pd.DataFrame:
    """Cases of ten sets in which pruning pays where the gap is above 0.2, with some noise."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame([{"dataset": name, "seed": i} for name in (*LOOKED_AT, *UNTOUCHED) for i in range(12)])
    frame["gap"], frame["noisy error"] = rng.uniform(0, 0.4, len(frame)), rng.uniform(0, 0.5, len(frame))
    frame["d"] = frame.gap - 0.2 + rng.normal(0, 0.03, len(frame))
    frame["d_full"], frame["validation_d"] = frame.d - 0.05, rng.normal(0, 0.02, len(frame))
    frame["rate"], frame["balance"] = rng.choice([0.0, 0.1, 0.2, 0.3], len(frame)), rng.uniform(size=len(frame))
    for name in ("classes", "features", "rows"):
        frame[f"log {name}"] = rng.normal(size=len(frame))
    seen = frame.dataset.isin(LOOKED_AT).map({True: readings.LOOKED_AT, False: readings.UNTOUCHED})
    return frame.assign(**{"data sets": seen, "pays": frame.d > 0})


def test_a_set_is_foretold_by_the_others_that_were_looked_at_alone(cases):
    p = s7.foretold(cases)
    other = cases.assign(pays=cases.pays.where(cases.dataset != LOOKED_AT[0], ~cases.pays))
    changed = s7.foretold(other)
    own, untouched = p.dataset == LOOKED_AT[0], p.dataset.isin(UNTOUCHED)
    pd.testing.assert_series_equal(p.gap[own], changed.gap[own])  # what is held out does not foretell itself
    assert not p.gap[untouched].equals(changed.gap[untouched])
    flipped = s7.foretold(cases.assign(pays=cases.pays.where(~cases.dataset.isin(UNTOUCHED), ~cases.pays)))
    pd.testing.assert_frame_equal(p[list(s7.PREDICTORS)], flipped[list(s7.PREDICTORS)])  # the untouched fit nothing


def test_the_figures_of_a_predictor_are_scikit_learns(cases):
    p = s7.foretold(cases)
    table = s7.predictors(p).set_index(["data sets", "predictor"])
    part = p[p["data sets"] == readings.UNTOUCHED]
    row = table.loc[(readings.UNTOUCHED, "gap")]
    assert row["balanced accuracy"] == pytest.approx(balanced_accuracy_score(part.pays, part.gap > 0.5))
    assert row["balanced accuracy low"] < row["balanced accuracy"] <= row["balanced accuracy high"] <= 1
    brier = ((part.gap - part.pays) ** 2).groupby(part.dataset).mean().mean()
    assert row["Brier score"] == pytest.approx(brier)
    assert row["balanced accuracy"] > table.loc[(readings.UNTOUCHED, "pilot"), "balanced accuracy"] + 0.2


def test_the_gain_by_gap_is_a_mean_over_sets(cases):
    table = s7.by_gap(cases).set_index("gap")
    part = cases[cases.gap > 0.30]
    assert table["d against random"]["above .30"] == pytest.approx(part.groupby("dataset").d.mean().mean())
    assert table.cases.sum() == len(cases)


def test_the_pilots_rule_prunes_where_noisy_validation_says_so_and_pays_what_the_test_set_says():
    rows = []
    for name, ahead, gain in ((LOOKED_AT[0], 0.05, 0.03), (LOOKED_AT[1], 0.005, 0.02), (LOOKED_AT[2], 0.02, -0.04)):
        base = {"dataset": name, "noise": "symmetric", "seed": 0, "rate": 0.1, "draw": 0, "steps": 100}
        base |= {"validation_f1": 0.5, "validation_accuracy": 0.5, "macro_f1": 0.6, "macro_f1_tau0.5": 0.6}
        base |= {"reference_steps": 0, "reference_chosen": False, "quota": "", "keep_fraction": 1.0}
        rows += [base | {"method": method} for method in ("full", "confident learning")]
        for method, quota in ((m, q) for m in ("influence", "loss") for q in ("per_class", "global")):
            own = base | {"method": method, "quota": quota, "keep_fraction": 0.7, "reference_steps": 100}
            own |= {"reference_chosen": True}
            if (method, quota) == ("loss", "per_class"):
                own |= {"validation_f1": 0.5 + ahead, "macro_f1": 0.6 + gain}
            rows.append(own)
    table = (
        s7.rules(pd.DataFrame(rows))
        .groupby("rule")[["d", "sets"]]
        .apply(lambda part: np.average(part.d, weights=part.sets))
    )
    pilot = next(value for name, value in table.items() if name.startswith("pilot"))
    assert pilot == pytest.approx((0.03 + 0 - 0.04) / 3)
    assert table["hindsight: the best arm on the test set"] == pytest.approx((0.03 + 0.02) / 3)
    assert table["always prune 30 %"] == pytest.approx(0)
