"""What is written: ``advice.json``, ``kept.csv``, ``flagged.csv``, and ``index.html`` with four pictures, no script."""

import base64
import contextlib
import io
import json
import tempfile
import warnings
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import pandas as pd
from PIL import Image

from datalab import atomic
from datalab.advise.advice import Advice
from datalab.advise.pilot import ARMS, KEEP_ALL, PRIOR, RANDOM, RELABEL
from datalab.errors import UserError
from datalab.intake import portraits
from datalab.intake.portraits import short
from datalab.record import figures
from datalab.record.folder import printable
from datalab.record.tables import csv_of

TABLES = ("kept.csv", "flagged.csv")
FILES = ("advice.json", *TABLES, "index.html")
MOST = 15  # bars of a picture


def check(folder: Path) -> None:
    """Refuse a folder that holds anything but an earlier advice, as it was written, or cannot be written."""
    as_written = {}
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        as_written = dict(json.loads((folder / "advice.json").read_bytes())["sha256"])
    for path in folder.iterdir() if folder.is_dir() else [folder][: folder.exists()]:
        if path.name not in FILES or path.is_dir() or path == folder:
            raise UserError(f"folder '{folder}': holds other files; name a new one with --to")
        if path.name in TABLES and atomic.sha256(path) != as_written.get(path.name):
            raise UserError(f"folder '{folder}': its {path.name} was changed; move it, or name a new one with --to")
    nearest = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    try:
        tempfile.TemporaryDirectory(dir=nearest).cleanup()  # as root, no bit says that it cannot be written
    except OSError as error:
        raise UserError(f"folder '{folder}': cannot be written ({error.strerror}); name another with --to") from None


def write(advice: Advice, folder: Path | str) -> list[Path]:
    """Write the four files, or none; equal answers give equal bytes, but for ``seconds`` in ``advice.json``."""
    folder = Path(folder)
    check(folder)
    page = html(advice)  # before anything is written
    with contextlib.ExitStack() as written:
        paths = {name: written.enter_context(atomic.replacing(folder / name)) for name in FILES}
        for name, table in zip(TABLES, (advice.kept, advice.flagged), strict=True):
            csv_of(table, paths[name])
        facts = advice.facts | {"sha256": {name: atomic.sha256(paths[name]) for name in TABLES}}
        paths["advice.json"].write_text(pd.Series(facts).to_json(indent=1, force_ascii=False) + "\n", "utf-8")
        paths["index.html"].write_text(page, "utf-8")
    return [folder / name for name in FILES]


@matplotlib.rc_context()  # the caller's stays as it is
def html(advice: Advice) -> str:
    """The page: the answer, four pictures, the most suspicious rows, what was detected."""
    named = advice.flagged.filter(like="label").map(lambda name: short(name, 11))
    pairs = (named["given label"] + " → " + named["suggested label"]).value_counts(sort=True)
    classes = advice.hit[advice.hit.kind == "class"].set_index("of")
    drawn = {
        "What each arm gains over keeping everything": gain(advice.verdict.gains),
        "Which classes are hardest to predict": bars(classes.loss.sort_values(ascending=False), "mean loss (nats)"),
    }
    if len(pairs):
        drawn["Flagged rows: the label given → the one suggested"] = bars(pairs, "rows")
    for (_, part), plural in zip(advice.hit.groupby("kind"), ("classes", "groups"), strict=False):
        if part[["flagged", "dropped"]].any(axis=None):
            drawn[f"Which {plural} are flagged{', and dropped' if part.dropped.any() else ''}"] = hit(part)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the reader's browser has the letters that this font has not
        pictures = {title: _inline(figures.render(figure, title)["svg"], "svg+xml") for title, figure in drawn.items()}
    template = files("datalab.advise").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    hidden = {advice.facts["columns"].get(what) for what in ("id", "label")}  # in columns of their own
    looks = portraits.portraits(advice.source, advice.shown, hidden)
    looks = [{"picture": picture and _inline(_png(picture), "png"), "words": words} for picture, words in looks]
    suspicious = list(zip(advice.flagged.head(len(looks)).to_dict("records"), looks, strict=True))
    return environment.from_string(template).render(advice=advice, pictures=pictures, suspicious=suspicious)


def gain(gains: pd.DataFrame) -> Any:
    """Gain over keeping everything by the share that an arm drops, a line a method."""
    import matplotlib.pyplot as plt

    figures.style()
    figure, axes = plt.subplots(figsize=(6.4, 3.6))
    axes.axhline(0, color="black", linewidth=1)
    points = gains.assign(**100 * gains[["gain", "low", "high", "dropped"]]).sort_values(["method", "dropped"])
    methods = sorted({method for method, _ in ARMS} - {KEEP_ALL})  # a method's place and colour, on every page
    for method, part in points.groupby("method"):
        i = methods.index(method)
        error = [part.gain - part.low, part.high - part.gain]
        colour = "#777777" if method == RANDOM else figures.COLOURS[i]
        x = part.dropped + 0.35 * (i - 2.5)  # side by side, not one on another
        drawn = {"color": colour, "marker": "osD^vP"[i], "markersize": 5, "elinewidth": 0.8}
        label = part.arm.iloc[0] if method in (PRIOR, RELABEL) else method
        axes.errorbar(x, part.gain, error, label=label, **drawn)
    axes.set(xlabel="training rows dropped (%)", ylabel="macro-F1, points (hundredths)")
    axes.legend(fontsize=9, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    return figure


def bars(table: pd.DataFrame | pd.Series, label: str) -> Any:
    """The first ``MOST`` of a table's rows as bars, a colour a column."""
    figures.style()
    label += f", the first {MOST} of {len(table)}" if len(table) > MOST else ""
    table = pd.DataFrame(table).head(MOST)[::-1]
    table = table.rename(index=lambda name: short(printable(name), 24).replace("$", r"\$"))  # which begins no formula
    size, colours = (6.4, 1.3 + 0.3 * len(table)), [figures.COLOURS[4], figures.COLOURS[1]][: table.shape[1]]
    axes = table.plot.barh(figsize=size, width=0.8, color=colours, legend=False, xlabel=label, ylabel="")
    if table.shape[1] > 1:
        axes.legend(loc="lower right")
    return axes.figure


def hit(table: pd.DataFrame) -> Any:
    """The share of each class, or of each group, that is flagged and that the advised arm drops."""
    shares = 100 * table.sort_values(["dropped", "flagged"], ascending=False).set_index("of")[["flagged", "dropped"]]
    return bars(shares if shares.dropped.any() else shares[["flagged"]], "rows (%)")


def _png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "png")
    return out.getvalue()


def _inline(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
