"""A bar for long passes over a set, where someone is looking: at a terminal, after two seconds; silent in pipes."""

import sys
import time
from collections.abc import Iterator

from datalab.influence.sets import Batch

_PATIENCE = 2.0  # seconds
_passes = 0  # under way: one within another shows nothing


def watched(batches: Iterator[Batch], n: int, title: str) -> Iterator[Batch]:
    """The batches of n examples, with a bar on standard error where that is a terminal."""
    global _passes
    if _passes or not sys.stderr.isatty():
        yield from batches
        return
    from rich.console import Console
    from rich.progress import Progress

    started, bar = time.monotonic(), Progress(console=Console(file=sys.stderr), transient=True)
    task = bar.add_task(title, total=n)
    _passes += 1
    try:
        for batch in batches:
            if time.monotonic() - started > _PATIENCE:
                bar.start()  # once: a bar that runs stays as it is
            bar.update(task, completed=batch.start)
            yield batch
    finally:
        _passes -= 1
        bar.stop()
