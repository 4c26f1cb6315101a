"""A section computed anew from a record's raw rows: nothing is trained, nothing is written into the record.

The notebook that runs is the project's own, never the record's: to check a record is not to run its code. It runs cell
by cell in an IPython shell of this process, with the section's recorded parameters; ``section.sweep`` reads the raw
rows where a run would compute them.
"""

import atexit
import base64
import contextlib
import hashlib
import io
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from datalab.record import executed, folder, rawrows, section, transaction
from datalab.record.manifest import SectionRecord
from datalab.record.parameters import INJECTED, OUTSIDE
from datalab.record.progress import Progress
from datalab.record.study import Study
from datalab.sweep import Finished, Task, at_most, rowfiles

Rows = tuple[str, Finished, pd.DataFrame]  # a task's raw rows, after the file they are in
SHOWN = {"display_data": "\0display\0", "execute_result": "\0result\0"}


class ReplayError(RuntimeError):
    """The section cannot be computed from these rows by this code: why, in one line."""


class Output(NamedTuple):
    """What one code cell showed: its printed text and its warnings, with a mark (:data:`SHOWN`) where a display stands
    between them, and each display as :func:`hashed` has it, with its metadata."""

    printed: str
    warned: str
    displays: list[tuple[dict[str, str], dict[str, Any]]]


class Replay(NamedTuple):
    """A section as its raw rows give it: ``fragment`` is what ``finish()`` states, ``outputs`` are by code cell."""

    fragment: dict[str, Any]
    outputs: dict[int, Output]
    started: int  # the code cell that opened the section: it prints the machine and the folder
    tasks: dict[tuple[str, str], Task]  # that its sweeps asked for, by the path of their raw rows and the key in it
    strange: dict[str, str]  # raw rows that are not what they say, by path: why


def replay(record: Path, study: Study, stem: str, entry: SectionRecord, stage: Path) -> Replay:
    """Run the section's notebook over the raw rows of ``record``; its tables and figures are left in ``stage``.

    Raises :class:`ReplayError` when a cell raises, or asks for raw rows that the record does not have.
    """
    spec, notebook = study.find(stem), f"{stem}.ipynb"
    (rows, misnamed), shell = _raw_rows(record, entry.cells), _shell()
    opened: list[_Replayed] = []

    def opener(parameters: Any) -> section.Section:
        opened.append(_Replayed(rows, entry.device, study, spec, parameters, record, stage, driven=True))
        return opened[-1]

    known = spec.load().Parameters.model_fields
    if foreign := entry.parameters.keys() - known.keys():  # a name becomes code: take none that is not the study's
        raise ReplayError(f"the section has no parameter {min(foreign)!r}")
    given = {name: value for name, value in entry.parameters.items() if name not in ("record", "workers")}
    if outside := entry.parameters.get(OUTSIDE):
        raise ReplayError(f"it rests on a file outside of the record ({outside}), which is not read")
    given |= {"device": "cpu"} if "device" in given else {}
    if not folder.has(study.notebooks, notebook):
        raise ReplayError("the package came without its notebook")
    shell.user_ns[section.OPENER] = opener
    outputs: dict[int, Output] = {}
    with contextlib.chdir(study.notebooks), at_most():
        for number, source in enumerate(_code(executed.read(study.notebooks, notebook), given), 1):
            outputs[number] = _run(shell, number, source)
    fragment = transaction.read_fragment(stage)
    if fragment is None:
        raise ReplayError("the notebook ended without section.finish()")
    made = opened[0]
    not_asked = {
        path: f"its section does not ask for the rows of {finished.function} {finished.key}"
        for path, finished, _ in rows.values()
        if (path, finished.key) not in made.tasks
    }
    return Replay(fragment, outputs, made.number, made.tasks, made.strange | not_asked | misnamed)


def hashed(data: Mapping[str, Any]) -> dict[str, str]:
    """A display by media type: a text as it is, a picture as the hash of its bytes, which a file holds as base64."""
    display = {}
    for kind, value in data.items():
        content = "".join(value) if isinstance(value, list) else value
        if kind.startswith("image/") and kind != "image/svg+xml":
            content = content if isinstance(content, bytes) else base64.b64decode(content.strip(), validate=True)
            display[kind] = hashlib.sha256(content).hexdigest()
        else:
            display[kind] = content if isinstance(content, str) else json.dumps(content)
    return display


class _Replayed(section.Section):
    """A section that reads its raw rows where another runs its sweeps."""

    def __init__(self, rows: dict[str, Rows], device: str, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._rows, self._device = rows, "cpu" if device == "cpu" else "cuda"
        self.number = self._cell_number()
        self.tasks: dict[tuple[str, str], Task] = {}
        self.strange: dict[str, str] = {}

    def sweep(self, tasks: Any) -> pd.DataFrame:
        """The raw rows of these tasks, in their order; shown is what a finished sweep leaves."""
        frames, tasks = [], list(tasks)
        different = {task.key: task for task in tasks}
        Progress(self._stage / transaction.PROGRESS)(len(different), len(different))
        for task in different.values():
            name = _maker(task.function, task.parameters)
            if name not in self._rows:
                raise ReplayError(f"the record has no raw rows of {task.function} ({task.label})")
            path, finished, frame = self._rows[name]
            self._cells[path] = None
            if "device" in task.parameters:
                task = Task(task.function, task.parameters | {"device": self._device}, task.cost, task.models)
            held, due = finished.parameters.get("device"), task.parameters.get("device")
            if held != due:
                self.strange[path] = f"says that it was made on {held}, and its section on {due}"
            if why := _not_of(task, frame):
                self.strange[path] = why
            self.tasks[path, finished.key] = task
            frames.append(frame)
        return self._kept(pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(), tasks)


def _not_of(task: Task, frame: pd.DataFrame) -> str:
    """Why these cannot be the rows of the task: they say of its data set, its seed and the like that it is another."""
    for name, value in task.parameters.items():
        if (isinstance(value, str) or name == "seed") and name in frame:
            others = frame[name][frame[name] != value]
            if len(others):
                return f"its rows are of {name} {str(others.iloc[0])[:80]}, and it says {value}"
    return ""


def _raw_rows(record: Path, paths: list[str]) -> tuple[dict[str, Rows], dict[str, str]]:
    """Some raw rows by what made them; and of the files that are not called as their tasks ask, what they have."""
    rows: dict[str, Rows] = {}
    misnamed = {}
    reader = rawrows.Reader()
    for path in dict.fromkeys(paths):
        try:
            parts = reader.by_task(folder.inside(record, path))
        except ValueError as error:
            raise ReplayError(str(error)) from None
        if (due := rowfiles.file_name([finished for finished, _ in parts])) != path.removeprefix("cells/"):
            misnamed[path] = f"its rows are those of {due}"
        for finished, frame in parts:
            maker = _maker(finished.function, finished.parameters)
            if maker in rows:
                raise ReplayError(f"{path} and {rows[maker][0]} are of the same task")
            rows[maker] = path, finished, frame
    return rows, misnamed


def _maker(function: str, parameters: Mapping[str, Any]) -> str:
    """What made some raw rows, as one text: function and parameters, on whichever device."""
    kept = {name: value for name, value in parameters.items() if name != "device"}
    return json.dumps([function, kept], sort_keys=True)


def _code(notebook: executed.Notebook, given: dict[str, Any]) -> Iterator[str]:
    """The notebook's code cells, with the recorded parameters in a cell after its own, as papermill does."""
    for cell in notebook.cells:
        if cell.is_code:
            yield cell.source
        if "parameters" in cell.tags:
            yield "\n".join([INJECTED, *(f"{name} = {value!r}" for name, value in given.items())])


def _shell() -> Any:
    """A fresh IPython shell that keeps what it is asked to show."""
    from IPython.core.displayhook import DisplayHook
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    class Hook(DisplayHook):
        def write_output_prompt(self) -> None:
            pass

        def write_format_data(self, format_dict: dict[str, Any], md_dict: Any = None) -> None:
            self.shell.display_pub.outputs.append({"data": format_dict, "metadata": md_dict, "is": "execute_result"})

    class Shell(InteractiveShell):
        kernel = None  # by which datalab knows a notebook

    InteractiveShell.clear_instance()
    Shell.clear_instance()
    without_history = Config(HistoryManager={"enabled": False})
    shell = Shell.instance(config=without_history, display_pub_class=CapturingDisplayPublisher, displayhook_class=Hook)
    atexit.unregister(shell.atexit_operations)  # which keeps every shell, with all its names, until the process ends
    return shell


class _Displays(list):
    """What a cell displays, which leaves its mark in what it prints."""

    def append(self, shown: dict[str, Any]) -> None:
        super().append(shown)
        for stream in (sys.stdout, sys.stderr):
            stream.write(SHOWN[shown.get("is", "display_data")])


def _run(shell: Any, number: int, source: str) -> Output:
    shell.display_pub.outputs = _Displays()
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(io.StringIO()) as warned:
        result = shell.run_cell(source, store_history=True)
    error = result.error_before_exec or result.error_in_exec
    if isinstance(error, ReplayError):
        raise error
    if error is not None:
        raise ReplayError(f"code cell {number} raised {folder.in_a_line(error)}")
    displays = [(hashed(shown["data"]), shown.get("metadata") or {}) for shown in shell.display_pub.outputs]
    return Output(printed.getvalue(), warned.getvalue(), displays)
