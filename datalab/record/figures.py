"""Figures in one style, saved as ``.svg`` and ``.png`` with the data behind them: equal data gives equal bytes."""

import io
import re
from typing import Any

# Okabe and Ito's palette: told apart by colour-blind readers; the line styles tell them apart in grey.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"]
STYLE = {
    "figure.figsize": (7.0, 4.2),
    "figure.dpi": 100,
    "savefig.dpi": 100,
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "font.sans-serif": ["DejaVu Sans"],  # matplotlib's own; an .svg names every font of the list with every word
}


def style() -> None:
    """Set the shared style for every figure of this process (seaborn draws with it too)."""
    import matplotlib

    matplotlib.rcdefaults()  # a matplotlibrc of the user, or one that lies in the folder, changes no byte
    matplotlib.rcParams.update(STYLE)
    lines = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), "-"]
    matplotlib.rcParams["axes.prop_cycle"] = matplotlib.cycler(color=COLOURS, linestyle=lines)


def render(figure: Any, name: str) -> dict[str, bytes]:
    """``{"svg": bytes, "png": bytes}`` of a figure, axes or seaborn grid: no date, ids that depend on ``name`` only.

    It is closed: a notebook cell does not show it a second time.
    """
    import matplotlib
    import matplotlib.pyplot as plt

    figure = getattr(figure, "figure", figure)
    figure.set_layout_engine(None)  # all is in its place: a layout is one drawing more for each of the two
    box = figure.get_tightbbox().padded(matplotlib.rcParams["savefig.pad_inches"])  # once, for both
    svg, png = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(svg, format="svg", bbox_inches=box, metadata={"Date": None, "Creator": None})
    figure.savefig(png, format="png", bbox_inches=box, pil_kwargs={"compress_level": 0})  # it is packed below
    plt.close(figure)
    return {"svg": _rounded(svg.getvalue()), "png": _indexed(png)}


def _rounded(svg: bytes) -> bytes:
    """The same drawing with places to a hundredth of a point, where matplotlib writes a millionth, and not indented."""
    places = rb' (?:d|x|y|transform|style)="[^"]*"'
    svg = re.sub(places, lambda place: re.sub(rb"(\.\d\d)\d+", rb"\1", place[0]), svg)
    return re.sub(rb"\n +", b"\n", svg)


def _indexed(png: io.BytesIO) -> bytes:
    """The same picture in a palette of 64 colours, which no figure visibly exceeds: about a quarter of the size."""
    from PIL import Image

    picture, out = Image.open(png), io.BytesIO()
    few = picture.convert("RGB").quantize(64, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(out, "png", compress_level=8, dpi=picture.info.get("dpi"))
    return out.getvalue()
