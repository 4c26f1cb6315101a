"""Sections 5.1 and 5.3: the cells are what they say, the tables follow from their rows."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from sklearn.metrics import f1_score

from datalab import ledger
from datalab.errors import UserError
from datalab.protocol import protocol
from datalab.sections import (
    monitor_cell,
    monitoring_tables,
    negative_cell,
    negative_tables,
)
from datalab.sections import s5_1_monitoring as monitoring
from datalab.sections import s6_verdicts as verdicts
from datalab.sections.parameters import resolve

CAPS = {"train": 120, "validation": 60, "test": 120}
PRINTED = {key: claim.value for key, claim in ledger.claims().items()}


def collected(cells) -> pd.DataFrame:
    return pd.concat([pd.DataFrame(rows) for rows in cells], ignore_index=True)


# --- section 5.3 ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def negative() -> pd.DataFrame:
    given_ = (7, [0.0, 0.2], CAPS, "fast", "cpu")
    return collected(negative_cell.run_cell(name, 0, *given_) for name in ("digits", "wine", "breast_cancer"))


def test_without_noise_relabelling_changes_nothing_and_removal_is_as_large_as_it_says(negative):
    part = negative[(negative.part == "filtering") & (negative.rate == 0)].set_index(["dataset", "method"]).macro_f1
    for name in ("digits", "wine"):
        assert (part[name, "relabelled"] == part[name, "everything"]).all()
    shares = negative[(negative.method == "influence")].groupby(["dataset", "rate"]).dropped.apply(sorted)
    assert all(list(each) == list(protocol().negative_results["dropped"]) for each in shares)


def test_a_row_of_the_filtering_table_is_what_scipy_makes_of_the_rows(negative):
    table = negative_tables.filtering(negative)
    row = table[(table["noise rate (%)"] == 20) & (table["removed (%)"] == 30)].iloc[0]
    part = negative[(negative.part == "filtering") & (negative.rate == 0.2)]
    f1 = part.groupby(["dataset", "method", "dropped"]).macro_f1.mean()
    d = np.array([f1[name, "influence", 0.3] - f1[name, "random", 0.3] for name in part.dataset.unique()])
    interval = scipy_stats.t.interval(0.95, 2, d.mean(), scipy_stats.sem(d))
    assert (row["less random removal low"], row["less random removal high"]) == pytest.approx(interval)


@given(st.integers(70, 400), st.integers(2, 60), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_a_curriculum_draws_from_a_pool_that_grows_from_the_easiest_to_everything(n, steps, seed):
    rule, batch = protocol().negative_results["pacing"], 16
    ranked = np.random.default_rng(1).permutation(n)
    order = negative_cell.paced_order(n, steps, batch, ranked, np.random.default_rng(seed)).reshape(steps, batch)
    place = np.argsort(ranked)
    assert place[order[0]].max() < max(round(rule["start"] * n), batch)
    furthest = place[order].max(1)
    allowed = rule["start"] + (1 - rule["start"]) * np.arange(steps) / (rule["whole_at"] * steps)
    assert (furthest < np.maximum(np.round(np.minimum(allowed, 1) * n), batch)).all()
    assert all(len(set(each)) == batch for each in order)


def test_an_ensemble_is_the_mean_of_its_members_probabilities_and_has_all_rows(negative):
    part = negative[(negative.part == "ensemble") & (negative.dataset == "wine")]
    assert set(part.rate) == {0.2}
    wanted = {f"member {name}" for name in negative_cell.MEMBERS} | {"best member by validation"}
    assert wanted <= set(part.method)
    best = part.set_index("method").macro_f1
    assert best["best member by validation"] in set(best[[f"member {name}" for name in negative_cell.MEMBERS]])


# --- section 5.1 ------------------------------------------------------------------------------------------------------


def configurations(sets: int = 6, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(sets):
        for rate in (0.0, 0.2, 0.4):
            noise = rate + rng.normal(0, 0.03)
            rows.append({"dataset": f"set {i}", "rate": rate, "estimated noise": noise, "log classes": rng.normal()})
            rows[-1] |= {"fails": rate + rng.normal(0, 0.05) < 0.1}
    return pd.DataFrame(rows)


def test_a_prediction_does_not_know_the_outcomes_of_its_own_data_set():
    frame = configurations()
    before = monitoring_tables.predictions(frame)
    changed = frame.copy()
    own = changed.dataset == "set 2"
    changed.loc[own, "fails"] = ~changed.loc[own, "fails"]
    after = monitoring_tables.predictions(changed)
    rules = list(monitoring_tables.RULES)
    pd.testing.assert_frame_equal(before.loc[own, rules], after.loc[own, rules])


def test_a_rules_f1_is_scikit_learns_and_a_good_feature_beats_the_trivial_rule():
    frame = configurations(12)
    table = monitoring_tables.predictor(frame, 7).set_index("rule")
    said = monitoring_tables.predictions(frame)
    for rule in monitoring_tables.RULES:
        wanted = f1_score(frame.fails, said[rule].astype(bool))
        assert table.loc[rule, "F1"] == pytest.approx(wanted)
        assert table.loc[rule, "F1 low"] <= wanted <= table.loc[rule, "F1 high"]
    share = frame.fails.mean()
    assert table.loc["it always loses", "F1"] == pytest.approx(2 * share / (1 + share))
    assert table.loc["logistic regression", "less low"] > 0


@pytest.mark.parametrize(
    ("alarms", "accuracy", "delay"),
    [
        ([1, 1, 1, 1], [0.9, 0.9, 0.5, 0.5], -2),
        ([0, 0, 1, 1], [0.9, 0.5, 0.5, 0.5], 1),
        ([1, 0, 1, 0], [0.9, 0.5, 0.5, 0.5], 3),  # one alarm alone is none
        ([1, 1, 1, 1], [0.9, 0.9, 0.9, 0.5], np.nan),  # and one bad window no failure
    ],
)
def test_a_delay_is_the_alarm_less_the_failure(alarms, accuracy, delay):
    quiet = pd.DataFrame({"part": "quiet", "window": [0, 1], "accuracy": 0.9, "influence alarm": [False, True]})
    shifted = pd.DataFrame({"part": "shifted", "window": range(4), "accuracy": accuracy, "influence alarm": alarms})
    part = pd.concat([quiet, shifted]).assign(reference_accuracy=0.9, influence=[0, 1, 0, 1, 2, 3])
    found = monitoring_tables._of_seed(part, "influence", 0.05)
    np.testing.assert_equal(found["delay"], delay)
    assert found["fails"] == np.isfinite(delay)
    assert found["false alarms"] == 0.5


def test_a_stream_is_held_out_and_its_alarms_need_no_label(monkeypatch):
    before = pd.DataFrame(monitor_cell.stream_cell("digits", 0, 7, "cpu"))
    assert set(before.part) == {"quiet", "shifted"}
    parts = monitor_cell._parts

    def scrambled(dataset, rng):
        found = parts(dataset, rng)
        for name in ("quiet", "shifted", "reference"):
            found.y[name] = np.random.default_rng(0).permutation(found.y[name])
        return found

    monkeypatch.setattr(monitor_cell, "_parts", scrambled)
    after = pd.DataFrame(monitor_cell.stream_cell("digits", 0, 7, "cpu"))
    seen = [name for name in before if "accuracy" not in name]
    pd.testing.assert_frame_equal(before[seen], after[seen])
    assert not before.accuracy.equals(after.accuracy)
    late = before[(before.part == "shifted") & (before.window == before.window.max())].iloc[0]
    assert late["influence alarm"]
    assert late["leverage alarm"]


def test_corruption_begins_at_nothing_and_grows():
    found = monitor_cell._parts("digits", np.random.default_rng(0))
    moved = np.abs(found.x["shifted"] - found.x["quiet"]).mean(1)
    assert moved[0] == 0
    assert scipy_stats.spearmanr(moved, np.arange(len(moved))).statistic > 0.95
    np.testing.assert_array_equal(found.y["shifted"], found.y["quiet"])


def test_weights_on_pruned_sets_have_their_base():
    rows = pd.DataFrame(monitor_cell.existing_cell("wine", 0, 7, CAPS, "fast", "cpu"))
    assert set(rows.method) == set(monitor_cell.PRUNED_BY)
    assert (rows.groupby("method").weights.nunique() == 3).all()
    assert set(monitoring_tables.weights_gain(rows, "datalab_paper")) == set(monitor_cell.PRUNED_BY)


# --- the board, and parameters ----------------------------------------------------------------------------------------


def test_advice_and_findings_follow_the_verdicts():
    board = pd.DataFrame([{"statement": key, "verdict": "inconclusive"} for key, _ in verdicts.FINDINGS])
    board[["reported", "measured", "n", "why", "notebook"]] = ""
    assert len(verdicts.findings(board)) == 10
    open_ = verdicts.advice(board)
    holds = verdicts.advice(board.assign(verdict="direction reproduced"))
    fails = verdicts.advice(board.assign(verdict="not reproduced: opposite"))
    for lines in zip(open_[:-1], holds[:-1], fails[:-1], strict=True):
        assert len(set(lines)) == 3


@pytest.mark.parametrize(
    ("model", "given_", "words"),
    [
        (monitoring, {"monitor_datasets": ["wine"]}, "has no stream"),
        (monitoring, {"monitor_datasets": ["smartwach"]}, "did you mean 'smartwatch'"),
    ],
)
def test_parameters_out_of_range_are_refused(model, given_, words):
    with pytest.raises(UserError, match=words):
        resolve(model.Parameters, given_, "notebook x")
