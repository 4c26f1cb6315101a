"""Tasks' rows on disk: packed they are what they were, none is lost with another file, and lies are torn files."""

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sweep_fakes import tasks

from datalab import sweep
from datalab.record.folder import is_inner
from datalab.sweep import rowfiles


def finish(folder: Path, grid: list[sweep.Task], processor: str = "", **columns: list[object]) -> None:
    for task in grid:
        rows = pd.DataFrame({"number": [task.parameters["number"]] * 2, "score": [0.1, float("nan")], **columns})
        rows.attrs[rowfiles.PROCESSOR] = processor
        assert task.keep(rows, folder) is None


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def packed(folder: Path, grid: list[sweep.Task]) -> list[str]:
    """The files of a grid once it is packed and what it was packed from is gone."""
    kept = rowfiles.pack(folder, dict.fromkeys((task.key for task in grid), "all"))
    for name in set(names(folder)) - set(kept.values()):
        (folder / name).unlink()
    return names(folder)


def test_the_same_tasks_give_the_same_bytes_in_whatever_order_they_are_finished_and_packed(tmp_path: Path) -> None:
    grid = tasks(tmp_path, 5)
    finish(tmp_path / "a", grid)
    finish(tmp_path / "b", grid[3:])
    packed(tmp_path / "b", grid[3:])
    finish(tmp_path / "b", grid[2::-1])
    a, b = packed(tmp_path / "a", grid), packed(tmp_path / "b", grid)
    assert a == b
    assert len(a) == 1
    assert (tmp_path / "a" / a[0]).read_bytes() == (tmp_path / "b" / b[0]).read_bytes()


def test_packed_rows_are_what_they_were_by_task_and_are_not_computed_again(tmp_path: Path) -> None:
    folder, grid = tmp_path / "cells", tasks(tmp_path, 4)
    finish(folder, grid[:3], word=[None, None])
    before = {task.key: rowfiles.by_task(task.path(folder))[0][1] for task in grid[:3]}
    assert len(packed(folder, grid[:3])) == 1
    parts = rowfiles.by_task(next(folder.iterdir()))
    assert [task.parameters for task, _ in parts] == [task.parameters for task in grid[:3]]
    for task, rows in parts:
        pd.testing.assert_frame_equal(rows, before[task.key])
    rows = sweep.run(grid, folder, workers=1)
    assert rows.number.tolist() == [0, 0, 1, 1, 2, 2, 3]
    assert (tmp_path / "log").read_text().split() == ["3"]


def test_a_task_whose_pack_is_torn_is_run_again_and_no_other(tmp_path: Path) -> None:
    folder, grid = tmp_path / "cells", tasks(tmp_path, 6)
    sweep.run(grid, folder, workers=1)
    halves = {task.key: task.parameters["number"] < 3 for task in grid}
    torn = folder / rowfiles.pack(folder, halves)[grid[0].key]
    for task in grid:
        task.path(folder).unlink()
    torn.write_bytes(torn.read_bytes()[:-20])
    sweep.run(grid, folder, workers=1)
    assert sorted((tmp_path / "log").read_text().split()[6:]) == ["0", "1", "2"]
    packed(folder, grid)
    assert len(rowfiles.by_task(next(folder.iterdir()))) == 6


def test_rows_say_the_processor_that_made_them_and_those_of_two_share_no_file(tmp_path: Path) -> None:
    grid = tasks(tmp_path, 6)
    finish(tmp_path / "a", grid[:2], "Here, family 1")
    finish(tmp_path / "a", grid[2:4], "There, family 1")
    finish(tmp_path / "a", grid[4:])  # as files were before they said it
    files = [rowfiles.by_task(tmp_path / "a" / name) for name in packed(tmp_path / "a", grid)]
    made = {
        tuple(task.parameters["number"] for task, _ in file): {task.processor for task, _ in file} for file in files
    }
    assert made == {(0, 1): {"Here, family 1"}, (2, 3): {"There, family 1"}, (4, 5): {""}}


@pytest.mark.parametrize("rows", [2, 0])
@pytest.mark.parametrize("processor", [7, None, [], {}, "x" * 201, "a\nwhole", "\x1b[2J"])
def test_a_file_whose_processor_can_be_none_is_torn(processor: object, rows: int, tmp_path: Path) -> None:
    path = tmp_path / "a_0123456789abcdef.parquet"
    with pq.ParquetWriter(path, pa.schema([("x", pa.int64())])) as writer:
        writer.write_table(pa.table({"x": pa.array([1, 2][:rows], pa.int64())}))
        described = {"function": "a:b", rowfiles.PROCESSOR: processor}
        described |= {"parameters": {}} if rows else {"tasks": []}
        writer.add_key_value_metadata({rowfiles.DESCRIPTION: json.dumps(described)})
    assert rowfiles.by_task(path) is None


def test_what_keeps_tasks_apart_are_who_asks_for_them_their_columns_and_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = tasks(tmp_path, 9)
    finish(tmp_path / "a", grid[:3])
    finish(tmp_path / "a", grid[3:], more=["x", "y"])
    monkeypatch.setattr(rowfiles, "MOST_PACKED", 12)  # two tasks of two rows and three columns
    wanted = {task.key: "both" if task.parameters["number"] > 7 else "one" for task in grid}
    files = rowfiles.pack(tmp_path / "a", wanted)
    together = {
        name: [task.parameters["number"] for task in grid if files[task.key] == name] for name in files.values()
    }
    assert sorted(together.values()) == [[0, 1, 2], [3, 4], [5, 6], [7], [8]]
    assert files[grid[7].key] == grid[7].path(tmp_path).name  # a task that is alone keeps the file it has


def test_a_task_that_no_file_has_cannot_be_packed(tmp_path: Path) -> None:
    finish(tmp_path / "a", tasks(tmp_path, 2))
    with pytest.raises(OSError, match="gone"):
        rowfiles.pack(tmp_path / "a", dict.fromkeys([task.key for task in tasks(tmp_path, 3)], "all"))


TASK = ["0123456789abcdef", 1, {}]


@pytest.mark.parametrize(
    "listed",
    [
        [TASK],
        [TASK, TASK],
        [TASK, ["fedcba9876543210", 2, {}]],
        [["0123456789abcdef", -1, {}], ["fedcba9876543210", 3, {}]],
        [["0123456789abcdef", 2, []]],
        [[1, 2, {}]],
        [["0123456789abcdef", 2.0, {}]],
        [["0123456789abcdef", 2]],
        {"0123456789abcdef": 2},
        2,
    ],
)
def test_a_file_that_lists_other_tasks_than_it_can_have_is_torn(listed: object, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pq.ParquetWriter(path, pa.schema([("x", pa.int64())])) as writer:
        writer.write_table(pa.table({"x": [1, 2]}))
        writer.add_key_value_metadata({rowfiles.DESCRIPTION: json.dumps({"function": "a:b", "tasks": listed})})
    assert rowfiles.by_task(path) is None
    assert rowfiles.tasks_in(path) == []
    assert rowfiles.rows_of(tmp_path, {"0123456789abcdef"}) == {}


@given(st.lists(st.text(max_size=90), min_size=1, max_size=5))
@example(["./my.csv", "100 %, really?", "a#b\\c"])
@example([".hidden"])
def test_whatever_a_task_is_called_its_file_is_one_that_a_record_takes(values):
    """A page links to it, and what reads a record refuses hidden names and what a link would read otherwise."""
    name = rowfiles.single_name(dict(enumerate(values)), "0123456789abcdef")
    assert is_inner(f"cells/{name}")
    assert name[0] != "-"
    assert name.endswith("_0123456789abcdef.parquet")
