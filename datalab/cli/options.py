"""What several commands take and print."""

import json
from pathlib import Path
from typing import Any

import click

from datalab.record import folder

SAFE_PATH = "PYTHONSAFEPATH"
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead.")


class _RecordPath(click.Path):
    """A folder or file that a user names: one that a file system can hold."""

    def convert(self, value: Any, *context: Any) -> Path:
        return Path(super().convert(folder.named(Path(value)), *context))


RECORD = _RecordPath(path_type=Path)


def print_json(content: Any) -> None:
    click.echo(json.dumps(content, indent=1, ensure_ascii=False))
