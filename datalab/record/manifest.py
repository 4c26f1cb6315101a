"""``record.json``: what ran, with what, and the hash of every file and of itself."""

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pydantic
from pydantic import AfterValidator, Field, StringConstraints

from datalab import __version__, atomic
from datalab.errors import UserError
from datalab.record import folder, provenance
from datalab.record.folder import Form
from datalab.record.study import Study

# A manifest may be a stranger's: every field has a form, so that what reads it meets no surprise.


def _word(text: str) -> str:
    if not text.isprintable():
        raise ValueError("holds what does not print")
    return text


def _time(text: str) -> str:
    if text:
        datetime.fromisoformat(text)  # ValueError where there is no such day
    return text


def _path(text: str) -> str:
    if not folder.is_inner(text):
        raise ValueError("is no path in a record")
    return text


def _short(part: Any) -> Any:
    """A part that as JSON is no longer than any: it is a cell of ``claims.csv``, or printed on several pages."""
    if len(json.dumps(part)) > 40_000:
        raise ValueError("has more than 40,000 letters")
    return part


Word = Annotated[str, StringConstraints(max_length=300), AfterValidator(_word)]  # a line of text
Token = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._+!-]{1,100}$")]  # a package's name, a version
Inner = Annotated[str, AfterValidator(_path)]  # of a file in the record
Cells = Annotated[str, StringConstraints(pattern=r"^cells/[^/]+\.parquet$"), AfterValidator(_path)]  # raw rows
Stem = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]{1,80}$")]  # it becomes a file's name
Prose = Annotated[str, StringConstraints(max_length=20_000)]  # each is printed, on several pages
_TIME = r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)?)?$"
Time = Annotated[str, StringConstraints(pattern=_TIME), AfterValidator(_time)]
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_VERSION = r"^(\d+(\.\d+){0,3}((a|b|rc)\d+)?(\.(post|dev)\d+)*)?$"
_LARGEST = 2**63  # of a whole number: a longer one is no measurement, and no table holds it
Whole = Annotated[int, Field(ge=0, lt=_LARGEST, strict=True)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Number = Annotated[int, Field(gt=-_LARGEST, lt=_LARGEST, strict=True)] | Annotated[float, Field(strict=True)]
Limit = Number | Literal["inf", "-inf"] | None
Flag = Annotated[bool, Field(strict=True)]
Scalar = Flag | Number | Prose | None
Where = dict[Word, Scalar | list[Scalar]]
Digits = Annotated[str, StringConstraints(pattern=r"^\d{1,6}$")]
Sources = dict[Literal["code", "protocol", "ledger", "lock"], Hash | None]
Determinism = dict[Literal["threads", "hash_seed", "on", "kernels", "torch"], Flag | Digits | None]


def _of(form: type[pydantic.BaseModel]) -> AfterValidator:
    """A dict of this form, left as the dict it is."""
    return AfterValidator(lambda value: form.model_validate(value) and value)


class _Asked(pydantic.BaseModel):
    """What every section is asked for and results do not depend on; the others are the section's to check."""

    model_config = pydantic.ConfigDict(strict=True, extra="allow")
    workers: Annotated[int, Field(ge=1, le=1024)] | None = None
    record: Annotated[str, StringConstraints(max_length=4096), AfterValidator(_word)] | None = None


class _Key(Form):
    code: Hash | None = None
    protocol: Hash | None = None
    ledger: Hash | None = None
    lock: Hash | None = None
    notebook: Hash | None = None
    parameters: dict[str, Any] = Field({})
    reads: Hash | None = None


class _Git(Form):
    commit: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")] | None = None
    clean: bool | None = None


class _Machine(Form):
    processor: Word = ""
    cores: Whole = 0
    memory_bytes: Whole = 0
    system: Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9._-]{1,40} ?){0,2}$")] = ""
    python: Token | Literal[""] = ""


class _Described(Form):
    """What the manifest says of a table or figure."""

    caption: Prose
    stamp: dict[Word, Scalar]
    timing: bool
    cell: Whole | None


class _Raw(Form):
    where: Annotated[Where | list[Where], AfterValidator(_short)]
    rows: Whole


class _Claim(Form):
    """What a section states of a claim; what else it may say (in time) are words and numbers."""

    model_config = pydantic.ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Scalar]
    id: Word
    measured: Number | Prose | None
    low: Limit
    high: Limit
    effect_size: Limit
    n: Number | Prose | None
    verdict: Word
    why: Prose
    table: Inner | None
    row: Annotated[str, StringConstraints(max_length=1000)] | None
    cell: Whole | None
    raw: _Raw | None = None
    unit: Word | None = None


class _Headline(Form):
    text: Prose = ""
    answer: bool = False
    caption: Prose = ""
    columns: list[Prose] = Field([])
    rows: list[list[Prose]] = Field([])

    @pydantic.model_validator(mode="after")
    def _is_shown(self) -> "_Headline":
        given = self.model_fields_set - {"answer", "caption"}
        if given not in ({"text"}, {"columns", "rows"}) or any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError("is neither a line nor a table")
        return self


class FileRecord(Form):
    """One file: its hash, its size, the section that wrote it, and whether it holds measured time or memory."""

    sha256: Hash
    bytes: Whole
    section: Stem | None = None
    timing: bool = False


class SectionRecord(pydantic.BaseModel):
    """One notebook's part of the record. ``key`` holds every hash and parameter its results depend on."""

    model_config = pydantic.ConfigDict(extra="forbid")

    number: Annotated[str, StringConstraints(pattern=r"^[\w.]{1,12}$")]
    title: Word
    status: Literal["complete", "failed", "interrupted", "running", "not run"] = "not run"
    reason: Prose = ""
    runner: Literal["datalab run", "notebook session", ""] = ""
    key: Annotated[dict[str, Any], _of(_Key)] = {}
    parameters: Annotated[dict[Word, Any], _of(_Asked)] = {}
    device: Word = ""
    determinism: Determinism = {}
    started: Time = ""
    ended: Time = ""
    wall_seconds: Seconds | None = None
    cpu_seconds: Seconds | None = None
    peak_memory_bytes: Whole | None = None
    code_cells: Whole | None = None
    code_cells_ran: Whole | None = None
    process: Annotated[dict[str, Any], Field(max_length=0, exclude=True)] = {}  # an earlier version wrote it, empty
    tables: dict[Word, Annotated[dict[str, Any], _of(_Described)]] = {}
    figures: dict[Word, Annotated[dict[str, Any], _of(_Described)]] = {}
    claims: list[Annotated[dict[str, Any], _of(_Claim)]] = []
    headline: Annotated[list[Annotated[dict[str, Any], _of(_Headline)]], AfterValidator(_short)] = []
    cells: list[Cells] = []

    def described(self, path: str) -> dict[str, Any] | None:
        """What the section says of one of its tables or figures; ``None`` where it made none of this name."""
        kind, _, name = path.partition("/")
        return {"tables": self.tables, "figures": self.figures}.get(kind, {}).get(name.split(".")[0])


class Manifest(pydantic.BaseModel):
    """The whole record: provenance, one entry a section, one a file."""

    NAME: ClassVar[str] = "record.json"
    model_config = pydantic.ConfigDict(extra="forbid")

    format: Literal[1] = 1
    profile: Annotated[str, StringConstraints(pattern=r"^[\w-]{0,40}$")]
    created: Time
    updated: Time = ""
    datalab: Annotated[str, StringConstraints(pattern=_VERSION)] = ""
    sources: Sources = {}
    git: Annotated[dict[str, Any], _of(_Git)] = {}
    machine: Annotated[dict[str, Any], _of(_Machine)] = {}
    packages: dict[Token, Token] = {}
    closed: bool = False  # whether the last writer came to its end; False while it runs, or after it was killed
    sections: dict[Stem, SectionRecord] = {}
    files: dict[Inner, FileRecord] = {}

    @classmethod
    def load(cls, record: Path) -> "Manifest":
        """Read and check ``record.json``.

        Raises :class:`UserError` when it is not there, is no manifest, or its content has not the hash it states.
        """
        if not record.is_dir():
            raise UserError(f"record '{provenance.shown(record)}': there is no such folder")
        manifest, problem = cls.read(record)
        if manifest is None or problem:
            raise UserError(f"record '{provenance.shown(record)}': {cls.NAME} {problem}")
        return manifest

    @classmethod
    def read(cls, record: Path) -> "tuple[Manifest | None, str]":
        """``record.json`` as far as it can be read, and what is wrong with it (empty: nothing)."""
        try:
            folder.check(record)
            text = folder.read_text(record, cls.NAME)
            tree = folder.parsed(text)
            del tree["sha256"]
            manifest = cls.model_validate(tree)
            whole = text == _rendered(tree)
        except FileNotFoundError:
            return None, "is missing"
        except (OSError, ValueError, LookupError, TypeError) as error:
            return None, f"cannot be read ({folder.misfit(error)})"
        return manifest, "" if whole else "was changed after it was written"

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
        self.packages = dict(provenance.packages())

    def add_file(self, record: Path, path: str, section: str | None = None, timing: bool = False) -> None:
        """Enter the file ``path`` (relative to ``record``, with ``/``) as it is now."""
        held = {"sha256": folder.sha256(record, path), "bytes": folder.size(record, path)}
        self.files[path] = FileRecord(**held, section=section, timing=timing)

    def change(self, record: Path, path: str) -> Literal["changed", "missing"] | None:
        """What happened to one file since it was entered; ``None`` when it is whole."""
        entry, size = self.files.get(path), folder.size(record, path)
        if entry is None or size is None:
            return "missing"
        return None if size == entry.bytes and folder.sha256(record, path) == entry.sha256 else "changed"

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
