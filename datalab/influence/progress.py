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
    started, bar = time.monotonic(), None
    _passes += 1
    try:
        for batch in batches:
            if bar is None and time.monotonic() - started > _PATIENCE:
                bar = _started()
                task = bar.add_task(title, total=n)
            if bar is not None:
                bar.update(task, completed=batch.start)
            yield batch
    finally:
        _passes -= 1
        if bar is not None:
            bar.stop()


def _started():
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(file=sys.stderr), transient=True)
    bar.start()
    return bar
