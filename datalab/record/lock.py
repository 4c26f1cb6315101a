"""One writer a record: a lock that the operating system drops when its holder dies, and that names its holder."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
import time
from pathlib import Path

from datalab.errors import UserError
from datalab.record.folder import printable

NAME = ".lock"
_PATIENCE = 0.5  # seconds: who only looks whether a record is held (`verify`) takes its lock for a moment
_held: dict[Path, int] = {}  # open file descriptors


def hold(record: Path) -> None:
    """Take the lock of ``record`` for this process (again is allowed).

    Raises :class:`UserError` naming the process and host that hold it, or where the lock is a link. The folder must
    exist.
    """
    path = record.resolve() / NAME
    if path in _held:
        return
    name, deadline = printable(record.name), time.monotonic() + _PATIENCE
    with contextlib.ExitStack() as undone:
        try:
            descriptor = _opened(path, os.O_RDWR | os.O_CREAT)
            undone.callback(os.close, descriptor)
            while not _locked(descriptor, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    who = holder(record)
                    raise UserError(f"record '{name}': {who} is writing to it; wait for it, or choose another folder")
                time.sleep(0.02)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, (json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n").encode())
        except OSError as error:
            why = f"{NAME} is a link" if error.errno == errno.ELOOP else error.strerror
            raise UserError(f"record '{name}': cannot be locked ({why}); choose a folder that can be written") from None
        _held[path] = descriptor
        undone.pop_all()


def release(record: Path) -> None:
    """Give the lock back; a lock that is not held is left alone."""
    descriptor = _held.pop(record.resolve() / NAME, None)
    if descriptor is not None:
        os.close(descriptor)


def holder(record: Path) -> str:
    """``"process 123 on host"``: who wrote its name into the lock last."""
    try:
        descriptor = _opened(record.resolve() / NAME, os.O_RDONLY)
    except OSError:
        return "another process"
    try:
        who = json.loads(os.read(descriptor, 1000))
        return f"process {int(who['pid'])} on {printable(str(who['host']))[:80]}"
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return "another process"
    finally:
        os.close(descriptor)


def is_held(record: Path) -> bool:
    """Whether a living process, this one included, is writing to ``record``. Creates nothing."""
    path = record.resolve() / NAME
    if path in _held:
        return True
    try:
        descriptor = _opened(path, os.O_RDONLY)
    except OSError:  # there is none, or nobody can be writing to the record through it
        return False
    try:
        return not _locked(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _opened(path: Path, flags: int) -> int:
    """The lock's file, which must be a plain one of a single name: what is written to it is written nowhere else."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no plain file")
    return descriptor


def _locked(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
