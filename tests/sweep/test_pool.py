"""The sweep: resumes by content, survives failed cells, killed workers, torn files and killed drivers."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from datalab import sweep
from datalab.sweep import SweepError, Task

FUNCTION = "test_sweep:square"


def square(number: int, log: str, fault: str = "", seconds: float = 0.0) -> list[dict]:
    """Stands in for an experiment; appends to ``log`` so that a test can count how often a cell really ran."""
    with open(log, "a") as file:
        file.write(f"{number}\n")
    time.sleep(seconds)
    if fault == "raise":
        raise ValueError("a bad cell")
    if fault == "kill once" and Path(log).read_text().split().count(str(number)) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "kill always":
        os.kill(os.getpid(), signal.SIGKILL)
    return [{"number": number, "square": number**2}]


@pytest.fixture
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def cells(tmp_path, count=4, **faults):
    log = str(tmp_path / "log")
    return [Task(FUNCTION, {"number": i, "log": log, "fault": faults.get(f"at{i}", "")}) for i in range(count)]


def ran(tmp_path):
    return sorted((tmp_path / "log").read_text().split())


def test_rows_come_in_the_cells_order_whatever_finishes_first(tmp_path, importable):
    grid = [Task(FUNCTION, {"number": i, "log": str(tmp_path / "log"), "seconds": 0.3 * (3 - i)}) for i in range(3)]
    rows = sweep.run(grid, tmp_path / "cells", workers=2)
    assert rows.number.tolist() == [0, 1, 2]
    assert rows.square.tolist() == [0, 1, 4]


def test_a_finished_cell_is_not_run_again(tmp_path):
    sweep.run(cells(tmp_path, 3), tmp_path / "cells", workers=1)
    seen = []
    rows = sweep.run(cells(tmp_path, 4), tmp_path / "cells", workers=1, progress=lambda *at: seen.append(at))
    assert ran(tmp_path) == ["0", "1", "2", "3"]
    assert len(rows) == 4
    assert seen[0][:3] == (3, 4, 0)
    assert seen[-1][:3] == (4, 4, 0)


def test_a_cell_with_other_parameters_or_other_code_is_another_cell(tmp_path, monkeypatch):
    cell, other = cells(tmp_path, 2)
    assert cell.key != other.key
    assert cell.key == Task(FUNCTION, dict(cell.parameters)).key
    monkeypatch.setattr(sweep, "code_hash", lambda module: "changed")
    assert cell.key != Task(FUNCTION, dict(cell.parameters)).key


def test_the_code_hash_moves_with_the_rooms_below_and_not_with_how_results_are_shown(tmp_path, monkeypatch):
    package = tmp_path / "datalab"
    imports = {
        "experiments/one.py": "from datalab.sections.used import something",
        "experiments/used.py": "from datalab.sections import used_too",
    }
    for name in ("training.py", "cli.py", "experiments/other.py", "experiments/used_too.py", "data/loaders.py"):
        imports.setdefault(name, "")
    for name, line in imports.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(line)
    monkeypatch.setattr(sweep, "__file__", str(package / "sweep.py"))

    def hash_after(name):
        (package / name).write_text(f"{imports[name]}\n# changed")
        sweep.code_hash.cache_clear()
        return sweep.code_hash("datalab.sections.one")

    before = hash_after("cli.py")
    try:
        assert hash_after("experiments/other.py") == before
        moving = ["training.py", "data/loaders.py", *(f"experiments/{n}.py" for n in ("one", "used", "used_too"))]
        assert len({before, *(hash_after(name) for name in moving)}) == 6
    finally:
        sweep.code_hash.cache_clear()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failed_cell_is_named_with_its_parameters_and_loses_no_other(tmp_path, importable, workers):
    with pytest.raises(SweepError, match=r"1 of 4 cells failed") as caught:
        sweep.run(cells(tmp_path, at1="raise"), tmp_path / "cells", workers=workers)
    assert '"number": 1' in str(caught.value)
    assert "ValueError: a bad cell" in str(caught.value)
    assert len(list((tmp_path / "cells").glob("*.parquet"))) == 3


def test_a_killed_worker_costs_only_its_cell_which_is_tried_again(tmp_path, importable):
    rows = sweep.run(cells(tmp_path, at2="kill once"), tmp_path / "cells", workers=2)
    assert rows.number.tolist() == [0, 1, 2, 3]
    assert ran(tmp_path).count("2") == 2


def test_a_cell_that_always_kills_its_worker_is_given_up_and_named(tmp_path, importable):
    with pytest.raises(SweepError, match="worker process died 3 times"):
        sweep.run(cells(tmp_path, 2, at1="kill always"), tmp_path / "cells", workers=2)
    assert len(list((tmp_path / "cells").glob("*.parquet"))) == 1


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:30] + b"\xff" + b[31:]])
def test_a_torn_or_altered_file_is_run_again(tmp_path, damage):
    sweep.run(cells(tmp_path, 2), tmp_path / "cells", workers=1)
    path = cells(tmp_path, 2)[0].path(tmp_path / "cells")
    path.write_bytes(damage(path.read_bytes()))
    rows = sweep.run(cells(tmp_path, 2), tmp_path / "cells", workers=1)
    assert rows.square.tolist() == [0, 1]
    assert ran(tmp_path) == ["0", "0", "1"]


def test_a_full_disk_fails_the_cell_and_leaves_no_partial_file(tmp_path):
    # A child with a small file-size limit meets the same failed write as on a full disk.
    script = (
        "import resource, signal, sys; from pathlib import Path; from datalab import sweep; import test_sweep as t\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); folder = Path(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))\n"
        "sweep.run(t.cells(folder, 1), folder / 'cells', workers=1)\n"
    )
    done = run_child(script, tmp_path)
    assert done.returncode == 1
    assert "1 of 1 cells failed" in done.stderr
    assert list((tmp_path / "cells").iterdir()) == []


def run_child(script, tmp_path, **options):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", script, str(tmp_path)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, **options)


def test_workers_die_with_their_driver_and_the_next_run_completes(tmp_path, importable):
    script = (
        "import sys; from pathlib import Path; from datalab import sweep; import test_sweep as t\n"
        "folder = Path(sys.argv[1]); log = str(folder / 'log')\n"
        "grid = [sweep.Task(t.FUNCTION, {'number': i, 'log': log, 'seconds': 0.5}) for i in range(8)]\n"
        "sweep.run(grid, folder / 'cells', workers=2)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    driver = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], env=environment)
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
    finished = [sweep.read(path) for path in (tmp_path / "cells").glob("*.parquet")]
    assert sorted(pd.concat(finished).number) == list(range(8))
    assert len(ran(tmp_path)) - 8 <= 2, f"at most one running cell a worker is repeated (ran {before} before the kill)"
