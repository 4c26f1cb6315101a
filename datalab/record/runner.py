"""``datalab run``: plan, lock, run each notebook, judge it, and leave a record that says the truth whatever happens."""

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datalab.errors import UserError
from datalab.record import claims_table, folder, lock, plan, progress, provenance, section, transaction
from datalab.record.console import RunConsole
from datalab.record.execution import Execution, kill_group, started_with
from datalab.record.manifest import Manifest, SectionRecord
from datalab.record.plan import Job
from datalab.record.study import Study
from datalab.sweep import cluster

OK, FAILED, INTERRUPTED = 0, 1, 130
_POLL = 0.2  # seconds


def run(
    study: Study,
    jobs: Sequence[Job],
    record: Path,
    profile: str,
    fresh: bool = False,
    resume: str = "the same command",
    timeout: float | None = None,
    scheduler: str | None = None,
) -> int:
    """Run the jobs into ``record`` and return the exit status: 0 all complete, 1 one failed, 130 interrupted.

    A section that is complete, whole and unchanged is not run again. ``fresh`` deletes the record first, unless it has
    sections that the jobs, which are not all of the study's, would not make again. ``resume`` is the command that
    continues after an interruption, ``timeout`` the seconds a code cell may run, ``scheduler`` the address of a Dask
    scheduler for the sweeps. Raises :class:`UserError`, before anything is written, when the folder is not a record,
    holds another profile, is being written to or cannot be, or a data set cannot be fetched. A record that can no
    longer be written (a full disk) ends the run with status 1.
    """
    record = folder.named(record).resolve()  # the kernels work in another folder
    console, interrupts = RunConsole(), Interrupts()

    def prepare() -> None:
        _check_folder(record, study, profile, fresh, jobs)
        if fresh:
            folder.empty(record, lock.NAME)

    with interrupts.watched():
        try:
            planned = plan.as_dict(jobs)
            console.plan(planned)
            _check_folder(record, study, profile, fresh, jobs)
            if missing := planned["missing_datasets"]:
                from datalab import data

                data.fetch(missing, progress=console.fetching)
            with interrupts.deferred():
                manifest = transaction.open_record(record, study, profile, prepare)
                driver = _Driver(study, record, manifest, console, interrupts, timeout, scheduler)
                try:
                    driver.run_all(jobs)
                finally:
                    driver.close()
        except KeyboardInterrupt:
            why, status = "Interrupted", INTERRUPTED
        except OSError as error:
            why, status = f"Stopped, cannot write ({provenance.one_line(error)})", FAILED
        else:
            entries = [manifest.sections[job.section.stem] for job in jobs]
            console.summary(entries, provenance.shown(record))
            return OK if all(entry.status == "complete" for entry in entries) else FAILED
        kept = f"finished work is kept in {provenance.shown(record)}"
        kept = kept if os.path.exists(record) else "nothing was written"
        console.say(f"{why}; {kept}. Resume with: {resume}", wrap=False)  # a command to copy
        return status


def is_current(record: Path, manifest: Manifest, stem: str, key: Mapping[str, Any]) -> bool:
    """Whether a section is complete, run with this key by ``datalab run``, and every file of it is whole."""
    entry = manifest.sections.get(stem)
    if entry is None or entry.status != "complete" or entry.runner != "datalab run" or entry.key != key:
        return False
    paths = [*manifest.files_of(stem), *entry.cells]
    return not any(manifest.change(record, path) for path in paths)


class Interrupts:
    """Ctrl-C, SIGTERM and SIGHUP as one thing: it stops what may be stopped, and waits for what must not be torn.

    Raises ``KeyboardInterrupt`` once, on the first signal; inside :meth:`deferred` only where it is asked for.

    What comes after the first changes nothing: an interruption that is being handled is neither torn nor cut short.
    """

    def __init__(self) -> None:
        self.arrived = self._raised = self._deferred = False

    def _on_signal(self, *_: Any) -> None:
        self.arrived = True
        if not self._deferred:
            self.check()

    def check(self) -> None:
        """Raise, if a signal has arrived and nothing was raised for it yet."""
        if self.arrived and not self._raised:
            self._raised = True
            raise KeyboardInterrupt

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Handle the signals inside the block; afterwards every handler is what it was. Main thread only."""
        numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
        if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # `nohup`: the run outlives its terminal
            numbers.remove(signal.SIGHUP)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let the block come to its end, or to a :meth:`check`, before an interruption is raised."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        self.check()


@dataclass
class _Driver:
    """One run over one record, whose lock is held and in which interruptions wait until they are asked for."""

    study: Study
    record: Path
    manifest: Manifest
    console: RunConsole
    interrupts: Interrupts
    timeout: float | None
    scheduler: str | None
    changed: bool = False  # whether this run has written to the record
    sources: dict[str, str | None] = field(default_factory=dict)

    def run_all(self, jobs: Sequence[Job]) -> None:
        """Run what is not current, in order; a section that reads one that did not complete is not run."""
        self.sources = provenance.sources(self.study.ledger)
        if not self.manifest.closed:  # new, or its writer was killed
            self.changed = True
            transaction.recover(self.record, self.manifest)
            for left_over in started_with({section.RECORD: str(self.record)}):
                kill_group(left_over)
        for job in jobs:
            self.manifest.sections.setdefault(job.section.stem, self._entry(job))
        there, here = self.manifest.machine.get("processor"), provenance.machine()["processor"]
        if there not in (None, here) and not here.startswith(f"{there}, family"):  # as older records name it
            self.console.say(f"What the record has was made on another machine ({there}): see datalab verify")
        refreshed = False
        for place, job in enumerate(jobs, 1):
            key = self._key(job)
            current = is_current(self.record, self.manifest, job.section.stem, key)
            self.interrupts.check()
            if current:
                self.console.say(f"{job.section.number:<4} {job.section.stem}: complete and unchanged, not run again")
                continue
            if not refreshed:
                self._refresh()
                refreshed = True
            failed = ("failed", "interrupted")
            statuses = {stem: entry.status for stem, entry in self.manifest.sections.items()}
            settled = set(job.reads) - {other.section.stem for other in jobs[place:]}  # the others' turn is to come
            if broken := [stem for stem in job.reads if stem in settled and statuses.get(stem) in failed]:
                self._refuse(job, f"needs {', '.join(broken)}, which did not complete")
            else:
                self._run_one(job, key)
        self.interrupts.check()

    def close(self) -> None:
        """Write what spans sections, close the record and release it; where nothing ran it is left to the byte."""
        try:
            if any(entry.status == "running" for entry in self.manifest.sections.values()):
                transaction.recover(self.record, self.manifest, "the run ended before it could be judged")
            if self.changed:
                transaction.close(self.record, self.manifest, self.study)
        finally:
            lock.release(self.record)

    def _refresh(self) -> None:
        """Before the first notebook of this call: note what runs it, and trust no raw cell that has changed.

        From here on until it is closed the record says that it is being written to. If it cannot say so, nothing else
        of it is touched.
        """
        self.manifest.refresh(self.study)
        self.manifest.closed = False
        self.manifest.save(self.record)
        self.changed = True
        for path in transaction.drop_changed_cells(self.record, self.manifest):
            self.console.say(f"     {path} is not what was written: it will be computed again")

    def _entry(self, job: Job, **known: Any) -> SectionRecord:
        return SectionRecord(number=job.section.number, title=job.section.title, **known)

    def _key(self, job: Job) -> dict[str, Any]:
        """Everything the section's results depend on."""
        parameters = job.parameters.model_dump(mode="json", exclude={"workers", "record"})
        key = {**self.sources, "notebook": provenance.notebook_sha256(job.notebook), "parameters": parameters}
        return key | {"reads": self.manifest.reads_sha256(job.reads)}

    def _refuse(self, job: Job, reason: str) -> None:
        transaction.discard(self.record, self.manifest, job.section.stem)
        entry = self.manifest.sections[job.section.stem] = self._entry(job, status="not run", reason=reason)
        self.manifest.save(self.record)
        self.console.end(job, entry)

    def _run_one(self, job: Job, key: dict[str, Any]) -> None:
        stem = job.section.stem
        transaction.hold_room(self.record)
        how = {"runner": "datalab run", "key": key, "parameters": _asked(job)}
        stage = transaction.begin(self.record, self.manifest, job.section, **how)
        entry = self.manifest.sections[stem]
        given = {"profile": job.parameters.profile, **job.given}
        target = self.record / "notebooks" / f"{stem}.ipynb.partial"
        environment = {section.RECORD: str(self.record), section.STAGE: str(stage)}
        environment |= {cluster.SCHEDULER: self.scheduler} if self.scheduler else {}
        try:
            execution = Execution(job.notebook, given, target, environment, self.timeout)
            began, cpu = time.monotonic(), provenance.cpu_seconds()
            self.console.begin(job)
            try:
                interrupted = self._watch(job, execution, stage)
            finally:
                execution.end()
            transaction.give_room(self.record)
            entry.wall_seconds = round(time.monotonic() - began, 3)
            entry.cpu_seconds = round(provenance.cpu_seconds() - cpu, 3)
            self._settle(job, execution, stage, interrupted)
        except OSError as error:
            self._fail(stem, entry, stage, f"its part of the record cannot be written: {provenance.one_line(error)}")
            raise
        finally:
            self.console.end(job, self.manifest.sections[stem])

    def _watch(self, job: Job, execution: Execution, stage: Path) -> bool:
        """Follow the notebook to its end, or until an interruption: return whether it was interrupted."""
        execution.start()
        while execution.is_alive() and not self.interrupts.arrived:
            execution.join(timeout=_POLL)
            state = progress.read(stage / transaction.PROGRESS)
            self.console.tick(job, execution.cell, execution.cells, state)
        return execution.is_alive()

    def _settle(self, job: Job, execution: Execution, stage: Path, interrupted: bool) -> None:
        """Judge the notebook and enter it, as complete or as what it is."""
        stem = job.section.stem
        entry = self.manifest.sections[stem]
        reason, ran, cells = execution.judge()
        fragment = transaction.read_fragment(stage)
        reason = reason or _missing_from(fragment, job)
        execution.save()
        entry.code_cells, entry.code_cells_ran = cells, ran
        entry.ended = provenance.now()
        if fragment is not None and not reason:
            cpu = max(entry.cpu_seconds or 0.0, fragment["section"]["cpu_seconds"])
            timed = {"wall_seconds": entry.wall_seconds, "cpu_seconds": cpu, "ended": entry.ended}
            fragment["section"] |= {"status": "complete", **timed}
            transaction.merge(self.record, self.manifest, stem, fragment)
            transaction.keep_notebook(self.record, self.manifest, stem, stem)
        else:
            stopped = f"after {ran} of {cells} code cells" if cells else "while its kernel was being started"
            status, why = ("interrupted", f"stopped {stopped}") if interrupted else ("failed", reason)
            transaction.enter_broken(self.record, self.manifest, stem, status, why)
        folder.delete_tree(stage.parent, stage.name)
        claims_table.write(self.record, self.manifest, self.study)
        self.manifest.save(self.record)

    def _fail(self, stem: str, entry: SectionRecord, stage: Path, reason: str) -> None:
        """Enter a section as failed whose outputs could not be entered; they make room, its raw cells stay."""
        folder.delete_tree(stage.parent, stage.name)
        transaction.give_room(self.record)
        transaction.discard(self.record, self.manifest, stem)
        folder.delete(self.record, f"notebooks/{stem}.ipynb.partial")
        self.manifest.sections[stem] = entry
        entry.ended = provenance.now()
        transaction.enter_broken(self.record, self.manifest, stem, "failed", entry.reason or reason)
        self.manifest.save(self.record)


def _asked(job: Job) -> dict[str, Any]:
    return job.parameters.model_dump(mode="json", exclude={"record"})


def _missing_from(fragment: dict[str, Any] | None, job: Job) -> str:
    """Why a notebook whose cells all ran is still not complete; empty when it is."""
    if fragment is None:
        return "the notebook ended without section.finish()"
    ran = fragment["section"]["parameters"]
    if differing := sorted(name for name, value in _asked(job).items() if ran.get(name) != value):
        return f"the notebook ran with other parameters than asked for: {', '.join(differing)}"
    return ""


def _check_folder(record: Path, study: Study, profile: str, fresh: bool, jobs: Sequence[Job]) -> None:
    """Refuse a folder that is not a record, is or cannot be written to, or holds another profile. Writes nothing."""
    name = provenance.shown(record)
    nearest = next(place for place in (record, *record.parents) if os.path.exists(place))
    if nearest.is_dir() and not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"record '{name}' cannot be written: folder '{provenance.shown(nearest)}' is read-only")
    if not record.exists():
        return
    if not record.is_dir():
        raise UserError(f"record '{name}' is a file; choose a folder")
    if lock.is_held(record):
        lock.hold(record)  # refuses, naming the holder, unless this process holds it
    if not folder.has(record, Manifest.NAME):
        foreign = sorted(path.name for path in record.iterdir() if path.name != lock.NAME)
        if foreign:
            raise UserError(f"folder '{name}' is not a record (it holds '{foreign[0]}'); choose an empty or a new one")
    elif not fresh:
        try:
            transaction.open_manifest(record, study, profile)
        except UserError as error:
            raise UserError(f"{error}; --fresh starts over") from None
    elif len(jobs) < len(study.sections) and (manifest := Manifest.read(record)[0]):
        again = {job.section.stem for job in jobs}
        lost = [e.number for stem, e in manifest.sections.items() if stem not in again and e.status != "not run"]
        if lost:
            what = f"section{'s' * (len(lost) > 1)} {', '.join(lost)} too, which this run does not make"
            other = "leave --fresh out (what has changed is run again), or choose a new folder by --to"
            raise UserError(f"record '{name}': --fresh would delete {what}; {other}")
