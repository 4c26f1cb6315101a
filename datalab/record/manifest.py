"""``record.json``: what ran, with what, and the hash of every file and of itself."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pydantic

from datalab import __version__, atomic
from datalab.errors import UserError
from datalab.record import provenance
from datalab.record.study import Study


class FileRecord(pydantic.BaseModel):
    """One file: its hash, its size, the section that wrote it, and whether it holds measured time or memory."""

    sha256: str
    bytes: int
    section: str | None = None
    timing: bool = False


class SectionRecord(pydantic.BaseModel):
    """One notebook's part of the record. ``key`` holds every hash and parameter its results depend on."""

    number: str
    title: str
    status: Literal["complete", "failed", "interrupted", "running", "not run"] = "not run"
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

    NAME: ClassVar[str] = "record.json"

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
    sections: dict[str, SectionRecord] = {}
    files: dict[str, FileRecord] = {}

    @classmethod
    def create(cls, profile: str, study: Study) -> "Manifest":
        """The manifest of a new record, with what is here now: package, sources, commit, machine."""
        manifest = cls(profile=profile, created=provenance.now())
        manifest.refresh(study)
        return manifest

    @classmethod
    def load(cls, record: Path) -> "Manifest":
        """Read and check ``record.json``.

        Raises :class:`UserError` when it is not there, is no manifest, or its content has not the hash it states.
        """
        manifest, problem = cls.read(record)
        if manifest is None or problem:
            raise UserError(f"record '{provenance.shown(record)}': {cls.NAME} {problem}")
        return manifest

    @classmethod
    def read(cls, record: Path) -> "tuple[Manifest | None, str]":
        """``record.json`` as far as it can be read, and what is wrong with it (empty: nothing)."""
        try:
            text = (record / cls.NAME).read_bytes().decode()
            tree = json.loads(text)
            del tree["sha256"]
            manifest = cls.model_validate(tree)
        except FileNotFoundError:
            return None, "is missing"
        except (OSError, ValueError, LookupError, TypeError) as error:
            return None, f"cannot be read ({str(error).splitlines()[0]})"
        return manifest, "" if text == _rendered(tree) else "was changed after it was written"

    def save(self, record: Path) -> None:
        """Write ``record.json``, with the hash of its own content."""
        self.updated = provenance.now()
        atomic.write(record / self.NAME, _rendered(self.model_dump(mode="json")), durable=True)

    def refresh(self, study: Study) -> None:
        """Bring the record's provenance up to date: the code, the packages and the machine that write to it now."""
        self.datalab = __version__
        self.sources = provenance.sources(study.ledger)
        self.git = provenance.commit()
        self.machine = provenance.machine()
        self.packages = provenance.packages()

    def add_file(self, record: Path, path: str, section: str | None = None, timing: bool = False) -> None:
        """Enter the file ``path`` (relative to ``record``, with ``/``) as it is now."""
        whole = record / path
        digest, size = atomic.sha256(whole), whole.stat().st_size
        self.files[path] = FileRecord(sha256=digest, bytes=size, section=section, timing=timing)

    def files_of(self, stem: str) -> list[str]:
        """The paths one section wrote."""
        return [path for path, entry in self.files.items() if entry.section == stem]

    def measured(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """What each measured claim's section (its stem) stated, by the claim's id; of two sections, the later one."""
        return {claim["id"]: (stem, claim) for stem, entry in self.sections.items() for claim in entry.claims}

    def reads_sha256(self, stems: Sequence[str]) -> str | None:
        """One hash of what the sections ``stems`` have put into the record so far: tables, claims and statuses."""
        if not stems:
            return None
        results = []
        for stem in sorted(stems):
            if entry := self.sections.get(stem):
                tables = {p: self.files[p].sha256 for p in sorted(self.files_of(stem)) if p.startswith("tables/")}
                results.append([stem, entry.status, tables, entry.claims])
        return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()


def _rendered(tree: dict[str, Any]) -> str:
    """The file's text: the tree, with the hash of the tree at its end. Equal trees give equal bytes."""
    digest = hashlib.sha256(json.dumps(tree, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
    return json.dumps({**tree, "sha256": digest}, indent=1, ensure_ascii=False) + "\n"
