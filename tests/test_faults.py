"""Faults injected for real: killed drivers and kernels, Ctrl-C, two writers. After each one the record says the truth,
`verify` says the truth, the same command completes it, and nothing finished is computed twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import record_fakes

from datalab.record import manifest, verify

COUNT = 6
PARAMETERS = ["-p", "count", str(COUNT), "-p", "nap", "0.5"]


class Rig:
    """The ``datalab`` command over the fake sections, as a process of its own."""

    def __init__(self, folder: Path, reference: dict[str, bytes]) -> None:
        self.record, self.log, self.reference = folder / "record", folder / "log", reference
        self.notebooks = record_fakes.write_notebooks(folder / "notebooks")

    def start(self, *names: str, workers: int = 1, more: list[str] = PARAMETERS) -> subprocess.Popen:
        command = [sys.executable, str(record_fakes.HERE / "record_fakes.py"), str(self.notebooks), "run", *names]
        command += ["--profile", "smoke", "--to", str(self.record), "--workers", str(workers), *more]
        environment = os.environ | {"FAKE_LOG": str(self.log)}
        environment["PYTHONPATH"] = os.pathsep.join([str(record_fakes.HERE), environment.get("PYTHONPATH", "")])
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=environment, start_new_session=True, **pipes)

    def complete(self, *names: str, workers: int = 1) -> None:
        """The same command again: it must end well, with the tables of a run that was never disturbed."""
        process = self.start(*names, workers=workers)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err
        assert verify.verify(self.record).findings == []
        assert {name: tables(self.record)[name] for name in self.reference} == self.reference

    def computed(self) -> list[int]:
        """The cells computed so far, repeats included."""
        return [int(line) for line in self.log.read_text().split()] if self.log.exists() else []

    def finished(self) -> int:
        return len(list((self.record / "cells").glob("*.parquet")))

    def kernel(self) -> psutil.Process:
        wait_for(lambda: "kernel" in self.entry().process)
        return psutil.Process(self.entry().process["kernel"])

    def entry(self) -> manifest.SectionEntry:
        return manifest.load(self.record).sections["0_alpha"]


def tables(record: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((record / "tables").iterdir())}


def wait_for(what: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes if alive(p))


def alive(process: psutil.Process) -> bool:
    try:
        process.status()
    except psutil.NoSuchProcess:
        return False
    return True


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The tables of section 0 as an undisturbed run gives them."""
    rig = Rig(tmp_path_factory.mktemp("reference"), {})
    process = rig.start("0", more=["-p", "count", str(COUNT), "-p", "nap", "0.0"])
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    return tables(rig.record)


@pytest.fixture
def rig(tmp_path: Path, reference: dict[str, bytes]) -> Rig:
    return Rig(tmp_path, reference)


def test_after_kill_9_of_the_driver_the_same_command_repeats_at_most_one_cell_per_worker(rig: Rig) -> None:
    workers = 2
    driver = rig.start("0", workers=workers)
    wait_for(lambda: rig.finished() >= 2)
    processes = family(rig.kernel())
    driver.kill()
    driver.wait()
    found = {(finding.kind, finding.what) for finding in verify.verify(rig.record).findings}
    assert ("incomplete", "0_alpha") in found
    assert any("interrupted" in finding.detail for finding in verify.verify(rig.record).findings)
    wait_for(lambda: gone(processes), 15)
    rig.complete("0", workers=workers)
    assert sorted(set(rig.computed())) == list(range(COUNT))
    assert len(rig.computed()) <= COUNT + workers


def test_after_kill_9_of_the_kernel_the_notebook_has_failed_and_the_same_command_completes_it(rig: Rig) -> None:
    driver = rig.start("0")
    wait_for(lambda: rig.finished() >= 2)
    rig.kernel().kill()
    out, _ = driver.communicate(timeout=60)
    assert driver.returncode == 1, out
    assert rig.entry().status == "failed"
    assert "kernel died" in rig.entry().reason
    assert (rig.record / "notebooks/0_alpha.failed.ipynb").exists()
    assert not verify.verify(rig.record).whole
    rig.complete("0")
    assert len(rig.computed()) <= COUNT + 1


def test_ctrl_c_exits_130_with_one_line_on_how_to_resume_and_leaves_no_process(rig: Rig) -> None:
    driver = rig.start("0", "3.4", workers=2)
    wait_for(lambda: rig.finished() >= 2)
    processes = family(rig.kernel())
    assert len(processes) > 1
    os.killpg(driver.pid, signal.SIGINT)
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == 130, out + err
    assert gone(processes)
    last = out.strip().splitlines()[-1]
    assert "Resume with: datalab run 0 3.4 --profile smoke" in last
    assert err.strip() == ""
    book = manifest.load(rig.record)
    assert (book.sections["0_alpha"].status, book.sections["3_4_beta"].status) == ("interrupted", "not run")
    assert book.closed
    kinds = {finding.kind for finding in verify.verify(rig.record).findings}
    assert kinds == {"incomplete"}
    rig.complete("0", "3.4", workers=2)
    assert len(rig.computed()) <= COUNT + 2


def test_sigterm_before_the_first_cell_is_an_interruption_too_and_leaves_a_record_that_completes(rig: Rig) -> None:
    driver = rig.start("0")
    wait_for((rig.record / "record.json").exists)
    driver.terminate()
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == 130, out + err
    assert rig.entry().status in ("interrupted", "not run")
    rig.complete("0")


def test_a_second_writer_is_refused_and_the_first_is_not_disturbed(rig: Rig) -> None:
    first = rig.start("0")
    wait_for(lambda: rig.finished() >= 1)
    second = rig.start("0")
    _, err = second.communicate(timeout=60)
    assert second.returncode == 2
    assert len(err.strip().splitlines()) == 1
    assert f"process {first.pid} on " in err
    running = [finding.detail for finding in verify.verify(rig.record).findings if finding.what == "0_alpha"]
    assert running == [f"process {first.pid} on {os.uname().nodename} is running it"]
    out, err = first.communicate(timeout=60)
    assert first.returncode == 0, out + err
    assert tables(rig.record) == rig.reference


def papermill(rig: Rig, folder: Path, *more: str) -> subprocess.Popen:
    """Plain papermill, as its users call it, from a folder that has nothing to do with the project."""
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"FAKE_LOG": str(rig.log)}
    environment["PYTHONPATH"] = os.pathsep.join([str(record_fakes.HERE), environment.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "papermill", str(rig.notebooks / "0_alpha.ipynb"), "out.ipynb", *more]
    command += ["-k", "python3", "--language", "python", "-p", "profile", "smoke", "-p", "record", str(rig.record)]
    command += [*PARAMETERS, "-p", "workers", "1"]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_plain_papermill_from_any_folder_gives_the_same_tables_and_says_how_it_was_run(
    rig: Rig, tmp_path: Path
) -> None:
    process = papermill(rig, tmp_path / "elsewhere")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out.decode()
    assert tables(rig.record) == rig.reference
    entry = rig.entry()
    assert (entry.status, entry.runner) == ("complete", "notebook session")
    assert verify.verify(rig.record).findings == []
    assert os.listdir(tmp_path / "elsewhere") == ["out.ipynb"]


def test_a_notebook_session_holds_the_record_and_is_called_interrupted_when_its_kernel_is_killed(
    rig: Rig, tmp_path: Path
) -> None:
    process = papermill(rig, tmp_path / "elsewhere")
    wait_for(lambda: rig.finished() >= 2)
    refused = rig.start("0")
    _, err = refused.communicate(timeout=60)
    assert refused.returncode == 2
    assert f"process {rig.entry().process['pid']} on " in err
    psutil.Process(rig.entry().process["pid"]).kill()
    process.communicate(timeout=60)
    assert rig.entry().status == "running"  # nobody was left to write otherwise; the reader is told the truth
    details = [finding.detail for finding in verify.verify(rig.record).findings if finding.what == "0_alpha"]
    assert details == ["interrupted: its process is gone"]
    rig.complete("0")
    assert len(rig.computed()) <= COUNT + 1


def test_papermill_itself_calls_the_cells_after_a_kernels_death_completed(rig: Rig, tmp_path: Path) -> None:
    """Why we judge for ourselves: the status papermill 2 writes. Should this fail one day, papermill has improved."""
    process = papermill(rig, tmp_path / "elsewhere", "-p", "mode", "os._exit")
    process.communicate(timeout=120)
    written = json.loads((tmp_path / "elsewhere/out.ipynb").read_text())
    statuses = {cell["metadata"]["papermill"]["status"] for cell in written["cells"] if not cell.get("execution_count")}
    assert statuses == {"completed"}
    assert not verify.verify(rig.record).whole
