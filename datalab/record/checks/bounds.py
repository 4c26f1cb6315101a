"""What computing a stranger's record may take, in time and in memory."""

import contextlib
import resource
import signal
import threading
from collections.abc import Iterator
from typing import Any

from datalab.errors import UserError

# Of a section, and of all pages: the largest of a real record takes a hundredth of it. Bytes.
MOST_SECONDS, MOST_PAGES_SECONDS, MOST_MEMORY = 600, 3600, 8 * 2**30


@contextlib.contextmanager
def bounded(seconds: float = MOST_SECONDS) -> Iterator[None]:
    """Let nothing in a stranger's record make the block endless: it may take so many seconds and 8 GiB, and no more.

    Raises :class:`UserError`, or ``MemoryError``. Outside of the main thread there is no bound to the time.
    """
    import psutil

    def late(*_: Any) -> None:
        raise UserError(f"it takes more than {seconds / 60:g} minutes, and no honest one does")

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    held = getattr(psutil.Process().memory_info(), "data", 0)  # what is there already is not the block's
    most = min((held + MOST_MEMORY, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)))
    timed = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, late) if timed else None
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
        if timed:
            signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
