"""How far a sweep is: one updating display in the notebook, and a small file that ``datalab run`` reads to show it."""

import contextvars
import json
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from datalab import atomic

EVERY = 0.5  # seconds between two updates; a notebook keeps every output it is sent
TICK = 1.0  # seconds between two of its clock alone
BAR = 20  # letters
MARK = {"datalab": "progress"}  # metadata of the display, by which a reader of the notebook knows it


class Progress:
    """The callback ``sweep.run`` calls with ``(done, total, failed, text, ahead)``.

    As a context it also moves its clock between two calls, in a notebook that a reader watches.
    """

    def __init__(self, file: Path):
        self._file = file
        self._handle: Any = None
        self._state: dict[str, Any] = {}
        self._shown, self._began = 0.0, time.monotonic()
        self._over, self._lock = threading.Event(), threading.Lock()

    def __enter__(self) -> "Progress":
        threading.Thread(target=contextvars.copy_context().run, args=(self._tick,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        with self._lock:
            self._over.set()

    def _tick(self) -> None:
        while not self._over.wait(TICK):
            with self._lock:
                if self._handle is not None and not self._over.is_set():
                    self._show()

    def __call__(self, done: int, total: int, failed: int = 0, text: str = "", ahead: float = 0.0) -> None:
        """Show that ``done`` of ``total`` tasks are there, ``failed`` of them without a result.

        What is left takes about ``ahead`` times as long as what was run took: tasks of one sweep differ in length, and
        the longest are begun first.
        """
        with self._lock:
            self._state = {"done": done, "total": total, "failed": failed, "text": text, "ahead": ahead}
            if done < total and time.monotonic() - self._shown < EVERY:
                return
            self._shown = time.monotonic()
            self._show()
            with suppress(OSError):  # on a full disk: how far a sweep is is not worth a task of it
                atomic.write(self._file, json.dumps(self._state))

    def _show(self) -> None:
        self._state["took"] = round(time.monotonic() - self._began, 1)
        content = {"text/plain": line(self._state)}
        if self._handle is not None:
            self._handle.update(content, raw=True, metadata=MARK)
        elif ipython():
            from IPython.display import display

            self._handle = display(content, raw=True, display_id=True, metadata=MARK)


def line(state: dict[str, Any]) -> str:
    """``"━━━━━━────────────── 12 of 40 tasks, 1 failed, 13 s, about 30 s left: mnist5k mlp: 1.1 s"``.

    Of a finished sweep the count is left: a record holds no clock.
    """
    done, total, failed, last = (state[name] for name in ("done", "total", "failed", "text"))
    text = f"{done} of {total} tasks" + (f", {failed} failed" if failed else "")
    if done + failed >= total:
        return text
    filled = BAR * done // total
    text = f"{'━' * filled}{'─' * (BAR - filled)} {text}, {span(state['took'] + state.get('since', 0.0))}"
    if state["ahead"]:
        text += f", about {span(state['took'] * state['ahead'])} left"
    return text + (f": {last}" if last else "")


def read(file: Path) -> dict[str, Any]:
    """What the running sweep wrote last, and how many seconds ago (``since``); empty when no sweep runs."""
    try:
        return json.loads(file.read_text()) | {"since": max(0.0, time.time() - file.stat().st_mtime)}
    except (OSError, ValueError):
        return {}


def span(seconds: float) -> str:
    """``"45 s"``, ``"3 min 20 s"``, ``"2 h 05 min"``."""
    seconds = round(seconds)
    if seconds < 100:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def ipython() -> Any:
    """The running notebook's shell, or ``None`` outside a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell if shell is not None and hasattr(shell, "kernel") else None


def some(count: int, what: str) -> str:
    """A count of things named in the singular."""
    return f"{count} {what}{'s' * (count != 1)}"
