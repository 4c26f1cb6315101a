"""The ``datalab`` command: plan, run, verify, compare, report, claims, datasets, advise, lab, api; each calls its
room.

Exit status: 0 done, 1 a notebook failed, a record is not whole or cannot be written any more, or two records differ, 2
the call was wrong (one line on stderr, nothing written), 130 interrupted.
"""

import errno
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from datalab import __version__
from datalab.cli import data, records, running
from datalab.cli.options import RECORD, SAFE_PATH
from datalab.errors import UserError
from datalab.record import Study, provenance
from datalab.record.console import NO_SPACE
from datalab.record.folder import printable

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


for _command in (running.plan_command, running.run, running.lab_command, records.verify_command,
                 records.compare_command, records.report_command, records.claims, data.datasets,
                 data.advise_command):  # fmt: skip
    cli.add_command(_command)


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
    try:
        code = cli.main(arguments, prog_name="datalab", standalone_mode=False, obj=study)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as help_text:
        click.echo(help_text.format_message())
        code = 0
    except (UserError, click.ClickException) as error:
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        for theirs, plain in (("valid integer range", "whole number"), ("valid integer", "whole number"),
                              ("valid float", "number")):  # fmt: skip
            text = text.replace(f"is not a {theirs}", f"is not a {plain}")  # click's words for its own types
        click.echo(f"datalab: {printable(' '.join(text.split()))}", err=True)
        code = 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("datalab: interrupted", err=True)
        code = 130
    except MemoryError:
        click.echo("datalab: there is not enough memory for this", err=True)
        code = 1
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ESHUTDOWN, errno.ENOSPC):  # `| head` has seen enough; a full disk
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.ENOSPC:
            click.echo(NO_SPACE, err=True)
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
