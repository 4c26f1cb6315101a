"""Running one notebook on a kernel of its own, and judging it by what its cells did.

papermill puts the parameters in; its status is not asked for: after Ctrl-C or the death of a kernel papermill writes
every cell as completed, and ``sys.exit(0)`` is a success to it.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from datalab import atomic
from datalab.record import provenance
from datalab.record.kernel import Kernel

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
        python: str,
        timeout: float | None = None,
    ) -> None:
        super().__init__(daemon=True, name=f"notebook {source.stem}")
        self.kernel = Kernel({**os.environ, **provenance.kernel_environment(), **environment}, source.parent, python)
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
            self._run_cells(client)
        except Exception as error:  # judged by the cells; this only words the reason when no cell tells it
            self._failure = self._one_line(error)
        finally:
            if client is not None and client.kc is not None:
                client.kc.stop_channels()
            self.kernel.kill()
            words = self.kernel.last_words() if self.cell == 0 else ""
            self._failure += f" ({words})" if self._failure and words else ""
            self.kernel.close()

    def _run_cells(self, client: Any) -> None:
        client.reset_execution_trackers()
        with client.setup_kernel():
            information = client.wait_for_reply(client.kc.kernel_info())
            self.notebook.metadata.language_info = information["content"]["language_info"]
            for index, cell in enumerate(self.notebook.cells):
                client.execute_cell(cell, index)
            client.set_widgets_metadata()

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
