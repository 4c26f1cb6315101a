"""What a notebook sees of the record: ``open_section`` opens its section, the :class:`Section` saves what it shows."""

import functools
import gc
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from datalab import atomic, sweep
from datalab.errors import UserError
from datalab.record import claims_table, figures, folder, lock, papermills, provenance, rawrows, tables, transaction
from datalab.record.manifest import Manifest
from datalab.record.parameters import OUTSIDE, SectionParameters, given_in, missing_datasets, resolve
from datalab.record.progress import Progress, ipython, some
from datalab.record.study import SectionSpec, Study
from datalab.record.tables import Table, exact, flat, is_missing, shown_rows
from datalab.sweep import Task, cluster

# `datalab run` holds the lock, judges the notebook and merges its outputs; it tells the kernel so by these.
RECORD, STAGE = "DATALAB_RECORD", "DATALAB_STAGE"
# The name in a notebook's namespace of what opens a section instead, where it is computed anew (checks.replay).
OPENER = "_datalab_opener"
BY_HAND = "run cell by cell outside `datalab run`: the executed notebook is not part of this record"
SMOKE = (
    'No evidence: profile smoke only shows that everything runs, on too little data. Take profile = "quick" for some.'
)
_STATED = ("id", "measured", "low", "high", "effect_size", "n", "verdict", "why", "excluded", "unit")  # of a claim


def no_evidence(sections: Iterable[Mapping[str, Any]]) -> list[str]:
    """The line :data:`SMOKE` where one of these sections, given by their parameters, was scaled down to it."""
    smoke = (given for given in sections if given.get("profile") == "smoke")
    return [SMOKE] if any(given.keys() - SectionParameters.model_fields.keys() for given in smoke) else []


@dataclass(frozen=True)
class Statement:
    """What was measured for one claim of the ledger.

    ``low`` and ``high`` are the interval's limits, ``n`` what it counts; ``table`` and ``row`` name the table of the
    section and the row the figure stands in; ``why`` says why the verdict is what it is; ``excluded``, "yes" or "no",
    whether the reported figure lies outside what was measured; ``raw`` says which raw rows it rests on
    (:func:`datalab.record.rawrows.matches`; ``{}``: on all of the section's); ``unit`` is what ``measured`` is in,
    where that is not the ledger's.
    """

    id: str
    measured: float | str | None = None
    low: float | None = None
    high: float | None = None
    effect_size: float | None = None
    n: int | str | None = None
    verdict: str = ""
    why: str = ""
    table: str | None = None
    row: str | int | None = None
    excluded: str = ""
    raw: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    unit: str | None = None


def open_section(study: Study, name: str, namespace: Mapping[str, Any]) -> "Section":
    """Open a notebook's section of the record: check its parameters, set the style, print what runs where.

    ``name`` is the notebook's stem or number; ``namespace`` its ``globals()``, in which its parameters cell has run.
    Under ``datalab run`` the record is the driver's. Otherwise it is the parameter ``record``, by default
    ``runs/notebook-<profile>``, in the checkout for who works in it and else in the working directory; this process
    then takes the record's lock until ``finish()``. Raises :class:`UserError` for a parameter that is unknown or out of
    range, or a record someone else is writing to.
    """
    spec = study.find(name)
    model = spec.load().Parameters
    parameters = resolve(model, given_in(namespace, model.model_fields), where=f"notebook {spec.stem}")
    if parameters.unfit:
        raise UserError(f"notebook {spec.stem}: {parameters.unfit}")
    if opener := namespace.get(OPENER):
        section = opener(parameters)
    elif STAGE in os.environ:
        section = Section(study, spec, parameters, Path(os.environ[RECORD]), Path(os.environ[STAGE]), driven=True)
    else:
        section = _by_hand(study, spec, parameters)
    if ipython():
        figures.style()
        tables.style()
        gc.set_threshold(20_000, 20, 50)  # tables and figures are many small objects: look through them less often
    print(section.describe())
    by_hand = not section.driven and not papermills.output()  # whose notebook may join the record: its results only
    own_data = getattr(parameters, OUTSIDE, None)  # of which the reference says nothing
    if by_hand and parameters.profile == "smoke" and not own_data and (said := _said_by_the_reference(spec)):
        _display(_markdown(said))
    return section


def _by_hand(study: Study, spec: SectionSpec, parameters: SectionParameters) -> "Section":
    record = provenance.home() / folder.named(Path(parameters.record or f"runs/notebook-{parameters.profile}"))
    record = record.resolve()
    if record == provenance.reference():
        raise UserError("parameter 'record': runs/reference is the committed record; choose another folder")
    if missing := missing_datasets([parameters]):
        them = missing if len(missing) < 10 else []  # --fetch without names: all there are
        command = " ".join(["datalab datasets --fetch", *them])
        wanted = f"{some(len(missing), 'data set')} not on this disk"
        raise UserError(f"notebook {spec.stem}: {wanted}; to get what is missing: {command}")
    manifest = transaction.open_record(record, study, parameters.profile)
    if not manifest.closed:
        transaction.recover(record, manifest)
    transaction.drop_changed_cells(record, manifest)
    manifest.refresh(study)
    key = {**manifest.sources, "notebook": None}
    stage = transaction.begin(record, manifest, spec, runner="notebook session", key=key)
    section = Section(study, spec, parameters, record, stage, driven=False)
    if shell := ipython():
        shell.set_custom_exc((KeyboardInterrupt,), functools.partial(_interrupted, record))
    return section


def _interrupted(record: Path, shell: Any, kind: type, error: BaseException, *_: Any, **__: Any) -> list[str]:
    """What an interrupted cell shows instead of a traceback."""
    place = f"{provenance.shown(record)}/cells"
    words = f"Interrupted. Finished tasks are kept in {place}: run this cell again, or all, to go on."
    shell._showtraceback(kind, error, [words])
    return []


def _said_by_the_reference(spec: SectionSpec) -> str:
    """The committed record's lines on this section: what a smoke run, which finds nothing, is a rehearsal of."""
    reference, lines = provenance.reference(), []
    manifest = Manifest.read(reference)[0] if reference else None
    if manifest and (entry := manifest.sections.get(spec.stem)):
        lines = [part["text"] for part in entry.headline if "text" in part]
    return "\n\n".join([f"Profile `{manifest.profile}` (`runs/reference`) says:", *lines]) if lines else ""


class Section:
    """One notebook's part of the record.

    ``parameters`` are the checked parameters, ``record`` is the record's folder; ``driven``: `datalab run` holds it.
    Tables, figures and claims are gathered aside and become part of the record when the notebook is complete: a record
    never holds half a section.
    """

    def __init__(
        self, study: Study, spec: SectionSpec, parameters: SectionParameters, record: Path, stage: Path, driven: bool
    ) -> None:
        self._study, self.spec, self.parameters, self.record = study, spec, parameters, record
        self._stage, self.driven, self._open = stage, driven, True
        self._saved: dict[str, dict[str, dict[str, Any]]] = {"tables": {}, "figures": {}}
        self._claims: dict[str, dict[str, Any]] = {}
        self._headline: list[dict[str, Any]] = []
        self._cells: dict[str, None] = {}
        self._raw: dict[frozenset[str], pd.DataFrame] = {}  # by the keys of the tasks of one sweep
        self._began = time.monotonic(), provenance.cpu_seconds()

    def describe(self) -> str:
        """The provenance a notebook prints first: versions, device, seeds, profile, record."""
        p = self.parameters
        libraries = [f"{name} {version(name)}" for name in ("torch", "numpy", "scipy", "pandas", "scikit-learn")]
        threads = provenance.determinism()["threads"]
        lines = {
            "section": f"{self.spec.number}: {self.spec.title}",
            "profile": p.profile,
            "versions": ", ".join([f"Python {sys.version.split()[0]}", *libraries]),
            "device": f"{provenance.device(p.device)}, {threads} thread{'' if threads == '1' else 's'} a process",
            "root seed": p.root_seed,
            "record": as_word(provenance.shown(self.record)),
        }
        own = type(p).model_fields.keys() - SectionParameters.model_fields.keys()
        scaled = own or getattr(self.spec.load(), "READS", ())  # else every profile computes the same
        smoke = [SMOKE] if p.profile == "smoke" and scaled else []
        return "\n".join([*smoke, *(f"{name:<9} {line}" for name, line in lines.items())])

    def sweep(self, tasks: Any) -> pd.DataFrame:
        """Run a grid of tasks and return their rows; finished ones are reused from ``record/cells``.

        Shows its progress in one updating display, and to ``datalab run``.
        """
        self._must_be_open()
        tasks = list(tasks)
        folder = self.record / "cells"
        progress = Progress(self._stage / transaction.PROGRESS)
        with nullcontext() if self.driven else progress:
            rows = sweep.run(tasks, folder, self.parameters.processes, progress, executor=cluster.executor())
        self._cells.update((task.key, None) for task in tasks)
        return self._kept(rows, tasks)

    def _kept(self, rows: pd.DataFrame, tasks: Sequence[Task]) -> pd.DataFrame:
        """The rows, which statements may rest on whatever the notebook makes of them; the same tasks swept again, once.

        ``tasks`` are those of one sweep, which choose from the same lengths of training or from none.
        """
        rows = rawrows.with_lengths(rows, tasks[0].parameters if tasks else {})
        self._raw[frozenset(task.key for task in tasks)] = rows.copy(deep=False)
        return rows

    def table(
        self,
        frame: pd.DataFrame,
        name: str,
        caption: str,
        timing: bool = False,
        n: int | str | None = None,
        seeds: int | None = None,
    ) -> None:
        """Save ``frame`` as ``tables/<number>_<name>`` ``.csv``, ``.md`` and ``.tex``, and show it.

        ``n`` is what the table's intervals count (by default its column ``sets``, else the section's data sets, else
        the rows), ``seeds`` those of each data set (by default the section's). ``timing`` marks measured time or
        memory, which differs between equal runs. The caption states the unit of every interval.
        """
        self._must_be_open()
        seeds = getattr(self.parameters, "seeds", None) if seeds is None else seeds
        stamp = self._stamp() | {"seeds": seeds, "n": self._counted(frame) if n is None else n}
        table = Table(frame, self._name(name), caption, stamp, timing)
        faces = {"csv": table.csv(), "md": table.markdown(), "tex": table.latex(), "json": table.sidecar()}
        self._save("tables", table, faces)
        _display({"text/html": table._repr_html_(), "text/plain": repr(table)})

    def figure(
        self, figure: Any, name: str, caption: str, data: pd.DataFrame | None = None, timing: bool = False
    ) -> None:
        """Save a figure, axes or seaborn grid as ``figures/<number>_<name>`` ``.svg`` and ``.png``, and show it once.

        ``data`` is the frame behind it, saved as ``.csv``. The caption says what the intervals are.
        """
        self._must_be_open()
        frame = pd.DataFrame() if data is None else data
        behind = Table(frame, self._name(name), caption, self._stamp(), timing)
        faces = figures.render(figure, behind.name)
        self._save("figures", behind, faces if data is None else {**faces, "csv": behind.csv()})
        _display({"image/png": faces["png"], "text/plain": f"Figure: {caption}"})
        _display({"text/markdown": f"*{caption}*", "text/plain": caption})

    def verdicts(self, statements: Iterable[Statement]) -> None:
        """State what was measured for claims of the ledger; a claim stated twice keeps the last statement.

        Raises :class:`UserError` for an id the ledger does not have, a table this section did not save, or raw rows
        that do not exist.
        """
        self._must_be_open()
        for statement in statements:
            claim_id = self._study.statement(statement.id)["id"]
            table = None if statement.table is None else self._name(statement.table)
            tables = self._saved["tables"]
            if table is not None and table not in tables:
                known = [name.removeprefix(self._name("")) for name in tables]
                raise UserError(f"claim {claim_id}: this section saved no table '{statement.table}'; it has {known}")
            raw = statement.raw
            self._claims[claim_id] = {
                **{name: plain(getattr(statement, name)) for name in _STATED},
                "table": None if table is None else f"tables/{table}.csv",
                "row": None if statement.row is None else str(statement.row),
                "cell": self._cell_number() if table is None else tables[table]["cell"],
                "raw": None if raw is None else rawrows.counted(self._raw.values(), raw, claim_id),
            }

    def headline(self, what: str | pd.DataFrame, answer: bool = False, caption: str = "") -> None:
        """Keep a line or a small table for ``datalab run`` to print at the end; nothing is shown here.

        ``datalab report`` ends with the lines of the first section that are its ``answer``, and its pages begin with a
        table that has a ``caption``.
        """
        self._must_be_open()
        if isinstance(what, str):
            self._headline.append({"text": what} | ({"answer": True} if answer else {}))
        else:
            frame = flat(what)
            self._headline.append({"caption": caption, "columns": list(frame.columns), "rows": shown_rows(frame)})

    def claims(self) -> pd.DataFrame:
        """The claims stated so far, by this section and by the others of the record, one row a claim of the ledger."""
        self._must_be_open()
        manifest = Manifest.load(self.record)
        manifest.sections[self.spec.stem].claims = list(self._claims.values())
        return claims_table.frame(manifest, self._study)

    def finish(self) -> None:
        """Close the section: write its part of the record, show its verdicts and the files saved."""
        self._must_be_open()
        wall, cpu = self._began
        fragment = {
            "files": [path for kind in ("figures", "tables") for path in folder.names(self._stage, kind)],
            "section": {
                "parameters": self.parameters.model_dump(mode="json"),
                "device": provenance.device(self.parameters.device),
                "determinism": provenance.determinism(),
                "ended": provenance.now(),
                "wall_seconds": round(time.monotonic() - wall, 3),
                "cpu_seconds": round(provenance.cpu_seconds() - cpu, 3),
                "peak_memory_bytes": provenance.peak_memory(),
                **self._saved,
                "claims": list(self._claims.values()),
                "headline": self._headline,
                "cells": list(self._cells),
            },
        }
        atomic.write(self._stage / transaction.FRAGMENT, json.dumps(fragment, ensure_ascii=False))
        self._open = False
        ending = self._ending("..")
        if not self.driven:
            fragment["section"] |= {"status": "complete", "reason": BY_HAND}
            manifest = Manifest.load(self.record)
            transaction.merge(self.record, manifest, self.spec.stem, fragment)
            transaction.close(self.record, manifest, self._study)
            lock.release(self.record)
            in_record, ending = ending, self._ending(Path(os.path.relpath(self.record)).as_posix())
            papermills.keep_executed(self.record, self._study, self.spec.stem, {ending: in_record})
        if not _display(_markdown(ending)):
            print(ending)

    def _ending(self, place: str) -> str:
        """The verdicts, and links to all that was saved, from a notebook that sees the record at ``place``."""
        head = ["**Verdicts**", "", "| claim | measured | verdict | printed value excluded? | why | table |"]
        verdicts = [self._verdict(claim, place) for claim in self._claims.values()]
        lines = [*head, "| --- | --- | --- | --- | --- | --- |", *verdicts, ""] if verdicts else []
        saved = []
        for kind, suffix in (("tables", "csv"), ("figures", "svg")):
            links = [f"[{name}]({place}/{kind}/{name}.{suffix})" for name in self._saved[kind]]
            saved += [f"{kind} {', '.join(links)}"] if links else []
        saved += [f"[all claims]({place}/{claims_table.NAME})"]
        saved += [f"[the report]({place}/{transaction.INDEX}), once `datalab report` has written it"]
        return "\n".join([*lines, f"**Saved** in the record: {'; '.join(saved)}."])

    def _verdict(self, claim: dict[str, Any], place: str) -> str:
        """A claim's line, with links to its page and its table."""
        # The page exists once `datalab report` has made it; by hand, the row of claims.csv is what there is.
        page = f"report/claims/{claim['id']}.html" if place == ".." else claims_table.NAME
        table = f"[{claim['table']}]({place}/{claim['table']})" if claim["table"] else ""
        measured, low, high = (_short(claim[name]) for name in ("measured", "low", "high"))
        words = (f"[{claim['id']}]({place}/{page})", measured + (f" [{low}, {high}]" if low else ""))
        return f"| {' | '.join([*words, claim['verdict'], claim['excluded'] or '-', claim['why'], table])} |"

    def _name(self, name: str) -> str:
        if not all(c.isalnum() or c in "_-" for c in name):
            raise UserError(f"name '{name}': use letters, digits, '_' and '-' only")
        return f"{self.spec.number.replace('.', '_')}_{name}"

    def _stamp(self) -> dict[str, Any]:
        p = self.parameters
        return {"section": self.spec.number, "profile": p.profile, "root_seed": p.root_seed}

    def _counted(self, frame: pd.DataFrame) -> int | str:
        """What a table's intervals count, where its notebook does not say it."""
        if "sets" in frame and len(frame):
            fewest, most = frame["sets"].min(), frame["sets"].max()
            return f"{most} data sets" if fewest == most else f"{fewest} to {most} data sets"
        sets = getattr(self.parameters, "datasets", None)
        return f"{len(sets)} data sets" if sets else f"{len(frame)} rows"

    def _save(self, kind: str, table: Table, faces: Mapping[str, bytes | str]) -> None:
        """Write a table, or a figure with the data behind it, by suffix; and note what the manifest says of it."""
        for suffix, content in faces.items():
            atomic.write(self._stage / kind / f"{table.name}.{suffix}", content)
        described = {"caption": table.caption, "stamp": table.stamp, "timing": table.timing}
        self._saved[kind][table.name] = {**described, "cell": self._cell_number()}

    def _cell_number(self) -> int | None:
        """The number in the brackets of the notebook cell that runs now."""
        shell = ipython()
        return None if shell is None else len(shell.user_ns["In"]) - 1  # In[0] is empty, In[-1] is the running cell

    def _must_be_open(self) -> None:
        if not self._open:
            raise UserError(f"section {self.spec.number} is finished: run its start cell again to write to the record")


def as_word(path: str) -> str:
    """A path without spaces and marks, which stand as in a URL: verify cannot know it, and lets it say no sentence."""
    return re.sub(r"[^\w./~+@,=:%-]", lambda mark: quote(mark[0]), path)


def plain(value: Any) -> Any:
    """A value JSON can hold: numpy scalars as Python's, NaN as ``None``, an infinity as its name."""
    if is_missing(value):
        return None
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return str(value)
    return value if isinstance(value, bool | int | float | str) else str(value)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else exact(value)


def _markdown(text: str) -> dict[str, Any]:
    return {"text/markdown": text, "text/plain": text}


def _display(content: dict[str, Any]) -> bool:
    """Show something in the running notebook; whether there is one."""
    if not ipython():
        return False
    from IPython.display import display

    display(content, raw=True)
    return True
