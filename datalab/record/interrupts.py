"""Ctrl-C, SIGTERM and SIGHUP as one thing: it stops what may be stopped, and waits for what must not be torn."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupts:
    """Raises ``KeyboardInterrupt`` once, on the first signal; inside :meth:`deferred` only where it is asked for.

    What comes after the first changes nothing: an interruption that is being handled is neither torn nor cut short.
    """

    def __init__(self) -> None:
        self.arrived = self._raised = self._deferred = False

    def _on_signal(self, *_: Any) -> None:
        self.arrived = True
        if not self._deferred:
            self.check()

    def check(self) -> None:
        """Raise, if a signal has arrived and nothing was raised for it yet."""
        if self.arrived and not self._raised:
            self._raised = True
            raise KeyboardInterrupt

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Handle the signals inside the block; afterwards every handler is what it was. Main thread only."""
        numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let the block come to its end, or to a :meth:`check`, before an interruption is raised."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        self.check()
