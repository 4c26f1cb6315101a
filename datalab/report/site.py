"""The pages of one record: written aside, moved into place, entered in the manifest."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datalab import atomic, data, ledger
from datalab.errors import UserError
from datalab.ledger.paper_tables import paper_tables
from datalab.protocol import protocol
from datalab.record import claims_table, crate, lock, provenance, transaction, verify
from datalab.record.manifest import Manifest
from datalab.report import evidence, notebookpages, pages
from datalab.sections import STUDY

MAIN_FIGURE = "figures/0_curve"


def write(record: Path, to: Path | None = None) -> list[str]:
    """Write the pages of ``record``, enter them in its manifest, and return their paths.

    With ``to`` the record is left as it is: the pages go into a copy of it there. Raises :class:`UserError` when there
    is no record, it is not what its manifest says, someone is writing to it, or ``to`` holds something.
    """
    name = provenance.shown(record)
    if not (record / Manifest.NAME).is_file():
        raise UserError(f"record '{name}': there is no {Manifest.NAME} in it; name a record, such as runs/quick")
    broken = [finding for finding in verify.verify(record, STUDY).findings if finding.kind != "incomplete"]
    if broken:
        raise UserError(f"record '{name}' is not what its manifest says ({broken[0]}); see: datalab verify {name}")
    record = _copied(record, to) if to is not None else record
    lock.hold(record)
    try:
        manifest = Manifest.load(record)
        if any(entry.status == "running" for entry in manifest.sections.values()):
            raise UserError(f"record '{name}' was left by a run that was killed; run its command again first")
        if not manifest.closed:  # killed between two sections, or while it wrote the pages
            transaction.recover(record, manifest)
        return _write(record, manifest)
    except OSError as error:
        raise UserError(f"record '{provenance.shown(record)}': cannot be written ({error.strerror})") from None
    finally:
        lock.release(record)


def differing(record: Path, manifest: Manifest) -> list[str]:
    """Which pages of the record are not, to the byte, what the record gives; one that is missing is among them."""
    made = dict(site(record, manifest))
    listed = {path for path in manifest.files if transaction.is_page(path)}
    return [
        path
        for path in sorted({*made, *listed})
        if path not in made or path not in listed or (record / path).read_text(encoding="utf-8") != made[path]
    ]


def _copied(record: Path, to: Path) -> Path:
    if to.resolve().is_relative_to(record.resolve()):
        raise UserError(f"folder '{provenance.shown(to)}' is inside the record; choose one beside it")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"folder '{provenance.shown(to)}' is not empty; choose a new one")
    try:
        return Path(shutil.copytree(record, to, ignore=shutil.ignore_patterns(lock.NAME), dirs_exist_ok=True))
    except OSError as error:
        raise UserError(f"folder '{provenance.shown(to)}': cannot be written ({error})") from None


def _write(record: Path, manifest: Manifest) -> list[str]:
    aside = record / transaction.STAGING
    shutil.rmtree(aside, ignore_errors=True)
    try:
        made = dict(site(record, manifest))
        for path, content in made.items():
            atomic.write(aside / path, content)
        manifest.closed = False  # from here to the end a killed writer is told by verify, and put in order by a run
        transaction.drop_report(record, manifest)
        manifest.save(record)
        for path in made:
            (record / path).parent.mkdir(parents=True, exist_ok=True)
            (aside / path).replace(record / path)
            manifest.add_file(record, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    transaction.close(record, manifest, STUDY)
    return list(made)


def site(record: Path, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Every page: its path in the record, and its text."""
    rows = {row["id"]: row for row in claims_table.rows(manifest, STUDY)}
    shared: dict[str, Any] = {
        "rows": rows,
        "stale": list(verify.stale(manifest)),
        "incomplete": {s: e for s, e in manifest.sections.items() if e.status != "complete"},
        "notebooks": [s for s in manifest.sections if (record / "notebooks" / f"{s}.ipynb").exists()],
        "verdicts": _counts([row["verdict"] for row in rows.values()], ledger.VERDICTS),
        "paper": _counts([row["paper_check"] for row in rows.values()], ledger.PAPER_VERDICTS),
    }

    def page(template: str, path: str, **context: Any) -> tuple[str, str]:
        return path, pages.render(template, path, manifest, **shared, **context)

    figure = {kind: f"{MAIN_FIGURE}.{kind}" for kind in ("svg", "csv") if f"{MAIN_FIGURE}.{kind}" in manifest.files}
    title = manifest.sections.get(STUDY.sections[0].stem)
    caption = title.figures.get("0_curve", {}).get("caption", "") if title else ""
    yield page("board.html.j2", transaction.INDEX, figure=figure, caption=caption, headlines=_headlines(manifest))
    yield page("tables.html.j2", "report/tables.html", tables=paper_tables(rows))
    yield page("reading.html.j2", "report/reading.html", rules=protocol())
    yield page("environment.html.j2", "report/environment.html", kinds=_sizes(manifest))
    yield page("data.html.j2", "report/data.html", cards=_cards(manifest))
    yield from _claim_pages(record, manifest, rows, page)
    for stem in shared["notebooks"]:
        yield page(
            "notebook.html.j2", f"report/notebooks/{stem}.html", stem=stem, cells=_notebook(record, manifest, stem)
        )
    light, dark = (
        notebookpages.code_style(".highlight", "default"),
        notebookpages.code_style(".highlight", "github-dark"),
    )
    yield (
        "report/style.css",
        pages.asset("style.css").replace("/* code: light */", light).replace("/* code: dark */", dark),
    )
    yield "report/board.js", pages.asset("board.js")


def _claim_pages(
    record: Path, manifest: Manifest, rows: dict[str, dict[str, Any]], page: Any
) -> Iterator[tuple[str, str]]:
    recomputed, raw, ids = evidence.checks(record), evidence.Raw(record), list(rows)
    measured = {claim["id"]: (stem, claim) for stem, entry in manifest.sections.items() for claim in entry.claims}
    for place, (claim_id, row) in enumerate(rows.items()):
        stem, claim = measured.get(claim_id, (None, {}))
        found = raw.of(claim, manifest.sections[stem]) if stem else None
        yield page(
            "claim.html.j2",
            f"report/claims/{claim_id}.html",
            row=row,
            claim=ledger.find(claim_id),
            checks=recomputed.get(claim_id, []),
            stem=stem,
            source=_source(stem),
            table=evidence.table(record, row["table"], row["row"]) if row["table"] else None,
            raw=claim.get("raw"),
            cells=manifest.sections[stem].cells if stem else [],
            before=ids[place - 1] if place else None,
            after=ids[place + 1] if place + 1 < len(ids) else None,
        )
        if found is not None:
            yield page("rawrows.html.j2", f"report/rows/{claim_id}.html", row=row, raw=claim["raw"], found=found)


def _notebook(record: Path, manifest: Manifest, stem: str) -> list[dict]:
    import json

    held = {
        entry.sha256: f"../../{path}"
        for path, entry in manifest.files.items()
        if path.startswith("figures/") and path.endswith(".png")
    }
    known = {*manifest.files, *(f"report/claims/{claim_id}.html" for claim_id in ledger.claims())}

    def link(target: str) -> str | None:
        path, _, fragment = target.partition("#")
        if path.endswith(".ipynb") and f"notebooks/{path}" in manifest.files:
            return path.removesuffix(".ipynb") + ".html"
        inside = path.removeprefix("../")
        return f"../../{inside}{'#' + fragment if fragment else ''}" if inside in known else None

    notebook = json.loads((record / "notebooks" / f"{stem}.ipynb").read_text(encoding="utf-8"))
    return notebookpages.cells(notebook, held, link)


def _source(stem: str | None) -> str | None:
    known = {section.stem: section.module for section in STUDY.sections}
    return f"datalab/experiments/{known[stem]}.py" if stem in known else None


def _headlines(manifest: Manifest) -> list[tuple[str, str]]:
    """The lines that sections asked to be printed at the end: (number, HTML)."""
    return [
        (entry.number, notebookpages.markdown(part["text"], lambda _: None))
        for entry in manifest.sections.values()
        for part in entry.headline
        if "text" in part
    ]


def _counts(words: list[str], order: tuple[str, ...]) -> dict[str, int]:
    return {word: words.count(word) for word in order if word in words}


def _sizes(manifest: Manifest) -> dict[str, tuple[int, int]]:
    """Number and bytes of the record's files by folder, without those that list the pages."""
    found: dict[str, tuple[int, int]] = {}
    for path, entry in manifest.files.items():
        if not transaction.is_page(path) and path != crate.NAME:
            kind = path.split("/")[0]
            count, size = found.get(kind, (0, 0))
            found[kind] = (count + 1, size + entry.bytes)
    return found


def _cards(manifest: Manifest) -> list[tuple[str, str]]:
    """The data card, as HTML, of every data set that a section of the record was given."""
    named = dict.fromkeys(
        name
        for entry in manifest.sections.values()
        for value in entry.parameters.values()
        for name in ([value] if isinstance(value, str) else value if isinstance(value, list) else [])
        if isinstance(name, str) and name in data.REGISTRY
    )
    return [(name, notebookpages.markdown(data.card(name).replace("# ", "## ", 1), lambda _: None)) for name in named]
