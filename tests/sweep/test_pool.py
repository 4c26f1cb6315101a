"""The sweep resumes by content and survives failed tasks, killed workers, torn files and killed drivers."""

import dataclasses
import subprocess
import sys
import time

import pandas as pd
import psutil
import pytest
from sweep_fakes import SQUARE, tasks

from datalab import sweep
from datalab.sweep import SweepError, Task, rowfiles


def ran(tmp_path):
    return sorted((tmp_path / "log").read_text().split())


def test_rows_come_in_the_tasks_order_whatever_finishes_first(tmp_path):
    grid = [Task(SQUARE, {"number": i, "log": str(tmp_path / "log"), "seconds": 0.3 * (3 - i)}) for i in range(3)]
    rows = sweep.run(grid, tmp_path / "cells", workers=2)
    assert rows.number.tolist() == [0, 1, 2]
    assert rows.square.tolist() == [0, 1, 4]


def test_a_finished_task_is_not_run_again(tmp_path):
    sweep.run(tasks(tmp_path, 3), tmp_path / "cells", workers=1)
    seen = []
    rows = sweep.run(tasks(tmp_path, 4), tmp_path / "cells", workers=1, progress=lambda *at: seen.append(at))
    assert ran(tmp_path) == ["0", "1", "2", "3"]
    assert len(rows) == 4
    assert seen[0][:3] == (3, 4, 0)
    assert seen[-1][:3] == (4, 4, 0)


def test_what_is_left_is_told_by_what_tasks_cost_not_by_their_number(tmp_path):
    grid = [dataclasses.replace(task, cost=cost) for task, cost in zip(tasks(tmp_path, 4), (5, 6, 3, 1), strict=True)]
    sweep.run(grid[:1], tmp_path / "cells", workers=1)
    seen = []
    sweep.run(grid, tmp_path / "cells", workers=1, progress=lambda *at: seen.append(at))
    assert [at[-1] for at in seen] == [0, 4 / 6, 1 / 9, 0]


def test_a_task_with_other_parameters_or_other_code_is_another_task(tmp_path, monkeypatch):
    task, other = tasks(tmp_path, 2)
    assert task.key != other.key
    assert task.key == Task(SQUARE, dict(task.parameters)).key
    monkeypatch.setattr("datalab.sweep.reach.code_hash", lambda function: "changed")
    assert task.key != Task(SQUARE, dict(task.parameters)).key


def test_cost_and_models_do_not_enter_a_tasks_key():
    task = Task(SQUARE, {"number": 1})
    assert dataclasses.replace(task, cost=9.0, models=7).key == task.key


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failed_task_is_named_with_its_parameters_and_loses_no_other(tmp_path, workers):
    with pytest.raises(SweepError, match=r"1 of 4 tasks failed") as caught:
        sweep.run(tasks(tmp_path, at1="raise"), tmp_path / "cells", workers=workers)
    assert '"number": 1' in str(caught.value)
    assert "ValueError: a bad task" in str(caught.value)
    assert len(list((tmp_path / "cells").glob("*.parquet"))) == 3


def test_a_killed_worker_costs_only_its_task_which_is_tried_again(tmp_path):
    rows = sweep.run(tasks(tmp_path, at2="kill once"), tmp_path / "cells", workers=2)
    assert rows.number.tolist() == [0, 1, 2, 3]
    assert ran(tmp_path).count("2") == 2


def test_a_worker_that_dies_does_not_charge_or_repeat_what_its_neighbour_is_at(tmp_path):
    log = str(tmp_path / "log")
    grid = [Task(SQUARE, {"number": 1, "log": log, "seconds": 4.0})]
    grid += [Task(SQUARE, {"number": 2, "log": log, "fault": "kill always"})]
    with pytest.raises(SweepError, match="1 of 2 tasks failed"):
        sweep.run(grid, tmp_path / "cells", workers=2)
    assert ran(tmp_path) == ["1", "2", "2", "2"]


def test_a_task_that_always_kills_its_worker_is_given_up_and_named(tmp_path):
    with pytest.raises(SweepError, match="worker process died 3 times"):
        sweep.run(tasks(tmp_path, 2, at1="kill always"), tmp_path / "cells", workers=2)
    assert len(list((tmp_path / "cells").glob("*.parquet"))) == 1


def test_the_next_sweep_has_the_workers_that_the_last_one_left_and_another_for_one_that_died_since(tmp_path):
    def processes(numbers):
        grid = [Task("sweep_fakes:process", {"number": number}) for number in numbers]
        return set(sweep.run(grid, tmp_path / "cells", workers=2).process)

    first = processes([0, 1])
    assert len(first) == 2
    assert processes([2, 3]) == first
    killed = first.pop()
    psutil.Process(killed).kill()
    time.sleep(1.0)  # its executor has seen it
    later = processes([4, 5])
    assert killed not in later
    assert later & first == first
    with pytest.raises(SweepError):  # it is over as well, and its workers are whole
        sweep.run(tasks(tmp_path, 2, at1="raise"), tmp_path / "cells", workers=2)
    assert processes([6, 7]) == later


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:30] + b"\xff" + b[31:]])
def test_a_torn_or_altered_file_is_run_again(tmp_path, damage):
    sweep.run(tasks(tmp_path, 2), tmp_path / "cells", workers=1)
    path = tasks(tmp_path, 2)[0].path(tmp_path / "cells")
    path.write_bytes(damage(path.read_bytes()))
    rows = sweep.run(tasks(tmp_path, 2), tmp_path / "cells", workers=1)
    assert rows.square.tolist() == [0, 1]
    assert ran(tmp_path) == ["0", "0", "1"]


def test_a_full_disk_fails_the_task_and_leaves_no_partial_file(tmp_path):
    # A child with a small file-size limit meets the same failed write as on a full disk.
    script = (
        "import resource, signal, sys; from pathlib import Path; from datalab import sweep; import sweep_fakes as t\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); folder = Path(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))\n"
        "sweep.run(t.tasks(folder, 1), folder / 'cells', workers=1)\n"
    )
    done = run_child(script, tmp_path)
    assert done.returncode == 1
    assert "1 of 1 tasks failed" in done.stderr
    assert list((tmp_path / "cells").iterdir()) == []


def run_child(script, tmp_path, **options):
    command = [sys.executable, "-c", script, str(tmp_path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_workers_die_with_their_driver_and_the_next_run_completes(tmp_path):
    script = (
        "import sys; from pathlib import Path; from datalab import sweep; import sweep_fakes as t\n"
        "folder = Path(sys.argv[1]); log = str(folder / 'log')\n"
        "grid = [sweep.Task(t.SQUARE, {'number': i, 'log': log, 'seconds': 0.5}) for i in range(8)]\n"
        "sweep.run(grid, folder / 'cells', workers=2)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("cells/*.parquet"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []
    before = len(ran(tmp_path))
    assert run_child(script, tmp_path).returncode == 0
    finished = [rowfiles.by_task(path)[0][1] for path in (tmp_path / "cells").glob("*.parquet")]
    assert sorted(pd.concat(finished).number) == list(range(8))
    assert len(ran(tmp_path)) - 8 <= 2, f"at most one running cell a worker is repeated (ran {before} before the kill)"
