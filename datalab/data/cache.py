"""Where downloaded and derived files live, and how a file gets there whole or not at all."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile

import filelock
import numpy as np
import platformdirs

from datalab import atomic
from datalab.errors import UserError


def folder() -> Path:
    """The cache folder: ``DATALAB_CACHE`` where it is set, else the platform's cache folder for ``datalab``.

    The folder need not exist yet. Raises :class:`UserError` when ``DATALAB_CACHE`` is not an absolute path, or is a
    file, or cannot be written.
    """
    named = os.environ.get("DATALAB_CACHE", "").strip()
    if not named:
        return platformdirs.user_cache_path("datalab")
    path = Path(named).expanduser()
    if not path.is_absolute():
        raise UserError(
            f"DATALAB_CACHE={named}: a relative path would move with the working directory; give a full one"
        )
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not existing.is_dir():
        raise UserError(f"DATALAB_CACHE={named}: {existing} is a file; name a folder, existing or new")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"DATALAB_CACHE={named}: {existing} cannot be written; name a folder you can write to")
    return path


def subfolder(name: str) -> Path:
    """A subfolder of the cache, created when missing. Raises :class:`UserError` when it cannot be created."""
    path = folder() / name
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cache folder {path}: {error.strerror}; set DATALAB_CACHE to a folder you can write to"
        ) from None
    return path


def store(file: Path, **arrays: np.ndarray) -> None:
    """Write arrays to a file of the cache."""
    with atomic.replacing(file) as partial, partial.open("wb") as out:
        np.savez(out, **arrays)


def stored(file: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a file; None where there is none, or a damaged one, which is removed to be computed again."""
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, BadZipFile):
        file.unlink(missing_ok=True)
        return None


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the cache's lock called ``name``: a second process waits for the first."""
    with filelock.FileLock(subfolder("locks") / f"{name}.lock"):
        yield


def sha256(raw: bytes) -> str:
    """The SHA-256 of ``raw``, in hexadecimal."""
    return hashlib.sha256(raw).hexdigest()
