"""Is a record whole, does it say what its raw rows give, and is it what today's sources would give? All offline."""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from datalab import __version__, atomic
from datalab.errors import UserError
from datalab.record import claims_table, crate, folder, lock, parameters, provenance, transaction
from datalab.record.checks import recompute as recomputing
from datalab.record.checks import retrain
from datalab.record.checks.recompute import Finding, Recomputed
from datalab.record.manifest import FileRecord, Manifest
from datalab.record.parameters import OUTSIDE
from datalab.record.section import BY_HAND
from datalab.record.study import Study

RECORD = "the record"  # what a finding names that is of no single file
_SPANNING = (claims_table.NAME, crate.NAME)  # of all sections: written before the manifest when a run ends
_UNFINISHED = (transaction.STAGING, "cells", *transaction.OUTPUTS, transaction.INDEX, transaction.REPORT, *_SPANNING)
_EMPTY = [f"{name}/" for name in ("cells", *transaction.OUTPUTS)]  # which a writer leaves
SOURCES = {"code": "the package's code", "protocol": "the protocol", "ledger": "the ledger", "lock": "the lock file"}
# What verification takes from a record as it stands. The pages and the README say it in these words.
UNKNOWN = (
    "whether the raw rows are what training gave, unless `--cells N` trains N drawn tasks anew",
    "on which machine, with which packages and from which commit it was made",
    "when it was made, how long it took and how much memory it used",
    "measured time and memory in its raw rows, with the tables and statements that rest on them",
    "who made it: whoever can write the folder can write all of it, hashes too",
)


@dataclass
class Report:
    """What :func:`verify` found. ``stale`` says what moved on, ``recomputed`` what was computed anew, and
    ``unconfirmed`` what then differed, for which other sources may account; ``retrained`` the tasks trained anew;
    ``departures`` where its sections were run otherwise than the profile that the record is called by.
    """

    findings: list[Finding] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    files: int = 0
    sections: int = 0
    recomputed: list[Recomputed] = field(default_factory=list)
    unconfirmed: list[str] = field(default_factory=list)
    retrained: list[retrain.Retrained] = field(default_factory=list)
    departures: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Nothing changed, missing, added, incomplete or unconfirmed."""
        return not (self.findings or self.unconfirmed)

    def differs(self, anew: str, moved: list[str], what: str, findings: Iterable[Finding]) -> None:
        """Note that what is made ``anew`` differs: ``findings``, unless sources that moved on may account for it."""
        if moved:
            self.unconfirmed.append(f"{anew} anew, by other sources ({'; '.join(moved)}): {what}")
        else:
            self.findings.extend(findings)


# Which of a record's pages are not what the record gives (datalab.report.differing, a room above this one).
Pages = Callable[[Path, Manifest, Study], Iterable[str]]


def verify(
    record: Path,
    study: Study,
    recompute: bool = False,
    workers: int | None = None,
    pages: Pages | None = None,
    cells: retrain.Drawn | None = None,
    owners: bool = False,
) -> Report:
    """Check every file's hash, every section's status and every claim of ``record``; it is only read.

    With ``owners``, also that every file and every field has an owner who would have written it. With ``recompute``,
    both, and compute each complete section's tables, figures, outputs and verdicts anew from its raw
    rows, on ``workers`` processes (None: one a core), and compare them to the byte; likewise the crate, and by
    ``pages`` the pages. Where the sources have moved on since, what differs is unconfirmed; where they have not, it is
    a finding. ``cells`` draws tasks that are then trained anew. Raises :class:`UserError` when there is no such folder,
    or a drawn task's data set is not on this disk.
    """
    if not record.is_dir():
        raise UserError(f"record '{provenance.shown(record)}': there is no such folder")
    if strange := [Finding("added", path, why) for path, why in folder.foreign(record)]:
        return Report(strange)  # nothing in it was read
    before = _written(record)
    manifest, problem = Manifest.read(record)
    if manifest is None:
        return Report([Finding("missing" if problem == "is missing" else "changed", Manifest.NAME, problem)])
    findings = [Finding("changed", Manifest.NAME, problem)] if problem else []
    findings += _files(record, manifest)
    if owners or recompute:
        findings += [*_owners(manifest), *_entries(manifest, study)]
    findings += _sections(record, manifest, {finding.what for finding in findings})
    findings += _claims_table(record, manifest, study)
    report = Report(findings, list(stale(manifest, study)), len(manifest.files) + 1, len(manifest.sections))
    report.departures = list(departures(manifest, study))
    if recompute and not problem:
        record = record.resolve()
        _recompute(record, manifest, study, report, workers, pages)
        if cells is not None:
            _retrain(record, manifest, report, cells, workers)
        if manifest.closed:  # its parts are read one after another
            moved = sorted({path for path, _ in before.items() ^ _written(record).items()})
            report.findings.extend(Finding("changed", path, "while the record was verified") for path in moved)
    return report


def _files(record: Path, manifest: Manifest) -> Iterator[Finding]:
    """The files that are not what the manifest says, or marked unlike their section; then those it does not list."""
    for path, entry in manifest.files.items():
        kind = manifest.change(record, path) if manifest.closed or path not in _SPANNING else None
        if kind:
            yield Finding(kind, path, f"written by {entry.section}" if entry.section else "")
        described = manifest.sections[entry.section].described(path) if entry.section in manifest.sections else None
        if described and described["timing"] != entry.timing:
            yield Finding("changed", path, "it is marked as measured time, or not, unlike its section has it")
    for path in folder.walk(record):
        # While a writer is at work, or after it was killed, its unfinished outputs and raw cells are not listed yet.
        unlisted = not manifest.closed and (path.split("/")[0] in _UNFINISHED or path.endswith(atomic.SUFFIX))
        known = path in manifest.files or path in (manifest.NAME, *_EMPTY)
        if not (known or unlisted or (path == lock.NAME and lock.is_plain(record))):
            yield Finding("added", path, "the manifest does not list it")


def _written(record: Path) -> dict[str, int]:
    """When each file was last written to, by the system's own clock: nobody can put it back."""
    written = {}
    for path in folder.walk(record):
        with suppress(FileNotFoundError):
            written[path] = os.lstat(record / path).st_ctime_ns
    return written


def _owners(manifest: Manifest) -> Iterator[Finding]:
    """The listed files that no section and no part of a record would have written, and raw rows that are not listed."""
    used = {path for entry in manifest.sections.values() for path in entry.cells}
    for path, entry in manifest.files.items():
        if not _is_owned(path, entry, manifest):
            yield Finding("added", path, f"nothing of {entry.section or 'the record as a whole'} is called so")
    for path in used - manifest.files.keys():
        yield Finding("missing", path, "a section rests on it, and the manifest does not list it")


def _is_owned(path: str, entry: FileRecord, manifest: Manifest) -> bool:
    """Whether this file, marked as measured time as it is, is one that its section (or none) writes."""
    place, _, name = path.partition("/")
    if entry.section is None:
        page = transaction.is_page(path) and (path == transaction.INDEX or transaction.INDEX in manifest.files)
        return (page or path in _SPANNING) and not entry.timing
    if (owner := manifest.sections.get(entry.section)) is None:
        return False
    if place == "notebooks":
        kept = f"{entry.section}.ipynb" if owner.status == "complete" else f"{entry.section}.{owner.status}.ipynb"
        return name == kept and owner.status in ("complete", "failed", "interrupted") and entry.timing
    if place == "cells":
        return (path in owner.cells or owner.status != "complete") and name.endswith(".parquet") and not entry.timing
    suffixes = {"tables": ("csv", "md", "tex", "json"), "figures": ("svg", "png", "csv")}.get(place, ())
    return owner.described(path) is not None and name.partition(".")[2] in suffixes


def _entries(manifest: Manifest, study: Study) -> Iterator[Finding]:
    """Sections that the study does not have, or whose entries contradict themselves or one another."""
    known = {section.stem: section for section in study.sections}
    if manifest.sources.keys() != SOURCES.keys():
        yield Finding("changed", Manifest.NAME, f"its sources are not {', '.join(SOURCES)}")
    if manifest.sources.get("code") == provenance.code_sha256() and manifest.datalab != __version__:
        yield Finding("changed", Manifest.NAME, f"its code is that of datalab {__version__}, and it names another")
    keys = [entry.key for entry in manifest.sections.values() if entry.key]
    for name, digest in manifest.sources.items() if keys else ():
        if digest not in [key.get(name) for key in keys]:
            yield Finding("changed", Manifest.NAME, f"no section ran with the {name} that it names")
    if _seconds(manifest.updated) > time.time() + 86_400:
        yield Finding("changed", Manifest.NAME, "it was written at a time that is still to come")
    for stem, entry in manifest.sections.items():
        if stem not in known:
            yield Finding("added", stem, "the study has no such section")
            continue
        if (entry.number, entry.title) != (known[stem].number, known[stem].title):
            yield Finding("changed", stem, "its number or title is not the study's")
        if entry.status != "complete":
            continue
        by_run, asked = entry.runner == "datalab run", entry.parameters
        key = json.dumps(entry.key.get("parameters", {}), sort_keys=True)
        given = {name: value for name, value in asked.items() if by_run and name not in ("workers", "record")}
        ran = f"notebooks/{stem}.ipynb" in manifest.files
        reason = "" if by_run or ran else BY_HAND
        elsewhere = asked.get("device") in ("cpu", "cuda") and (asked["device"] == "cpu") != (entry.device == "cpu")
        times, counts = [manifest.created, entry.started, entry.ended, manifest.updated], entry.code_cells is not None
        repeatable = entry.determinism.get("hash_seed") == "0" and entry.determinism.get("threads") == "1"
        for wrong, why in (
            (asked.get("profile") != manifest.profile, f"the record is of profile {manifest.profile}, and it is not"),
            (by_run and asked.get("record") is not None, "its parameter record is for a run by hand, and it was none"),
            (key != json.dumps(given, sort_keys=True), "its key has other parameters than it was run with"),
            (entry.runner == "", "it does not say what ran it"),
            (entry.reason != reason, "it gives a reason, though it is complete"),
            (not all(times), "it does not say when it ran"),
            (sorted(times, key=_seconds) != times, "it cannot have begun, ended and been written at these times"),
            (elsewhere, f"it was to run on the {asked.get('device')}, and says {entry.device}"),
            (entry.determinism.get("on", False) != repeatable, "it is called repeatable, or not, unlike its threads"),
            (counts and not (by_run or ran), "it counts the cells of a notebook that is not there"),
        ):
            if wrong:
                yield Finding("changed", stem, why)


def _seconds(text: str) -> float:
    moment = datetime.fromisoformat(text or "1970-01-01")
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _sections(record: Path, manifest: Manifest, broken: Set[str]) -> Iterator[Finding]:
    """The sections that are not complete, whether the record as a whole is, and claims that rest on no whole table."""
    writing = lock.is_held(record)
    for stem, entry in manifest.sections.items():
        if entry.status == "running":
            detail = f"{lock.holder(record)} is running it" if writing else "interrupted: its process is gone"
            yield Finding("incomplete", stem, detail)
        elif entry.status != "complete":
            yield Finding("incomplete", stem, f"{entry.status}: {entry.reason}".removesuffix(": "))
        for claim_id, times in Counter(claim["id"] for claim in entry.claims).items():
            if times > 1:  # whoever keeps one a name keeps the last, and a page shows the first
                yield Finding("claim", claim_id, f"{stem} states it {times} times")
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
    """Statements whose row of ``claims.csv`` is not what the sections stated.

    While the record is not closed they are not checked: they are written anew when the run ends. Nor are they under
    another ledger, which cannot say what they should be; the file's hash has been checked.
    """
    same_ledger = manifest.sources.get("ledger") == study.ledger.sha256()
    if not (manifest.closed and claims_table.NAME in manifest.files and same_ledger):
        return
    with suppress(OSError, ValueError):  # named above as missing or changed
        held, expected = folder.read_text(record, claims_table.NAME), claims_table.text(manifest, study)
        for claim_id in sorted({row.partition(",")[0] for row in {*held.splitlines()} ^ {*expected.splitlines()}}):
            yield Finding("claim", claim_id, f"its row of {claims_table.NAME} is not what was measured")


def _recompute(
    record: Path, manifest: Manifest, study: Study, report: Report, workers: int | None, pages: Pages | None
) -> None:
    """Add to ``report`` what the raw rows give otherwise; a section whose own files are not whole is left out."""
    broken, known = {finding.what for finding in report.findings}, {section.stem for section in study.sections}
    stems = [stem for stem, entry in manifest.sections.items() if entry.status == "complete" and stem in known]
    stems = [stem for stem in stems if not broken & {stem, *manifest.sections[stem].cells, *manifest.files_of(stem)}]
    libraries, now = recomputing.other_libraries(manifest), provenance.sources(study.ledger)
    renamed: set[str] = set()

    def meanwhile() -> None:
        if report.whole:
            _derived(record, manifest, study, report, pages)

    for done in recomputing.recompute(record, manifest, study, stems, workers, meanwhile):
        report.recomputed.append(done)
        moved = [*_moved(manifest, study, done.stem, now), *libraries]
        section = f"section {manifest.sections[done.stem].number} computed"
        if done.problem:
            why = f"cannot be computed from its raw rows: {done.problem}"
            report.differs(section, moved, done.problem, [Finding("changed", done.stem, why)])
        elif done.differences:
            what = f"gives other {', '.join(sorted({finding.what for finding in done.differences}))}"
            report.differs(section, moved, what, done.differences)
        if moved:
            renamed.update(done.renamed)
        else:
            report.findings.extend(Finding("changed", path, "its tasks have other keys") for path in done.renamed)
    if renamed:
        report.stale.append(f"{len(renamed)} raw files have the keys that other code or libraries give")


def _retrain(record: Path, manifest: Manifest, report: Report, cells: retrain.Drawn, workers: int | None) -> None:
    """Train the drawn tasks anew; rows that differ are findings, or unconfirmed where the sources have moved on."""
    tasks = {place: task for done in report.recomputed for place, task in done.tasks.items()}
    if not tasks:
        report.unconfirmed.append("no task can be trained anew: no section could be computed from its raw rows")
    moved = recomputing.other_libraries(manifest) + ["other code"] * any(r.renamed for r in report.recomputed)
    for done in retrain.retrain(record, manifest, tasks, cells, workers):
        report.retrained.append(done)
        if done.rounded:  # a forger may name any machine
            report.unconfirmed.append(f"{done.path} trained anew: {done.same}")
        elif done.different:
            finding = Finding("changed", done.path, f"trained anew it is another: {done.different}")
            report.differs(f"{done.path} trained", moved, done.different, [finding])


def _derived(record: Path, manifest: Manifest, study: Study, report: Report, pages: Pages | None) -> None:
    """claims.csv, crate and pages, which say again what the manifest says: those that are not what it gives."""
    has_pages = pages is not None and transaction.INDEX in manifest.files
    try:
        with folder.bounded(folder.MOST_PAGES_SECONDS):
            differing = list(pages(record, manifest, study)) if has_pages else []
        given = {claims_table.NAME: claims_table.text(manifest, study)}
        given[crate.NAME] = crate.text(crate.metadata(record, manifest))
        differing += [path for path, text in given.items() if folder.read(record, path) != text.encode()]
    except Exception as error:  # what a stranger's record can break is not known in advance
        report.findings.append(Finding("changed", RECORD, f"its pages cannot be made ({folder.in_a_line(error)})"))
        return
    other_ledger = manifest.sources.get("ledger") != study.ledger.sha256()
    if not (report.stale or other_ledger):
        report.findings.extend(Finding("changed", path, "it is not what the record gives") for path in differing)
        return
    if (count := sum(map(transaction.is_page, differing))) > 1:
        report.unconfirmed.append(f"{count} pages made anew, by other sources, are others")
        differing = [path for path in differing if not transaction.is_page(path)]
    report.unconfirmed.extend(f"{path} made anew, by other sources, is another" for path in differing)


def _moved(manifest: Manifest, study: Study, stem: str, now: Mapping[str, str | None]) -> list[str]:
    """What a section's results depend on that is, ``now``, no longer what it was: ``["the package's code"]``."""
    entry, source = manifest.sections[stem], study.notebooks / f"{stem}.ipynb"
    moved = [words for name, words in SOURCES.items() if name != "lock" and entry.key.get(name) != now[name]]
    if entry.parameters.get(OUTSIDE):
        moved.append("a file outside of the record")
    if entry.runner != "datalab run":
        return [*moved, "a notebook run by hand"]
    if _others_moved(manifest, study, stem):
        moved.append("sections that it read, run again since")
    same = source.is_file() and provenance.notebook_sha256(source) == entry.key.get("notebook")
    return moved if same else [*moved, "its notebook"]


def _others_moved(manifest: Manifest, study: Study, stem: str) -> bool:
    """Whether what a section read of other sections is no longer what the record has of them."""
    reads = study.reads_of(study.find(stem))
    return bool(reads) and manifest.reads_sha256(reads) != manifest.sections[stem].key.get("reads")


def stale(manifest: Manifest, study: Study) -> Iterator[str]:
    """What has moved on since the sections ran: code, protocol, ledger, lock, a notebook, sections read. One line each.

    A plain installation has no lock: where it ran them, or this is one, nothing is said of it.
    """
    now = provenance.sources(study.ledger)
    ran = [entry for entry in manifest.sections.values() if entry.key]
    for name, words in SOURCES.items():
        told = ran if name != "lock" else [entry for entry in ran if entry.key.get(name) and now[name]]
        behind = [entry.number for entry in told if entry.key.get(name) != now[name]]
        if behind:
            named = f"section{'s' * (len(behind) > 1)} {', '.join(behind)}"
            yield f"{words} changed after {f'all {len(ran)} sections' if 1 < len(behind) == len(ran) else named} ran"
    known = {section.stem for section in study.sections}
    for stem, entry in manifest.sections.items():
        source, then = study.notebooks / f"{stem}.ipynb", entry.key.get("notebook")
        if then and source.is_file() and provenance.notebook_sha256(source) != then:
            yield f"notebooks/{stem}.ipynb changed after section {entry.number} ran"
        if stem in known and entry.key.get("reads") and _others_moved(manifest, study, stem):
            yield f"sections that section {entry.number} reads were run again after it"


def departures(manifest: Manifest, study: Study) -> Iterator[str]:
    """The sections that were run with other parameters than those of the record's profile, a line each."""
    known = {section.stem: section for section in study.sections}
    for stem, entry in manifest.sections.items():
        if stem in known and entry.parameters:
            with suppress(UserError):  # of no profile of ours: a section's entry says so
                if names := parameters.departures(known[stem].load().Parameters, entry.parameters):
                    yield f"section {entry.number} with other {', '.join(names)}"
