"""What stands behind a statement: the row of its table, found by its key where it names one."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datalab.report import evidence, pages

TABLE = (
    "method,metric,note,value\npaper,F1,plain,1\nours,F1,as in the paper,2\nours,recall,paper,3\n+ IF (0.7),F1,x,4\n"
)


@pytest.mark.parametrize(
    ("label", "marked"),
    [
        ("paper", [0]),  # the key of the first row, although another row has the word too
        ("ours, recall", [2]),
        ("Ours, F1", [1]),  # whatever the case
        ("+ IF (0.7), F1", [3]),
        ("ours", [1, 2]),  # a key that several rows share
        ("recall of ours", [2]),  # no key: the row that has most of its letters as cells
        ("nothing of this", []),
        (None, []),
    ],
)
def test_the_row_that_a_label_names_is_marked(label: str | None, marked: list[int], tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TABLE)
    lines = evidence.table(tmp_path, "t.csv", label)
    assert lines.columns == ("method", "metric", "note", "value")
    assert [i for i, (named, _) in enumerate(lines.rows) if named] == marked


def test_raw_rows_stand_by_data_set_with_what_all_share_said_once_and_means_by_method() -> None:
    rng = np.random.default_rng(0)
    files = {}
    for dataset, seed in itertools.product(["a", "b"], range(20)):
        both = [{"dataset": dataset, "seed": seed, "rate": 0.2, "method": m, "macro_f1": rng.random()} for m in "xy"]
        files[f"cells/{dataset}{seed}.parquet"] = pd.DataFrame(both).assign(empty=np.nan, pixels=[[1]] * 2)
    files["cells/other.parquet"] = pd.DataFrame({"window": [1, 2]})  # of another kind
    shown = evidence.raw_rows({"rate": 0.2}, evidence.by_kind(list(files), files.__getitem__))
    assert shown.same == {"rate": "0.2"}
    assert shown.columns == ("seed", "method", "macro_f1")
    assert shown.heads == ("macro_f1, x", "macro_f1, y")
    assert [(of.name, of.count, len(of.files)) for of in shown.sets] == [("a", 40, 20), ("b", 40, 20)]
    mean = np.mean([part.macro_f1[1] for path, part in files.items() if path.startswith("cells/b")])
    assert float(shown.sets[1].means[1]) == pytest.approx(mean, abs=1e-4)
    assert shown.sets[0].files["cells/a3.parquet"][1][:2] == ("3", "y")
    assert shown.left == 0


def test_of_very_many_raw_rows_every_data_set_shows_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "MOST_ROWS", 10)
    rows = pd.DataFrame({"dataset": ["a"] * 3 + ["b"] * 30, "seed": range(33)})
    shown = evidence.raw_rows({}, evidence.by_kind(["cells/one.parquet"], lambda _: rows))
    assert [(of.count, sum(map(len, of.files.values()))) for of in shown.sets] == [(3, 3), (30, 5)]
    assert shown.left == 25


def test_a_cell_says_what_its_level_is_judged_by():
    why = "at 99.5 % [-0.0223, 0.0183]; difference -0.0037 [-0.0157, +0.0083], d_z -0.17; the paper's +0.09"
    assert pages.judged({"why": why}) == "difference -0.0037 [-0.0157, +0.0083]; the paper's +0.09"
    assert pages.judged({"why": "not run in this profile"}) == ""
