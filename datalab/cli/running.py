"""Run the notebooks: ``plan``, ``run``, ``lab``."""

import math
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from datalab.cli.options import AS_JSON, RECORD, SAFE_PATH, print_json
from datalab.errors import UserError
from datalab.record import Study, plan, provenance, runner
from datalab.record.console import RunConsole
from datalab.record.parameters import parse_value
from datalab.record.section import no_evidence
from datalab.sweep import cluster


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


@click.command("plan")
@_selection
@AS_JSON
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
        print_json(planned)
    else:
        console.plan(planned)
        console.work(planned)


@click.command()
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


@click.command("lab", context_settings={"ignore_unknown_options": True})
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
    os.environ.pop(SAFE_PATH, None)  # whoever writes notebooks may import what lies beside them
    os.execve(command[0], command, os.environ | provenance.kernel_environment())
