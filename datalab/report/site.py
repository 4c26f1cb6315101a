"""The pages of one record: written aside, moved into place, entered in the manifest."""

import functools
import importlib
import inspect
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from datalab import atomic, data, ledger
from datalab.errors import UserError
from datalab.ledger.paper_tables import paper_tables
from datalab.protocol import protocol
from datalab.record import claims_table, executed, folder, lock, provenance, rawrows, transaction
from datalab.record.checks import tablediff, verify
from datalab.record.manifest import Manifest, SectionRecord
from datalab.record.section import no_evidence
from datalab.record.study import Study
from datalab.report import evidence, notebookpages, pages
from datalab.report.origins import VERDICTS, Origin, origins
from datalab.sections import STUDY

MAIN_FIGURE = "figures/0_curve"
TITLE, RULE = "TITLE.threshold", "0_verdict"  # the statement that the protocol has a rule of its own for, and its table


def write(record: Path, to: Path | None = None, study: Study = STUDY) -> list[str]:
    """Write the pages of ``record``, enter them in its manifest, and return their paths.

    With ``to`` the record is left as it is: the pages go into a copy of it there. Raises :class:`UserError` when there
    is no record, it is not what its manifest says, someone is writing to it, or ``to`` holds something.
    """
    name = provenance.shown(record)
    Manifest.load(record)  # refuses a folder that is no record
    with folder.reading(record):
        findings = verify.verify(record, study, owners=True).findings
        broken = [finding for finding in findings if finding.kind != "incomplete"]
    if broken:
        raise UserError(f"record '{name}' is not what its manifest says ({broken[0]}); see: datalab verify {name}")
    record = _copied(record, to) if to is not None else record
    lock.hold(record)
    written: list[str] = []
    try:
        manifest = Manifest.load(record)
        if not manifest.sections:
            raise UserError(f"record '{name}' holds no section, so that there is nothing to show; run one first")
        if any(entry.status == "running" for entry in manifest.sections.values()):
            raise UserError(f"record '{name}' was left by a run that was killed; run its command again first")
        if not manifest.closed:  # killed between two sections, or while it wrote the pages
            transaction.recover(record, manifest)
        with folder.reading(record), folder.bounded(folder.MOST_PAGES_SECONDS):
            _check_pictures(record, manifest)
            written += _write(record, manifest, study)
    except OSError as error:
        raise UserError(f"record '{provenance.shown(record)}': cannot be written ({error.strerror})") from None
    finally:
        if to is not None and not written:
            folder.empty(record, kept="")  # a copy without its pages is of no use, and may be large
        lock.release(record)
    return written


def _check_pictures(record: Path, manifest: Manifest) -> None:
    """Raise :class:`UserError` where a picture that pages show or link to is no PNG; no page does so with an SVG."""
    for path in manifest.files:
        if path.endswith(".png") and not notebookpages.is_png(folder.read(record, path)):
            raise UserError(f"record '{provenance.shown(record)}': {path} is no PNG, or of too many pixels")


def differing(record: Path, manifest: Manifest, study: Study = STUDY) -> list[str]:
    """Which pages of the record are not, to the byte, what the record gives; one that is missing is among them."""
    made = dict(site(record, manifest, study))
    listed = {path for path in manifest.files if transaction.is_page(path)}
    changed = [path for path in listed & made.keys() if folder.read_text(record, path) != made[path]]
    return sorted(listed ^ made.keys() | {*changed})


def _copied(record: Path, to: Path) -> Path:
    if to.resolve().is_relative_to(record.resolve()):
        raise UserError(f"folder '{provenance.shown(to)}' is inside the record; choose one beside it")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"folder '{provenance.shown(to)}' is not empty; choose a new one")
    try:
        return Path(shutil.copytree(record, to, ignore=shutil.ignore_patterns(lock.NAME), dirs_exist_ok=True))
    except OSError as error:
        raise UserError(f"folder '{provenance.shown(to)}': cannot be written ({error})") from None


def _write(record: Path, manifest: Manifest, study: Study) -> list[str]:
    aside = record / transaction.STAGING
    folder.delete_tree(record, transaction.STAGING)
    try:
        made = dict(site(record, manifest, study))
        for path, content in made.items():
            atomic.write(aside / path, content)
        manifest.closed = False  # from here to the end a killed writer is told by verify, and put in order by a run
        transaction.drop_report(record, manifest)
        manifest.save(record)
        for path in made:
            folder.move(aside, path, record)
            manifest.add_file(record, path)
    finally:
        folder.delete_tree(record, transaction.STAGING)
    transaction.close(record, manifest, study)
    return list(made)


def site(record: Path, manifest: Manifest, study: Study) -> Iterator[tuple[str, str]]:
    """Every page: its path in the record, and its text."""
    rows = {row["id"]: row for row in claims_table.rows(manifest, study)}
    stems = [stem for stem in manifest.sections if f"notebooks/{stem}.ipynb" in manifest.files]
    shared: dict[str, Any] = {
        "rows": rows,
        "stale": list(verify.stale(manifest, study)),
        "departures": list(verify.departures(manifest, study)),
        "incomplete": {s: e for s, e in manifest.sections.items() if e.status != "complete"},
        "notebooks": stems,
        "no_evidence": no_evidence(entry.parameters for entry in manifest.sections.values()),
        "forced": _counts([row["verdict"] for row in rows.values() if row["by_construction"]], ledger.ANSWERS),
        "verdicts": _counts([row["verdict"] for row in rows.values()], ledger.VERDICTS),
        "paper": _counts([row["paper_check"] for row in rows.values()], ledger.PAPER_VERDICTS),
    }

    def page(template: str, path: str, **context: Any) -> tuple[str, str]:
        return path, pages.render(f"{template}.html.j2", path, manifest, **shared, **context)

    figure = {kind: f"{MAIN_FIGURE}.{kind}" for kind in ("png", "csv") if f"{MAIN_FIGURE}.{kind}" in manifest.files}
    figures = {name: figure for entry in manifest.sections.values() for name, figure in entry.figures.items()}
    caption = figures.get("0_curve", {}).get("caption", "")
    script = pages.asset("board.js")
    rule = _in_short(record, manifest)
    yield page("board", transaction.INDEX, figure=figure, caption=caption, script=script, rule=rule)
    yield page("tables", "report/tables.html", tables=paper_tables(rows))
    yield page("reading", "report/reading.html", rules=protocol(), unknown=verify.UNKNOWN)
    yield page("environment", "report/environment.html")
    yield page("data", "report/data.html", cards=_cards(manifest))
    read = {stem: executed.read(record, f"notebooks/{stem}.ipynb") for stem in stems}
    made = {stem: origins([cell.source for cell in notebook.cells if cell.is_code]) for stem, notebook in read.items()}
    yield from _claim_pages(record, manifest, rows, made, page)
    for before, stem, after in zip([None, *stems], stems, [*stems[1:], None], strict=False):
        cells = _notebook(manifest, read[stem])
        turn = {"before": before, "after": after, "contents": notebookpages.contents(cells)}
        yield page("notebook", f"report/notebooks/{stem}.html", stem=stem, cells=cells, **turn)
    for module in sorted({origin.module for of in made.values() for origin in of.values()}):
        code = notebookpages.code(inspect.getsource(importlib.import_module(module)), "L")
        yield page("source", f"report/source/{module}.html", module=module, code=code)
    style = str(pages.asset("style.css"))
    for theme, name in (("light", "default"), ("dark", "github-dark")):
        style = style.replace(f"/* code: {theme} */", notebookpages.code_style(".highlight", name))
    yield "report/style.css", style


def _claim_pages(
    record: Path, manifest: Manifest, rows: dict[str, dict[str, Any]], made: dict[str, dict[str, Origin]], page: Any
) -> Iterator[tuple[str, str]]:
    checks, ids, measured = evidence.checks(record), [None, *rows, None], manifest.measured()
    reader = rawrows.Reader()

    @functools.cache
    def read(path: str) -> Any:
        parts = reader.by_task(folder.inside(record, path))
        return pd.concat([rawrows.with_lengths(frame, task.parameters) for task, frame in parts], ignore_index=True)

    kinds = functools.cache(lambda stem: evidence.by_kind(manifest.sections[stem].cells, read))
    rest = functools.cache(lambda stem, where: evidence.raw_rows(json.loads(where), kinds(stem)))
    for before, (claim_id, row), after in zip(ids, rows.items(), ids[2:], strict=False):
        stem, measurement = measured.get(claim_id, (None, {}))
        entry, claim = manifest.sections.get(stem), ledger.find(claim_id)
        saved = Path(row["table"] or "").stem
        name = saved.removeprefix(f"{entry.number.replace('.', '_')}_") if entry else ""
        code = {word: made[stem].get(of) for word, of in (("computed", name), ("judged", VERDICTS)) if stem in made}
        raw = measurement.get("raw")
        of = {"row": row, "claim": claim, "stem": stem, "entry": entry, "code": code, "raw": raw}
        of |= {"before": before, "after": after, "checks": checks.get(claim_id, [])}
        of |= {"saved": entry.tables.get(saved) if entry else None}
        of |= {"strip": pages.strip(row, claim.value), "shown": rest(stem, json.dumps(raw["where"])) if raw else None}
        of |= {"table": evidence.table(record, row["table"], row["row"]) if row["table"] else None}
        of |= {"rule": _rule(record, entry) if claim_id == TITLE and entry else []}
        yield page("claim", f"report/claims/{claim_id}.html", **of)
        if raw:
            yield page("rawrows", f"report/rows/{claim_id}.html", row=row, raw=raw, shown=of["shown"])


def _rule(record: Path, entry: SectionRecord) -> list[dict[str, Any]]:
    """The conditions of the protocol's rule for the title and which of them held, as parts of a finding."""
    path = f"tables/{RULE}.csv"
    if RULE not in entry.tables or not folder.has(record, path):
        return []
    table = evidence.table(record, path, None)
    rows = [cells for _, cells in table.rows[: table.fit]]
    return [{"text": f"{entry.tables[RULE]['caption']}:"}, {"columns": table.columns, "rows": rows}]


def _in_short(record: Path, manifest: Manifest) -> str:
    """The protocol's rule for the title in a clause: what refutes it, what reproduces it, and in how many readings."""
    path = f"tables/{RULE}.csv"
    if not any(RULE in entry.tables for entry in manifest.sections.values()) or not folder.has(record, path):
        return ""
    clauses, needed, frame = [], {"refutes": "one", "reproduces": "all"}, tablediff.read(folder.inside(record, path))
    if not {"role", "text", "held", "detail"} <= {*frame}:
        return ""
    for role, part in frame[frame.role.isin(needed)].groupby("role", sort=False):
        what = ", ".join(part.text.str.split(": ").str[-1].unique())
        figures = f", {', '.join(part.detail.unique())}" if role == "refutes" else ""
        held = f"in {needed[role]} of {len(part)} readings, and it is so in {(part.held == 'True').sum()}"
        clauses.append(f"to be {role.removesuffix('s')}d it takes “{what}” {held}{figures}")
    return "; ".join(clauses)


def _notebook(manifest: Manifest, notebook: executed.Notebook) -> list[dict]:
    pictures = {e.sha256: f"../../{path}" for path, e in manifest.files.items() if path.endswith(".png")}
    # The pages are known by what is written, not by what an earlier report left.
    own = (path for path in manifest.files if not path.startswith("report/") and not path.endswith(".svg"))
    known = {*own, transaction.INDEX}
    known |= {f"report/claims/{claim_id}.html" for claim_id in ledger.claims()}

    def link(target: str) -> str | None:
        path, _, fragment = target.partition("#")
        if path.endswith(".ipynb") and f"notebooks/{path}" in manifest.files:
            return path.removesuffix(".ipynb") + ".html"
        inside = path.removeprefix("../")
        return f"../../{inside}{'#' + fragment if fragment else ''}" if inside in known else None

    return notebookpages.cells(notebook, pictures, link)


def _counts(words: list[str], order: tuple[str, ...]) -> dict[str, int]:
    return {word: words.count(word) for word in order if word in words}


def _cards(manifest: Manifest) -> dict[str, str]:
    """The data card of every data set that a section of the record was given."""
    given = [value for entry in manifest.sections.values() for value in entry.parameters.values()]
    values = [name for value in given for name in (value if isinstance(value, list) else [value])]
    return {name: data.card(name) for name in values if isinstance(name, str) and name in data.REGISTRY}
