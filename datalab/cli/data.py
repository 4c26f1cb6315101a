"""Data, and no record: ``datasets``, ``advise``."""

import time
from pathlib import Path
from typing import Any

import click

from datalab.cli.options import AS_JSON, RECORD, print_json
from datalab.errors import UserError
from datalab.record import provenance
from datalab.record.console import RunConsole, plain


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--fetch", is_flag=True, help="Download the named sets (none: all) into the cache.")
@AS_JSON
def datasets(names: tuple[str, ...], fetch: bool, as_json: bool) -> None:
    """List the data sets, or print the card of those named.

    A card has size, classes, source, licence, leaks and noise; --fetch gets what is not on this disk.

    \b
    Example:
      datalab datasets --fetch adult spambase
    """
    from datalab import data

    if "all" in names:
        raise UserError(f"unknown data set 'all'; {'--fetch without a name fetches' if fetch else 'no name lists'} all")
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
        print_json(rows)
    elif names:
        for row in rows:
            console.lines([*plain(data.card(row["name"])), f"on this disk: {'yes' if row['on_disk'] else 'no'}"])
    else:
        words = [(*list(row.values())[:5], f"{row['balance']:.2f}", "yes" if row["on_disk"] else "no") for row in rows]
        console.table((*columns[:6], "on disk"), words)


@click.command("advise")
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
    if (to / "advice.json").exists():
        click.echo(f"{provenance.shown(to)}: holds an earlier advice, which this one will replace")
    read = {name: given.pop(name) for name in ("delimiter", "decimal", "encoding")}
    advice = advise.advise(data, X_test=test, read=read, say=click.echo, began=began, **given)
    click.echo(f"\n{advice}\n")
    use = {"kept.csv": ": the rows to train on", "flagged.csv": ": labels to look at", "index.html": ": open it first"}
    for path in advise.write(advice, to):
        click.echo(f"wrote {provenance.shown(path)}{use.get(path.name, '')}")
    return 130 if advice.facts["stopped"] == "interrupted" else 0
