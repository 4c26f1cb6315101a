"""Ask a record: ``verify``, ``compare``, ``report``, ``claims``."""

import fnmatch
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from datalab.cli.options import AS_JSON, RECORD, print_json
from datalab.errors import UserError, did_you_mean
from datalab.record import Study, claims_table, folder, provenance
from datalab.record.checks import compare, comparison_text, verify
from datalab.record.checks.retrain import Drawn
from datalab.record.console import RunConsole
from datalab.record.manifest import Manifest
from datalab.record.progress import some
from datalab.record.section import no_evidence
from datalab.record.tables import exact

MOST_FINDINGS = 1000  # that `verify` prints: a stranger's folder may hold a million files


@click.command("verify")
@click.argument("record", type=RECORD)
@click.option("--fresh", is_flag=True, help="Exit 1 also when code, protocol, ledger, lock or notebooks have moved on.")
@click.option("--hashes-only", is_flag=True, help="Do not compute anything anew: a second instead of half a minute.")
@click.option("--cells", type=click.IntRange(1), metavar="N", help="Also train N tasks, drawn by chance, anew.")
@click.option("--seed", type=click.IntRange(0), metavar="S", help="What they are drawn by (default: the clock).")
@AS_JSON
@click.pass_obj
def verify_command(
    study: Study, record: Path, fresh: bool, hashes_only: bool, cells: int | None, seed: int | None, as_json: bool
) -> int:
    """Check a record against its hashes and its raw rows.

    Hashes, statuses and claims are checked; then every table, figure, notebook output and verdict is computed anew from
    the raw rows by the project's own notebooks, and compared to the byte; offline, without running code of the record
    or writing. Exit 0: whole. Exit 1: each file or claim that is not what was written, or not confirmed, is named.

    \b
    Example:
      datalab verify runs/quick --cells 20
    """
    from datalab import report

    if cells and hashes_only:
        raise UserError("--cells: it needs what --hashes-only leaves out; give one of them")
    drawn = None if cells is None else Drawn(cells, int(time.time()) if seed is None else seed)
    what = "Checking hashes" if hashes_only else "Computing every section anew from its raw rows"
    with folder.reading(record), RunConsole().waiting(what):
        checked = verify.verify(record, study, recompute=not hashes_only, pages=report.differing, cells=drawn)
    state = _state(checked, hashes_only)
    done = [section for section in checked.recomputed if not section.problem]
    anew = {name: sum(getattr(section, name) for section in done) for name in ("files", "outputs", "claims")}
    if as_json:
        listed = ("whole", "files", "sections", "unconfirmed", "stale", "departures")
        content = {name: getattr(checked, name) for name in listed}
        content |= {"record": provenance.shown(record), "state": state, "anew": anew, "seed": drawn and drawn.seed}
        content |= {name: list(map(asdict, getattr(checked, name))) for name in ("findings", "retrained")}
        print_json(content | {"not_checked": verify.UNKNOWN})
    else:
        lines = [f"Tasks to train anew are drawn by --seed {drawn.seed}"] if drawn else []
        lines += map(str, checked.findings[:MOST_FINDINGS])
        if (more := len(checked.findings) - MOST_FINDINGS) > 0:
            lines += [f"and {more:,} more, which --json lists"]
        lines += [f"not confirmed: {line}" for line in checked.unconfirmed]
        lines += [f"stale: {line}" for line in checked.stale]
        lines += [f"not as its profile runs it: {line}" for line in checked.departures]
        told = [task for task in checked.retrained if not task.rounded]  # which are not confirmed
        lines += [f"trained anew: {task.path}: {task.same or task.different}" for task in told]
        size = f"{some(checked.files, 'file')}, {some(checked.sections, 'section')}"
        lines += [f"{provenance.shown(record)}: {state} ({size})"]
        if done:
            words = f"{anew['files']} tables and figures, {some(anew['outputs'], 'code cell')}"
            words += f" and {some(anew['claims'], 'verdict')} of {some(len(done), 'section')}"
            lines += [f"Computed anew from the raw rows: {words}."]
            lines += [f"Not checked: {verify.UNKNOWN[0]}."]
        RunConsole().lines(lines)
    return 0 if checked.whole and not (fresh and (checked.stale or checked.unconfirmed)) else 1


def _state(checked: verify.Report, hashes_only: bool) -> str:
    """Where a record stands, in words: never "whole" where something is unconfirmed, or nothing was computed."""
    if checked.findings:
        return f"not whole, {some(len(checked.findings), 'finding')}"
    if checked.unconfirmed:
        things = some(len(checked.unconfirmed), "thing")
        differ = "differ" + "s" * (len(checked.unconfirmed) == 1)
        return f"not confirmed, {things} {differ} under other sources or on another machine"
    return "as it was written, which proves nothing by itself" if hashes_only else "whole"


@click.command("compare")
@click.argument("a", type=RECORD, metavar="RECORD")
@click.argument("b", type=RECORD, metavar="OTHER_RECORD")
@click.option(
    "--tolerance", default=compare.DEFAULT_TOLERANCE, show_default=True, help="A relative difference that is none."
)
@click.option("--timing", is_flag=True, help="Count measured time and memory, which differ between equal runs.")
@click.option("--all", "everything", is_flag=True, help="List every difference, not ten a table.")
@AS_JSON
@click.option("--page", type=RECORD, metavar="FILE", help="Also write it as one HTML page.")
@click.pass_obj
def compare_command(
    study: Study, a: Path, b: Path, tolerance: float, timing: bool, everything: bool, as_json: bool, page: Path | None
) -> int:
    """Say which claims and table cells of two records differ.

    Cells are equal in bytes, within the tolerance, but for what another processor rounds, within each other's interval,
    or different. Exit 0: the same, in one of the first three ways. Exit 1: different. The environment, raw cells,
    images and measured time do not count.

    \b
    Example:
      datalab compare runs/reference runs/quick
    """
    with folder.reading(a), folder.reading(b), folder.bounded():
        comparison = compare.compare(a, b, study, tolerance=tolerance, timing=timing)
    if page is not None:
        from datalab.report import pages

        pages.write_comparison(comparison, page)
    if as_json:
        print_json(comparison.as_dict())
    else:
        RunConsole().lines(comparison_text.lines(comparison, everything))
    return 0 if comparison.same else 1


@click.command("report")
@click.argument("record", type=RECORD)
@click.option("--to", type=RECORD, metavar="FOLDER", help="Leave RECORD as it is; use a copy here.")
@click.pass_obj
def report_command(study: Study, record: Path, to: Path | None) -> None:
    """Write a record's pages, to be read in any browser.

    They are RECORD/index.html and RECORD/report/. The manifest lists them, so that the record stays whole; running a
    section again drops them.

    \b
    Example:
      datalab report runs/quick
    """
    from datalab import report

    pages = report.write(record, to, study)
    console = RunConsole()
    console.say(f"{len(pages)} pages; open {provenance.shown((to or record) / 'index.html')}")
    sections = Manifest.load(to or record).sections
    console.answer(sections.get(study.sections[0].stem))
    console.lines(no_evidence(entry.parameters for entry in sections.values()))


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--record", type=RECORD, help="Whose verdicts to show (default: runs/reference).")
@AS_JSON
@click.pass_obj
def claims(study: Study, ids: tuple[str, ...], record: Path | None, as_json: bool) -> None:
    """List the paper's statements with their two verdicts.

    An ID may be a pattern; of one statement the trail to its evidence is shown.

    \b
    Example:
      datalab claims 'TITLE.*' --record runs/quick
    """
    reference = provenance.reference()
    if record is None and reference is not None and (reference / Manifest.NAME).exists():
        record = reference
    with folder.bounded():
        manifest = Manifest.load(record) if record else Manifest(profile="", created="")
    rows = _matching(ids, claims_table.rows(manifest, study))
    console = RunConsole()
    if len(rows) == 1:
        rows = [rows[0] | claims_table.trail(manifest, rows[0], study)]
    if as_json:
        print_json(rows)
        return
    if record is None:
        console.say("There is no record here, so nothing is measured; name one by --record.")
    if len(rows) == 1:
        console.table((), [(name, exact(value)) for name, value in rows[0].items() if exact(value)])
    else:
        for row in rows:
            strength = f" ({row['paper_strength']})" if row["paper_strength"] else ""
            console.say(f"{row['id']}: paper {row['paper_check']}{strength}; measured: {row['verdict']}")
            console.say(f"    {row['text']}{_figures(row)}")


def _matching(ids: Sequence[str], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    known = [row["id"] for row in rows]
    for pattern in ids:
        if not fnmatch.filter(known, pattern):
            raise UserError(f"unknown claim '{pattern}'{did_you_mean(pattern, known)}")
    return [row for row in rows if not ids or any(fnmatch.fnmatchcase(row["id"], pattern) for pattern in ids)]


def _figures(row: dict[str, Any]) -> str:
    """What a claim's line says of its figures."""
    from datalab import ledger

    measured = row["measured"]
    measured = ledger.BEYOND.get(measured, f"{measured:.4g}") if isinstance(measured, float) else measured
    figures = ("reported", row["reported"], row["unit"]), ("measured", measured, row["measured_unit"])
    parts = [f"{name} {value}{claims_table.shown(unit)}" for name, value, unit in figures if value]
    parts += ["the printed value is excluded"] if row["excluded"] == "yes" else []
    parts += ["true by construction"] if row["by_construction"] else []
    return f" ({', '.join(parts)})" if parts else ""
