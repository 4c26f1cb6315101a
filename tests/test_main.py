"""The installed command: what reads a record may crash, or block, and takes nothing with it."""

import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[1]


def started(does: str, *arguments: str, **how: object) -> subprocess.Popen:
    """The command in a session of its own, in which ``does`` stands for what it does with its arguments."""
    program = f"import datalab.__main__ as m, sys; m.PATIENCE = 1; m._main = lambda: ({does}); m.program()"
    command = [sys.executable, "-c", program, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipes, **how)


def test_a_record_that_crashes_its_reader_is_told_in_a_line() -> None:
    process = started("__import__('os').abort()", "verify", "record")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.startswith("datalab: what read the record was ended by SIGABRT")
    assert said.count("\n") == 1


def test_a_reader_that_hears_no_interrupt_is_ended_with_all_it_started(tmp_path: Path) -> None:
    """Of Ctrl-C, which the terminal sends to both: native code that never returns, and a process beside it."""
    child = tmp_path / "child"
    deaf = "signal.signal(signal.SIGINT, signal.SIG_IGN)"
    does = f"(signal := __import__('signal'), sub := __import__('subprocess'), {deaf}, "
    does += f"open({str(child)!r}, 'w').write(str(sub.Popen(['sleep', '300']).pid)), __import__('time').sleep(300))"
    process = started(does, "report", "record")
    while not (child.exists() and child.read_text()):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    with suppress(psutil.NoSuchProcess):  # or not yet buried
        assert psutil.Process(int(child.read_text())).status() == psutil.STATUS_ZOMBIE


def test_a_reader_may_hold_only_so_much_memory() -> None:
    process = started("bytearray(9 * 2**30)", "claims")
    _, said = process.communicate(timeout=60)
    assert "MemoryError" in said
    assert process.returncode == 1


def test_a_reader_keeps_a_lower_limit_that_it_was_started_with() -> None:
    """Before: it was raised to 8 GiB."""
    own = 6 * 2**30
    asked = "print(__import__('resource').getrlimit(__import__('resource').RLIMIT_DATA)[0])"
    process = started(asked, "claims", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (own, -1)))
    said, _ = process.communicate(timeout=60)
    assert int(said) == own


@pytest.mark.parametrize(("arguments", "status"), [(("verify", "no/such/record"), 2), (("claims", "T1.full.f1"), 0)])
def test_its_words_and_status_are_the_commands(arguments: tuple[str, ...], status: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "datalab", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert ("there is no such folder" in done.stderr) == bool(status)


AS_A_SIGNAL = "os.kill(os.getpid(), signal.SIGINT)"


@pytest.mark.parametrize(
    ("command", "loading", "happens"),
    [
        ("plan", "datalab.cli", AS_A_SIGNAL),
        ("advise", "torch", f"""
            try:
                {AS_A_SIGNAL}
            except KeyboardInterrupt:
                pass  # as libraries' callbacks do"""),
        ("datasets", "datalab.data", "exec('raise KeyboardInterrupt')"),  # as a dataclass is made
    ],
)  # fmt: skip
def test_ctrl_c_while_a_command_is_loaded_is_a_line_and_130(
    command: str, loading: str, happens: str, tmp_path: Path
) -> None:
    """Before: the first second or two of a command ended in a traceback, by the signal, or not at all."""
    (tmp_path / "interrupted.py").write_text(f"""
import os, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == {loading!r}:
            {happens}
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is born deaf to it
sys.meta_path.insert(0, Finder())
sys.argv[1:] = [{command!r}]
import datalab.__main__ as m
m.program()
""")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    done = subprocess.run([sys.executable, "-m", "interrupted"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (130, "datalab: interrupted")
