"""The failure predictor: no rule knows the outcomes of its own data set; F1 is scikit-learn's and the notebook's."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from datalab.sections import failure_predictor


def test_a_prediction_does_not_know_the_outcomes_of_its_own_data_set(configurations):
    frame = configurations()
    before = failure_predictor.predictions(frame)
    changed, own = frame.copy(), frame.dataset == "set 2"
    changed.loc[own, "fails"] = ~changed.loc[own, "fails"]
    pd.testing.assert_frame_equal(before[own], failure_predictor.predictions(changed)[own])


def test_a_rules_f1_is_scikit_learns_and_a_good_feature_beats_the_trivial_rule(configurations):
    frame = configurations(12)
    table = failure_predictor.predictor(frame).set_index("rule")
    guesses = failure_predictor.predictions(frame)
    for rule in failure_predictor.RULES:
        wanted = f1_score(frame.fails, guesses[rule].astype(bool))
        assert table.loc[rule, "F1"] == pytest.approx(wanted)
        assert table.loc[rule, "F1 low"] <= wanted <= table.loc[rule, "F1 high"]
    share = frame.fails.mean()
    assert table.loc["it always loses", "F1"] == pytest.approx(2 * share / (1 + share))
    assert table.loc["logistic regression", "less low"] > 0


def test_a_configuration_fails_where_influence_scores_no_higher_than_the_mean_of_random():
    unit = {"dataset": "wine", "architecture": "mlp", "seed": 0, "rate": 0.2, "part": "main"}
    rows = [
        unit | {"method": "influence", "macro_f1": 0.7},
        unit | {"method": "random", "macro_f1": 0.6},
        unit | {"method": "random", "macro_f1": 0.9},
        unit | {"method": "label_noise", "macro_f1": 0.1, "estimated_noise": 0.3},
        unit | {"method": "random", "macro_f1": 0.0, "part": "ablation"},
    ]
    (row,) = failure_predictor.failures(pd.DataFrame(rows)).to_dict("records")
    assert row["d"] == pytest.approx(0.7 - 0.75)
    assert row["fails"]
    assert row["estimated noise"] == 0.3
    assert row["log classes"] == np.log(3)


def test_where_the_other_sets_agree_that_outcome_is_predicted(configurations):
    frame = configurations().assign(fails=False)
    guesses = failure_predictor.predictions(frame)
    assert not guesses[failure_predictor.THRESHOLD].any()
    assert not guesses[failure_predictor.LOGISTIC].any()


def test_the_notebook_computes_the_f1_of_the_threshold_rule(shown, configurations, monkeypatch):
    frame = configurations(12)
    monkeypatch.setattr(failure_predictor, "failures", lambda rows: frame)
    f1 = shown("5_1_monitoring", "c06", main_rows=None)["f1_of_threshold"]
    table = failure_predictor.predictor(frame).set_index("rule")
    assert f1 == pytest.approx(table.loc[failure_predictor.THRESHOLD, "F1"])


def test_the_title_s_rule_on_the_true_rate_is_not_the_one_on_the_estimated_rate(configurations):
    """Before, "the title's 15 %" thresholded the estimate alone."""
    frame = configurations(12)
    frame["rate"] = np.where(frame.fails, 0.1, 0.2)
    table = failure_predictor.predictor(frame)
    f1 = table.set_index("rule").F1
    assert f1[failure_predictor.KNOWN] == 1.0 > f1[failure_predictor.ESTIMATED]


def test_that_the_true_rate_foresees_better_is_read_on_the_paired_lead(configurations):
    """Before, two F1s were compared as if no interval were between them."""
    frame = configurations(12)
    frame["rate"] = np.where(frame.fails, 0.1, 0.2)  # ahead of the estimate by .04, within chance
    assert "**Open**: the lead" in failure_predictor.expectation(frame)
    frame["estimated noise"] = np.where(frame.fails, 0.2, 0.1)  # always wrong
    assert "**Held**: the lead" in failure_predictor.expectation(frame)
    frame["rate"], frame["estimated noise"] = frame["estimated noise"], frame.rate
    assert "**Failed**: the lead" in failure_predictor.expectation(frame)
