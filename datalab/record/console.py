"""What the commands print: lines and tables as wide as the terminal; of a run its plan, its progress and its end."""

import errno
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datalab.record.folder import printable
from datalab.record.manifest import SectionRecord
from datalab.record.plan import Job
from datalab.record.progress import line, span

LOG_WIDTH = 120  # columns of a table where there is no terminal to ask
NO_SPACE = "datalab: no space left for what it prints"
EVERY = 15.0  # seconds between two progress lines where there is no terminal to redraw one


class RunConsole:
    """Writes to the terminal, no wider than it or ``COLUMNS``; to a log, line by line."""

    def __init__(self) -> None:
        self._width = shutil.get_terminal_size((0, 0)).columns  # 0: it is a log
        self.console = Console(highlight=False, width=self._width or LOG_WIDTH)
        self._status: Any = None
        self._last = self._began = 0.0

    def say(self, text: str, wrap: bool = True) -> None:
        """One line of plain text, folded where it is too wide; what a record says in it moves no cursor."""
        text = printable(text)
        hang = " " * (len(text) - len(text.lstrip()) + 2)
        fold = textwrap.TextWrapper(self._width, subsequent_indent=hang, break_long_words=False, break_on_hyphens=False)
        lines = fold.wrap(text) if wrap and self._width else [text]
        self._try(self.console.print, "\n".join(lines), markup=False, soft_wrap=True)

    def lines(self, texts: Iterable[str]) -> None:
        """Each as :meth:`say` has it."""
        for text in texts:
            self.say(text)

    def _try(self, show: Callable[..., Any], *what: Any, **how: Any) -> None:
        """Show something; a terminal or ``| tee`` that has gone, or a full disk, costs the lines and never the run."""
        try:
            show(*what, **how)
        except (OSError, SystemExit) as error:  # rich leaves the program when the pipe is broken
            self.console.quiet = True
            if getattr(error, "errno", None) == errno.ENOSPC:
                print(NO_SPACE, file=sys.stderr)
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def waiting(self, what: str) -> AbstractContextManager[Any]:
        """On a terminal, that ``what`` is under way, for as long as it is; a log is spared it."""
        return self.console.status(what) if self.console.is_terminal else nullcontext()

    def plan(self, planned: dict[str, Any]) -> None:
        """What :func:`datalab.record.plan.as_dict` says: the jobs with their cost, and the data sets to fetch first."""
        rows = []
        for job in planned["notebooks"]:
            words = (job["notebook"], job["what"], f"{job['models']:,}" if job["models"] else "–", span(job["seconds"]))
            rows.append((*words, f"{job['memory_bytes'] / 2**30:.1f} GiB"))
        self.table(("notebook", "what runs", "models", "time", "memory"), rows)
        took = span(planned["seconds"])
        self.say(f"Estimated time in all: about {took}, less what an earlier run into the same record has finished.")
        if missing := planned["missing_datasets"]:
            self.say(f"Data sets to fetch first: {', '.join(missing)}")

    def work(self, planned: dict[str, Any]) -> None:
        """The different tasks and models of the jobs, in core-hours; in GPU-hours where there is a GPU to measure."""
        from datalab.sweep import machine_speed

        hours = planned["core_seconds"] / 3600
        work = f"{planned['tasks']:,} different tasks, {planned['models']:,} models, {_hours(hours)} core-hours"
        self.say(f"Work: {work} at this core's pace")
        gpu = "not estimated, since there is no CUDA device here to measure on"
        if measured := machine_speed.gpu():
            name, cores = measured
            gpu = f"{_hours(hours / cores)} on {name}, which trains MLPs as fast as {cores:.0f} cores here"
        self.say(f"GPU-hours: {gpu}")

    def fetching(self, package: str, done: int, total: int) -> None:
        """A package of data sets is being fetched, after ``done`` of ``total``; no name where all are there."""
        if package:
            self.say(f"     fetching {package} ({done + 1} of {total})")

    def begin(self, job: Job) -> None:
        """A notebook starts."""
        self._last = self._began = time.monotonic()
        self.say(f"{job.section.number:<4} {job.section.stem}: running, about {span(job.estimate.seconds)}")
        if self.console.is_terminal:
            self._status = self.console.status("starting the kernel")
            self._try(self._status.start)

    def tick(self, job: Job, cell: int, cells: int, state: dict[str, Any]) -> None:
        """The running notebook's state: code cell ``cell`` of ``cells``, and its sweep's."""
        now = time.monotonic()
        text = f"{job.section.stem}  code cell {cell} of {cells}" if cells else f"{job.section.stem}  starting"
        if state and state["done"] < state["total"]:
            text += f"  sweep: {line(state)}"
        if self._status is not None:
            self._status.update(escape(f"{text}  {span(now - self._began)}"))
        elif now - self._last >= EVERY:
            self._last = now
            self.say(f"     {span(now - self._began):>12}  {text}")

    def end(self, job: Job, entry: SectionRecord) -> None:
        """A notebook has ended, one way or the other."""
        if self._status is not None:
            self._try(self._status.stop)
            self._status = None
        took = "" if entry.status == "not run" else f" in {span(time.monotonic() - self._began)}"
        reason = f": {entry.reason}" if entry.reason else ""
        self.say(f"{job.section.number:<4} {job.section.stem}: {entry.status}{took}{reason}")

    def summary(self, entries: Sequence[SectionRecord], record: str) -> None:
        """What the sections asked to be printed at the end, and where to look."""
        for entry in entries:
            for part in entry.headline:
                for text in plain(part.get("text", "")):
                    self.say(f"{entry.number:<4} {text}")
                if part.get("caption"):
                    self.say(f"{entry.number:<4} {part['caption']}")
                if "columns" in part:
                    self._headline(part["columns"], part["rows"])
        self.say(f"Executed notebooks: {record}/notebooks   tables: {record}/tables   verdicts: {record}/claims.csv")
        self.say(f"Check the record with: datalab verify {record}")

    def answer(self, entry: SectionRecord | None) -> None:
        """What a record's first section calls the answer, if it is there."""
        for part in entry.headline if entry else ():
            for text in plain(part["text"]) if part.get("answer") else ():
                self.say(text)

    def _headline(self, columns: list[str], rows: list[list[str]]) -> None:
        widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
        if sum(widths) + 2 * len(widths) <= self.console.width:
            self.table(columns, rows)
            return
        for first, *others in rows:  # too wide to read as a grid: a block a row
            self.say(f"  {first}")
            self.table((), [("   ", *pair) for pair in zip(columns[1:], others, strict=True)])

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Rows under the names of their columns, if they have any."""
        table = Table(*map(escape, columns), box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=bool(columns))
        for row in rows:
            table.add_row(*(escape(printable(str(value))) for value in row))
        self._try(self.console.print, table)


def plain(text: str) -> list[str]:
    """The lines of a Markdown text without its marks."""
    text = re.sub(r"\[([^\[\]]+)\]\([^)]*\)|\*\*(.+?)\*\*|`([^`]+)`", r"\1\2\3", text)
    return [line for line in (re.sub(r"^(#+|[-*>]) ", "", line) for line in text.splitlines()) if line.strip()]


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"
