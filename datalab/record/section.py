"""What a notebook sees of the record: ``start`` opens its section, the :class:`Section` saves what it shows."""

import os
import resource
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datalab import atomic
from datalab.errors import UserError
from datalab.record import lock, provenance, transaction
from datalab.record.manifest import Manifest, SectionRecord
from datalab.record.parameters import SectionParameters, given_in, resolve
from datalab.record.progress import Progress, ipython
from datalab.record.study import SectionSpec, Study

if TYPE_CHECKING:
    import pandas as pd

    from datalab.record.tables import Table

# `datalab run` holds the lock, judges the notebook and merges its outputs; it tells the kernel so by these.
RECORD, STAGE = "DATALAB_RECORD", "DATALAB_STAGE"
# The name in a notebook's namespace of what opens a section instead, where it is computed anew (datalab.record.replay).
OPENER = "_datalab_opener"


@dataclass(frozen=True)
class Statement:
    """What was measured for one claim of the ledger.

    ``low`` and ``high`` are the interval's limits, ``n`` what it counts; ``table`` and ``row`` name the table of the
    section and the row the figure stands in; ``why`` says why the verdict is what it is; ``raw`` says which raw rows it
    rests on (:func:`datalab.record.rawrows.matches`; ``{}``: on all of the section's).
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
    raw: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None


def open_section(study: Study, name: str, namespace: Mapping[str, Any]) -> "Section":
    """Open a notebook's section of the record: check its parameters, set the style, print what runs where.

    ``name`` is the notebook's stem or number; ``namespace`` its ``globals()``, in which its parameters cell has run.
    Under ``datalab run`` the record is the driver's. Otherwise it is the parameter ``record``, by default
    ``runs/notebook-<profile>`` in the project, whatever the working directory; this process then takes the record's
    lock until ``finish()``. Raises :class:`UserError` for a parameter that is unknown or out of range, or a record
    someone else is writing to.
    """
    spec = study.find(name)
    parameters = resolve(spec.load().Parameters, given_in(namespace), where=f"notebook {spec.stem}")
    os.environ.update({name: value for name, value in provenance.DETERMINISM.items() if name not in os.environ})
    if opener := namespace.get(OPENER):
        opened = opener(parameters)
    elif STAGE in os.environ:
        opened = Section(study, spec, parameters, Path(os.environ[RECORD]), Path(os.environ[STAGE]), driven=True)
    else:
        opened = _by_hand(study, spec, parameters)
    if ipython():
        from datalab.record.figures import style

        style()
    print(opened.describe())
    return opened


def _by_hand(study: Study, spec: SectionSpec, parameters: SectionParameters) -> "Section":
    name = parameters.record or f"runs/notebook-{parameters.profile}"
    record = (provenance.project() / name).resolve()
    record.mkdir(parents=True, exist_ok=True)
    lock.hold(record)
    try:
        manifest = _open_manifest(record, study, parameters.profile)
    except UserError:
        lock.release(record)
        raise
    entry = SectionRecord(
        number=spec.number,
        title=spec.title,
        status="running",
        runner="notebook session",
        key={**manifest.sources, "notebook": None},
        started=provenance.now(),
        process=process(),
    )
    stage = transaction.begin(record, manifest, spec.stem, entry)
    return Section(study, spec, parameters, record, stage, driven=False)


def _open_manifest(record: Path, study: Study, profile: str) -> Manifest:
    if not (record / Manifest.NAME).exists():
        return Manifest.create(profile, study)
    manifest = Manifest.load(record)
    if manifest.profile != profile:
        name = provenance.shown(record)
        raise UserError(f"record '{name}' holds profile '{manifest.profile}', not '{profile}'; choose another")
    if not manifest.closed:
        transaction.recover(record, manifest)
    transaction.drop_changed_cells(record, manifest)
    manifest.refresh(study)
    return manifest


def process() -> dict[str, Any]:
    """This process, so that a reader of the record can tell whether it still lives."""
    import socket

    import psutil

    return {"pid": os.getpid(), "started": psutil.Process().create_time(), "host": socket.gethostname()}


class Section:
    """One notebook's part of the record.

    ``parameters`` are the checked parameters, ``record`` is the record's folder. Tables, figures and claims are
    gathered aside and become part of the record when the notebook is complete: a record never holds half a section.
    """

    def __init__(
        self,
        study: Study,
        spec: SectionSpec,
        parameters: SectionParameters,
        record: Path,
        stage: Path,
        driven: bool,
    ) -> None:
        self._study = study
        self.spec = spec
        self.parameters = parameters
        self.record = record
        self._stage = stage
        self._driven = driven
        self._open = True
        self._tables: dict[str, dict[str, Any]] = {}
        self._figures: dict[str, dict[str, Any]] = {}
        self._claims: dict[str, dict[str, Any]] = {}
        self._headline: list[dict[str, Any]] = []
        self._cells: dict[str, None] = {}
        self._raw: list[pd.DataFrame] = []
        self._wall = time.monotonic()
        self._cpu = cpu_seconds()

    def describe(self) -> str:
        """The provenance a notebook prints first: versions, device, seeds, profile, record."""
        from importlib.metadata import version

        names = ("torch", "numpy", "scipy", "pandas", "scikit-learn")
        versions = ", ".join(f"{name} {version(name)}" for name in names)
        p = self.parameters
        seeds = f"{getattr(p, 'seeds', 'none')} from root {p.root_seed}"
        return "\n".join(
            [
                f"section   {self.spec.number}: {self.spec.title}",
                f"versions  Python {sys.version.split()[0]}, {versions}",
                f"device    {provenance.device(p.device)}, {os.environ.get('OMP_NUM_THREADS')} thread a process",
                f"seeds     {seeds}",
                f"profile   {p.profile}",
                f"record    {provenance.shown(self.record)}",
            ]
        )

    def sweep(self, tasks: Any) -> "pd.DataFrame":
        """Run a grid of tasks and return their rows; finished ones are reused from ``record/cells``.

        Shows its progress in one updating display, and to ``datalab run``.
        """
        from datalab import sweep
        from datalab.sweep import cluster

        self._must_be_open()
        tasks = list(tasks)
        progress = Progress(self._stage / transaction.PROGRESS)
        workers = self.parameters.workers or provenance.machine()["cores"]
        folder = self.record / "cells"
        rows = sweep.run(tasks, folder, workers, progress, executor=cluster.executor())
        self._cells.update((f"cells/{task.path(folder).name}", None) for task in tasks)
        self._raw.append(rows)
        return rows

    def table(
        self, frame: "pd.DataFrame", name: str, caption: str, timing: bool = False, n: int | str | None = None
    ) -> "Table":
        """Save ``frame`` as ``tables/<number>_<name>`` ``.csv``, ``.md`` and ``.tex``; return it for the cell to show.

        ``n`` is what the table's intervals count (by default the section's data sets, else the rows); ``timing`` marks
        measured time or memory, which differs between equal runs. The caption states the unit of every interval.
        """
        from datalab.record.tables import Table

        self._must_be_open()
        table = Table(frame, self._name(name), caption, self._stamp(n, len(frame)), timing)
        faces = {".csv": table.csv(), ".md": table.markdown(), ".tex": table.latex(), ".json": table.sidecar()}
        for kind, content in faces.items():
            atomic.write(self._stage / "tables" / f"{table.name}{kind}", content)
        about = {"caption": caption, "stamp": table.stamp, "timing": timing, "cell": self._cell_number()}
        self._tables[table.name] = about
        return table

    def figure(
        self, figure: Any, name: str, caption: str, data: "pd.DataFrame | None" = None, timing: bool = False
    ) -> None:
        """Save a figure, axes or seaborn grid as ``figures/<number>_<name>`` ``.svg`` and ``.png``, and show it once.

        ``data`` is the frame behind it, saved as ``.csv``. The caption says what the intervals are.
        """
        from datalab.record import figures
        from datalab.record.tables import Table

        self._must_be_open()
        name = self._name(name)
        stamp = self._stamp(None, 0 if data is None else len(data))
        rendered = figures.render(figure, name)
        for kind, content in rendered.items():
            atomic.write(self._stage / "figures" / f"{name}.{kind}", content)
        if data is not None:
            atomic.write(self._stage / "figures" / f"{name}.csv", Table(data, name, caption, stamp, timing).csv())
        self._figures[name] = {"caption": caption, "stamp": stamp, "timing": timing, "cell": self._cell_number()}
        figures.close(figure)
        if ipython():
            from IPython.display import display

            display({"image/png": rendered["png"], "text/plain": f"Figure: {caption}"}, raw=True)
            display({"text/markdown": f"*{caption}*", "text/plain": caption}, raw=True)

    def verdicts(self, statements: Iterable[Statement]) -> None:
        """State what was measured for claims of the ledger; a claim stated twice keeps the last statement.

        Raises :class:`UserError` for an id the ledger does not have, a table this section did not save, or raw rows
        that do not exist.
        """
        self._must_be_open()
        for statement in statements:
            self._claims[statement.id] = self._stated(statement)

    def _stated(self, statement: Statement) -> dict[str, Any]:
        from datalab.record import rawrows

        claim_id, table = self._study.statement(statement.id)["id"], statement.table
        if table is not None and self._name(table) not in self._tables:
            known = [name.removeprefix(self._name("")) for name in self._tables]
            raise UserError(f"claim {claim_id}: this section saved no table '{table}'; it has {known}")
        figures = ("measured", "low", "high", "effect_size", "n")
        return {
            "id": claim_id,
            **{name: plain(getattr(statement, name)) for name in figures},
            "verdict": statement.verdict,
            "why": statement.why,
            "table": None if table is None else f"tables/{self._name(table)}.csv",
            "row": None if statement.row is None else str(statement.row),
            "cell": self._cell_number() if table is None else self._tables[self._name(table)]["cell"],
            "raw": None if statement.raw is None else rawrows.counted(self._raw, statement.raw, claim_id),
        }

    def headline(self, what: "str | pd.DataFrame | Table") -> None:
        """Keep a line or a small table for ``datalab run`` to print at the end; nothing is shown here."""
        from datalab.record.tables import Table, flat, shown_rows

        self._must_be_open()
        if isinstance(what, str):
            self._headline.append({"text": what})
            return
        caption = what.caption if isinstance(what, Table) else ""
        frame = what.frame if isinstance(what, Table) else flat(what)
        self._headline.append({"caption": caption, "columns": list(frame.columns), "rows": shown_rows(frame)})

    def claims(self) -> "pd.DataFrame":
        """The claims stated so far, by this section and by the others of the record, one row a claim of the ledger."""
        from datalab.record import claims_table

        self._must_be_open()
        manifest = Manifest.load(self.record)
        manifest.sections[self.spec.stem].claims = list(self._claims.values())
        return claims_table.frame(manifest, self._study)

    def finish(self) -> None:
        """Close the section: write its part of the record, show its verdicts, the files saved and the next notebook."""
        self._must_be_open()
        files = sorted(p.relative_to(self._stage).as_posix() for p in self._stage.glob("*/*") if p.is_file())
        timed = {f"tables/{name}" for name, about in self._tables.items() if about["timing"]}
        timed |= {f"figures/{name}" for name, about in self._figures.items() if about["timing"]}
        fragment = {
            "files": files,
            "timing": [path for path in files if path.rsplit(".", 1)[0] in timed],
            "section": {
                "parameters": self.parameters.model_dump(mode="json"),
                "device": provenance.device(self.parameters.device),
                "determinism": provenance.determinism(),
                "ended": provenance.now(),
                "wall_seconds": round(time.monotonic() - self._wall, 3),
                "cpu_seconds": round(cpu_seconds() - self._cpu, 3),
                "peak_memory_bytes": peak_memory(),
                "tables": self._tables,
                "figures": self._figures,
                "claims": list(self._claims.values()),
                "headline": self._headline,
                "cells": list(self._cells),
            },
        }
        transaction.write_fragment(self._stage, fragment)
        self._open = False
        if not self._driven:
            self._enter(fragment)
        self._show_end(files)

    def _enter(self, fragment: dict[str, Any]) -> None:
        manifest = Manifest.load(self.record)
        reason = "run cell by cell outside `datalab run`: the executed notebook is not part of this record"
        fragment["section"] |= {"status": "complete", "reason": reason, "process": {}}
        transaction.merge(self.record, manifest, self.spec.stem, fragment)
        transaction.close(self.record, manifest, self._study)
        lock.release(self.record)

    def _show_end(self, files: list[str]) -> None:
        claims = [self._verdict(claim) for claim in self._claims.values()]
        head = ["| claim | measured | verdict | why | table |", "| --- | --- | --- | --- | --- |"]
        text = ["**Verdicts**", "", *head, *claims, ""] if claims else []
        saved = ", ".join(f"[`{path}`]({self._seen(path)})" for path in files) or "nothing"
        text += [f"**Saved** in the record: {saved}", ""]
        stems = [section.stem for section in self._study.sections]
        following = stems[stems.index(self.spec.stem) + 1 :] if self.spec.stem in stems else []
        text += [f"**Next**: [{following[0]}]({following[0]}.ipynb)" if following else "This is the last notebook."]
        if ipython():
            from IPython.display import display

            display({"text/markdown": "\n".join(text), "text/plain": "\n".join(text)}, raw=True)
        else:
            print("\n".join(text))

    def _verdict(self, claim: dict[str, Any]) -> str:
        """A claim's line, with links to its page and its table."""
        # The page exists once `datalab report` has made it; by hand, the row of claims.csv is what there is.
        page = f"report/claims/{claim['id']}.html" if self._driven else "claims.csv"
        table = f"[{claim['table']}]({self._seen(claim['table'])})" if claim["table"] else ""
        link = f"[{claim['id']}]({self._seen(page)})"
        return f"| {link} | {number(claim)} | {claim['verdict']} | {claim['why']} | {table} |"

    def _seen(self, path: str) -> str:
        """A file of the record, as a link from the notebook: the executed one is in the record itself."""
        if self._driven:
            return f"../{path}"
        return Path(os.path.relpath(self.record / path, provenance.project() / "notebooks")).as_posix()

    def _name(self, name: str) -> str:
        if not all(c.isalnum() or c in "_-" for c in name):
            raise UserError(f"name '{name}': use letters, digits, '_' and '-' only")
        return f"{self.spec.number.replace('.', '_')}_{name}"

    def _stamp(self, n: int | str | None, rows: int) -> dict[str, Any]:
        p = self.parameters
        sets = getattr(p, "datasets", None)
        if n is None:
            n = f"{len(sets)} data sets" if sets else f"{rows} rows"
        return {
            "section": self.spec.number,
            "profile": p.profile,
            "seeds": getattr(p, "seeds", None),
            "root_seed": p.root_seed,
            "n": n,
        }

    def _cell_number(self) -> int | None:
        return cell_number()

    def _must_be_open(self) -> None:
        if not self._open:
            raise UserError(f"section {self.spec.number} is finished: run its start cell again to write to the record")


def cell_number() -> int | None:
    """The number in the brackets of the notebook cell that runs now."""
    shell = ipython()
    return None if shell is None else len(shell.user_ns["In"]) - 1  # In[0] is empty, In[-1] is the running cell


def number(claim: dict[str, Any]) -> str:
    """A claim's measured figure with its interval, for people."""
    from datalab.record.tables import exact

    interval = "" if claim["low"] is None else f" [{exact(claim['low'])}, {exact(claim['high'])}]"
    return exact(claim["measured"]) + interval


def plain(value: Any) -> Any:
    """A value JSON can hold: numpy scalars as Python's, NaN as ``None``, an infinity as its name."""
    from datalab.record.tables import is_missing

    if is_missing(value):
        return None
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return str(value)
    return value if isinstance(value, bool | int | float | str) else str(value)


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children, the living ones included."""
    import psutil

    me = psutil.Process()
    own = me.cpu_times()
    total = own.user + own.system + getattr(own, "children_user", 0.0) + getattr(own, "children_system", 0.0)
    for child in me.children(recursive=True):
        try:
            times = child.cpu_times()
            total += times.user + times.system
        except psutil.Error:
            continue
    return total


def peak_memory() -> int:
    """The largest resident memory, in bytes, that this process or any one of its finished children had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
