"""How far a sweep is: one updating display in the notebook, and a small file that ``datalab run`` reads to show it."""

import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from datalab import atomic

EVERY = 0.5  # seconds between two updates; a notebook keeps every output it is sent
BAR = 20  # letters
MARK = {"datalab": "progress"}  # metadata of the display, by which a reader of the notebook knows it


class Progress:
    """The callback ``sweep.run`` calls with ``(done, total, failed, text)``."""

    def __init__(self, file: Path):
        self._file = file
        self._handle: Any = None
        self._last = 0.0
        self._began, self._before = time.monotonic(), 0  # tasks that were finished before

    def __call__(self, done: int, total: int, failed: int = 0, text: str = "") -> None:
        """Show that ``done`` of ``total`` tasks are there, ``failed`` of them without a result."""
        now = time.monotonic()
        if not self._last:
            self._before = done
        elif now - self._last < EVERY and done < total:
            return
        self._last = now
        took = round(now - self._began, 1)
        state = {"done": done, "total": total, "failed": failed, "text": text, "new": done - self._before, "took": took}
        with suppress(OSError):  # on a full disk: how far a sweep is is not worth a task of it
            atomic.write(self._file, json.dumps(state))
        content = {"text/plain": line(state)}
        if self._handle is not None:
            self._handle.update(content, raw=True, metadata=MARK)
        elif ipython():
            from IPython.display import display

            self._handle = display(content, raw=True, display_id=True, metadata=MARK)


def line(state: dict[str, Any]) -> str:
    """``"━━━━━━────────────── 12 of 40 tasks, 1 failed, 13 s, about 30 s left: mnist5k mlp: 1.1 s"``.

    Of a finished sweep the count and the last task are left: a record holds no clock.
    """
    done, total, failed, last = (state[name] for name in ("done", "total", "failed", "text"))
    count = f"{done} of {total} tasks"
    text = count + (f", {failed} failed" if failed else "")
    if done + failed < total:
        filled = BAR * done // total
        text = f"{'━' * filled}{'─' * (BAR - filled)} {text}, {span(state['took'])}"
        if state["new"]:
            text += f", about {span(state['took'] / state['new'] * (total - done))} left"
    return text + (f": {last}" if last and not last.startswith(count) else last.removeprefix(count))


def read(file: Path) -> dict[str, Any]:
    """What the running sweep wrote last; empty when no sweep runs."""
    try:
        return json.loads(file.read_text())
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
