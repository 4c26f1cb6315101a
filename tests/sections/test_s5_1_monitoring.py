"""Section 5.1: the monitor sees no label, the predictor no outcome of its own data set; tables follow from the rows."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from datalab import ledger, stats
from datalab.data.streams import Stream, shifting_stream
from datalab.sections import failure_predictor
from datalab.sections import s5_1_monitoring as s5_1

GIVEN = {"root_seed": 7, "caps": {"train": 120, "validation": 60, "test": 120}, "encoder": "fast", "device": "cpu"}


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
    windows = pd.concat([quiet, shifted], ignore_index=True)
    windows = windows.assign(reference_accuracy=0.9, influence=[0, 1, 0, 1, 2, 3])
    row = s5_1.watched(windows.sample(frac=1, random_state=0), "influence")
    np.testing.assert_equal(row["delay"], delay)
    assert row["fails"] == np.isfinite(delay)
    assert row["false alarms"] == 0.5


@pytest.fixture(scope="module")
def stream() -> pd.DataFrame:
    return pd.DataFrame(s5_1.stream_task("digits", 0, 7, "cpu"))


def test_a_stream_is_held_out_and_its_alarms_need_no_label(stream, monkeypatch):
    assert set(stream.part) == {"quiet", "shifted"}

    def scrambled(name: str, rng: np.random.Generator) -> Stream:
        made, other = shifting_stream(name, rng), np.random.default_rng(0)
        y = {part: made.y[part] if part == "train" else other.permutation(made.y[part]) for part in made.y}
        return replace(made, y=y)

    monkeypatch.setattr(s5_1, "shifting_stream", scrambled)
    after = pd.DataFrame(s5_1.stream_task("digits", 0, 7, "cpu"))
    seen = [name for name in stream if "accuracy" not in name]
    pd.testing.assert_frame_equal(stream[seen], after[seen])
    assert not stream.accuracy.equals(after.accuracy)
    late = stream[(stream.part == "shifted") & (stream.window == stream.window.max())].iloc[0]
    assert late["influence alarm"]
    assert late["leverage alarm"]


def test_a_streams_table_and_its_fall_are_those_of_its_windows(stream):
    two = pd.concat([stream, stream.assign(dataset="other", kind="time")], ignore_index=True)
    table = s5_1.monitors(two)
    assert table["data set"].tolist() == ["digits"] * 3 + ["other"] * 3
    assert table.statistic.tolist() == [*s5_1.STATISTICS] * 2
    quiet = stream[stream.part == "quiet"]
    assert table["false alarms"].tolist() == [quiet[f"{name} alarm"].mean() for name in table.statistic]
    last = stream[(stream.part == "shifted") & (stream.window >= 0.75 * (stream.window.max() + 1))]
    fall = (last.reference_accuracy - last.accuracy).mean()
    assert s5_1.silence(two)["accuracy falls by"].to_numpy() == pytest.approx([fall, fall])


def test_weights_on_pruned_sets_have_their_base():
    rows = pd.DataFrame(s5_1.weights_task(dataset="wine", seed=0, **GIVEN))
    assert set(rows.method) == set(s5_1.PRUNED_BY)
    assert (rows.groupby("method").weights.nunique() == 3).all()
    table = s5_1.existing(rows).set_index(["method", "weights"])
    f1 = rows.set_index(["method", "weights"]).macro_f1
    for method in s5_1.PRUNED_BY:
        gain = f1[method, "datalab_paper"] - f1[method, "none"]
        assert table.loc[(method, "datalab_paper"), "less without"] == pytest.approx(gain)
        assert np.isnan(table.loc[(method, "none"), "less without"])


@pytest.mark.parametrize(("sets", "why"), [(12, "fewer than the 15"), (60, "excludes 0 on the claimed side")])
def test_the_abstracts_f1_is_judged_by_its_lead_over_the_trivial_rule_on_enough_data_sets(configurations, sets, why):
    frame = configurations(sets)
    frame.loc[1::9, "fails"] = ~frame.loc[1::9, "fails"]  # no rule is right of all
    rule = failure_predictor.predictor(frame).set_index("rule").loc["logistic regression"]
    for statement in s5_1.predictor_verdicts(frame, {}):
        figures = (statement.measured, statement.low, statement.high)
        assert figures == pytest.approx((rule.F1, rule["F1 low"], rule["F1 high"]))
        assert statement.n == sets
        assert why in statement.why
    assert (f"always expecting a failure, {rule['less the trivial rule']:+.4f};" in statement.why) == (sets == 60)
    assert statement.why.count("[") == (sets == 60)  # one interval, labelled; before, the lead had two
    assert ("by the noise alone" in statement.why) == (sets == 60)


def test_another_quantity_than_the_statements_is_shown_and_settles_nothing(monkeypatch, stream):
    """Before, pruning's effect on two test sets was read as a level's, and "not reproduced: null"."""
    alike = pd.Series(np.linspace(-0.001, 0.001, 15))
    monkeypatch.setattr(s5_1, "tilted_less_natural", lambda rows: alike)
    monkeypatch.setattr(s5_1, "predictor_verdicts", lambda frame, raw: [])
    two = pd.concat([stream, stream.assign(dataset="other", kind="time")], ignore_index=True)
    weighted = pd.DataFrame(s5_1.weights_task(dataset="wine", seed=0, **GIVEN))
    rows = pd.DataFrame({"rate": [0.2], "dataset": ["wine"], "seed": [0]})
    made = s5_1.verdicts(rows, weighted, two, weighted, rows, s5_1.monitors(two), s5_1.silence(two))
    of = {statement.id: statement for statement in made}["S5.1.benchmarks_underestimate"]
    assert of.verdict == ledger.INCONCLUSIVE
    assert "not what the statement is of" in of.why
    assert of.measured == pytest.approx(0)


def test_an_auroc_has_its_own_limits_inside_0_and_1():
    """Before, .80 stood without limits, and Student's for four streams end above 1."""
    values = stats.Measurement(np.array([0.94, 0.98, 0.53, 0.75]), bounds=(0, 1), against=0.5)
    assert stats.t_interval(values.values).high > 1 > values.interval(0.995).high


def test_the_statement_on_the_monitor_has_the_limits_of_an_auroc(monkeypatch):
    """Before, S5.1.monitoring was .799 and had no limits; Student's for four streams would end above 1."""
    monkeypatch.setattr(s5_1, "tilted_less_natural", lambda rows: pd.Series([0.01, 0.02]))
    monkeypatch.setattr(s5_1, "predictor_verdicts", lambda frame, raw: [])
    monitors = pd.DataFrame({"statistic": "influence", "AUROC": [0.94, 0.98, 0.53, 0.75]})
    streams = pd.DataFrame({"dataset": ["a", "b"], "window": 0, "part": "shifted"})
    silence = pd.DataFrame({"accuracy falls by": [0.2, 0.3], "half less it": [0.01, 0.02]})
    kinds = [(method, weights) for method in s5_1.PRUNED_BY for weights in ("none", "datalab_paper")]
    weighted = pd.DataFrame(kinds, columns=["method", "weights"]).assign(dataset="wine", macro_f1=0.5)
    rows = pd.DataFrame({"rate": [0.2], "dataset": ["wine"]})
    made = s5_1.verdicts(rows, weighted, streams, weighted, rows, monitors, silence)
    of = {statement.id: statement for statement in made}["S5.1.monitoring"]
    assert of.measured == pytest.approx(monitors.AUROC.mean())
    assert 0 <= of.low < of.measured < of.high <= 1
    assert of.effect_size == pytest.approx((of.measured - 0.5) / monitors.AUROC.std())  # against that of chance


def test_on_one_seed_no_fall_is_called_silent_and_none_is_ruled_out(stream, shown):
    tables = {"monitors": s5_1.monitors(stream), "silence": s5_1.silence(stream)}
    assert "no interval" in shown("5_1_monitoring", "c14-b", warned="", p=SimpleNamespace(seeds=1), **tables)["silent"]
