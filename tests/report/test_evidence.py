"""What stands behind a statement: the row of its table, found by its key where it names one."""

from pathlib import Path

import pytest

from datalab.report import evidence

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
