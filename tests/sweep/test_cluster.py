"""The sweep on a Dask cluster: the same rows as the local pool's, whatever happens to a worker."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweep_fakes import SQUARE, tasks

pytest.importorskip("distributed", reason="needs the extra dask")

from datalab import cli, sweep
from datalab.errors import UserError
from datalab.record.parameters import resolve
from datalab.sections import STUDY
from datalab.sweep import SweepError, Task, cluster
from datalab.sweep.pool import Executor


def trained() -> list[Task]:
    """Small tasks that train models: section 3.1's on one data set."""
    section = STUDY.find("3.1").load()
    caps = {"train": 100, "validation": 50, "test": 100}
    given = {"profile": "smoke", "device": "cpu", "datasets": ["wine"], "seeds": 3, "caps": caps}
    return section.fixed_tasks(resolve(section.Parameters, given, "3.1"))


def bytes_of(grid: list[Task], folder: Path) -> list[bytes]:
    return [task.path(folder).read_bytes() for task in grid]


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    with cluster.scheduler_of(None, local=True, workers=2) as address:
        assert cluster.summary(address).startswith(f"Cluster: 2 workers at {address}, dashboard http")
        yield address


@pytest.fixture
def on_cluster(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> Executor:
    """The executor as a kernel finds it that is told of the scheduler."""
    assert cluster.executor() is None
    monkeypatch.setenv(cluster.SCHEDULER, scheduler)
    return cluster.executor()


def test_a_cluster_of_two_workers_gives_the_bytes_of_the_pool(on_cluster: Executor, tmp_path: Path) -> None:
    grid, seen = trained(), []
    rows = sweep.run(grid, tmp_path / "dask", progress=lambda *state: seen.append(state), executor=on_cluster)
    assert seen[-1][:3] == (3, 3, 0)
    pool = sweep.run(grid, tmp_path / "pool", workers=2)
    assert bytes_of(grid, tmp_path / "dask") == bytes_of(grid, tmp_path / "pool")
    assert rows.equals(pool)


def test_a_worker_killed_in_the_middle_changes_nothing_but_the_time(
    on_cluster: Executor, scheduler: str, tmp_path: Path
) -> None:
    import distributed

    log = str(tmp_path / "log")
    grid, killed = [Task(SQUARE, {"number": i, "log": log, "seconds": 0.3}) for i in range(12)], []

    def kill_one() -> None:
        with distributed.Client(scheduler) as client:
            while not killed:
                busy = [name for name, at_work in client.processing().items() if at_work]
                if len(list((tmp_path / "dask").glob("*.parquet"))) >= 2 and busy:
                    pid = client.run(os.getpid, workers=[busy[0]])[busy[0]]
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                time.sleep(0.02)

    thread = threading.Thread(target=kill_one)
    thread.start()
    sweep.run(grid, tmp_path / "dask", executor=on_cluster)
    thread.join(timeout=30)
    assert killed
    sweep.run(grid, tmp_path / "pool", workers=2)
    assert bytes_of(grid, tmp_path / "dask") == bytes_of(grid, tmp_path / "pool")


def test_a_failed_task_is_named_and_loses_no_other(on_cluster: Executor, tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"1 of 3 tasks failed.*\n.*a bad task"):
        sweep.run(tasks(tmp_path, 3, at1="raise"), tmp_path / "cells", executor=on_cluster)
    assert len(list((tmp_path / "cells").glob("*.parquet"))) == 2


def test_a_worker_with_other_code_refuses_the_task(tmp_path: Path) -> None:
    task = tasks(tmp_path, 1)[0]
    with pytest.raises(UserError, match="install the same commit"):
        cluster.compute(task.function, task.parameters, "0" * 16)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--scheduler", "tcp://127.0.0.1:1"], "nobody answers at 'tcp://127.0.0.1:1'"),
        (["--scheduler", "tcp://127.0.0.1:1", "--cluster", "local"], "give one of them"),
        (["--cluster", "big"], "'big' is not"),
    ],
)
def test_a_wrong_cluster_is_one_line_with_status_2_and_nothing_written(
    tmp_path: Path, options: list[str], words: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "1", "--to", str(tmp_path / "r"), *options])
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert len(shown.err.strip().splitlines()) == 1
    assert not (tmp_path / "r").exists()
