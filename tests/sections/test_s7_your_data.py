"""Section 7: one task a file, an answer that follows from its rows, and the notebook's cell beside the library's."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datalab.advise import pilot, verdict
from datalab.errors import UserError
from datalab.record import plan
from datalab.sections import STUDY
from datalab.sections import s7_your_data as s7
from datalab.sweep import reach


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pilot, "LENGTHS", (40,))
        patch.setattr(s7, "ROWS", 300)
        return pd.DataFrame(s7.run_task(None, None, None, None, 2, 7))


def test_the_tables_follow_from_the_rows(rows: pd.DataFrame) -> None:
    v = verdict.conclude(rows, 7)
    assert len(s7.answer(rows).split("\n\n")) == 5
    truth = s7.against_truth(rows, v.gains)
    assert truth["true gain"].notna().all()
    (found,) = s7.flags_found(rows).to_dict("records")
    assert found["truly wrong"] == pytest.approx(60, abs=3)
    assert found["precision"] > 0.5  # one in five by chance
    assert set(s7.suspicious(rows)) == {"id", "given label", "suggested label", "true label", "score", "agreement"}


def test_the_cells_standard_error_is_the_tables(rows: pd.DataFrame, shown: Callable) -> None:
    rows = rows.assign(macro_f1=0.01 * rows.macro_f1)  # of so few splits limits reach 1 otherwise, and end there
    names = shown("7_your_data", "by-hand", rows=rows)
    gains = verdict.conclude(rows, 7).gains.set_index(["method", "amount"])
    pd.testing.assert_series_equal(names["d"].mean(axis=1), gains.gain, check_names=False)
    half = (gains.high - gains.low) / 2
    of_family = [arm for arm in gains.index if arm[0] != pilot.RANDOM and np.isfinite(half[arm]) and half[arm] > 0]
    quantile = half[of_family] / names["error"][of_family]
    assert np.ptp(quantile) < 1e-9 * quantile.max()


def test_an_arm_whose_gain_does_not_vary_has_no_t(rows: pd.DataFrame, shown: Callable) -> None:
    assert shown("7_your_data", "by-hand", rows=rows)["t"].notna().all(axis=None)
    same = shown("7_your_data", "by-hand", rows=rows.assign(macro_f1=0.9))["t"]
    assert len(same) == 0


def test_a_file_of_ones_own_is_a_task_of_its_content(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("a,y\n1,b\n")
    first = s7.tasks(s7.Parameters(path=str(path), label="y"))[0].key
    path.write_text("a,y\n2,b\n")
    (task,) = s7.tasks(s7.Parameters(path=str(path), label="y", minutes=3))
    assert task.key != first
    assert task.parameters["splits"] is None
    with pytest.raises(UserError, match="there is no file"):
        s7.tasks(s7.Parameters(path=str(tmp_path / "nosuch.csv")))


def test_a_relative_path_is_the_callers_and_a_number_may_name_a_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"0": range(44), "4": ["a", "b"] * 22}).to_csv("mine.csv", index=False)
    (job,) = plan.jobs(STUDY, ["7.1"], "smoke", {"path": "mine.csv", "label": 4, "id": 0})
    p, absolute = job.parameters, str(tmp_path / "mine.csv")
    assert (p.path, p.label, p.id, job.given["path"]) == (absolute, "4", "0", absolute)


def test_a_refusal_is_read_off_the_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.csv").write_text("a,y\n1,b\n2,c\n")
    read, calls = s7.reading.read, []
    monkeypatch.setattr(s7.reading, "read", lambda path: calls.append(path) or read(path))
    with pytest.raises(UserError, match="class 'b' has 1 examples"):
        plan.jobs(STUDY, ["7.1"], "smoke", {"path": str(tmp_path / "mine.csv"), "label": "y"})
    assert len(calls) == 1


def test_the_tasks_key_changes_with_the_code_of_the_pilot() -> None:
    reached = reach.reached(s7.tasks(s7.Parameters())[0].function)
    assert {"datalab.advise.pilot:one_split", "datalab.advise.pilot:score", "datalab.intake.reading:read"} <= set(
        reached
    )
