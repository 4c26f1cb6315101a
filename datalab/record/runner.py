"""``datalab run``: plan, lock, run each notebook, judge it, and leave a record that says the truth whatever happens."""

import os
import resource
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datalab.errors import UserError
from datalab.record import claims_table, lock, plan, progress, provenance, section, transaction, verify
from datalab.record.console import RunConsole
from datalab.record.execution import Execution
from datalab.record.interrupts import Interrupts
from datalab.record.kernel import kill_left_over
from datalab.record.manifest import Manifest, SectionRecord
from datalab.record.plan import Job
from datalab.record.study import Study

OK, FAILED, INTERRUPTED = 0, 1, 130
_POLL = 0.2  # seconds


def run(
    study: Study,
    jobs: Sequence[Job],
    record: Path,
    profile: str,
    fresh: bool = False,
    resume: str = "",
    python: str = sys.executable,
    timeout: float | None = None,
) -> int:
    """Run the jobs into ``record`` and return the exit status: 0 all complete, 1 one failed, 130 interrupted.

    A section that is complete, whole and unchanged is not run again. ``fresh`` deletes the record first. ``resume`` is
    the command that continues after an interruption, ``python`` the interpreter of the kernels, ``timeout`` the seconds
    a code cell may run. Raises :class:`UserError`, before anything is written, when the folder is not a record, holds
    another profile, is being written to or cannot be, or a data set cannot be fetched. A record that can no longer be
    written (a full disk) ends the run with status 1.
    """
    record = record.resolve()  # the kernels work in another folder
    console, interrupts = RunConsole(), Interrupts()
    with interrupts.watched():
        try:
            missing = plan.missing_datasets(jobs)
            console.plan(jobs, missing)
            _check_folder(record, profile, fresh)
            if missing:
                _fetch(missing, console)
            with interrupts.deferred():
                return _run(study, jobs, record, profile, fresh, console, interrupts, python=python, timeout=timeout)
        except KeyboardInterrupt:
            why, status = "Interrupted", INTERRUPTED
        except OSError as error:
            why, status = f"Stopped, cannot write ({provenance.one_line(error)})", FAILED
        kept = (
            f"finished work is kept in {provenance.shown(record)}" if os.path.exists(record) else "nothing was written"
        )
        console.say(f"{why}; {kept}. Resume with: {resume or 'the same command'}")
        return status


def _run(
    study: Study,
    jobs: Sequence[Job],
    record: Path,
    profile: str,
    fresh: bool,
    console: RunConsole,
    interrupts: Interrupts,
    **how: Any,
) -> int:
    _make(record)
    lock.hold(record)
    try:
        _check_folder(record, profile, fresh)
        if fresh:
            _empty(record)
        manifest = Manifest.load(record) if (record / Manifest.NAME).exists() else Manifest.create(profile, study)
        driver = _Driver(study, record, manifest, console, interrupts, **how)
        try:
            driver.run_all(jobs)
        finally:
            driver.close()
    finally:
        lock.release(record)
    entries = [manifest.sections[job.section.stem] for job in jobs]
    for entry in entries:
        console.headline(entry)
    where = provenance.shown(record)
    console.say(f"Executed notebooks: {where}/notebooks   tables: {where}/tables   verdicts: {where}/claims.csv")
    console.say(f"Check the record with: datalab verify {where}")
    return OK if all(entry.status == "complete" for entry in entries) else FAILED


class _Driver:
    """One run over one record, whose lock is held and in which interruptions wait until they are asked for.

    ``how``: the ``python`` and ``timeout`` of :func:`run`.
    """

    def __init__(
        self, study: Study, record: Path, manifest: Manifest, console: RunConsole, interrupts: Interrupts, **how: Any
    ) -> None:
        self._study = study
        self._record, self._manifest, self._how = record, manifest, how
        self._console, self._interrupts = console, interrupts
        self._sources = provenance.sources(study.ledger)
        self._opened = self._recovered = False

    def run_all(self, jobs: Sequence[Job]) -> None:
        """Run what is not current, in order; a section that reads one that did not complete is not run."""
        if not self._manifest.closed:  # new, or its writer was killed
            self._recovered = True
            for noted in transaction.recover(self._record, self._manifest):
                kill_left_over(noted)
        for job in jobs:
            entry = SectionRecord(number=job.section.number, title=job.section.title)
            self._manifest.sections.setdefault(job.section.stem, entry)
        for job in jobs:
            key = self._key(job)
            current = is_current(self._record, self._manifest, job.section.stem, key)
            self._interrupts.check()
            if current:
                self._console.skipped(job)
                continue
            self._open()
            broken = [stem for stem in job.reads if self._is_broken(stem)]
            if broken:
                self._refuse(job, f"needs {', '.join(broken)}, which did not complete")
            else:
                self._run_one(job, key)
        self._interrupts.check()

    def close(self) -> None:
        """Write what spans sections and close the record; one in which nothing ran is left to the byte."""
        if any(entry.status == "running" for entry in self._manifest.sections.values()):
            transaction.recover(self._record, self._manifest, "the run ended before it could be judged")
        if self._opened or self._recovered:
            transaction.close(self._record, self._manifest, self._study)

    def _open(self) -> None:
        """Before the first notebook of this call: note what runs it, and trust no raw cell that has changed.

        From here on until it is closed the record says that it is being written to. If it cannot say so, nothing else
        of it is touched.
        """
        if self._opened:
            return
        self._manifest.refresh(self._study)
        self._manifest.closed = False
        self._manifest.save(self._record)
        self._opened = True
        for path in transaction.drop_changed_cells(self._record, self._manifest):
            self._console.say(f"     {path} is not what was written: it will be computed again")

    def _is_broken(self, stem: str) -> bool:
        entry = self._manifest.sections.get(stem)
        return entry is not None and entry.status in ("failed", "interrupted")

    def _key(self, job: Job) -> dict[str, Any]:
        """Everything the section's results depend on."""
        parameters = job.parameters.model_dump(mode="json", exclude={"workers", "record"})
        key = {**self._sources, "notebook": provenance.notebook_sha256(job.notebook), "parameters": parameters}
        return key | {"reads": self._manifest.reads_sha256(job.reads)}

    def _refuse(self, job: Job, reason: str) -> None:
        entry = SectionRecord(number=job.section.number, title=job.section.title, status="not run", reason=reason)
        transaction.discard(self._record, self._manifest, job.section.stem)
        self._manifest.sections[job.section.stem] = entry
        self._manifest.save(self._record)
        self._console.end(job, entry)

    def _run_one(self, job: Job, key: dict[str, Any]) -> None:
        stem = job.section.stem
        entry = SectionRecord(
            number=job.section.number,
            title=job.section.title,
            status="running",
            runner="datalab run",
            key=key,
            parameters=job.parameters.model_dump(mode="json", exclude={"record"}),
            started=provenance.now(),
            process=section.process(),
        )
        transaction.hold_room(self._record)
        stage = transaction.begin(self._record, self._manifest, stem, entry)
        given = {"profile": job.parameters.profile, **job.given}
        target = self._record / "notebooks" / f"{stem}.ipynb.partial"
        try:
            execution = Execution(job.notebook, given, self._record, stage, target, **self._how)
            began, cpu = time.monotonic(), _cpu_of_children()
            self._console.begin(job)
            try:
                interrupted = self._watch(job, execution, stage)
            finally:
                execution.end()
            transaction.give_room(self._record)
            entry.wall_seconds = round(time.monotonic() - began, 3)
            entry.cpu_seconds = round(_cpu_of_children() - cpu, 3)
            self._settle(job, execution, stage, interrupted)
        except OSError as error:
            self._fail(stem, entry, stage, f"its part of the record cannot be written: {provenance.one_line(error)}")
            raise
        finally:
            self._console.end(job, self._manifest.sections[stem])

    def _watch(self, job: Job, execution: Execution, stage: Path) -> bool:
        """Follow the notebook to its end, or until an interruption: return whether it was interrupted."""
        execution.start()
        entry = self._manifest.sections[job.section.stem]
        while execution.is_alive() and not self._interrupts.arrived:
            execution.join(timeout=_POLL)
            process = execution.kernel.process
            if process is not None and "kernel" not in entry.process:
                entry.process |= {"kernel": process.pid, "connection": execution.kernel.connection}
                self._manifest.save(self._record)
            state = progress.read(stage / transaction.PROGRESS)
            self._console.tick(job, execution.cell, execution.cells, state)
        return execution.is_alive()

    def _settle(self, job: Job, execution: Execution, stage: Path, interrupted: bool) -> None:
        """Judge the notebook and enter it, as complete or as what it is."""
        stem, manifest, record = job.section.stem, self._manifest, self._record
        entry = manifest.sections[stem]
        judgement = execution.judge()
        fragment = transaction.read_fragment(stage)
        reason = judgement.reason or _missing_from(fragment, job)
        execution.save()
        entry.code_cells, entry.code_cells_ran = judgement.cells, judgement.ran
        entry.ended, entry.process = provenance.now(), {}
        if fragment is not None and not reason:
            cpu = max(entry.cpu_seconds or 0.0, fragment["section"]["cpu_seconds"])
            timed = {"wall_seconds": entry.wall_seconds, "cpu_seconds": cpu, "ended": entry.ended}
            fragment["section"] |= {"status": "complete", **timed}
            transaction.merge(record, manifest, stem, fragment)
            self._keep(execution, f"notebooks/{stem}.ipynb")
        else:
            entry.status = "interrupted" if interrupted else "failed"
            stopped = f"stopped after {judgement.ran} of {judgement.cells} code cells"
            stopped = stopped if judgement.cells else "stopped while its kernel was being started"
            entry.reason = stopped if interrupted else reason
            transaction.enter_cells(record, manifest, stem)
            self._keep(execution, f"notebooks/{stem}.{entry.status}.ipynb")
        shutil.rmtree(stage, ignore_errors=True)
        claims_table.write(record, manifest, self._study)
        manifest.save(record)

    def _fail(self, stem: str, entry: SectionRecord, stage: Path, reason: str) -> None:
        """Enter a section as failed whose outputs could not be entered; they make room, its raw cells stay."""
        shutil.rmtree(stage, ignore_errors=True)
        transaction.give_room(self._record)
        transaction.discard(self._record, self._manifest, stem)
        (self._record / "notebooks" / f"{stem}.ipynb.partial").unlink(missing_ok=True)
        self._manifest.sections[stem] = entry
        entry.status, entry.reason, entry.process = "failed", entry.reason or reason, {}
        entry.ended = provenance.now()
        transaction.enter_cells(self._record, self._manifest, stem)
        self._manifest.save(self._record)

    def _keep(self, execution: Execution, path: str) -> None:
        """Rename the partial notebook to what it turned out to be."""
        if execution.target.exists():
            os.replace(execution.target, self._record / path)
            self._manifest.add_file(self._record, path, section=execution.stem, timing=True)


def is_current(record: Path, manifest: Manifest, stem: str, key: Mapping[str, Any]) -> bool:
    """Whether a section is complete, run with this key by ``datalab run``, and every file of it is whole."""
    entry = manifest.sections.get(stem)
    if entry is None or entry.status != "complete" or entry.runner != "datalab run" or entry.key != key:
        return False
    return not any(
        verify.change(record, path, manifest.files.get(path)) for path in [*manifest.files_of(stem), *entry.cells]
    )


def _missing_from(fragment: dict[str, Any] | None, job: Job) -> str:
    """Why a notebook whose cells all ran is still not complete; empty when it is."""
    if fragment is None:
        return "the notebook ended without section.finish()"
    asked = job.parameters.model_dump(mode="json", exclude={"record"})
    ran = {name: value for name, value in fragment["section"]["parameters"].items() if name != "record"}
    if differing := sorted(name for name in asked if ran.get(name) != asked[name]):
        return f"the notebook ran with other parameters than asked for: {', '.join(differing)}"
    return ""


def _check_folder(record: Path, profile: str, fresh: bool) -> None:
    """Refuse a folder that is not a record, is or cannot be written to, or holds another profile. Writes nothing."""
    name = provenance.shown(record)
    nearest = next(folder for folder in (record, *record.parents) if os.path.exists(folder))
    if nearest.is_dir() and not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"record '{name}' cannot be written: folder '{provenance.shown(nearest)}' is read-only")
    if not record.exists():
        return
    if not record.is_dir():
        raise UserError(f"record '{name}' is a file; choose a folder")
    if lock.is_held(record):
        lock.hold(record)  # refuses, naming the holder, unless this process holds it
    if not (record / Manifest.NAME).exists():
        foreign = sorted(path.name for path in record.iterdir() if path.name != lock.NAME)
        if foreign:
            raise UserError(f"folder '{name}' is not a record (it holds '{foreign[0]}'); choose an empty or a new one")
    elif not fresh:
        try:
            held = Manifest.load(record).profile
        except UserError as error:
            raise UserError(f"{error}; --fresh starts over") from None
        if held != profile:
            raise UserError(f"record '{name}' holds profile '{held}', not '{profile}'; choose another or add --fresh")


def _make(record: Path) -> None:
    try:
        record.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"record '{provenance.shown(record)}' cannot be written: {error.strerror}") from None


def _empty(record: Path) -> None:
    for path in record.iterdir():
        if path.name == lock.NAME:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _fetch(missing: Sequence[str], console: RunConsole) -> None:
    from datalab import data

    def show(package: str, done: int, total: int) -> None:
        if package:
            console.say(f"     fetching {package} ({done + 1} of {total})")

    data.fetch(list(missing), progress=show)


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def default_record(profile: str) -> Path:
    """``runs/<profile>`` in the project."""
    return provenance.project() / "runs" / profile
