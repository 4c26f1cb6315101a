"""Plotters for all sections: intervals in rows, curves with intervals, a heat map, stacked bars, strips of images.

A table gives what is drawn: a value and its limits (``<value> low``, ``<value> high``, else ``low`` and ``high``).
Titles state the finding or the question, colours and markers tell groups apart also in grey, references (zero, the
paper's figure) are thin lines with a word beside them.
"""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from datalab.sections.sentences import limits
from datalab.sections.trials.trial import ends

GREY = "#555555"
MARKERS = "osD^vP*Xh"
LINES = ("-", "--", "-.", ":")
REFERENCE = {  # a thin line's look by whether a word stands beside it
    True: {"color": GREY, "linewidth": 0.8, "linestyle": (0, (2, 2))},
    False: {"color": "black", "linewidth": 0.8, "linestyle": "-"},
}


class Facets(sns.FacetGrid):
    """Seaborn's grid of panels, laid out once, by :meth:`lay_out` when all is drawn, not after every step."""

    def tight_layout(self, *args: Any, **kwargs: Any) -> "Facets":
        """Nothing yet: seaborn calls this when the grid is made and after every ``map``."""
        return self

    def lay_out(self) -> None:
        """Fit the panels to the figure, beside the legend where there is one."""
        super().tight_layout()


def look(i: int) -> dict[str, Any]:
    """Colour, marker and line of the i-th group."""
    return {"color": f"C{i % 7}", "marker": MARKERS[i % len(MARKERS)], "linestyle": LINES[i % len(LINES)]}


def long_form(table: pd.DataFrame, values: Sequence[str], keep: Sequence[str], name: str) -> pd.DataFrame:
    """Columns with their limits, one under another: ``keep``, ``name`` (which column), ``value``, ``low``, ``high``."""
    parts = []
    for column in values:
        low, high = (table[end] for end in limits(table, column))
        parts.append(table[list(keep)].assign(**{name: column, "value": table[column], "low": low, "high": high}))
    return pd.concat(parts)


def error(table: pd.DataFrame, value: str) -> np.ndarray:
    """The lengths (2, n) of a value's bars, below and above it."""
    low, high = (table[end] for end in limits(table, value))
    return np.abs(np.array([table[value] - low, high - table[value]], dtype=float))


def intervals(
    table: pd.DataFrame,
    value: str,
    label: str,
    *,
    title: str,
    xlabel: str,
    by: str | None = None,
    panel: str | None = None,
    panel_row: str | None = None,
    paper: str | None = None,
    reference: float | str | None = 0.0,
) -> Figure:
    """A row per ``label``: value and interval, side by side for each group of ``by``; a panel per ``panel``.

    ``panel_row`` lays the panels out in rows, by a second column. ``paper`` is the column of what the paper prints,
    drawn as a tick. ``reference`` is a thin vertical line, or the column that holds its place.
    """
    names, groups = list(dict.fromkeys(table[label])), _groups(table, by)
    height = 0.34 * len(names) * max(1, len(groups) / 2) + 1.7
    share = "row" if panel_row else False
    grid = Facets(table, col=panel, row=panel_row, sharex=share, height=height, aspect=(4 if panel else 8) / height)
    for (row, column, _), part in grid.facet_data():
        axes = grid.axes[row, column]
        for i, (word, rows) in enumerate(_groups(part, by, groups).items()):
            y = rows[label].map(names.index).astype(float) + 0.36 * (i - (len(groups) - 1) / 2) / len(groups)
            style = look(i) | {"linestyle": "none", "label": word}
            axes.errorbar(rows[value], y, xerr=error(rows, value), capsize=2.5, markersize=5, **style)
        if paper:
            axes.plot(part[paper], part[label].map(names.index), "|", markersize=16, color="black", markeredgewidth=1)
        if reference is not None:
            level = part[reference].iloc[0] if isinstance(reference, str) else reference
            axes.axvline(level, color="black", linewidth=0.8)
        axes.set(xlabel=xlabel)
    grid.axes[0, 0].set_yticks(range(len(names)), names)
    grid.axes[0, 0].set_ylim(len(names) - 0.4, -0.6)
    return _finished(grid, title, panel, panel_row)


def curves(
    table: pd.DataFrame,
    x: str,
    value: str,
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    by: str | None = None,
    panel: str | None = None,
    panel_row: str | None = None,
    band: bool = False,
    sharey: bool | str = True,
    horizontal: Mapping[str, float] = MappingProxyType({"": 0.0}),
    vertical: Mapping[str, float] = MappingProxyType({}),
    logx: bool = False,
) -> Figure:
    """A line per group of ``by`` over ``x``, with bars (or a ``band``) for its interval; a panel per ``panel``.

    ``panel_row`` lays the panels out in rows, by a second column. ``horizontal`` and ``vertical`` map a word to the
    place of a thin dotted line ("": a whole one without a word).
    Words of x are drawn at even steps.
    """
    words = None if pd.api.types.is_numeric_dtype(table[x]) else list(dict.fromkeys(table[x]))
    table = table.assign(at=table[x].map(words.index) if words else table[x])
    groups, width = _groups(table, by), np.ptp(table["at"])
    height, aspect = (3.2, 1.3) if panel_row else (4.2, 0.9 if panel else 1.7)
    grid = Facets(table, col=panel, row=panel_row, sharey=sharey, height=height, aspect=aspect)
    # A single panel has room beside it for a line's word, where no curve strikes it through.
    x_of, side, beside = (0.99, "right", "bottom") if panel else (1.01, "left", "center")
    y_of, above = (0.97, "top") if panel else (1.01, "bottom")
    for (row, column, _), part in grid.facet_data():
        axes = grid.axes[row, column]
        for i, (word, rows) in enumerate(_groups(part, by, groups).items()):
            shift = 0.012 * (i - (len(groups) - 1) / 2)
            at = rows["at"] * (1 + shift) if logx else rows["at"] + shift * width * (not band)
            axes.plot(at, rows[value], label=word, markersize=5, linewidth=1.3, zorder=3, **look(i))
            if band:
                low, high = (rows[end] for end in limits(rows, value))
                axes.fill_between(at, low, high, alpha=0.2, linewidth=0, color=look(i)["color"], zorder=2)
            else:
                axes.errorbar(at, rows[value], error(rows, value), color=look(i)["color"], fmt="none", capsize=2)
        for word, level in horizontal.items():
            axes.axhline(level, **REFERENCE[bool(word)])
            text = axes.text(x_of, level, word, transform=axes.get_yaxis_transform(), color=GREY, ha=side, va=beside)
            text.set_bbox({"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.5} if word else None)
        for word, level in vertical.items():
            axes.axvline(level, **REFERENCE[bool(word)])
            axes.text(level, y_of, f" {word}", transform=axes.get_xaxis_transform(), color=GREY, va=above)
        axes.set(xscale="log" if logx else "linear")
        if words:
            axes.set_xticks(range(len(words)), words)
    grid.set_xlabels(xlabel)
    grid.set_ylabels(ylabel)
    return _finished(grid, title, panel, panel_row)


def titled(figure: Figure, title: str) -> Figure:
    """The figure under its title, which stands at the left above all panels: no layout leaves room for it."""
    figure.text(0.01, 1, title, ha="left", va="bottom", fontsize=12)
    return figure


def _groups(table: pd.DataFrame, by: str | None, names: Collection[str] = ()) -> dict[str, pd.DataFrame]:
    """The rows of every group, in order of appearance or that of ``names``, under the group's name in the legend."""
    if by is None:
        return {"": table}
    parts = {key if isinstance(key, str) else f"{by} {key:g}": part for key, part in table.groupby(by, sort=False)}
    return {name: parts.get(name, table[:0]) for name in names or parts}


def _finished(grid: Facets, title: str, *panels: str | None) -> Figure:
    """Panels by their word, or by their column and number; one title over them, and one legend under them."""
    parts = []
    for name, column in zip(("col", "row"), panels, strict=False):
        if column is not None:
            numbers = pd.api.types.is_numeric_dtype(grid.data[column])
            parts.append(f"{{{name}_var}} {{{name}_name:.3g}}" if numbers else f"{{{name}_name}}")
    if parts:
        grid.set_titles(", ".join(parts))
    figure, (handles, labels) = grid.figure, grid.axes[0, 0].get_legend_handles_labels()
    titled(figure, title).tight_layout()
    if any(labels):
        under = (0.5, 0.1 / figure.get_figheight())
        figure.legend(handles, labels, loc="upper center", ncols=min(4, len(labels)), bbox_to_anchor=under)
    return figure


_BEYOND = 4  # where "always" and "never" are drawn, in points beyond the rates studied


def crossings(crossovers: pd.DataFrame) -> pd.DataFrame:
    """A table of crossovers as it is drawn: in %, "always" and "never" beyond the rates, no limit at the estimate."""
    top = 100 * crossovers.highest_rate.max()
    values = {name: crossovers[name].fillna(crossovers.crossover) for name in ("crossover", "low", "high")}
    return crossovers.assign(**{name: np.clip(100 * x, -_BEYOND, top + _BEYOND) for name, x in values.items()})


def name_ends(axis: Axis, crossovers: pd.DataFrame) -> None:
    """Ticks for :func:`crossings`: a rate every ten points, "always" below the first and "never" above the last.

    Along x these words stand a line lower, where no number is beside them.
    """
    top = int(100 * crossovers.highest_rate.max())
    rates = list(range(0, top + 1, 10))
    ends = [f"\n{word}" if axis.axis_name == "x" else word for word in ("always", "never")]
    axis.set_ticks([-_BEYOND, *rates, top + _BEYOND], [ends[0], *map(str, rates), ends[1]])


def heat(
    wide: pd.DataFrame,
    *,
    title: str,
    bar: str,
    xlabel: str = "",
    text: pd.DataFrame | None = None,
    share: bool = False,
) -> Figure:
    """A matrix with its numbers (or ``text``) in its cells, in colours whose bar is labelled ``bar``.

    The colours are centred on 0, or run from 0 to 1 where each number is a ``share``.
    """
    figure, axes = plt.subplots(figsize=(2.6 + 0.9 * wide.shape[1], 0.42 * len(wide) + 1.6))
    cells = {"annot": True, "fmt": ".2f"} if text is None else {"annot": text, "fmt": ""}
    limit = float(np.nanmax(np.abs(wide.to_numpy(dtype=float))))
    colours = {"cmap": "Blues", "vmin": 0, "vmax": 1} if share else {"cmap": "PuOr_r", "vmin": -limit, "vmax": limit}
    sns.heatmap(wide, ax=axes, linewidths=0.5, annot_kws={"size": 9}, cbar_kws={"label": bar}, **cells, **colours)
    axes.set(xlabel=xlabel, ylabel="", title=title)
    axes.tick_params(axis="y", rotation=0)
    axes.grid(False)
    return figure


# The two verdict columns, whose hatches tell them apart in grey, and a contradiction's strength.
LOOKS = {
    "consistent": {"color": "#0072B2", "hatch": ""},
    "contradicted": {"color": "#D55E00", "hatch": "xx"},
    "uncheckable": {"color": "#BBBBBB", "hatch": "//"},
    "reproduced": {"color": "#0072B2", "hatch": ""},
    "direction reproduced": {"color": "#56B4E9", "hatch": ""},
    "not reproduced: null": {"color": "#E69F00", "hatch": "--"},
    "not reproduced: opposite": {"color": "#D55E00", "hatch": "xx"},
    "not reproduced: difference": {"color": "#CC79A7", "hatch": "++"},
    "inconclusive": {"color": "#F0E442", "hatch": ".."},
    "shown": {"color": "#009E73", "hatch": "\\\\"},
    "untestable": {"color": "#BBBBBB", "hatch": "//"},
    "not run": {"color": "#E8E8E8", "hatch": ""},
    "strict": {"color": "#222222"},
    "strong": {"color": "#777777"},
    "natural": {"color": "#CCCCCC"},
}


def stacked(
    table: pd.DataFrame, label: str, parts: Sequence[str], *, title: str, xlabel: str, notes: Sequence[str] = ()
) -> Figure:
    """A horizontal bar a row of ``table``, stacked from its columns ``parts``; a row's note stands at its bar's end.

    ``parts`` are verdicts or strengths, drawn by :data:`LOOKS`. A part that no row has is left out.
    """
    figure, axes = plt.subplots(figsize=(8.8, 0.28 * len(table) + 1.3))
    left = np.zeros(len(table))
    for part in parts:
        if table[part].any():
            axes.barh(table[label], table[part], left=left, edgecolor="white", label=part, **LOOKS[part])
            left += table[part].to_numpy()
    for y, note in enumerate(notes):
        axes.text(left[y] + 0.1, y, note, va="center", fontsize=9, color=GREY)
    axes.set(xlabel=xlabel, title=title, ylim=(len(table) - 0.4, -0.6), xlim=(0, left.max() + 1.8 * (len(notes) > 0)))
    axes.legend(loc="lower right")
    axes.grid(axis="y", visible=False)
    return figure


def images(examples: pd.DataFrame, score: str, *, title: str, by: str | None = None) -> Figure:
    """Small grey pictures of the highest and of the lowest ``score``, two strips for each group of ``by``.

    Examples are those of :func:`datalab.sections.trials.trial.labelled_examples`: each is shown under its label as
    ``observed``; bold: the label was flipped, the ``clean`` one in brackets.
    """
    strips = {}
    for name, part in _groups(examples, by).items():
        order = ends(part[score])
        strips[f"{name}\nhighest"], strips[f"{name}\nlowest"] = (part.iloc[at] for at in np.split(order, 2))
    columns = max(map(len, strips.values()))
    size = (0.95 * columns, 1.75 * len(strips))
    figure, axes = plt.subplots(len(strips), figsize=size, squeeze=False)
    for (word, strip), row in zip(strips.items(), axes[:, 0], strict=True):
        for place, example in enumerate(strip.itertuples()):
            picture = np.reshape(example.pixels, (-1, int(example.width)))
            row.imshow(picture, cmap="gray_r", interpolation="nearest", extent=(place, place + 0.9, 0, 0.9))
            flipped = example.observed != example.clean
            caption = f"{example.observed} ({example.clean})" if flipped else example.observed
            row.text(place + 0.45, 1, caption, ha="center", fontweight="bold" if flipped else "normal")
        row.set(xlim=(-0.05, columns - 0.05), ylim=(-0.05, 1.2), xticks=[], yticks=[], frame_on=False)
        row.set_ylabel(word.strip(), fontsize=10)
    figure.tight_layout()
    return titled(figure, title)
