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
import numpy as np
import pandas as pd
from PIL import Image

from datalab import atomic
from datalab.advise.advice import Advice
from datalab.advise.pilot import ARMS, KEEP_ALL, RANDOM
from datalab.errors import UserError
from datalab.intake import features
from datalab.intake.reading import IMAGES
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


def html(advice: Advice) -> str:
    """The page: the answer, four pictures, the most suspicious rows, what was detected."""
    short = advice.flagged.filter(like="label").map(lambda name: _short(name, 11))
    pairs = (short["given label"] + " → " + short["suggested label"]).value_counts(sort=True)
    classes = advice.hit[advice.hit.kind == "class"]
    drawn = {
        "What each arm gains over keeping everything": gain(advice.verdict.gains),
        "Which classes are hardest to predict": bars(classes.set_index("of").loss.nlargest(MOST), "mean loss (nats)"),
    }
    if len(pairs):
        drawn["Flagged rows: the label given → the one suggested"] = bars(pairs, "rows")
    if advice.hit[["flagged", "dropped"]].any(axis=None):
        drawn["Who is flagged, and who dropped" if classes.dropped.any() else "Who is flagged"] = hit(advice.hit)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the reader's browser has the letters that this font has not
        pictures = {title: _inline(figures.render(figure, title)["svg"], "svg+xml") for title, figure in drawn.items()}
    template = files("datalab.advise").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    suspicious = list(zip(advice.flagged.head(len(advice.shown)).to_dict("records"), _contents(advice), strict=True))
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
        axes.errorbar(x, part.gain, error, label=method, color=colour, marker="osD^vP"[i], markersize=5, elinewidth=0.8)
    axes.set(xlabel="training rows dropped (%)", ylabel="macro-F1, points")
    axes.legend(fontsize=9, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    return figure


def bars(table: pd.DataFrame | pd.Series, label: str) -> Any:
    """The first ``MOST`` of a table's rows as bars, a colour a column."""
    figures.style()
    table = pd.DataFrame(table).head(MOST)[::-1]
    table = table.rename(index=lambda name: _short(printable(name)).replace("$", r"\$"))  # which begins no formula
    size, colours = (6.4, 1.3 + 0.3 * len(table)), [figures.COLOURS[4], figures.COLOURS[1]][: table.shape[1]]
    axes = table.plot.barh(figsize=size, width=0.8, color=colours, legend=False, xlabel=label, ylabel="")
    if table.shape[1] > 1:
        axes.legend(loc="lower right")
    return axes.figure


def hit(table: pd.DataFrame) -> Any:
    """The share of each class, and then of each group, that is flagged and that the advised arm drops."""
    table = table.sort_values(["kind", "dropped", "flagged"], ascending=[True, False, False])
    names = table.of.where(table.kind == "class", "group " + table.of)
    shares = 100 * table.set_index(names)[["flagged", "dropped"]]
    return bars(shares if shares.dropped.any() else shares[["flagged"]], "rows (%)")


def _contents(advice: Advice) -> list[dict[str, Any]]:
    """Each shown row: a picture where it has one, and its first columns in words."""
    made, folder, grid = [], advice.source.folder, advice.source.grid
    for row in advice.shown.to_dict("records"):
        path = next((v for v in row.values() if isinstance(v, str) and v.strip().lower().endswith(IMAGES)), None)
        picture = path and features.picture(folder / path.strip())
        if picture:
            picture, words = picture.convert("L" if picture.mode == "F" else "RGB"), Path(path).name
            picture.thumbnail((96, 96))
        elif grid:
            pixels, words = np.array([row[str(i)] for i in range(grid[0] * grid[1])], dtype=float).reshape(grid), ""
            grey = 255 * (pixels - pixels.min()) / (np.ptp(pixels) or 1)
            picture = Image.fromarray(grey.astype(np.uint8)).resize((64, 64), 0)
        else:
            first = sorted(row.items(), key=lambda item: not isinstance(item[1], str))  # words say more than numbers
            shown = ((name, f"{value:.4g}" if isinstance(value, float) else str(value)) for name, value in first[:8])
            picture, words = None, " · ".join(f"{name}: {_short(value, 200)}" for name, value in shown)
        out = io.BytesIO()
        if picture:
            picture.save(out, "png")
        made.append({"picture": _inline(out.getvalue(), "png") if picture else None, "words": words})
    return made


def _inline(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _short(name: str, length: int = 24) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
