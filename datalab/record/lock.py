"""One writer a record: a lock that the operating system drops when its holder dies, and that names its holder."""

import contextlib
import errno
import fcntl
import json
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from datalab.errors import UserError
from datalab.record import folder
from datalab.record.folder import printable

NAME = ".lock"
_WRITTEN = re.compile(rb'(\{"pid": \d{1,10}, "host": "[\w.-]{0,255}"\}\n)?')
_PATIENCE = 0.5  # seconds: who only looks whether a record is held (`verify`) takes its lock for a moment
_held: dict[Path, contextlib.ExitStack] = {}  # open files


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
            descriptor = undone.enter_context(_opened(path, os.O_RDWR | os.O_CREAT))
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
        _held[path] = undone.pop_all()
    folder.delete_unfinished(record)  # of a killed writer, or planted by a stranger for the next


def release(record: Path) -> None:
    """Give the lock back; a lock that is not held is left alone."""
    if held := _held.pop(record.resolve() / NAME, None):
        held.close()


def holder(record: Path) -> str:
    """``"process 123 on host"``: who wrote its name into the lock last."""
    try:
        with _opened(record.resolve() / NAME, os.O_RDONLY) as descriptor:
            who = json.loads(os.read(descriptor, 1000))
        return f"process {int(who['pid'])} on {printable(str(who['host']))[:80]}"
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return "another process"


def is_plain(record: Path) -> bool:
    """Whether the lock's file holds no more than who held it last."""
    with contextlib.suppress(OSError), _opened(record / NAME, os.O_RDONLY) as descriptor:
        return _WRITTEN.fullmatch(os.read(descriptor, 1000)) is not None
    return False


def is_held(record: Path) -> bool:
    """Whether a living process, this one included, is writing to ``record``. Creates nothing."""
    path = record.resolve() / NAME
    if path in _held:
        return True
    with contextlib.suppress(OSError), _opened(path, os.O_RDONLY) as descriptor:
        return not _locked(descriptor, fcntl.LOCK_SH)
    return False  # there is none, or nobody can be writing to the record through it


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """The lock's file, which must be a plain one of a single name: what is written to it is written nowhere else."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise OSError(errno.EINVAL, "is no plain file")
        yield descriptor
    finally:
        os.close(descriptor)


def _locked(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
