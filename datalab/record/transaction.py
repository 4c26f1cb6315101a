"""How a section's outputs become part of a record: gathered aside while it runs, moved when it is complete."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datalab import atomic
from datalab.errors import UserError
from datalab.record import claims_table, crate, provenance
from datalab.record.manifest import Manifest, SectionRecord
from datalab.record.study import SectionSpec, Study

STAGING = ".partial"  # outputs of the section that runs now; they move into place when it is complete
FRAGMENT = "section.json"
PROGRESS = "progress.json"
ROOM, ROOM_BYTES = "room", 8 * 2**20  # more than a manifest, its claims and crate and an executed notebook together
OUTPUTS = ("notebooks", "tables", "figures")
INDEX, REPORT = "index.html", "report"  # the record's pages


def open_manifest(record: Path, study: Study, profile: str) -> Manifest:
    """The manifest of a record to be written to; a new one where there is none.

    Raises :class:`UserError` when it cannot be read or the record holds another profile.
    """
    if not (record / Manifest.NAME).exists():
        return Manifest.create(profile, study)
    manifest = Manifest.load(record)
    if manifest.profile != profile:
        name = provenance.shown(record)
        raise UserError(f"record '{name}' holds profile '{manifest.profile}', not '{profile}'; choose another")
    return manifest


def begin(record: Path, manifest: Manifest, section: SectionSpec, **known: Any) -> Path:
    """Enter the section as running, drop what an earlier run of it left and the pages, and return its staging folder.

    ``known`` is what else its entry says. The manifest comes first: where it cannot be written nothing is dropped, and
    ``manifest`` is what it was.
    """
    before = dict(manifest.sections), dict(manifest.files), manifest.closed
    left = [*_outputs(manifest, section.stem), *filter(is_page, manifest.files)]
    known |= {"status": "running", "started": provenance.now(), "process": provenance.process()}
    manifest.sections[section.stem] = SectionRecord(number=section.number, title=section.title, **known)
    manifest.files = {path: file for path, file in manifest.files.items() if path not in left}
    manifest.closed = False
    try:
        manifest.save(record)
    except OSError:
        manifest.sections, manifest.files, manifest.closed = before
        raise
    for path in left:
        (record / path).unlink(missing_ok=True)
    stage = record / STAGING / section.stem
    shutil.rmtree(record / REPORT, ignore_errors=True)
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    return stage


def discard(record: Path, manifest: Manifest, stem: str) -> None:
    """Delete the files a section wrote, and their entries; raw cells stay, since they are reused."""
    _drop(record, manifest, _outputs(manifest, stem))


def _outputs(manifest: Manifest, stem: str) -> list[str]:
    return [path for path in manifest.files_of(stem) if not path.startswith("cells/")]


def _drop(record: Path, manifest: Manifest, paths: Iterable[str]) -> None:
    """Delete these files of the record, and their entries."""
    for path in list(paths):
        (record / path).unlink(missing_ok=True)
        del manifest.files[path]


def hold_room(record: Path) -> None:
    """Hold back some room while a notebook runs, so that on a full disk the record can still say what happened.

    Raises ``OSError`` when there is none to hold.
    """
    atomic.write(record / STAGING / ROOM, bytes(ROOM_BYTES))


def give_room(record: Path) -> None:
    """Give back what :func:`hold_room` took."""
    (record / STAGING / ROOM).unlink(missing_ok=True)


def drop_report(record: Path, manifest: Manifest) -> None:
    """Delete the pages of the record, and their entries: they tell of what is no more, or are about to be renewed."""
    _drop(record, manifest, filter(is_page, manifest.files))
    shutil.rmtree(record / REPORT, ignore_errors=True)
    (record / INDEX).unlink(missing_ok=True)


def is_page(path: str) -> bool:
    """Whether a file of the record is one of its pages."""
    return path == INDEX or path.startswith(f"{REPORT}/")


def read_fragment(stage: Path) -> dict[str, Any] | None:
    """What a section that reached its ``finish()`` left for :func:`merge`; ``None`` when it did not."""
    try:
        return json.loads((stage / FRAGMENT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def merge(record: Path, manifest: Manifest, stem: str, fragment: dict[str, Any]) -> None:
    """Move a complete section's outputs into place and enter them, its claims and its raw cells in the manifest.

    Its raw cells that no section's grid asks for any more, another code's or other parameters', are deleted.
    """
    stage = record / STAGING / stem
    for path in fragment["files"]:
        (record / path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(stage / path, record / path)
        manifest.add_file(record, path, section=stem, timing=path in fragment["timing"])
    entry = manifest.sections[stem].model_dump() | fragment["section"]
    manifest.sections[stem] = SectionRecord.model_validate(entry)
    for path in entry["cells"]:
        manifest.add_file(record, path, section=stem)
    used = {path for section in manifest.sections.values() for path in section.cells}
    cells = (path for path in manifest.files_of(stem) if path.startswith("cells/"))
    _drop(record, manifest, (path for path in cells if path not in used))


def enter_cells(record: Path, manifest: Manifest, stem: str) -> None:
    """Enter the raw cells an incomplete section finished, so that the next run of it can trust them."""
    for file in sorted((record / "cells").glob("*.parquet")):
        if f"cells/{file.name}" not in manifest.files:
            manifest.add_file(record, f"cells/{file.name}", section=stem)


def drop_changed_cells(record: Path, manifest: Manifest) -> list[str]:
    """Delete the raw cells that are not what the manifest says, and return their paths: they are computed again."""
    entered = {path: file.sha256 for path, file in manifest.files.items() if path.startswith("cells/")}
    whole = {path for path in entered if (record / path).is_file() and atomic.sha256(record / path) == entered[path]}
    changed = [path for path in entered if path not in whole]
    _drop(record, manifest, changed)
    return changed


def recover(record: Path, manifest: Manifest, reason: str = "its process was killed") -> list[dict[str, Any]]:
    """Tell the truth about a record whose writer came to no end, and return the processes it had noted.

    Call it with the lock held: whatever is entered as running then is not. Half-written files are removed, finished raw
    cells stay, the notebook of the killed section is kept as ``<stem>.interrupted.ipynb``.
    """
    noted = []
    for stem, entry in manifest.sections.items():
        if entry.status != "running":
            continue
        noted.append(entry.process)
        entry.status, entry.reason, entry.process = "interrupted", reason, {}
        partial = record / "notebooks" / f"{stem}.ipynb.partial"
        if partial.exists():
            path = f"notebooks/{stem}.interrupted.ipynb"
            os.replace(partial, record / path)
            manifest.add_file(record, path, section=stem, timing=True)
    shutil.rmtree(record / STAGING, ignore_errors=True)
    for leftover in record.rglob(f".*{atomic.SUFFIX}"):
        leftover.unlink(missing_ok=True)
    if INDEX not in manifest.files:  # it may have been killed while it wrote the pages
        drop_report(record, manifest)
    for name in OUTPUTS:  # moved into place by a writer that was killed before it could enter them
        for path in (record / name).glob("*"):
            if f"{name}/{path.name}" not in manifest.files and path.is_file():
                path.unlink()
    return noted


def close(record: Path, manifest: Manifest, study: Study) -> None:
    """Bring what spans sections up to date (``claims.csv``, the crate) and save the manifest."""
    shutil.rmtree(record / STAGING, ignore_errors=True)
    claims_table.write(record, manifest, study)
    crate.write(record, manifest)
    manifest.closed = True
    manifest.save(record)
