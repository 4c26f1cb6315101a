"""How a section's outputs become part of a record: gathered aside while it runs, moved when it is complete."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from datalab import atomic
from datalab.errors import UserError
from datalab.record import claims_table, crate, folder, lock, provenance
from datalab.record.manifest import Manifest, SectionRecord
from datalab.record.study import SectionSpec, Study
from datalab.sweep import rowfiles

STAGING = ".partial"  # outputs of the section that runs now; they move into place when it is complete
FRAGMENT = "section.json"
PROGRESS = "progress.json"
ROOM, ROOM_BYTES = "room", 8 * 2**20  # more than a manifest, its claims and crate and an executed notebook together
OUTPUTS = ("notebooks", "tables", "figures")
INDEX, REPORT = "index.html", "report"  # the record's pages


def open_record(record: Path, study: Study, profile: str, prepare: Callable[[], None] = lambda: None) -> Manifest:
    """Make the folder if need be, take its lock, ``prepare`` it, and return its manifest (:func:`open_manifest`).

    Raises :class:`UserError` also when the folder cannot be made or locked; whatever is raised, the lock is given back.
    """
    try:
        record.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"record '{provenance.shown(record)}' cannot be written: {error.strerror}") from None
    lock.hold(record)
    try:
        prepare()
        return open_manifest(record, study, profile)
    except BaseException:
        lock.release(record)
        raise


def open_manifest(record: Path, study: Study, profile: str) -> Manifest:
    """The manifest of a record to be written to; a new one where there is none.

    Raises :class:`UserError` when it cannot be read, or the record holds another profile or a section that the study
    does not have.
    """
    folder.check(record)
    if not folder.has(record, Manifest.NAME):
        manifest = Manifest(profile=profile, created=provenance.now())
        manifest.refresh(study)
        return manifest
    manifest, name = Manifest.load(record), provenance.shown(record)
    known = {section.stem for section in study.sections}
    for stem in manifest.sections.keys() - known:
        raise UserError(f"record '{name}' holds section '{stem}', which the study does not have; choose another folder")
    if manifest.profile != profile:
        raise UserError(f"record '{name}' holds profile '{manifest.profile}', not '{profile}'; choose another")
    return manifest


def begin(record: Path, manifest: Manifest, section: SectionSpec, **known: Any) -> Path:
    """Enter the section as running, drop what an earlier run of it left and the pages, and return its staging folder.

    ``known`` is what else its entry says. The manifest comes first: where it cannot be written nothing is dropped, and
    ``manifest`` is what it was.
    """
    left = [*_outputs(manifest, section.stem), *filter(is_page, manifest.files)]
    known |= {"number": section.number, "title": section.title, "status": "running", "started": provenance.now()}
    begun = {
        "sections": manifest.sections | {section.stem: SectionRecord(**known)},
        "files": {path: file for path, file in manifest.files.items() if path not in left},
        "closed": False,
    }
    manifest.model_copy(update=begun).save(record)
    for name, value in begun.items():
        setattr(manifest, name, value)
    for path in left:
        folder.delete(record, path)
    stage = record / STAGING / section.stem
    folder.delete_tree(record, REPORT)
    folder.delete_tree(record / STAGING, section.stem)
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
        folder.delete(record, path)
        del manifest.files[path]


def hold_room(record: Path) -> None:
    """Hold back some room while a notebook runs, so that on a full disk the record can still say what happened.

    Raises ``OSError`` when there is none to hold.
    """
    atomic.write(record / STAGING / ROOM, bytes(ROOM_BYTES))


def give_room(record: Path) -> None:
    """Give back what :func:`hold_room` took."""
    folder.delete(record / STAGING, ROOM)


def drop_report(record: Path, manifest: Manifest) -> None:
    """Delete the pages of the record, and their entries: they tell of what is no more, or are about to be renewed."""
    _drop(record, manifest, filter(is_page, manifest.files))
    folder.delete_tree(record, REPORT)
    folder.delete(record, INDEX)


def is_page(path: str) -> bool:
    """Whether a file of the record is one of its pages."""
    return path == INDEX or path.startswith(f"{REPORT}/")


def read_fragment(stage: Path) -> dict[str, Any] | None:
    """What a section that reached its ``finish()`` left for :func:`merge`; ``None`` when it did not."""
    return folder.read_json(stage, FRAGMENT) if folder.has(stage, FRAGMENT) else None


def merge(record: Path, manifest: Manifest, stem: str, fragment: dict[str, Any]) -> None:
    """Move a complete section's outputs into place and enter them, its claims and its raw rows in the manifest.

    The raw rows are packed; those that no section asks for any more, another code's or other parameters', leave the
    manifest, and their files are deleted by :func:`close`.
    """
    stage = record / STAGING / stem
    told = manifest.sections[stem].model_dump() | fragment["section"]
    entry = SectionRecord.model_validate(told | {"cells": []})
    for path in fragment["files"]:
        folder.move(stage, path, record)
        manifest.add_file(record, path, section=stem, timing=entry.described(path)["timing"])
    manifest.sections[stem] = entry
    _pack(record, manifest, stem, told["cells"])


def _pack(record: Path, manifest: Manifest, stem: str, keys: Iterable[str]) -> None:
    """Put the raw rows of all complete sections into files of which each holds only what the same sections rest on.

    ``keys`` are those of the tasks of section ``stem``; another section rests on all that is in its files.
    """
    before = {other: entry.cells for other, entry in manifest.sections.items()}
    whole = {path for path in _cells(manifest) if not manifest.change(record, path)}
    users: dict[str, list[str]] = {}
    for other, paths in before.items():
        tasks = (task for path in paths if path in whole for task in rowfiles.tasks_in(record / path))
        for key in keys if other == stem else [task.key for task in tasks]:
            users.setdefault(key, []).append(other)
    parted = {key: tuple(of) for key, of in users.items()}
    names = rowfiles.pack(record / "cells", parted, {path.removeprefix("cells/") for path in whole})
    owners = {f"cells/{names[key]}": of for key, of in parted.items()}
    for path, of in owners.items():
        manifest.add_file(record, path, section=of[0])
    for other, entry in manifest.sections.items():
        damaged = [path for path in before[other] if path not in whole]  # named by `verify`, not forgotten
        entry.cells = sorted([*damaged, *(path for path, of in owners.items() if other in of)])
    used = {path for entry in manifest.sections.values() for path in entry.cells}
    shared = {path for paths in before.values() for path in paths}
    for path in _cells(manifest):
        if path not in used and (path in shared or manifest.files[path].section == stem):
            del manifest.files[path]
            if path not in shared:  # else the manifest on the disk has sections that rest on it
                folder.delete(record, path)


def _drop_packed(record: Path, manifest: Manifest) -> None:
    """Delete the raw rows that are not listed, and are in files that are, or cannot be read."""
    paths = [path for path in folder.names(record, "cells") if path.endswith(".parquet")]
    tasks = {path: {task.key for task in rowfiles.tasks_in(record / path)} for path in paths}
    listed = {key for path in paths if path in manifest.files for key in tasks[path]}
    for path in paths:
        if path not in manifest.files and tasks[path] <= listed:
            folder.delete(record, path)


def keep_notebook(record: Path, manifest: Manifest, stem: str, name: str) -> None:
    """Enter a section's notebook, as far as it came, as ``notebooks/<name>.ipynb``; nothing where there is none."""
    partial, kept = f"notebooks/{stem}.ipynb.partial", f"notebooks/{name}.ipynb"
    if folder.has(record, partial):
        os.replace(folder.inside(record, partial), folder.inside(record, kept))
        manifest.add_file(record, kept, section=stem, timing=True)


def enter_broken(record: Path, manifest: Manifest, stem: str, status: str, reason: str) -> None:
    """Enter an incomplete section with its notebook, and the raw cells it finished, which the next run of it reuses."""
    manifest.sections[stem].status, manifest.sections[stem].reason = status, reason
    keep_notebook(record, manifest, stem, f"{stem}.{status}")
    for path in folder.names(record, "cells"):
        if path.endswith(".parquet") and folder.is_inner(path) and path not in manifest.files:
            manifest.add_file(record, path, section=stem)


def drop_changed_cells(record: Path, manifest: Manifest) -> list[str]:
    """Delete the raw cells that are not what the manifest says, and return their paths: they are computed again."""
    changed = [path for path in _cells(manifest) if manifest.change(record, path)]
    _drop(record, manifest, changed)
    return changed


def _cells(manifest: Manifest) -> list[str]:
    return [path for path in manifest.files if path.startswith("cells/")]


def recover(record: Path, manifest: Manifest, reason: str = "its process was killed") -> None:
    """Tell the truth about a record whose writer came to no end.

    Call it with the lock held, which has removed half-written files: whatever is entered as running then is not.
    Finished raw cells stay, the notebook of the killed section is kept as ``<stem>.interrupted.ipynb``.
    """
    for stem in [stem for stem, entry in manifest.sections.items() if entry.status == "running"]:
        enter_broken(record, manifest, stem, "interrupted", reason)
    folder.delete_tree(record, STAGING)
    if INDEX not in manifest.files:  # it may have been killed while it wrote the pages
        drop_report(record, manifest)
    for name in OUTPUTS:  # moved into place by a writer that was killed before it could enter them
        for path in folder.names(record, name):
            if path not in manifest.files and folder.is_inner(path):
                folder.delete(record, path)


def close(record: Path, manifest: Manifest, study: Study) -> None:
    """Bring what spans sections up to date (``claims.csv``, the crate) and save the manifest."""
    folder.delete_tree(record, STAGING)
    stems, entries = [section.stem for section in study.sections], manifest.sections
    # The study's order, whichever were run first; what the study does not have stands last.
    manifest.sections = {stem: entries[stem] for stem in [*stems, *entries] if stem in entries}
    claims_table.write(record, manifest, study)
    crate.write(record, manifest)
    manifest.save(record)  # before files go that it listed
    _drop_packed(record, manifest)
    manifest.closed = True
    manifest.save(record)
