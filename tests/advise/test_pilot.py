"""The pilot: what judges is never touched, groups stay whole, the budget and Ctrl-C are kept."""

import re

import numpy as np
import pandas as pd
import pytest

from datalab import correction
from datalab.advise import pilot
from datalab.errors import UserError

pytestmark = pytest.mark.usefixtures("quick")
SCORED = ["macro_f1", "accuracy", "class_f1", "held_out_f1"]


def test_no_arm_is_judged_on_fewer_rows_and_test_labels_change_scores_alone(pool: pilot.Pool) -> None:
    before = pd.DataFrame(pilot.one_split(pool, 1, 0))
    arms = before[before.kind == "arm"]
    assert set(zip(arms.method, arms.amount, strict=True)) == set(pilot.ARMS)
    assert arms.n_test.nunique() == 1
    test = pilot.split_rows(pool, 1, 0).test
    scrambled = pool.labels.copy()
    scrambled[test] = np.random.default_rng(0).permutation(scrambled[test])
    # The same split, drawn from the labels as they were.
    split = pilot.split_rows(pool, 1, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pilot, "split_rows", lambda *_: split)
        after = pd.DataFrame(pilot.one_split(pool._replace(labels=scrambled), 1, 0))
    pd.testing.assert_frame_equal(before.drop(columns=SCORED), after.drop(columns=SCORED))
    assert not before.macro_f1.equals(after.macro_f1)


def test_a_split_has_three_parts_apart_and_groups_are_never_split(pool: pilot.Pool) -> None:
    groups = np.arange(len(pool.labels)) // 6
    for number in range(3):
        parts = pilot.split_rows(pool._replace(groups=groups), 1, number)
        rows = [parts.train, parts.validation, parts.test]
        assert len(np.unique(np.concatenate(rows))) == sum(map(len, rows))
        held = [set(groups[part]) for part in rows]
        assert not held[0] & held[1] | held[0] & held[2] | held[1] & held[2]
    with pytest.raises(UserError, match="groups"):
        pilot.split_rows(pool._replace(groups=pool.labels), 1, 0)


def test_clean_labels_judge_where_there_are_some(pool: pilot.Pool) -> None:
    true = np.array([0, 1, 2, 3])[pool.labels]
    rows = pd.DataFrame(pilot.one_split(pool._replace(clean=true), 1, 0))
    assert rows.n_test.eq(len(true)).all()


def test_pruned_arms_drop_what_they_say_and_the_estimate_is_near_the_truth(pool: pilot.Pool) -> None:
    rows = pd.DataFrame(pilot.one_split(pool, 1, 0))
    arms = rows[rows.kind == "arm"]
    for amount in ("10%", "20%", "30%"):
        np.testing.assert_allclose(arms[arms.amount == amount].dropped, float(amount[:-1]) / 100, atol=0.01)
    assert arms[arms.method.isin([pilot.KEEP_ALL, pilot.PRIOR, pilot.RELABEL])].dropped.eq(0).all()
    assert 0.1 < rows.surest.dropna().item() < 0.35


def test_noise_rates_are_the_joints_and_the_disagreement_of_the_surest_fifth() -> None:
    p = np.array([[0.9, 0.1]] * 8 + [[0.1, 0.9]] * 8 + [[0.1, 0.9]] * 2)
    y = np.array([0] * 8 + [1] * 8 + [0] * 2)
    of_all = pytest.approx(2 / 18)
    rates = {"calibrated": of_all, "counted": of_all, "surest": 0, "all": of_all, "by_class": 0}
    assert correction.noise_rates(p, y) == rates
    p[-1] = 0.05, 0.95
    assert correction.noise_rates(p, y)["surest"] == 1 / 4
    assert correction.noise_rates(p, y)["by_class"] == 1 / 2 * 10 / 18  # of 10 rows that look like 1 the surest two


def test_labels_wrong_in_one_class_alone_are_seen_among_the_surest_of_it() -> None:
    """Of digits with half the eights misnamed "0 to 0 %" was said, of 4.8: the surest rows of all held no eight."""
    p = np.array([[0.99, 0.01]] * 80 + [[0.2, 0.8]] * 20)
    y = np.array([0] * 80 + [1, 0] * 10)
    rates = correction.noise_rates(p, y)
    assert rates["surest"] == 0
    assert rates["by_class"] == pytest.approx(0.1)


def planned(monkeypatch: pytest.MonkeyPatch, seconds: list[float], minutes: float, fixed: int | None = None):
    """What a run does whose splits take so many seconds, by a clock that only they move."""
    clock, took = [0.0], iter(seconds)
    monkeypatch.setattr(pilot.time, "perf_counter", lambda: clock[0])

    def split(_: object, __: int, number: int) -> list[dict]:
        took_now = next(took)
        if took_now is None:
            raise KeyboardInterrupt
        clock[0] += took_now
        return [{"split": number}]

    monkeypatch.setattr(pilot, "one_split", split)
    said: list[str] = []
    rows, splits, stopped = pilot.run(None, 1, minutes, fixed, 0, lambda pace: 0.6 * pace, said.append)
    seconds = 60 * float(re.match(r"about (\d+\.\d) minutes", said[0])[1])
    return len(rows), (splits, seconds), stopped, clock[0]


def test_splits_are_planned_from_the_first_ones_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert planned(monkeypatch, [6] * 99, 10)[0] == pilot.MOST_SPLITS
    done, (_, seconds), stopped, spent = planned(monkeypatch, [6] * 99, 1)
    assert (done, stopped) == (9, "")
    assert spent <= seconds == pytest.approx(spent, rel=0.12)
    assert planned(monkeypatch, [60] * 99, 1)[0] == pilot.LEAST_SPLITS


def test_a_machine_that_gets_slower_gives_up_splits_and_keeps_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    done, (splits, seconds), stopped, spent = planned(monkeypatch, [6, 6, *[12] * 99], 1.5)
    assert stopped == "slower"
    assert done < splits
    assert spent < 1.2 * seconds
    assert planned(monkeypatch, [6, 6, *[12] * 99], 1.5, fixed=15)[0] == 15


def test_ctrl_c_keeps_what_is_done_from_two_splits_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert planned(monkeypatch, [6, 6, 6, None], 10)[:3:2] == (3, "interrupted")
    with pytest.raises(KeyboardInterrupt):
        planned(monkeypatch, [6, None], 10)


def test_flags_are_the_least_probable_labels_as_many_as_are_counted() -> None:
    given = np.array([0.5, 0.1, 0.9, 0.1, 0.2])
    np.testing.assert_array_equal(pilot.least_confident(given, 2.4), [False, True, False, True, False])
    assert not pilot.least_confident(given, 0).any()
