"""A record's folder, which may be a stranger's: whatever is opened, moved or deleted in it is so through here.

:func:`foreign` looks at the whole folder before anything in it is read (``Manifest.read`` and ``verify`` ask it);
:func:`inside` gives no path that leaves it; what is read is measured first. Nobody is expected to change the folder
while it is being read.
"""

import hashlib
import json
import os
import resource
import shutil
import signal
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pydantic

from datalab import atomic
from datalab.errors import UserError

LARGEST = 64 * 2**20  # bytes of a file that is read as a whole; the largest of a real record has one
DEEPEST, MOST_PARTS = 40, 300_000  # lists and objects of JSON in one another; what they have in all
_FOLDERS, _FILES = 6, 1_000_000  # folders in one another, files in all
_LARGEST, _BYTES = 2**28, 2**33  # bytes of any file, and of all: a sparse one costs a stranger nothing
_LONGEST = 255  # bytes of a name, as file systems have it
# What computing a section, and all pages, may take: the largest of a real record takes a hundredth of it. Bytes.
MOST_SECONDS, MOST_PAGES_SECONDS, MOST_MEMORY = 600, 3600, 8 * 2**30


def printable(text: str) -> str:
    """``text`` with whatever does not print as its escape: a line a stranger wrote moves no cursor and adds no line.

    Control characters, terminal escapes, marks that turn the direction of writing, halves of a surrogate pair.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class Strange(UserError):
    """A file of the record is not what it must be: why, in one line."""


class Form(pydantic.BaseModel):
    """What a part of such a file must be: these fields, of these types, and no others."""

    model_config = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def misfit(error: Exception) -> str:
    """Why a file cannot be read, in a line: of all that has not its form the first, and where it stands."""
    if not isinstance(error, pydantic.ValidationError):
        return printable(str(error).partition("\n")[0])[:200]
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{printable(place)[:100]}: {printable(first['msg'])[:200]}"


def foreign(record: Path) -> Iterator[tuple[str, str]]:
    """What in the folder no record has, and why: links, devices, names that do not print. No link is followed."""
    errors: list[OSError] = []
    count = held = 0
    for place, folders, files in os.walk(record, onerror=errors.append):
        count += len(folders) + len(files)
        if count > _FILES:
            yield _name(record, place), f"the folder holds more than {_FILES:,} files"
            return
        for path in sorted(os.path.join(place, name) for name in folders + files):
            name, status = _name(record, path), os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                yield name, "is a link, and a record has none"
            elif not os.path.basename(path).isprintable():
                yield name, "its name does not print"
            elif stat.S_ISDIR(status.st_mode):
                if name.count("/") == _FOLDERS - 1:
                    yield name, f"is more than {_FOLDERS} folders deep"
                    folders.clear()
            elif not stat.S_ISREG(status.st_mode):
                yield name, "is no file, but a device or a pipe"
            elif status.st_size > _LARGEST:
                yield name, f"has {status.st_size / 2**20:,.0f} MiB, and no file of a record more than {_LARGEST >> 20}"
            elif (held := held + status.st_size) > _BYTES:
                yield name, f"with it the folder holds more than {_BYTES >> 30} GiB"
                return
    for error in errors:
        if not isinstance(error, FileNotFoundError):  # the record itself is not there
            yield _name(record, error.filename), f"cannot be read ({error.strerror})"


def _name(record: Path, path: str) -> str:
    return printable(os.path.relpath(path, record))


def check(record: Path) -> None:
    """Raise :class:`UserError`, naming the first of them, where :func:`foreign` finds something."""
    for name, why in foreign(record):
        raise UserError(f"record '{printable(str(record))}': {name} {why}")


def is_inner(path: str) -> bool:
    """Whether a path, as a manifest writes it, can only lead into the record: relative, plain, no hidden name."""
    parts = path.split("/")
    plain = all(part and part[0] != "." and len(part.encode(errors="replace")) <= _LONGEST for part in parts)
    # "%", "?" and "#" would lead a page's link to another place than the file.
    return plain and path.isprintable() and not {*path} & {*"\\%?#"} and len(parts) <= _FOLDERS


def inside(record: Path, path: str) -> Path:
    """Where ``path`` lies in the record. Raises :class:`Strange` where it leads out of it, or over a link."""
    if not is_inner(path):
        raise Strange(f"'{printable(path)[:80]}' is no path in a record")
    whole = record / path
    for place in (whole, *whole.parents):
        if place == record:
            return whole
        if place.is_symlink():
            raise Strange(f"'{path}' leads over a link")
    raise Strange(f"'{path}' is not in the record")


def size(record: Path, path: str) -> int | None:
    """The size in bytes of a plain file of the record; ``None`` where there is none."""
    try:
        status = os.lstat(inside(record, path))
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def has(record: Path, path: str) -> bool:
    """Whether the record has the file."""
    return size(record, path) is not None


@contextmanager
def _opened(record: Path, path: str) -> Iterator[Any]:
    descriptor = os.open(inside(record, path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Strange(f"{path} is no file")
        yield stream


def sha256(record: Path, path: str) -> str:
    """The SHA-256 of a file's bytes, as hex."""
    with _opened(record, path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read(record: Path, path: str) -> bytes:
    """A file's bytes. Raises ``OSError``, and :class:`Strange` where there are more than :data:`LARGEST`."""
    with _opened(record, path) as stream:
        if (bytes_ := os.fstat(stream.fileno()).st_size) > LARGEST:
            raise Strange(f"{path} has {bytes_ / 2**20:,.0f} MiB, and the largest that is read has {LARGEST >> 20}")
        return stream.read(LARGEST)


def read_text(record: Path, path: str) -> str:
    """The same as text, in UTF-8."""
    return read(record, path).decode("utf-8")


def read_json(record: Path, path: str) -> Any:
    """A file's JSON. Raises ``OSError`` and ``ValueError``, the latter for NaN, half a surrogate pair and depth too."""
    return parsed(read_text(record, path))


def parsed(text: str) -> Any:
    """JSON as :func:`read_json` takes it."""
    if sum(map(text.count, "[{,")) > MOST_PARTS:
        raise Strange(f"its JSON has more than {MOST_PARTS:,} parts")
    try:
        tree = json.loads(text, object_pairs_hook=_object)
        json.dumps(tree, ensure_ascii=False, allow_nan=False).encode()  # ValueError for NaN and half a surrogate pair
    except RecursionError:
        raise Strange("its JSON is too deep") from None
    containers, depth = [[tree]], 0
    while containers := [part for held in containers for part in _parts(held) if isinstance(part, dict | list)]:
        depth += 1
        if depth > DEEPEST:
            raise Strange("its JSON is too deep")
    return tree


def _parts(held: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return held.values() if isinstance(held, dict) else held


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Each name once: of two another reader may take the other."""
    tree = dict(pairs)
    if len(tree) < len(pairs):
        raise Strange("its JSON has a name twice in one object")
    return tree


def delete(record: Path, path: str) -> None:
    """Delete a file, if it is there."""
    inside(record, path).unlink(missing_ok=True)


def delete_tree(record: Path, name: str) -> None:
    """Delete a folder of the record with all that is in it, if it is there; of a link, only itself. ``name``: no path.

    The staging folder's name is a hidden one, which no manifest can name.
    """
    place = record / name
    if "/" in name or name in ("", ".", ".."):
        raise Strange(f"'{printable(name)}' is no folder of a record")
    if place.is_symlink() or place.is_file():
        place.unlink()
    else:
        shutil.rmtree(place, ignore_errors=True)


def empty(record: Path, kept: str) -> None:
    """Delete all that is in the folder but the file ``kept``; of a link, only itself."""
    for entry in list(os.scandir(record)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        elif entry.name != kept:
            os.unlink(entry.path)


def delete_unfinished(record: Path) -> None:
    """Delete the temporary files that a killed writer left anywhere in the record (:mod:`datalab.atomic`)."""
    for path in map(record.joinpath, walk(record)):
        if path.name.startswith(".") and path.name.endswith(atomic.SUFFIX):
            path.unlink(missing_ok=True)


def names(record: Path, name: str) -> list[str]:
    """The paths of the plain files that lie in one folder of the record, sorted; none where there is no such folder."""
    place = inside(record, name)
    if not place.is_dir():
        return []
    return sorted(f"{name}/{entry.name}" for entry in os.scandir(place) if entry.is_file(follow_symlinks=False))


def walk(record: Path) -> list[str]:
    """The paths of all files of the record, sorted, and of empty folders, ending in ``/``; no link is followed."""
    found = []
    for place, folders, files in os.walk(record, followlinks=False):
        inner = Path(place).relative_to(record)
        found += [(inner / file).as_posix() for file in files]
        found += [f"{inner.as_posix()}/"] * (not folders and not files)
    return sorted(found)


def move(stage: Path, path: str, record: Path) -> None:
    """Move a file from where it was made to the same place in the record."""
    target = inside(record, path)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(inside(stage, path), target)


@contextmanager
def reading(record: Path) -> Iterator[None]:
    """Turn whatever a record's content brings about in the block into one line that says so.

    A record's files are a stranger's text: what they can break is not known in advance. The cause stays attached.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt, BrokenPipeError):
        raise
    except Exception as error:
        words = f"record '{printable(str(record))}': cannot be read ({in_a_line(error)}); see: datalab verify"
        raise UserError(words) from error


@contextmanager
def bounded(seconds: float = MOST_SECONDS) -> Iterator[None]:
    """Let nothing in a stranger's record make the block endless: it may take so many seconds and 8 GiB, and no more.

    Raises :class:`UserError`, or ``MemoryError``. Outside of the main thread there is no bound to the time. A block in
    this one ends with it.
    """

    def late(*_: Any) -> None:
        raise UserError(f"it takes more than {seconds / 60:g} minutes, and no honest one does")

    memory = resource.getrlimit(resource.RLIMIT_DATA)
    timed = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, late) if timed else None
    outer, began = signal.getitimer(signal.ITIMER_REAL) if timed else (0.0, 0.0), time.monotonic()
    try:
        limit_memory()
        if timed:
            # Again and again: what the block calls may catch the first as any error, and go on.
            whole = min(seconds, outer[0] or seconds)
            signal.setitimer(signal.ITIMER_REAL, whole, min(whole, 1.0))
        yield
    finally:
        if timed:
            signal.signal(signal.SIGALRM, signal.SIG_IGN)  # so that none comes in between
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            if outer[0]:
                signal.setitimer(signal.ITIMER_REAL, max(outer[0] - (time.monotonic() - began), 0.001), outer[1])
        resource.setrlimit(resource.RLIMIT_DATA, memory)


def limit_memory() -> None:
    """Let this process take :data:`MOST_MEMORY` more than it holds, and no more; no limit that it has is raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    held = getattr(psutil.Process().memory_info(), "data", 0)
    most = min((held + MOST_MEMORY, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)))
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def in_a_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says, as they print."""
    first = (str(error).splitlines() or [""])[0]
    return printable(f"{type(error).__name__}: {first}")[:300]


def named(path: Path) -> Path:
    """A folder or file that a user names. Raises :class:`UserError` where no file system could hold it."""
    text = str(path)
    if len(os.fsencode(text)) > 3000 or any(len(os.fsencode(part)) > _LONGEST for part in path.parts):
        raise UserError(f"path '{printable(text)[:40]}…': too long; choose a shorter one")
    if not text.isprintable():
        raise UserError(f"path '{printable(text)[:80]}': it holds what does not print; choose a plain name")
    return path
