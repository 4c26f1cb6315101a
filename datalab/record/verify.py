"""Is a record whole, does it say what its raw rows give, and is it what today's sources would give? All offline."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path

from datalab import atomic
from datalab.errors import UserError
from datalab.record import claims_table, crate, lock, provenance, transaction
from datalab.record import recompute as recomputing
from datalab.record.manifest import FileRecord, Manifest
from datalab.record.recompute import Finding, Kind, Recomputed
from datalab.record.study import Study

RECORD = "the record"  # what a finding names that is of no single file
_SPANNING = (claims_table.NAME, crate.NAME)  # of all sections: written before the manifest when a run ends
_UNFINISHED = (transaction.STAGING, "cells", *transaction.OUTPUTS, transaction.INDEX, transaction.REPORT, *_SPANNING)
SOURCES = {"code": "the package's code", "protocol": "the protocol", "ledger": "the ledger", "lock": "the lock file"}


@dataclass(frozen=True)
class Report:
    """What :func:`verify` found. The record is whole when there are no ``findings``; ``stale`` says what moved on,
    ``recomputed`` what was computed anew, and ``unconfirmed`` what then differed, for which other sources may account.
    """

    findings: list[Finding] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    files: int = 0
    sections: int = 0
    recomputed: list[Recomputed] = field(default_factory=list)
    unconfirmed: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Nothing changed, missing, added or incomplete."""
        return not self.findings


# Which of a record's pages are not what the record gives (datalab.report.differing, a room above this one).
Pages = Callable[[Path, Manifest, Study], Iterable[str]]


def verify(
    record: Path, study: Study, recompute: bool = False, workers: int | None = None, pages: Pages | None = None
) -> Report:
    """Check every file's hash, every section's status and every claim of ``record``; it is only read.

    With ``recompute``, also compute each complete section's tables, figures, outputs and verdicts anew from its raw
    rows, on ``workers`` processes (None: one a core), and compare them to the byte; likewise the crate, and by
    ``pages`` the pages. Where the sources have moved on since, what differs is stale; where they have not, it is a
    finding. Raises :class:`UserError` when there is no such folder.
    """
    if not record.is_dir():
        raise UserError(f"record '{provenance.shown(record)}': there is no such folder")
    manifest, problem = Manifest.read(record)
    if manifest is None:
        return Report([Finding("missing" if problem == "is missing" else "changed", Manifest.NAME, problem)])
    findings = [Finding("changed", Manifest.NAME, problem)] if problem else []
    findings += _files(record, manifest)
    findings += _sections(record, manifest, {finding.what for finding in findings})
    findings += _claims_table(record, manifest, study)
    report = Report(findings, list(stale(manifest, study)), len(manifest.files) + 1, len(manifest.sections))
    if recompute and not problem:
        record, whole = record.resolve(), report.whole
        report.findings.extend(_foreign(manifest, study))
        _recompute(record, manifest, study, report, workers)
        if whole:
            _derived(record, manifest, study, report, pages)
    return report


def change(record: Path, path: str, entry: FileRecord | None) -> Kind | None:
    """What happened to one file since it was entered; ``None`` when it is whole."""
    file = record / path
    if entry is None or not file.is_file():
        return "missing"
    if file.stat().st_size != entry.bytes or atomic.sha256(file) != entry.sha256:
        return "changed"
    return None


def _files(record: Path, manifest: Manifest) -> Iterator[Finding]:
    """The files that are not what the manifest says, then those that it does not list."""
    for path, entry in manifest.files.items():
        kind = change(record, path, entry) if manifest.closed or path not in _SPANNING else None
        if kind:
            yield Finding(kind, path, f"written by {entry.section}" if entry.section else "")
    for file in sorted(record.rglob("*")):
        path = file.relative_to(record).as_posix()
        # While a writer is at work, or after it was killed, its unfinished outputs and raw cells are not listed yet.
        unlisted = not manifest.closed and (path.split("/")[0] in _UNFINISHED or path.endswith(".tmp"))
        if not (file.is_dir() or path in manifest.files or path in (manifest.NAME, lock.NAME) or unlisted):
            yield Finding("added", path, "the manifest does not list it")


def _sections(record: Path, manifest: Manifest, broken: Set[str]) -> Iterator[Finding]:
    """The sections that are not complete, whether the record as a whole is, and claims that rest on no whole table."""
    writing = lock.is_held(record)
    for stem, entry in manifest.sections.items():
        if entry.status == "running":
            detail = f"{lock.holder(record)} is running it" if writing else "interrupted: its process is gone"
            yield Finding("incomplete", stem, detail)
        elif entry.status != "complete":
            yield Finding("incomplete", stem, f"{entry.status}: {entry.reason}".removesuffix(": "))
        for claim in entry.claims:
            if (table := claim["table"]) in broken:
                yield Finding("claim", claim["id"], f"rests on {table}, which is not what was written")
            elif table is not None and table not in manifest.files:
                yield Finding("claim", claim["id"], f"{stem} names {table}, which the record does not have")
    if not manifest.closed:
        detail = f"{lock.holder(record)} is writing to it" if writing else "its writer was interrupted"
        yield Finding("incomplete", RECORD, detail)
    if not manifest.sections:
        yield Finding("incomplete", RECORD, "no section was run")


def _claims_table(record: Path, manifest: Manifest, study: Study) -> Iterator[Finding]:
    """Rows of ``claims.csv`` that are not what the sections stated.

    While the record is not closed they are not checked: they are written anew when the run ends. Nor are they under
    another ledger, which cannot say what they should be; the file's hash has been checked.
    """
    same_ledger = manifest.sources.get("ledger") == study.ledger.sha256()
    if not (manifest.closed and claims_table.NAME in manifest.files and same_ledger):
        return
    expected = _by_id(claims_table.text(manifest, study))
    try:
        held = _by_id((record / claims_table.NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError):
        return  # named above as missing or changed
    for claim_id, row in expected.items():
        if claim_id not in held:
            yield Finding("claim", claim_id, f"{claims_table.NAME} has no row for it")
        elif held[claim_id] != row:
            differing = ", ".join(name for name in row if held[claim_id].get(name) != row[name]) or "its columns"
            yield Finding("claim", claim_id, f"{claims_table.NAME} differs from what was measured in {differing}")
    for claim_id in held:
        if claim_id not in expected:
            yield Finding("claim", str(claim_id), "the ledger has no such claim")


def _by_id(text: str) -> dict[str, dict[str, str]]:
    return {row["id"]: row for row in csv.DictReader(io.StringIO(text))}


def _foreign(manifest: Manifest, study: Study) -> Iterator[Finding]:
    """Sections that the study does not have, or has under another name, and those that hide which notebook ran."""
    known = {section.stem: section for section in study.sections}
    for stem, entry in manifest.sections.items():
        if stem not in known:
            yield Finding("added", stem, "the study has no such section")
        elif (entry.number, entry.title) != (known[stem].number, known[stem].title):
            yield Finding("changed", stem, "its number or title is not the study's")
        elif entry.runner == "datalab run" and entry.status == "complete" and not entry.key.get("notebook"):
            yield Finding("changed", stem, "it does not say which notebook ran")


def _recompute(record: Path, manifest: Manifest, study: Study, report: Report, workers: int | None) -> None:
    """Add to ``report`` what the raw rows give otherwise; a section whose own files are not whole is left out."""
    broken = {finding.what for finding in report.findings}
    stems = [
        stem
        for stem, entry in manifest.sections.items()
        if entry.status == "complete" and not broken & {stem, *entry.cells, *manifest.files_of(stem)}
    ]
    libraries, now = recomputing.other_libraries(manifest), provenance.sources(study.ledger)
    for done in recomputing.recompute(record, manifest, study, stems, workers):
        report.recomputed.append(done)
        moved = [*_moved(manifest, study, done.stem, now), *libraries]
        if moved and (done.problem or done.differences):
            what = done.problem or f"gives other {', '.join(sorted({finding.what for finding in done.differences}))}"
            section = f"section {manifest.sections[done.stem].number} computed anew"
            report.unconfirmed.append(f"{section}, by other sources ({'; '.join(moved)}): {what}")
        elif done.problem:
            problem = f"cannot be computed from its raw rows: {done.problem}"
            report.findings.append(Finding("changed", done.stem, problem))
        else:
            report.findings.extend(done.differences)


def _derived(record: Path, manifest: Manifest, study: Study, report: Report, pages: Pages | None) -> None:
    """The crate and the pages, which say again what the manifest says: those that are not what it gives."""
    has_pages = pages is not None and transaction.INDEX in manifest.files
    differing = list(pages(record, manifest, study)) if has_pages else []
    if (record / crate.NAME).read_text(encoding="utf-8") != crate.text(crate.metadata(record, manifest)):
        differing.insert(0, crate.NAME)
    for path in differing:
        if report.stale:
            report.unconfirmed.append(f"{path} made anew, by other sources, is another")
        else:
            report.findings.append(Finding("changed", path, "it is not what the record gives"))


def _moved(manifest: Manifest, study: Study, stem: str, now: Mapping[str, str | None]) -> list[str]:
    """What a section's results depend on that is, ``now``, no longer what it was: ``["the package's code"]``."""
    entry, source = manifest.sections[stem], study.notebooks / f"{stem}.ipynb"
    moved = [words for name, words in SOURCES.items() if name != "lock" and entry.key.get(name) != now[name]]
    if entry.runner != "datalab run":
        return [*moved, "a notebook run by hand"]
    reads = study.reads_of(study.find(stem))
    if reads and manifest.reads_sha256(reads) != entry.key.get("reads"):
        moved.append("sections that it read, run again since")
    same = source.is_file() and provenance.notebook_sha256(source) == entry.key.get("notebook")
    return moved if same else [*moved, "its notebook"]


def stale(manifest: Manifest, study: Study) -> Iterator[str]:
    """What has moved on since the sections ran: code, protocol, ledger, lock, a notebook's source. One line each."""
    now = provenance.sources(study.ledger)
    ran = [entry for entry in manifest.sections.values() if entry.key]
    for name, words in SOURCES.items():
        behind = [entry.number for entry in ran if entry.key.get(name) != now[name]]
        if behind:
            yield f"{words} changed after section{'s' * (len(behind) > 1)} {', '.join(behind)} ran"
    for stem, entry in manifest.sections.items():
        source, then = study.notebooks / f"{stem}.ipynb", entry.key.get("notebook")
        if then and source.is_file() and provenance.notebook_sha256(source) != then:
            yield f"notebooks/{stem}.ipynb changed after section {entry.number} ran"
