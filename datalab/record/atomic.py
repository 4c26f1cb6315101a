"""Files that are whole or absent: written under a temporary name, then renamed; and the hash that tells them apart."""

import hashlib
import os
from pathlib import Path


def write(path: Path, content: bytes | str, durable: bool = False) -> None:
    """Write ``content`` to ``path`` so that a reader sees the old file or the new one, never half of it.

    With ``durable`` the bytes are on disk before the rename (the manifest needs that; a table does not).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
