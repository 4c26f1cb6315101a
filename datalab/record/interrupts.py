"""Ctrl-C, SIGTERM and SIGHUP as one thing: it stops what may be stopped, and waits for what must not be torn."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupts:
    """Raises ``KeyboardInterrupt`` on a signal; inside :meth:`deferred` only when the block is done."""

    def __init__(self) -> None:
        self._waiting = False
        self._deferred = 0

    def _arrived(self, *_: Any) -> None:
        if not self._deferred:
            raise KeyboardInterrupt
        self._waiting = True

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Handle the signals inside the block; afterwards every handler is what it was. Main thread only."""
        numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
        before = {number: signal.signal(number, self._arrived) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let the block come to its end before an interruption is raised."""
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1
        if self._waiting and not self._deferred:
            self._waiting = False
            raise KeyboardInterrupt
