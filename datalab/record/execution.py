"""Running one notebook on a kernel of its own, and judging it by what its cells did.

The kernel is this interpreter, in a process group of its own, over private sockets.
papermill puts the parameters in; its status is not asked for: after Ctrl-C or the death of a kernel papermill writes
every cell as completed, and ``sys.exit(0)`` is a success to it.
"""

import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from datalab import atomic
from datalab.record import provenance

SAVE_EVERY = 30.0  # seconds between two saves of a notebook that runs: saving after each cell costs more than the cells
_TOO_LONG = "ran longer than"


class Execution(threading.Thread):
    """One notebook being run, in a thread of its own so that Ctrl-C reaches the driver and finds it ready.

    Its kernel is told ``environment`` besides what this process is. ``cell`` of ``cells`` code cells is running. After
    ``join``: ``notebook`` as far as it came, and ``judge()``. A code cell that runs longer than ``timeout`` seconds
    ends the notebook: its kernel is killed, not asked.
    """

    def __init__(
        self,
        source: Path,
        parameters: dict[str, Any],
        target: Path,
        environment: Mapping[str, str],
        timeout: float | None = None,
    ) -> None:
        super().__init__(daemon=True, name=f"notebook {source.stem}")
        self.kernel = Kernel({**os.environ, **provenance.kernel_environment(), **environment}, source.parent)
        self.notebook: Any = None
        self.cell = self.cells = 0
        self.target = target
        self._source, self._parameters, self._timeout = source, parameters, timeout
        self._failure = ""
        self._start = self._saved = self._cell_start = time.monotonic()  # a clock that is never set back

    def run(self) -> None:
        """Execute the notebook; whatever happens ends up in :meth:`judge`."""
        import papermill
        from nbclient import NotebookClient

        for name in ("papermill", "traitlets", "asyncio"):  # what they have to say of a kernel's death we say
            logging.getLogger(name).setLevel(logging.CRITICAL)
        client = None
        try:
            self.kernel.start()
            notebook = papermill.iorw.load_notebook_node(str(self._source))
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    cell.outputs, cell.execution_count = [], None
            given = {"kernel_name": "python3", "language": "python"}
            self.notebook = papermill.parameterize.parameterize_notebook(notebook, self._parameters, **given)
            self.cells = sum(map(_is_code, self.notebook.cells))
            for cell in self.notebook.cells:
                status, seconds = ("pending", None) if _is_code(cell) else ("completed", 0.0)
                _mark(cell, status, seconds)
            client = NotebookClient(
                self.notebook,
                km=self.kernel.manager,
                startup_timeout=120,
                timeout_func=lambda cell: self._timeout,
                raise_on_iopub_timeout=True,
                on_cell_start=self._cell_starts,
                on_cell_executed=self._cell_answered,
            )
            client.reset_execution_trackers()
            with client.setup_kernel():
                information = client.wait_for_reply(client.kc.kernel_info())
                self.notebook.metadata.language_info = information["content"]["language_info"]
                for index, cell in enumerate(self.notebook.cells):
                    client.execute_cell(cell, index)
                client.set_widgets_metadata()
        except Exception as error:  # judged by the cells; this only words the reason when no cell tells it
            self._failure = self._one_line(error)
        finally:
            if client is not None and client.kc is not None:
                client.kc.stop_channels()
            self.kernel.kill()
            words = self.kernel.last_words() if self.cell == 0 else ""
            self._failure += f" ({words})" if self._failure and words else ""
            self.kernel.close()

    def end(self) -> None:
        """Kill the kernel if it still runs, and wait for the thread to notice."""
        self.kernel.kill()
        if self.is_alive():
            self.join(timeout=30)
        self.kernel.close()

    def save(self) -> None:
        """Write the notebook as it is to the partial file; its metadata say, as papermill's, what each cell became."""
        import nbformat

        if self.notebook is not None:
            self.notebook.metadata.papermill["duration"] = round(time.monotonic() - self._start, 6)
            atomic.write(self.target, nbformat.writes(self.notebook))

    def judge(self) -> tuple[str, int, int]:
        """Why the notebook is not complete, in one line; how many code cells ran without error; how many there are.

        It is complete (no reason) when the kernel answered ``ok`` to every code cell, counted 1, 2, ..., and none shows
        an error.
        """
        if self.notebook is None:
            return self._failure or "the notebook could not be read", 0, 0
        code = [cell for cell in self.notebook.cells if _is_code(cell)]
        for position, cell in enumerate(code, 1):
            error = next((output for output in cell.outputs if output.output_type == "error"), None)
            where = f"code cell {position} of {len(code)}"
            if error is not None:
                reason = f"{where} raised " + f"{error.ename}: {error.evalue}".strip(": ").splitlines()[0]
            elif cell.metadata.papermill["status"] != "completed":
                told = self._failure or "the kernel did not answer"
                reason = f"{where} {told}" if told.startswith(_TOO_LONG) else f"stopped in {where}: {told}"
            elif cell.execution_count != position:
                reason = f"{where} has execution count {cell.execution_count}"
            else:
                continue
            return reason, position - 1, len(code)
        return self._failure, len(code), len(code)

    def _cell_starts(self, cell: Any, cell_index: int) -> None:
        if _is_code(cell):
            self.cell += 1
            self._cell_start = time.monotonic()
            _mark(cell, "failed")  # until the kernel answers otherwise: it may be killed in it
        if time.monotonic() - self._saved > SAVE_EVERY:
            with suppress(OSError):  # what this save is for comes at the end
                self.save()
            self._saved = time.monotonic()

    def _cell_answered(self, cell: Any, cell_index: int, execute_reply: dict[str, Any]) -> None:
        status = "completed" if execute_reply["content"]["status"] == "ok" else "failed"
        _mark(cell, status, round(time.monotonic() - self._cell_start, 6))

    def _one_line(self, error: Exception) -> str:
        name, text = type(error).__name__, str(error)
        if name == "CellTimeoutError" and "execution timed out" in text:
            return f"{_TOO_LONG} {self._timeout:g} s"
        lines = [line for line in text.splitlines() if line.strip()] or [name]
        return "the kernel died" if name == "DeadKernelError" else lines[0]


def _mark(cell: Any, status: str, seconds: float | None = None) -> None:
    cell.metadata.papermill = {"duration": seconds, "exception": status == "failed", "status": status}


def _is_code(cell: Any) -> bool:
    return cell.cell_type == "code" and bool(cell.source.strip())


class Kernel:
    """An IPython kernel run by this interpreter, not by whichever kernelspec is called python3.

    The ipc transport in a private folder: TCP ports collide about once in a hundred parallel starts.
    """

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        # A Unix socket's path has at most 107 characters, whatever TMPDIR says.
        long = len(tempfile.gettempdir()) > 100 - len("/datalab-12345678/kernel-ipc-5")
        self._private = Path(tempfile.mkdtemp(prefix="datalab-", dir="/tmp" if long else None))
        self._log = open(self._private / "kernel.log", "w+b")  # noqa: SIM115 - closed by close()
        self._environment, self._folder = environment, folder
        self.manager: Any = None
        self.process: psutil.Process | None = None
        self._ended = False

    def start(self) -> None:
        """Start the kernel's process. Raises ``OSError`` when the interpreter cannot be started."""
        from jupyter_client import AsyncKernelManager  # half a second that a run with nothing to do need not spend
        from jupyter_client.kernelspec import KernelSpecManager
        from jupyter_core.utils import run_sync

        where = {"transport": "ipc", "connection_file": str(self._private / "kernel.json")}
        own = KernelSpecManager(kernel_dirs=[])  # with no folder to look in, ipykernel's own: this interpreter
        self.manager = AsyncKernelManager(**where, kernel_name="python3", kernel_spec_manager=own)
        # A shell command that fails (`!command`, `%sx`) is an error of its cell, as it is under `%%bash`.
        options = ["--HistoryManager.enabled=False", "--InteractiveShell.system_raise_on_error=True"]
        told = {"env": self._environment, "cwd": str(self._folder), "stdout": self._log, "stderr": self._log}
        run_sync(self.manager.start_kernel)(**told, extra_arguments=options)
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
