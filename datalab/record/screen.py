"""What ``datalab run`` shows: the plan with its time, one line that moves while a notebook runs, and the end."""

import sys
import time
from collections.abc import Sequence
from typing import Any

from datalab.record.manifest import SectionEntry
from datalab.record.plan import Job
from datalab.record.progress import line, span

EVERY = 15.0  # seconds between two progress lines where there is no terminal to redraw one


class Screen:
    """Writes to the terminal, or line by line to a log."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
        self._status: Any = None
        self._last = self._began = 0.0

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, markup=False)

    def plan(self, jobs: Sequence[Job], missing: Sequence[str]) -> None:
        """The jobs with their expected cost, and the data sets to fetch first."""
        from rich.table import Table

        table = Table("section", "notebook", "what runs", "time", "memory", box=None, pad_edge=False)
        for job in jobs:
            cost = job.estimate
            memory = f"{cost.memory / 2**30:.1f} GiB"
            table.add_row(job.section.number, job.section.stem, cost.what, f"about {span(cost.seconds)}", memory)
        self.console.print(table)
        total = sum(job.estimate.seconds for job in jobs)
        self.say(f"Estimated time in all: about {span(total)}. Finished cells of an earlier run are reused.")
        if missing:
            self.say(f"Data sets to fetch first: {', '.join(missing)}")

    def skipped(self, job: Job) -> None:
        """A section that is complete and unchanged."""
        self.say(f"{job.section.number:<4} {job.section.stem}: complete and unchanged, not run again")

    def begin(self, job: Job) -> None:
        """A notebook starts."""
        self._last = self._began = time.monotonic()
        self.say(f"{job.section.number:<4} {job.section.stem}: running, about {span(job.estimate.seconds)}")
        if self.console.is_terminal:
            self._status = self.console.status("starting the kernel")
            self._status.start()

    def tick(self, job: Job, cell: int, cells: int, state: dict[str, Any]) -> None:
        """The running notebook's state: code cell ``cell`` of ``cells``, and its sweep's."""
        now = time.monotonic()
        text = f"{job.section.stem}  code cell {cell} of {cells}" if cells else f"{job.section.stem}  starting"
        if state and state.get("done", 0) < state.get("total", 0):
            text += f"  sweep: {line(state)}"
        if self._status is not None:
            from rich.markup import escape

            self._status.update(escape(f"{text}  {span(now - self._began)}"))
        elif now - self._last >= EVERY:
            self._last = now
            self.say(f"     {span(now - self._began):>12}  {text}")

    def end(self, job: Job, entry: SectionEntry) -> None:
        """A notebook has ended, one way or the other."""
        if self._status is not None:
            self._status.stop()
            self._status = None
        took = "" if entry.status == "not run" else f" in {span(time.monotonic() - self._began)}"
        reason = f": {entry.reason}" if entry.reason else ""
        self.say(f"{job.section.number:<4} {job.section.stem}: {entry.status}{took}{reason}")

    def headline(self, entry: SectionEntry) -> None:
        """What a section asked to be printed at the end."""
        from rich.table import Table

        for part in entry.headline:
            if "text" in part:
                self.say(part["text"])
                continue
            table = Table(*part["columns"], title=part["caption"] or None, title_justify="left", box=None)
            for row in part["rows"]:
                table.add_row(*row)
            self.console.print(table)
