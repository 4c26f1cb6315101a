"""What is written: ``advice.json``, ``kept.csv``, ``flagged.csv``, and ``index.html`` with four pictures, no script."""

import base64
import io
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from datalab import atomic
from datalab.advise.advice import Advice
from datalab.advise.features import IMAGES
from datalab.advise.pilot import RANDOM
from datalab.errors import UserError
from datalab.record import figures

FILES = ("advice.json", "kept.csv", "flagged.csv", "index.html")
CLASSES = 15  # of more, pictures show those that stand out


def check(folder: Path) -> None:
    """Refuse a folder that holds anything but an earlier advice, before any work is done."""
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - {*FILES}):
        raise UserError(f"folder '{folder}': holds other files; name a new one with --to")


def write(advice: Advice, folder: Path) -> list[Path]:
    """Write the four files; equal answers give equal bytes, but for ``seconds`` in ``advice.json``."""
    check(folder)
    content = {
        "advice.json": json.dumps(_plain(advice.as_dict()), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "kept.csv": advice.kept.to_csv(index=False, lineterminator="\n"),
        "flagged.csv": advice.flagged.to_csv(index=False, lineterminator="\n"),
        "index.html": html(advice),
    }
    for name, text in content.items():
        atomic.write(folder / name, text)
    return [folder / name for name in content]


def html(advice: Advice) -> str:
    """The page: the answer, four pictures, the most suspicious rows, what was detected."""
    drawn = {"gain": gain(advice.verdict.gains), "pairs": pairs(advice.flagged), "loss": loss(advice.by_class)}
    drawn["hit"] = hit(advice.by_class, advice.by_group)
    pictures = {name: _encoded(figures.render(figure, name)["svg"], "svg+xml") for name, figure in drawn.items()}
    for figure in drawn.values():
        figures.close(figure)
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True).from_string(
        files("datalab.advise").joinpath("page.html.j2").read_text(encoding="utf-8")
    )
    suspicious = list(zip(advice.flagged.head(len(advice.shown)).to_dict("records"), _contents(advice), strict=True))
    return template.render(advice=advice, pictures=pictures, suspicious=suspicious)


def _axes(title: str, height: float = 3.6) -> tuple[Any, Any]:
    import matplotlib.pyplot as plt

    figures.style()
    figure, axes = plt.subplots(figsize=(6.4, height))
    axes.set_title(title)
    return figure, axes


def gain(gains: pd.DataFrame) -> Any:
    """Gain over keeping everything by the share that an arm drops, a line a method."""
    figure, axes = _axes("What each arm gains over keeping everything")
    axes.axhline(0, color="black", linewidth=1)
    table = gains.sort_values(["method", "dropped"])
    markers = dict(zip(dict.fromkeys(table.method), "osD^vP", strict=False))
    for i, (method, part) in enumerate(table.groupby("method", sort=False)):
        x = 100 * part.dropped + 0.35 * (i - 2.5)
        error = [100 * (part.gain - part.low), 100 * (part.high - part.gain)]
        style = {"color": "#777777" if method == RANDOM else figures.COLOURS[i], "marker": markers[method]}
        axes.errorbar(x, 100 * part.gain, error, label=method, markersize=5, linewidth=1.2, elinewidth=0.8, **style)
    axes.set(xlabel="training rows dropped (%)", ylabel="macro-F1, points")
    axes.legend(fontsize=9, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    return figure


def pairs(flagged: pd.DataFrame) -> Any:
    """How many flagged rows go from each given label to each suggested one."""
    counts = pd.crosstab(flagged["given label"], flagged["suggested label"])
    names = (counts.sum(axis=1).add(counts.sum(), fill_value=0)).nlargest(CLASSES).index.sort_values()
    counts = counts.reindex(index=names, columns=names, fill_value=0)
    figure, axes = _axes("Flagged rows: the label given, and the one suggested", max(3.2, 0.28 * len(names) + 1.6))
    axes.imshow(counts, cmap="Blues", vmin=0, vmax=max(counts.to_numpy().max(initial=1), 1), aspect="auto")
    axes.set_xticks(range(len(names)), [_short(name) for name in names], rotation=45, ha="right")
    axes.set_yticks(range(len(names)), [_short(name) for name in names])
    axes.grid(False)
    half = counts.to_numpy().max(initial=1) / 2
    for (i, j), count in np.ndenumerate(counts.to_numpy()):
        if count:
            axes.text(j, i, count, ha="center", va="center", fontsize=9, color="white" if count > half else "black")
    axes.set(xlabel="suggested", ylabel="given")
    return figure


def loss(by_class: pd.DataFrame) -> Any:
    """The mean out-of-sample loss of each class."""
    table = by_class.nlargest(CLASSES, "loss")[::-1]
    figure, axes = _axes("Which classes are hardest to predict", max(2.6, 0.26 * len(table) + 1.2))
    axes.barh([_short(name) for name in table.of], table.loss, color=figures.COLOURS[0])
    axes.set(xlabel="mean loss of rows not trained on (nats)")
    return figure


def hit(by_class: pd.DataFrame, by_group: pd.DataFrame | None = None) -> Any:
    """The share of each class, and of each group, that is flagged and that the advised arm drops."""
    groups = by_class[:0] if by_group is None else by_group.assign(of="group " + by_group.of)
    parts = [part.nlargest(CLASSES, ["dropped", "flagged"])[::-1] for part in (groups, by_class)]
    table, dropped = pd.concat(parts), by_class.dropped.any()
    figure, axes = _axes("Who is flagged" + (", and who dropped" if dropped else ""), max(2.8, 0.32 * len(table) + 1.4))
    at, height = np.arange(len(table)), 0.4 if dropped else 0.8
    axes.barh(at + (0.2 if dropped else 0), 100 * table.flagged, height, color=figures.COLOURS[4], label="flagged")
    if dropped:
        axes.barh(at - 0.2, 100 * table.dropped, height, color=figures.COLOURS[1], label="dropped by the advice")
        axes.legend(fontsize=9)
    axes.set_yticks(at, [_short(name, 24) for name in table.of])
    axes.set(xlabel="rows (%)")
    return figure


def _contents(advice: Advice) -> list[dict[str, Any]]:
    """Each shown row: a picture where it has one, and its first columns in words."""
    made, folder, grid = [], advice.source.folder, advice.source.grid
    for row in advice.shown.to_dict("records"):
        picture = next((folder / v for v in row.values() if isinstance(v, str) and v.lower().endswith(IMAGES)), None)
        if picture is not None and picture.is_file():
            made.append({"picture": _thumbnail(picture), "words": picture.name})
        elif grid:
            pixels = np.array([row[str(i)] for i in range(grid[0] * grid[1])], dtype=float).reshape(grid)
            made.append({"picture": _thumbnail(pixels), "words": ""})
        else:
            first = sorted(row.items(), key=lambda item: not isinstance(item[1], str))  # words say more than numbers
            words = [f"{name}: {_short(str(value), 200)}" for name, value in first[:8]]
            made.append({"picture": None, "words": " · ".join(words)})
    return made


def _thumbnail(source: Any) -> str:
    from PIL import Image

    if isinstance(source, np.ndarray):
        span = np.ptp(source) or 1
        picture = Image.fromarray((255 * (source - source.min()) / span).astype(np.uint8)).resize((64, 64), 0)
    else:
        with Image.open(source) as opened:
            picture = opened.convert("RGB")
            picture.thumbnail((96, 96))
    out = io.BytesIO()
    picture.save(out, "png")
    return _encoded(out.getvalue(), "png")


def _encoded(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _short(name: str, length: int = 18) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"


def _plain(value: Any) -> Any:
    """What JSON can hold: numpy's numbers as Python's, and None for what is not finite."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not np.isfinite(value) else value
