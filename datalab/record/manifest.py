"""``record.json``: what ran, with what, and the hash of every file and of itself."""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pydantic

from datalab import atomic
from datalab.errors import UserError
from datalab.record import provenance
from datalab.record.study import Study

NAME = "record.json"
STAGING = ".partial"  # outputs of the section that runs now; they move into place when it is complete
Status = Literal["complete", "failed", "interrupted", "running", "not run"]


class FileEntry(pydantic.BaseModel):
    """One file: its hash, its size, the section that wrote it, and whether it holds measured time or memory."""

    sha256: str
    bytes: int
    section: str | None = None
    timing: bool = False


class SectionEntry(pydantic.BaseModel):
    """One notebook's part of the record. ``key`` holds every hash and parameter its results depend on."""

    number: str
    title: str
    status: Status = "not run"
    reason: str = ""
    runner: Literal["datalab run", "notebook session", ""] = ""
    key: dict[str, Any] = {}
    parameters: dict[str, Any] = {}
    device: str = ""
    determinism: dict[str, Any] = {}
    started: str = ""
    ended: str = ""
    wall_seconds: float | None = None
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    code_cells: int | None = None
    code_cells_ran: int | None = None
    process: dict[str, Any] = {}
    tables: dict[str, dict[str, Any]] = {}
    figures: dict[str, dict[str, Any]] = {}
    claims: list[dict[str, Any]] = []
    headline: list[dict[str, Any]] = []
    cells: list[str] = []


class Manifest(pydantic.BaseModel):
    """The whole record: provenance, one entry a section, one a file."""

    format: Literal[1] = 1
    profile: str
    created: str
    updated: str = ""
    datalab: str = ""
    sources: dict[str, str | None] = {}
    git: dict[str, Any] = {}
    machine: dict[str, Any] = {}
    packages: dict[str, str] = {}
    closed: bool = False  # whether the last writer came to its end; False while it runs, or after it was killed
    sections: dict[str, SectionEntry] = {}
    files: dict[str, FileEntry] = {}

    def add_file(self, record: Path, path: str, section: str | None = None, timing: bool = False) -> None:
        """Enter the file ``path`` (relative to ``record``, with ``/``) as it is now."""
        whole = record / path
        self.files[path] = FileEntry(
            sha256=atomic.sha256(whole), bytes=whole.stat().st_size, section=section, timing=timing
        )

    def files_of(self, stem: str) -> list[str]:
        """The paths one section wrote."""
        return [path for path, entry in self.files.items() if entry.section == stem]

    def reads_sha256(self, stems: Sequence[str]) -> str | None:
        """One hash of what the sections ``stems`` have put into the record so far: tables, claims and statuses."""
        if not stems:
            return None
        found = []
        for stem in sorted(stems):
            if entry := self.sections.get(stem):
                tables = {p: self.files[p].sha256 for p in sorted(self.files_of(stem)) if p.startswith("tables/")}
                found.append([stem, entry.status, tables, entry.claims])
        return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def create(profile: str, study: Study) -> Manifest:
    """A manifest of what is here now: package, sources, commit, machine."""
    manifest = Manifest(profile=profile, created=now())
    refresh(manifest, study)
    return manifest


def refresh(manifest: Manifest, study: Study) -> None:
    """Bring the record's provenance up to date: the code, the packages and the machine that write to it now."""
    from datalab import __version__

    manifest.datalab = __version__
    manifest.sources = provenance.sources(study.ledger)
    manifest.git = provenance.commit()
    manifest.machine = provenance.machine()
    manifest.packages = provenance.packages()


def save(record: Path, manifest: Manifest) -> None:
    """Write ``record.json``, with the hash of its own content."""
    manifest.updated = now()
    atomic.write(record / NAME, _rendered(manifest.model_dump(mode="json")), durable=True)


def load(record: Path) -> Manifest:
    """Read and check ``record.json``.

    Raises :class:`UserError` when it is not there, is not a manifest, or its content does not have the hash it states.
    """
    manifest, problem = read(record)
    if manifest is None or problem:
        raise UserError(f"record '{provenance.shown(record)}': {NAME} {problem}")
    return manifest


def read(record: Path) -> tuple[Manifest | None, str]:
    """``record.json`` as far as it can be read, and what is wrong with it (empty: nothing)."""
    try:
        text = (record / NAME).read_bytes().decode()
        tree = json.loads(text)
        del tree["sha256"]
        manifest = Manifest.model_validate(tree)
    except FileNotFoundError:
        return None, "is missing"
    except (OSError, ValueError, LookupError, TypeError) as error:
        return None, f"cannot be read ({str(error).splitlines()[0]})"
    return manifest, "" if text == _rendered(tree) else "was changed after it was written"


def _rendered(tree: dict[str, Any]) -> str:
    """The file's text: the tree, with the hash of the tree at its end. Equal trees give equal bytes."""
    digest = hashlib.sha256(json.dumps(tree, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
    return json.dumps({**tree, "sha256": digest}, indent=1, ensure_ascii=False) + "\n"
