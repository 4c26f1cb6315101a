"""One notebook kernel: this interpreter, in a process group of its own, over private sockets."""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

# jupyter_client is imported where it is used: it takes half a second that a run with nothing to do need not spend.


class Kernel:
    """An IPython kernel run by ``python`` (default: this interpreter), not by whichever kernelspec is called python3.

    The ipc transport in a private folder: TCP ports collide about once in a hundred parallel starts.
    """

    def __init__(self, environment: dict[str, str], folder: Path, python: str = sys.executable) -> None:
        self._private = Path(_private_folder())
        self._log = open(self._private / "kernel.log", "w+b")  # noqa: SIM115 - closed by close()
        self._environment, self._folder, self._python = environment, folder, python
        self.connection = str(self._private / "kernel.json")
        self.manager: Any = None
        self.process: psutil.Process | None = None
        self._ended = False

    def start(self) -> None:
        """Start the kernel's process. Raises ``OSError`` when the interpreter cannot be started."""
        from jupyter_client import AsyncKernelManager
        from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
        from jupyter_core.utils import run_sync

        argv = [self._python, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--HistoryManager.enabled=False"]
        # A shell command that fails (`!command`, `%sx`) is an error of its cell, as it is under `%%bash`.
        argv += ["--InteractiveShell.system_raise_on_error=True"]
        spec = KernelSpec(argv=argv, display_name="Python 3", language="python")

        class ThisInterpreter(KernelSpecManager):
            def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
                return spec

        self.manager = AsyncKernelManager(
            transport="ipc",
            connection_file=self.connection,
            kernel_name="python3",
            kernel_spec_manager=ThisInterpreter(),
        )
        run_sync(self.manager.start_kernel)(
            env=self._environment, cwd=str(self._folder), stdout=self._log, stderr=self._log
        )
        with suppress(psutil.Error):
            self.process = psutil.Process(self.manager.provisioner.pid)
        if self._ended:  # the driver gave up while the process was being started
            self.kill()

    def kill(self) -> None:
        """End the kernel and every process it started, at once. Safe to call twice and from another thread."""
        self._ended = True
        if self.process is not None:
            kill_group(self.process)

    def last_words(self) -> str:
        """The last line the kernel's process wrote outside the notebook: why it could not start, for instance."""
        self._log.flush()
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def close(self) -> None:
        """Kill what still lives and remove the private folder."""
        self.kill()
        self._log.close()
        shutil.rmtree(self._private, ignore_errors=True)


def kill_group(process: psutil.Process) -> None:
    """Kill a kernel with its process group (its sweep's workers are in it) and wait until all are gone."""
    family = []
    with suppress(psutil.Error):
        family = process.children(recursive=True)
    with suppress(ProcessLookupError, PermissionError, psutil.Error):
        # A kernel leads a group of its own; never signal the group of whoever asked.
        if process.is_running() and os.getpgid(process.pid) == process.pid != os.getpgid(0):
            os.killpg(process.pid, signal.SIGKILL)
    for member in [*family, process]:
        with suppress(psutil.Error):
            member.kill()
    psutil.wait_procs([*family, process], timeout=5)


def started_with(environment: Mapping[str, str]) -> Iterator[psutil.Process]:
    """The kernels of this user that were started with this ``environment``.

    A process's own environment tells, and nothing that a record says: that may be a stranger's.
    """
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if "ipykernel_launcher" in process.cmdline() and environment.items() <= process.environ().items():
                yield process


def _private_folder() -> str:
    folder = tempfile.mkdtemp(prefix="datalab-")
    if len(folder) <= 100 - len("/kernel-ipc-5"):  # a Unix socket's path has at most 107 characters
        return folder
    shutil.rmtree(folder)
    return tempfile.mkdtemp(prefix="datalab-", dir="/tmp")  # short, whatever TMPDIR says
