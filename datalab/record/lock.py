"""One writer a record: a lock that the operating system drops when its holder dies, and that names its holder."""

import json
import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

from datalab.errors import UserError

NAME = ".lock"
_PATIENCE = 0.5  # seconds: who only looks whether a record is held (`verify`) takes its lock for a moment
_held: dict[Path, FileLock] = {}


def hold(record: Path) -> None:
    """Take the lock of ``record`` for this process (again is allowed).

    Raises :class:`UserError` naming the process and host that hold it. The folder must exist.
    """
    path = (record / NAME).resolve()
    if path in _held:
        return
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=_PATIENCE, poll_interval=0.02)
        path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n")
    except Timeout:
        raise UserError(
            f"record '{record.name}': {holder(record)} is writing to it; wait for it, or choose another folder"
        ) from None
    except OSError as error:
        lock.release()
        raise UserError(
            f"record '{record}': cannot be locked ({error.strerror}); choose a folder that can be written"
        ) from None
    _held[path] = lock


def release(record: Path) -> None:
    """Give the lock back; a lock that is not held is left alone."""
    path = (record / NAME).resolve()
    if lock := _held.pop(path, None):
        lock.release()


def holder(record: Path) -> str:
    """``"process 123 on host"``: who wrote its name into the lock last."""
    try:
        who = json.loads((record / NAME).read_text())
        return f"process {who['pid']} on {who['host']}"
    except (OSError, ValueError, KeyError):
        return "another process"


def is_held(record: Path) -> bool:
    """Whether a living process, this one included, is writing to ``record``. Creates nothing."""
    path = (record / NAME).resolve()
    if path in _held:
        return True
    if not path.exists():
        return False
    lock = FileLock(path, thread_local=False)
    try:
        with lock.acquire(blocking=False):
            return False
    except Timeout:
        return True
    except OSError:  # a read-only record: nobody can be writing to it through this file
        return False
