"""Faults injected for real. After each one the record says the truth, `verify` says the truth, and the same command
completes it: with the tables of a run that was never disturbed, and nothing finished is computed twice."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
import record_fakes
from fault_rig import COUNT, PARAMETERS, Disk, Rig, alive, contents, family, gone, tables, wait_for

from datalab.record import Study
from datalab.record.checks import verify
from datalab.record.manifest import Manifest
from datalab.record.runner import Interrupts
from datalab.sweep import rowfiles

ALPHA, BETA = "0_alpha", "3_4_beta"
HALF = {0, 1, 2}  # the cells that are finished where those from 3 on wait


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole record of two sections, as a run without any fault leaves it."""
    rig = Rig(tmp_path_factory.mktemp("undisturbed"), {})
    out, err = rig.start("0", "3.4").communicate(timeout=120)
    assert err == "", out + err
    assert verify.verify(rig.record, rig.study).whole
    return rig.record


@pytest.fixture
def rig(tmp_path: Path, undisturbed: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path, tables(undisturbed))
    yield rig
    rig.end()


@pytest.fixture
def disk(tmp_path: Path, rig: Rig) -> Iterator[Disk]:
    disk = Disk(tmp_path / "disk")
    disk.carry(rig)
    yield disk
    disk.remove()


# Killed processes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "fault", "stopped", "kept"),
    [
        (2, {"wait": "3"}, False, HALF),
        (1, {"wait": "3"}, True, HALF),
        (1, {"hold": "datalab.record.manifest:Manifest.save@3"}, False, set(range(COUNT))),
    ],
    ids=["in a sweep", "in a sweep, its kernel stopped", "when all is in place and not yet entered"],
)
def test_after_kill_9_of_the_driver_nothing_is_left_running_and_a_torn_file_is_computed_again(
    rig: Rig, workers: int, fault: dict[str, str], stopped: bool, kept: set[int]
) -> None:
    driver = rig.start("3.4", workers=workers, **fault)
    wait_for(lambda: rig.at_gate() and rig.finished() == kept)
    kernel = rig.kernel() if "wait" in fault else psutil.Process(driver.pid)
    processes = family(kernel)
    if stopped:  # it does not see that its driver is gone: the next one ends it
        kernel.suspend()
    driver.kill()
    driver.communicate()
    assert rig.entry().status == "running"  # nobody was left to write otherwise: the reader is told
    findings = {
        (finding.kind, finding.what, finding.detail) for finding in verify.verify(rig.record, rig.study).findings
    }
    assert findings == {
        ("incomplete", BETA, "interrupted: its process is gone"),
        ("incomplete", "the record", "its writer was interrupted"),
    }
    if not stopped:
        wait_for(lambda: gone(processes), 15)
    torn = min((rig.record / "cells").glob("*.parquet"))
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    rig.complete("3.4", workers=workers)
    assert gone(processes)
    assert len(rig.computed()) <= COUNT + 1 + workers  # the torn one, and what was in hand: one a worker


def test_after_kill_9_of_the_kernel_as_the_out_of_memory_killer_does_it_the_notebook_has_failed(rig: Rig) -> None:
    """SIGKILL is all that a process is told by a system that is out of memory."""
    driver = rig.start("3.4", wait="3")
    wait_for(rig.at_gate)
    rig.kernel().kill()
    out, err = driver.communicate(timeout=60)
    assert (driver.returncode, err) == (1, ""), out + err
    entry = rig.told("failed", "the kernel died")
    assert f"stopped in code cell {entry.code_cells_ran + 1} of {entry.code_cells}: " in entry.reason
    assert rig.finished() == HALF
    rig.complete("3.4")
    assert len(rig.computed()) == COUNT + 1


def test_after_kill_9_of_a_worker_the_run_goes_on_and_repeats_only_what_was_in_hand(rig: Rig) -> None:
    driver = rig.start("3.4", workers=2, wait="3")
    wait_for(lambda: len(rig.at_gate()) == 2)
    psutil.Process(rig.at_gate()[0]).kill()
    rig.open_gate()
    out, err = driver.communicate(timeout=60)
    assert (driver.returncode, err) == (0, ""), out + err
    assert [rig.computed().count(cell) for cell in sorted(HALF)] == [1, 1, 1]
    assert COUNT + 1 <= len(rig.computed()) <= COUNT + 2
    rig.complete("3.4", workers=2)


# What a notebook does -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"mode": "sys.exit"}, "raised SystemExit: 0"),
        ({"mode": "memory"}, "raised MemoryError"),
        ({"shell": "exit 3"}, "raised CalledProcessError: Command 'exit 3' returned non-zero exit status 3."),
    ],
    ids=["calls sys.exit(0)", "is out of memory", "runs a shell command that fails"],
)
def test_a_notebook_that_stops_itself_has_failed_and_says_in_which_cell(
    rig: Rig, fault: dict[str, str], reason: str
) -> None:
    names = ["0", "3.4"] if "shell" in fault else ["3.4"]  # `!command` in the one, `lines = !command` in the other
    driver = rig.start(*names, **fault)
    out, err = driver.communicate(timeout=60)
    assert (driver.returncode, err) == (1, ""), out + err
    for stem in [ALPHA, BETA][-len(names) :]:
        entry = rig.told("failed", reason, stem)
        assert entry.reason == f"code cell {entry.code_cells_ran + 1} of {entry.code_cells} {reason}"
    assert rig.finished() == set(range(COUNT))
    rig.complete(*names)


def test_a_cell_that_hangs_past_its_timeout_is_ended_with_its_children_though_it_is_deaf_to_interrupts(
    rig: Rig,
) -> None:
    driver = rig.start("3.4", more=[*PARAMETERS, "--timeout", "12"], mode="hang")
    wait_for(rig.at_gate)
    processes = [*family(rig.kernel()), *map(psutil.Process, rig.at_gate())]
    out, err = driver.communicate(timeout=60)
    assert (driver.returncode, err) == (1, ""), out + err
    assert gone(processes)
    entry = rig.told("failed", "ran longer than 12 s")
    assert entry.reason == f"code cell {entry.code_cells_ran + 1} of {entry.code_cells} ran longer than 12 s"
    rig.complete("3.4", more=[*PARAMETERS, "--timeout", "60"])


def test_a_missing_kernel_is_a_failed_notebook_that_says_why(rig: Rig, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no module named ipykernel >&2\nexit 1\n")
    broken.chmod(0o755)
    for interpreter, reason in ((tmp_path / "nosuch", "No such file"), (broken, "(no module named ipykernel)")):
        driver = rig.start("3.4", python=str(interpreter))
        out, err = driver.communicate(timeout=60)
        assert (driver.returncode, err) == (1, ""), out + err
        assert rig.told("failed", reason).code_cells_ran == 0
    rig.complete("3.4")


# Ctrl-C ---------------------------------------------------------------------------------------------------------------


def interrupt(driver: subprocess.Popen, number: int = signal.SIGINT) -> None:
    """As a terminal does it: to the whole group in the foreground."""
    os.killpg(driver.pid, number)


def assert_interrupted(driver: subprocess.Popen, names: str) -> None:
    out, err = driver.communicate(timeout=60)
    assert (driver.returncode, err) == (130, ""), out + err
    assert f"Resume with: datalab run {names} --profile smoke" in out.splitlines()[-1]


def test_ctrl_c_while_the_call_is_planned_or_data_is_fetched_leaves_nothing(rig: Rig, tmp_path: Path) -> None:
    driver = rig.start("3.4", hold="datalab.record.plan:jobs")
    wait_for(rig.at_gate)
    interrupt(driver)
    out, err = driver.communicate(timeout=60)
    assert (driver.returncode, out, err.strip()) == (130, "", "datalab: interrupted")
    with socket.create_server(("127.0.0.1", 0)) as index:  # pip is sent to an index that never answers
        index.settimeout(60)
        pip = {"PIP_INDEX_URL": f"http://127.0.0.1:{index.getsockname()[1]}/simple", "PIP_CONFIG_FILE": os.devnull}
        pip |= {"PIP_FIND_LINKS": "", "PIP_NO_INDEX": "0", "DATALAB_CACHE": str(tmp_path / "cache")}
        driver = rig.start("3.4", more=["-p", "datasets", '["adult"]'], environment=pip)
        with index.accept()[0]:
            processes = family(psutil.Process(driver.pid))
            interrupt(driver)
            out, err = driver.communicate(timeout=60)
    assert (driver.returncode, err) == (130, ""), out + err
    assert "Interrupted; nothing was written. Resume with: " in out.splitlines()[-1]
    assert gone(processes)
    assert not rig.record.exists()


@pytest.mark.parametrize(
    ("workers", "fault", "reason"),
    [
        (1, {}, "stopped "),
        (1, {"mode": "wait first"}, "stopped after 2 of "),
        (2, {"wait": "3", "hold": "datalab.record.runner:_Driver._settle"}, "stopped after 3 of "),
    ],
    ids=["while the kernel starts", "in the first cell", "in a sweep, and once more while the first is handled"],
)
def test_ctrl_c_in_a_notebook_stops_it_with_its_processes(
    rig: Rig, workers: int, fault: dict[str, str], reason: str
) -> None:
    driver = rig.start("3.4", workers=workers, **fault)
    wait_for(rig.at_gate if fault else rig.running)
    wait_for(lambda: rig.finished() == (HALF if "wait" in fault else set()))
    processes = family(psutil.Process(driver.pid))
    interrupt(driver)
    if "hold" in fault:
        wait_for(lambda: driver.pid in rig.at_gate())
        interrupt(driver)
        interrupt(driver)
        rig.open_gate()
    assert_interrupted(driver, "3.4")
    assert gone(processes)
    rig.told("interrupted", reason)
    rig.complete("3.4", workers=workers)
    assert len(rig.computed()) <= COUNT + workers


@pytest.mark.parametrize(
    ("names", "hold"),
    [
        (["0", "3.4"], "datalab.record.runner:_Driver._key@2"),
        (["3.4"], "datalab.record.execution:Kernel.kill"),
        (["3.4"], "datalab.record.transaction:merge"),
        (["3.4"], "datalab.record.crate:write"),
    ],
    ids=[
        "between two notebooks",
        "when the last cell has run",
        "while outputs are merged",
        "while the record is closed",
    ],
)
def test_ctrl_c_between_and_after_notebooks_tears_nothing_and_loses_nothing_finished(
    rig: Rig, names: list[str], hold: str
) -> None:
    driver = rig.start(*names, hold=hold)
    wait_for(rig.at_gate)
    interrupt(driver)
    time.sleep(0.5)  # until it is noticed, where it can be while the notebook's thread waits
    rig.open_gate()
    assert_interrupted(driver, " ".join(names))
    manifest = Manifest.load(rig.record)
    assert manifest.closed
    statuses = {"0": "complete", "3.4": "not run"} if len(names) > 1 else {"3.4": "complete"}
    assert {entry.number: entry.status for entry in manifest.sections.values()} == statuses
    report = verify.verify(rig.record, rig.study)
    assert [str(finding) for finding in report.findings] == [f"incomplete: {BETA}: not run"] * (len(names) - 1)
    rig.complete(*names)
    assert len(rig.computed()) == COUNT


def test_one_signal_more_while_the_first_is_handled_raises_nothing() -> None:
    interrupts = Interrupts()
    with interrupts.watched():
        with pytest.raises(KeyboardInterrupt), interrupts.deferred():
            os.kill(os.getpid(), signal.SIGINT)
        try:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            interrupts.check()
        except KeyboardInterrupt:
            pytest.fail("raised a second time")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT], ids=["a terminal, closed", "tee, after Ctrl-C"])
def test_an_interruption_is_one_though_nobody_is_left_to_read_what_is_printed(rig: Rig, number: int) -> None:
    reader, terminal = os.openpty() if number == signal.SIGHUP else os.pipe()
    driver = rig.start("3.4", terminal=terminal, wait="3")
    os.close(terminal)
    wait_for(rig.at_gate)
    os.close(reader)
    interrupt(driver, number)
    assert driver.wait(60) == 130
    assert driver.stderr.read() == ""
    rig.told("interrupted", "stopped after 3 of ")
    rig.complete("3.4")


# The disk -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hold", "told"),
    [
        ("", "raised SweepError: "),
        (
            "datalab.record.execution:Execution.save",
            "its part of the record cannot be written: No space left on device",
        ),
        (
            "datalab.record.manifest:Manifest.save@3",
            "its part of the record cannot be written: No space left on device",
        ),
    ],
    ids=["while a cell is written", "while the notebook is saved", "while the manifest is written"],
)
def test_a_full_disk_fails_the_notebook_in_one_line_and_loses_nothing_finished(
    rig: Rig, disk: Disk, hold: str, told: str
) -> None:
    driver = rig.start("3.4", **({"hold": hold} if hold else {"wait": "3"}))
    wait_for(rig.at_gate)
    disk.fill()
    rig.open_gate()
    out, err = driver.communicate(timeout=60)
    assert (driver.returncode, err) == (1, ""), out + err
    assert "Traceback" not in out
    assert rig.finished() == (set(range(COUNT)) if hold else HALF)
    if hold:
        last = out.splitlines()[-1]
        assert last.startswith("Stopped, cannot write (No space left on device); finished work is kept in ")
        assert "Resume with: datalab run 3.4 --profile smoke" in last
    assert "No space left on device" in rig.told("failed", told, room=not hold).reason
    disk.free()
    rig.complete("3.4")


def test_on_a_disk_that_is_full_before_the_start_nothing_begins(rig: Rig, disk: Disk) -> None:
    disk.fill()
    driver = rig.start("3.4")
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == 2, out + err
    assert len(err.splitlines()) == 1
    assert "cannot be locked (No space left on device)" in err
    disk.free()
    rig.complete("3.4")


def test_on_a_full_disk_a_complete_section_is_not_given_up_for_one_that_cannot_begin(
    rig: Rig, disk: Disk, undisturbed: Path
) -> None:
    shutil.copytree(undisturbed, rig.seen)
    before = contents(rig.seen / "tables")
    driver = rig.start("3.4", more=[*PARAMETERS, "-p", "root_seed", "7"], hold="datalab.record.transaction:begin")
    wait_for(rig.at_gate)
    disk.fill()
    rig.open_gate()
    out, err = driver.communicate(timeout=60)
    assert (driver.returncode, err) == (1, ""), out + err
    assert "Stopped, cannot write (No space left on device)" in out.splitlines()[-1]
    assert contents(rig.seen / "tables") == before
    assert verify.verify(rig.seen, rig.study).whole
    disk.free()


@pytest.mark.parametrize("way", ["its modes", "its file system"])
def test_a_read_only_folder_is_refused_in_one_line_and_verified_without_a_write(
    way: str, rig: Rig, undisturbed: Path, request: pytest.FixtureRequest
) -> None:
    if way == "its file system":
        disk = request.getfixturevalue("disk")
    shutil.copytree(undisturbed, rig.seen)
    if way == "its file system":
        disk.close_for_writing()
    else:
        for path in [rig.seen, *rig.seen.rglob("*")]:
            path.chmod(path.stat().st_mode & ~0o222)
    before = contents(rig.seen)
    told = rig.record
    for record in (told, told / "new" / "deep"):
        for more in (PARAMETERS, [*PARAMETERS, "--fresh"]):
            rig.record = record
            driver = rig.start("0", "3.4", more=more, weak=True)
            out, err = driver.communicate(timeout=60)
            assert driver.returncode == 2, out + err
            assert len(err.splitlines()) == 1
            assert "cannot be" in err
    assert contents(rig.seen) == before
    checked = rig.call(["verify", str(told), "--hashes-only"], {}, weak=True)
    out, err = checked.communicate(timeout=60)
    assert (checked.returncode, err) == (0, ""), out + err
    assert ": as it was written" in out
    assert contents(rig.seen) == before


def test_torn_files_of_every_kind_are_named_and_only_they_are_computed_again(rig: Rig, undisturbed: Path) -> None:
    shutil.copytree(undisturbed, rig.record)
    unpack(rig.record)
    cells = sorted((rig.record / "cells").glob("*.parquet"))
    assert len(cells) == COUNT
    truncated, emptied, other = cells[:3]
    hurt = {int(pd.read_parquet(path)["index"][0]) for path in cells[:3]}
    truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])
    emptied.write_bytes(b"")
    pd.read_parquet(other).assign(value=0.5).to_parquet(other)
    findings = {(finding.kind, finding.what) for finding in verify.verify(rig.record, rig.study).findings}
    assert findings == {("changed", f"cells/{path.name}") for path in cells[:3]}
    driver = rig.start("0", "3.4")
    out, err = driver.communicate(timeout=60)
    assert (driver.returncode, err) == (0, ""), out + err
    assert out.count("is not what was written: it will be computed again") == 3
    assert sorted(rig.computed()) == sorted(hurt)
    assert tables(rig.record) == rig.reference
    assert verify.verify(rig.record, rig.study).findings == []
    assert len(list((rig.record / "cells").iterdir())) == 1  # what lay in a file a task is packed


def unpack(record: Path) -> None:
    """A file a task, as a killed run leaves them, and as earlier versions left them in a whole record."""
    manifest, packed = Manifest.load(record), min((record / "cells").glob("*.parquet"))
    parts = rowfiles.by_task(packed)
    packed.unlink()
    del manifest.files[f"cells/{packed.name}"]
    names = [rowfiles.file_name([task]) for task, _ in parts]
    for name, (task, rows) in zip(names, parts, strict=True):
        rowfiles.write(record / "cells" / name, rows, [task])
        manifest.add_file(record, f"cells/{name}", section=ALPHA)
    for entry in manifest.sections.values():
        entry.cells = [f"cells/{name}" for name in names]
    manifest.save(record)


# Two at once ----------------------------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_and_the_first_is_not_disturbed(rig: Rig) -> None:
    first = rig.start("3.4", wait="3")
    wait_for(rig.at_gate)
    second = rig.start("3.4")
    _, err = second.communicate(timeout=60)
    assert second.returncode == 2
    assert len(err.strip().splitlines()) == 1
    assert f"process {first.pid} on " in err
    rig.open_gate()
    out, err = first.communicate(timeout=60)
    assert (first.returncode, err) == (0, ""), out + err
    rig.complete("3.4")
    assert len(rig.computed()) == COUNT


def test_of_two_runs_started_at_once_exactly_one_wins_though_others_look_at_the_record(rig: Rig) -> None:
    for again in range(3):
        rig.record.mkdir(exist_ok=True)  # `verify` can look from the beginning
        over = threading.Event()
        looking = threading.Thread(target=look, args=(rig.record, rig.study, over), daemon=True)
        looking.start()
        drivers = [rig.start("3.4", mode="wait first") for _ in range(2)]
        wait_for(lambda drivers=drivers: any(driver.poll() is not None for driver in drivers))
        wait_for(rig.at_gate)
        over.set()
        looking.join()
        loser, winner = sorted(drivers, key=lambda driver: driver.poll() is None)
        _, err = loser.communicate(timeout=60)
        assert loser.returncode == 2
        assert (
            err == f"datalab: record 'record': {told(winner)} is writing to it; wait for it, or choose another folder\n"
        )
        assert [f.detail for f in verify.verify(rig.record, rig.study).findings if f.what == BETA] == [
            f"{told(winner)} is running it"
        ]
        if again < 2:
            interrupt(winner)
            assert_interrupted(winner, "3.4")
            rig.told("interrupted", "stopped after 2 of ")
            rig.gate.unlink()
    rig.open_gate()
    out, err = winner.communicate(timeout=60)
    assert (winner.returncode, err) == (0, ""), out + err
    rig.complete("3.4")
    assert len(rig.computed()) == COUNT


def told(process: subprocess.Popen) -> str:
    return f"process {process.pid} on {os.uname().nodename}"


def look(record: Path, study: Study, over: threading.Event) -> None:
    while not over.is_set():
        verify.verify(record, study)
        time.sleep(0.002)


def test_a_notebook_session_holds_the_record_and_is_called_interrupted_when_its_kernel_is_killed(
    rig: Rig, tmp_path: Path
) -> None:
    waits = {"FAKE_LOG": str(rig.log), "FAKE_GATE": str(rig.gate), "FAKE_WAIT": "3"}
    notebook, elsewhere = rig.study.notebooks / f"{BETA}.ipynb", tmp_path / "elsewhere"
    command = [sys.executable, "-m", "papermill", *record_fakes.papermill(notebook, rig.record, *PARAMETERS)]
    elsewhere.mkdir()
    process = subprocess.Popen(
        command, cwd=elsewhere, env=os.environ | waits, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    wait_for(rig.at_gate)
    session = psutil.Process(json.loads((rig.record / ".lock").read_text())["pid"])
    _, err = rig.start("3.4").communicate(timeout=60)
    assert f"process {session.pid} on " in err
    session.kill()
    process.communicate(timeout=60)
    wait_for(lambda: not alive(session))
    assert rig.entry().status == "running"  # nobody was left to write otherwise; the reader is told the truth
    details = [finding.detail for finding in verify.verify(rig.record, rig.study).findings if finding.what == BETA]
    assert details == ["interrupted: its process is gone"]
    rig.complete("3.4")
    assert len(rig.computed()) == COUNT + 1


# The clock ------------------------------------------------------------------------------------------------------------

# Found by every Python that is started with its folder on the path: the driver, the kernel and the workers. The time of
# day goes back as fast as it should go on. ``datetime`` cannot be replaced, since C extensions know it: its method is.
BACKWARDS = """
import ctypes, datetime, gc, os, time
real, began = time.time, float(os.environ["BEGAN"])
time.time = lambda: 2 * began - real()
time.time_ns = lambda: int(time.time() * 1e9)
methods = gc.get_referents(datetime.datetime.__dict__)[0]
methods["now"] = classmethod(lambda cls, tz=None: cls.fromtimestamp(time.time(), tz))
methods["utcnow"] = classmethod(lambda cls: cls.now(datetime.timezone.utc).replace(tzinfo=None))
ctypes.pythonapi.PyType_Modified(ctypes.py_object(datetime.datetime))
"""


def test_under_a_clock_that_runs_backwards_no_duration_is_negative_and_nothing_is_run_twice(
    rig: Rig, tmp_path: Path
) -> None:
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock/sitecustomize.py").write_text(BACKWARDS)
    clock = {"PYTHONPATH": str(tmp_path / "clock"), "BEGAN": str(time.time())}
    driver = rig.start("3.4", environment=clock, wait="3")
    wait_for(rig.at_gate)
    time.sleep(1)  # times are noted to the second
    interrupt(driver, signal.SIGTERM)
    assert_interrupted(driver, "3.4")
    entry = rig.told("interrupted", "stopped after 3 of ")
    assert entry.ended < entry.started  # as it was measured
    assert entry.wall_seconds > 1
    rig.complete("3.4", environment=clock)
    entry = rig.entry()
    assert entry.ended <= entry.started
    assert entry.wall_seconds > 0
    assert entry.cpu_seconds > 0
    notebook = nbformat.read(rig.record / f"notebooks/{BETA}.ipynb", as_version=4)
    durations = [part.metadata.papermill["duration"] for part in [notebook, *notebook.cells]]
    assert min(durations) >= 0
    assert durations[0] > max(durations[1:])
    before = (rig.record / "record.json").read_bytes()
    out, _ = rig.start("3.4", environment=clock).communicate(timeout=60)
    assert "complete and unchanged, not run again" in out
    assert (rig.record / "record.json").read_bytes() == before
