"""Running one notebook through papermill, and judging it by what its cells did, never by papermill's own status.

After Ctrl-C or the death of a kernel papermill writes every cell as completed, and ``sys.exit(0)`` is a success to it.
Here a cell has run when the kernel answered that it ran, without an error; a notebook is complete when every code cell
has, in order.
"""

import logging
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datalab import atomic
from datalab.record import provenance, section
from datalab.record.kernel import Kernel

SAVE_EVERY = 30.0  # seconds between two saves of a notebook that runs: saving after each cell costs more than the cells
_ENGINE = "datalab"
_TOO_LONG = "ran longer than"


@dataclass(frozen=True)
class ExecutionResult:
    """Whether a notebook is complete; else why not, in one line. ``ran`` of ``cells`` code cells ran without error."""

    complete: bool
    reason: str
    ran: int
    cells: int


class Execution(threading.Thread):
    """One notebook being run, in a thread of its own so that Ctrl-C reaches the driver and finds it ready.

    ``cell`` of ``cells`` code cells is running. After ``join``: ``notebook`` as far as it came, and ``judge()``.
    A code cell that runs longer than ``timeout`` seconds ends the notebook: its kernel is killed, not asked.
    """

    def __init__(
        self,
        source: Path,
        parameters: dict[str, Any],
        record: Path,
        stage: Path,
        target: Path,
        python: str,
        timeout: float | None = None,
    ) -> None:
        super().__init__(daemon=True, name=f"notebook {source.stem}")
        environment = os.environ | provenance.DETERMINISM | {section.RECORD: str(record), section.STAGE: str(stage)}
        self.kernel = Kernel(environment, source.parent, python)
        self.notebook: Any = None
        self.cell = self.cells = 0
        self.stem, self.target, self.timeout = source.stem, target, timeout
        self._source, self._parameters = source, parameters
        self._replies: dict[int, str] = {}
        self._began: dict[int, float] = {}
        self._took: dict[int, float] = {}  # seconds, by the clock that is never set
        self._failure = ""
        self._start = self._saved = time.monotonic()

    def run(self) -> None:
        """Execute the notebook; whatever happens ends up in :meth:`judge`."""
        import papermill

        for name in ("papermill", "traitlets", "asyncio"):  # what they have to say of a kernel's death we say
            logging.getLogger(name).setLevel(logging.CRITICAL)
        _register_engine()
        try:
            self.kernel.start()
            papermill.execute_notebook(
                str(self._source).replace("{", "{{").replace("}", "}}"),
                None,
                parameters=self._parameters,
                engine_name=_ENGINE,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                request_save_on_cell_execute=False,
                execution=self,
            )
        except Exception as error:  # judged by the cells; this only words the reason when no cell tells it
            self._failure = self._one_line(error)
        finally:
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
        """Write the notebook as it is to the partial file."""
        import nbformat

        if self.notebook is not None:
            self._tell_the_truth()
            atomic.write(self.target, nbformat.writes(self.notebook))

    def judge(self) -> ExecutionResult:
        """What the cells say."""
        if self.notebook is None:
            return ExecutionResult(False, self._failure or "the notebook could not be read", 0, 0)
        return judge(self.notebook, self._replies, self._failure)

    # Called by the engine below.
    def cell_starts(self, cell: Any, cell_index: int, **_: Any) -> None:
        if is_code(cell):
            self.cell += 1
            self._began[id(cell)] = time.monotonic()
        if time.monotonic() - self._saved > SAVE_EVERY:
            with suppress(OSError):  # what this save is for comes at the end
                self.save()
            self._saved = time.monotonic()

    def cell_answered(self, cell: Any, cell_index: int, execute_reply: dict[str, Any]) -> None:
        self._replies[id(cell)] = execute_reply["content"]["status"]
        self._took[id(cell)] = time.monotonic() - self._began[id(cell)]

    def _tell_the_truth(self) -> None:
        """Replace what papermill wrote about each cell, and the machine's paths, by what happened.

        Its durations too: they are differences of the wall clock, which may be set back meanwhile.
        """
        name = self.target.name.removesuffix(".partial")
        about = self.notebook.metadata.get("papermill", {})
        about |= {"input_path": f"notebooks/{name}", "output_path": f"notebooks/{name}"}
        about["duration"] = round(time.monotonic() - self._start, 6)
        replies = {id(cell): self._status(cell) for cell in self.notebook.cells if is_code(cell)}
        about["exception"] = any(status != "ok" for status in replies.values()) or None
        for cell in self.notebook.cells:
            if "papermill" not in cell.metadata:
                continue
            took = self._took.get(id(cell)) if is_code(cell) else 0.0
            cell.metadata.papermill["duration"] = None if took is None else round(took, 6)
            if is_code(cell):
                status = replies[id(cell)]
                cell.metadata.papermill["status"] = {"ok": "completed", None: "pending"}.get(status, "failed")
                cell.metadata.papermill["exception"] = status not in ("ok", None)

    def _status(self, cell: Any) -> str | None:
        """What the kernel answered; ``None`` for a cell not reached. The one it was killed in has failed."""
        killed = "killed" if id(cell) in self._began and not self.is_alive() else None
        return self._replies.get(id(cell), killed)

    def _one_line(self, error: Exception) -> str:
        name, text = type(error).__name__, str(error)
        if name == "CellTimeoutError" and "execution timed out" in text:
            return f"{_TOO_LONG} {self.timeout:g} s"
        lines = [line for line in text.splitlines() if line.strip()] or [name]
        return "the kernel died" if name == "DeadKernelError" else lines[0]


def judge(notebook: Any, replies: dict[int, str], failure: str = "") -> ExecutionResult:
    """Judge an executed notebook: every code cell answered ``ok`` by the kernel, counted 1, 2, ..., without an error.

    ``replies`` maps ``id(cell)`` to the status the kernel answered; ``failure`` words what stopped the run.
    """
    code = [cell for cell in notebook.cells if is_code(cell)]
    ran = 0
    for position, cell in enumerate(code, 1):
        error = next((output for output in cell.outputs if output.output_type == "error"), None)
        where = f"code cell {position} of {len(code)}"
        if error is not None:
            what = f"{error.ename}: {error.evalue}".strip(": ").splitlines()[0]
            return ExecutionResult(False, f"{where} raised {what}", ran, len(code))
        if replies.get(id(cell)) != "ok":
            if failure.startswith(_TOO_LONG):
                return ExecutionResult(False, f"{where} {failure}", ran, len(code))
            what = f"stopped in {where}" if cell.execution_count or ran == position - 1 else f"never reached {where}"
            return ExecutionResult(False, f"{what}: {failure or 'the kernel did not answer'}", ran, len(code))
        if cell.execution_count != position:
            return ExecutionResult(False, f"{where} has execution count {cell.execution_count}", ran, len(code))
        ran += 1
    return ExecutionResult(not failure, failure, ran, len(code))


def is_code(cell: Any) -> bool:
    """Whether a cell is one the kernel is asked to run."""
    return cell.cell_type == "code" and bool(cell.source.strip())


def _register_engine() -> None:
    """Teach papermill an engine that runs on our kernel and tells our execution what the kernel answers."""
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, execution: Execution, **_: Any) -> None:
            execution.notebook = nb_man.nb
            execution.cells = sum(map(is_code, nb_man.nb.cells))
            client = PapermillNotebookClient(
                nb_man,
                km=execution.kernel.manager,
                kernel_name=kernel_name,
                startup_timeout=120,
                timeout_func=lambda cell: execution.timeout,
            )
            client.log.setLevel(logging.CRITICAL)
            client.on_cell_start = execution.cell_starts
            client.on_cell_executed = execution.cell_answered
            try:
                client.execute()
            finally:
                if client.kc is not None:
                    client.kc.stop_channels()

    papermill_engines.register(_ENGINE, Engine)
