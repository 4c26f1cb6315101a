"""How a section's outputs become part of a record: gathered aside while it runs, moved when it is complete."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from datalab.record import atomic, claimstable, manifest
from datalab.record.manifest import STAGING, Manifest, SectionEntry

FRAGMENT = "section.json"
PROGRESS = "progress.json"


def folder(record: Path, stem: str) -> Path:
    """Where the section ``stem`` gathers its outputs while it runs."""
    return record / STAGING / stem


def begin(record: Path, book: Manifest, stem: str, entry: SectionEntry) -> Path:
    """Enter the section as running, drop what an earlier run of it left, and return its empty staging folder."""
    discard(record, book, stem)
    book.sections[stem] = entry
    manifest.save(record, book)
    shutil.rmtree(folder(record, stem), ignore_errors=True)
    folder(record, stem).mkdir(parents=True)
    return folder(record, stem)


def discard(record: Path, book: Manifest, stem: str) -> None:
    """Delete the files a section wrote, and their entries; raw cells stay, since they are reused."""
    for path in book.files_of(stem):
        if not path.startswith("cells/"):
            (record / path).unlink(missing_ok=True)
            del book.files[path]
    for pattern in (f"{stem}.ipynb", f"{stem}.ipynb.partial", f"{stem}.failed.ipynb"):
        (record / "notebooks" / pattern).unlink(missing_ok=True)


def write_fragment(stage: Path, fragment: dict[str, Any]) -> None:
    """Leave what the finished section knows of itself for :func:`merge`."""
    atomic.write(stage / FRAGMENT, json.dumps(fragment, ensure_ascii=False))


def read_fragment(stage: Path) -> dict[str, Any] | None:
    """The fragment of a section that reached its ``finish()``; ``None`` when it did not."""
    try:
        return json.loads((stage / FRAGMENT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def merge(record: Path, book: Manifest, stem: str, fragment: dict[str, Any]) -> None:
    """Move a complete section's outputs into place and enter them, its claims and its raw cells in the manifest."""
    stage = folder(record, stem)
    for path in fragment["files"]:
        (record / path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(stage / path, record / path)
        book.add_file(record, path, section=stem, timing=path in fragment["timing"])
    for path in fragment["section"]["cells"]:
        if path not in book.files:
            book.add_file(record, path, section=stem)
    entry = book.sections[stem]
    book.sections[stem] = SectionEntry.model_validate({**entry.model_dump(), **fragment["section"]})


def close(record: Path, book: Manifest) -> None:
    """Bring what spans sections up to date (``claims.csv``, the crate) and save the manifest."""
    from datalab.record import crate

    shutil.rmtree(record / STAGING, ignore_errors=True)
    claimstable.write(record, book)
    manifest.save(record, book)
    crate.write(record, book)
    manifest.save(record, book)


def sweep_up(record: Path) -> None:
    """Remove the half-written temporary files a killed writer left behind."""
    for path in record.rglob(".*.tmp"):
        path.unlink(missing_ok=True)
