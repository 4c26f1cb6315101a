"""What the tests of faults share: the ``datalab`` command over the fake sections as a process of its own, and a small
disk that can be filled and made read-only."""

import ctypes
import io
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import nbformat
import psutil
import pytest
import record_fakes

from datalab import cli
from datalab.record import execution, section
from datalab.record.checks import verify
from datalab.record.manifest import Manifest, SectionRecord
from datalab.sweep import rowfiles

COUNT = 6
PARAMETERS = ("-p", "count", str(COUNT))


class Rig:
    """The ``datalab`` command. ``record`` is the folder it is told, ``seen`` where this process finds it."""

    def __init__(self, folder: Path, reference: dict[str, bytes]) -> None:
        self.record = self.seen = folder / "record"
        self.log, self.gate, self.reference = folder / "log", folder / "gate", reference
        self.study = record_fakes.study(record_fakes.write_notebooks(folder / "notebooks"))
        self.within: Sequence[str] = ()  # a command that runs a command, in a mount namespace for instance
        self.started: list[subprocess.Popen] = []

    def start(
        self,
        *names: str,
        workers: int = 1,
        more: Sequence[str] = PARAMETERS,
        weak: bool = False,
        environment: dict[str, str] | None = None,
        terminal: int = subprocess.PIPE,
        **fault: str,
    ) -> subprocess.Popen:
        """``datalab run``; ``fault`` is what :mod:`record_fakes` is told, ``weak`` for one whom file modes bind."""
        command = ["run", *names, "--profile", "smoke", "--to", str(self.record), "--workers", str(workers), *more]
        told = {f"FAKE_{name.upper()}": value for name, value in fault.items()}
        return self.call(command, told | (environment or {}), weak, terminal)

    def call(
        self, command: Sequence[str], environment: dict[str, str], weak: bool = False, terminal: int = subprocess.PIPE
    ) -> subprocess.Popen:
        """Any ``datalab`` command, in a process group of its own, as a terminal starts it."""
        program = [*self.within, sys.executable, str(record_fakes.HERE / "record_fakes.py"), str(self.study.notebooks)]
        path = [environment.get("PYTHONPATH"), str(record_fakes.HERE), os.environ.get("PYTHONPATH")]
        environment = environment | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
        environment |= {"FAKE_LOG": str(self.log), "FAKE_GATE": str(self.gate)}
        process = subprocess.Popen(
            [*program, *command],
            env=os.environ | environment,
            stdout=terminal,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=weak_and_hearing if weak else hearing,
        )
        self.started.append(process)
        return process

    def ran_here(self, *names: str, workers: int = 1, more: Sequence[str] = PARAMETERS) -> tuple[str, str]:
        """``datalab run`` in this process, without a fault: what it printed, and its errors."""
        command = ["run", *names, "--profile", "smoke", "--to", str(self.record), "--workers", str(workers), *more]
        with (
            pytest.MonkeyPatch.context() as patch,
            redirect_stdout(io.StringIO()) as out,
            redirect_stderr(io.StringIO()) as err,
            suppress(SystemExit),
        ):
            patch.setenv("FAKE_LOG", str(self.log))
            cli.main(command, study=self.study)
        return out.getvalue(), err.getvalue()

    def end(self) -> None:
        """Leave no process behind, whatever a failed test has left."""
        left = [psutil.Process(process.pid) for process in self.started if process.poll() is None]
        left = [member for process in left for member in family(process)]
        for process in filter(alive, left):
            process.kill()

    def complete(self, *names: str, **how: object) -> None:
        """The third truth. The same command again ends well, with the tables of a run that was never disturbed, and
        computes nothing again that was finished."""
        kept, before = self.finished(), Counter(self.computed())
        if self.within or "environment" in how:  # a disk that only another process sees, or an environment of its own
            out, err = self.start(*names, **how).communicate(timeout=120)
        else:
            out, err = self.ran_here(*names, **how)
        assert err == "", out + err
        assert out.count(": complete") == len(names), out
        assert verify.verify(self.seen, self.study).findings == []
        stems = {section.stem for section in record_fakes.SECTIONS if section.number in names}
        assert {path.name for path in (self.seen / "notebooks").iterdir()} == {f"{stem}.ipynb" for stem in stems}
        prefixes = tuple(f"{name.replace('.', '_')}_" for name in names)
        expected = {name: content for name, content in self.reference.items() if name.startswith(prefixes)}
        assert tables(self.seen) == expected
        after = Counter(self.computed())
        assert set(after) == set(range(COUNT))
        assert {cell: after[cell] for cell in kept} == {cell: before[cell] for cell in kept}

    def told(self, status: str, reason: str, stem: str = "3_4_beta", room: bool = True) -> SectionRecord:
        """The first two truths. The record and ``verify`` say of the section what happened to it, and nothing else.

        As far as it came the notebook is there, and says of each cell what became of it: where there was ``room``.
        """
        manifest = Manifest.load(self.seen)
        entry = manifest.sections[stem]
        assert entry.status == status, entry
        assert reason in entry.reason
        assert "\n" not in entry.reason
        assert manifest.closed or not room
        findings = verify.verify(self.seen, self.study).findings
        assert {finding.kind for finding in findings} == {"incomplete"}
        assert [finding.detail for finding in findings if finding.what == stem] == [f"{status}: {entry.reason}"]
        saved = {path.name for path in (self.seen / "notebooks").glob(f"{stem}*")}
        assert saved == ({f"{stem}.{status}.ipynb"} if room and entry.code_cells else set())
        if saved:
            notebook = nbformat.read(self.seen / f"notebooks/{stem}.{status}.ipynb", as_version=4)
            statuses = [cell.metadata.papermill["status"] for cell in notebook.cells if cell.cell_type == "code"]
            ran, rest = entry.code_cells_ran, entry.code_cells - entry.code_cells_ran
            assert statuses[:ran] + statuses[ran + 1 :] == ["completed"] * ran + ["pending"] * (rest - 1)
            between_cells = status == "interrupted" or ran == 0
            assert statuses[ran] == "failed" or (between_cells and statuses[ran] == "pending")
        return entry

    def at_gate(self) -> list[int]:
        """The processes that have come to the gate, see :mod:`record_fakes`."""
        return [int(line) for line in self.gate.read_text().split()] if self.gate.exists() else []

    def open_gate(self) -> None:
        self.gate.with_suffix(".open").touch()

    def computed(self) -> list[int]:
        """The cells computed so far, repeats included."""
        return [int(line) for line in self.log.read_text().split()] if self.log.exists() else []

    def finished(self) -> set[int]:
        """The cells whose rows can be read."""
        files = [rowfiles.by_task(path) for path in (self.seen / "cells").glob("*.parquet")]
        return {int(index) for parts in filter(None, files) for _, frame in parts for index in frame["index"]}

    def entry(self, stem: str = "3_4_beta") -> SectionRecord:
        return Manifest.load(self.seen).sections[stem]

    def running(self) -> bool:
        return (self.seen / Manifest.NAME).exists() and self.entry().status == "running"

    def kernel(self) -> psutil.Process:
        given = {section.RECORD: str(self.record.resolve())}
        wait_for(lambda: self.running() and list(execution.started_with(given)))
        return next(execution.started_with(given))


class Disk:
    """A disk of 16 MB of its own, in a mount namespace that goes when its holder does."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        user = [] if os.geteuid() == 0 else ["--map-root-user"]
        script = 'mount -t tmpfs -o size=16m none "$0" && echo ready && exec sleep 600'
        command = ["unshare", "--mount", *user, "sh", "-c", script, str(folder)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        try:
            self.holder = subprocess.Popen(command, **pipes)
        except FileNotFoundError:
            pytest.skip("a disk of one's own needs util-linux (unshare, nsenter)")
        if self.holder.stdout.readline() != "ready\n":
            pytest.skip(f"this system lets nobody mount a disk: {self.holder.communicate()[1].strip()}")
        pid, user = self.holder.pid, ["--user", "--preserve-credentials"] if user else []
        self.within = ["nsenter", "--target", str(pid), "--mount", *user]
        self.told, self.seen = folder, Path(f"/proc/{pid}/root") / folder.relative_to("/")

    def carry(self, rig: Rig) -> None:
        """Let the record lie on this disk."""
        rig.record, rig.seen, rig.within = self.told / "record", self.seen / "record", self.within

    def fill(self) -> None:
        """Leave no byte."""
        with open(self.seen / "ballast", "wb", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(bytes(65536))

    def free(self) -> None:
        (self.seen / "ballast").unlink()

    def close_for_writing(self) -> None:
        subprocess.run([*self.within, "mount", "-o", "remount,ro", str(self.told)], check=True)

    def remove(self) -> None:
        self.holder.kill()
        self.holder.communicate()


def hearing() -> None:
    """As a terminal starts a command: born deaf are, to Ctrl-C, what a script starts in the background, and, to a
    terminal's end, what `nohup` starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def weak_and_hearing() -> None:
    hearing()
    bound_by_file_modes()


def bound_by_file_modes() -> None:
    """In a child before its program: give up what lets root write where the modes forbid it (CAP_DAC_OVERRIDE)."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP; whoever is not root has nothing to give up


def tables(record: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((record / "tables").iterdir())}


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def wait_for(what: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(map(alive, processes))


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
