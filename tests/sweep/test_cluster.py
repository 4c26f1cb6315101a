"""The sweep on a Dask cluster: the same rows as the local pool's, whatever happens to a worker."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="needs the extra dask")

from datalab import cluster, sweep
from datalab.errors import UserError
from datalab.sweep import SweepError, Task

CAPS = {"train": 100, "validation": 50, "test": 100}


def cells(n: int = 6) -> list[Task]:
    given = {"root_seed": 7, "caps": CAPS, "encoder": "fast", "device": "cpu"}
    return [
        Task("datalab.sections.metric_cell:run_cell", {"dataset": "wine", "seed": seed} | given) for seed in range(n)
    ]


def bytes_of(grid: list[Task], folder: Path) -> list[bytes]:
    return [cell.path(folder).read_bytes() for cell in grid]


@pytest.fixture
def two_workers():
    with cluster.use(None, local=True, workers=2) as line:
        assert "2 workers" in line
        yield cluster.address()
    assert cluster.address() is None


def test_a_cluster_of_two_workers_gives_the_bytes_of_the_pool(two_workers, tmp_path, monkeypatch):
    grid, seen = cells(), []
    rows = sweep.run(grid, tmp_path / "dask", progress=lambda *state: seen.append(state))
    assert seen[-1][:3] == (6, 6, 0)
    monkeypatch.delenv(cluster.SCHEDULER)
    pool = sweep.run(grid, tmp_path / "pool", workers=2)
    assert bytes_of(grid, tmp_path / "dask") == bytes_of(grid, tmp_path / "pool")
    assert rows.equals(pool)


def test_a_worker_killed_in_the_middle_changes_nothing_but_the_time(two_workers, tmp_path, monkeypatch):
    import distributed

    grid, killed = cells(12), []

    def kill_one() -> None:
        with distributed.Client(two_workers) as client:
            while not killed:
                busy = [name for name, tasks in client.processing().items() if tasks]
                if len(list((tmp_path / "dask").glob("*.parquet"))) >= 2 and busy:
                    pid = client.run(os.getpid, workers=[busy[0]])[busy[0]]
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                time.sleep(0.02)

    thread = threading.Thread(target=kill_one)
    thread.start()
    sweep.run(grid, tmp_path / "dask")
    thread.join(timeout=30)
    assert killed
    monkeypatch.delenv(cluster.SCHEDULER)
    sweep.run(grid, tmp_path / "pool", workers=2)
    assert bytes_of(grid, tmp_path / "dask") == bytes_of(grid, tmp_path / "pool")


def test_a_failed_cell_is_named_and_loses_no_other(two_workers, tmp_path):
    bad = Task("datalab.sections.metric_cell:run_cell", cells(1)[0].parameters | {"dataset": "no such set"})
    with pytest.raises(SweepError, match=r"1 of 3 cells failed.*\n.*no such set"):
        sweep.run([*cells(2), bad], tmp_path)
    assert len(list(tmp_path.glob("*.parquet"))) == 2


def test_a_worker_with_other_code_refuses_the_cell():
    cell = cells(1)[0]
    with pytest.raises(UserError, match="install the same commit"):
        cluster.compute(cell.function, cell.parameters, "0" * 16)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--scheduler", "tcp://127.0.0.1:1"], "nobody answers at 'tcp://127.0.0.1:1'"),
        (["--scheduler", "tcp://127.0.0.1:1", "--cluster", "local"], "give one of them"),
        (["--cluster", "big"], "'big' is not"),
    ],
)
def test_a_wrong_cluster_is_one_line_with_status_2_and_nothing_written(tmp_path, options, words):
    command = [sys.executable, "-m", "datalab", "run", "1", "--to", str(tmp_path / "r"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "r").exists()
