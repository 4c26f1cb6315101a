"""Plotters for all sections: intervals in rows, curves with intervals, points, a heat map, strips of images.

A table gives what is drawn: a value and its limits (``<value> low``, ``<value> high``, else ``low`` and ``high``).
Titles state the finding or the question, colours and markers tell groups apart also in grey, references (zero, the
paper's figure) are thin lines with a word beside them.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

GREY = "#555555"
MARKERS = "osD^vP*Xh"
LINES = ("-", "--", "-.", ":")
DOTTED = (0, (2, 2))


def look(i: int) -> dict[str, Any]:
    """Colour, marker and line of the i-th group."""
    return {"color": f"C{i % 7}", "marker": MARKERS[i % len(MARKERS)], "linestyle": LINES[i % len(LINES)]}


def limits(table: pd.DataFrame, value: str) -> tuple[pd.Series, pd.Series]:
    """The columns of a value's interval."""
    names = (f"{value} low", f"{value} high") if f"{value} low" in table else ("low", "high")
    return table[names[0]], table[names[1]]


def long_form(table: pd.DataFrame, values: Sequence[str], keep: Sequence[str], name: str) -> pd.DataFrame:
    """Columns with their limits, one under another: ``keep``, ``name`` (which column), ``value``, ``low``, ``high``."""
    parts = []
    for column in values:
        low, high = limits(table, column)
        parts.append(table[list(keep)].assign(**{name: column, "value": table[column], "low": low, "high": high}))
    return pd.concat(parts)


def error(table: pd.DataFrame, value: str) -> np.ndarray:
    """The lengths (2, n) of a value's bars, below and above it."""
    low, high = limits(table, value)
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
    panel_title: str = "{}",
    panel_row: str | None = None,
    by_title: str = "{}",
    paper: Mapping[str, float] | str | None = None,
    marked: Collection[str] = (),
    reference: float | str | None = 0.0,
) -> Figure:
    """A row per ``label``: value and interval, side by side for each group of ``by``; a panel per ``panel``.

    ``panel_row`` lays the panels out in rows, by a second column; ``panel_title`` is filled with both. ``paper`` maps
    labels to the figure the paper prints, drawn as a tick, or is the column that holds it; ``marked`` labels have
    diamonds. ``reference`` is a thin vertical line, or the column that holds its place.
    """
    keys = [""] if panel is None else list(dict.fromkeys(table[panel]))
    row_keys = [""] if panel_row is None else list(dict.fromkeys(table[panel_row]))
    names = list(dict.fromkeys(table[label]))
    groups = [None] if by is None else list(dict.fromkeys(table[by]))
    width = 3 + (4.4 if panel is None else 2.6 * len(keys))
    height = (0.34 * len(names) * max(1, len(groups) / 2) + 1.7) * len(row_keys)
    figure, axes = plt.subplots(
        len(row_keys),
        len(keys),
        figsize=(width, height),
        sharex="row" if panel_row else False,
        sharey=True,
        squeeze=False,
    )
    for place, (row_key, key) in zip(axes.flat, itertools.product(row_keys, keys), strict=True):
        part = table if panel is None else table[table[panel] == key]
        part = part if panel_row is None else part[part[panel_row] == row_key]
        for i, group in enumerate(groups):
            rows = part if by is None else part[part[by] == group]
            y = np.array([names.index(name) for name in rows[label]]) + 0.36 * (i - (len(groups) - 1) / 2) / len(groups)
            style = look(i) | {"linestyle": "none", "label": by_title.format(group)}
            place.errorbar(rows[value], y, xerr=error(rows, value), capsize=2.5, markersize=5, **style)
            is_marked = rows[label].isin(marked).to_numpy()
            place.plot(rows[value][is_marked], y[is_marked], "D", markersize=7, color="C1", zorder=4)
        ticks = dict(zip(part[label], part[paper], strict=True)) if isinstance(paper, str) else paper
        for name, printed in (ticks or {}).items():
            if name in names:
                place.plot(printed, names.index(name), "|", markersize=16, color="black", markeredgewidth=1)
        if reference is not None:
            level = part[reference].iloc[0] if isinstance(reference, str) else reference
            place.axvline(level, color="black", linewidth=0.8)
        place.set(xlabel=xlabel, title=panel_title.format(key, row_key) if panel else "")
    axes[0][0].set_yticks(range(len(names)), names)
    axes[0][0].invert_yaxis()
    _finish(figure, axes.ravel(), title, legend=by is not None)
    return figure


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
    panel_title: str = "{}",
    band: bool = False,
    thin: pd.DataFrame | None = None,
    thin_by: str = "dataset",
    sharey: bool = True,
    horizontal: Mapping[str, float] | None = None,
    vertical: Mapping[str, float] | None = None,
    dashed: Collection[str] | None = None,
    logx: bool = False,
    legend: bool = True,
) -> Figure:
    """A line per group of ``by`` over ``x``, with bars (or a ``band``) for its interval; a panel per ``panel``.

    ``thin`` has the same columns, drawn as thin grey lines, one a ``thin_by``. ``horizontal`` and ``vertical`` map a
    word to the place of a thin dotted line ("" for none); without ``horizontal`` zero is drawn, with ``{}`` nothing.
    Words of x are drawn at even steps. ``dashed`` groups are drawn so, then, and all others as whole lines.
    """
    parts = [("", table)] if panel is None else list(table.groupby(panel, sort=False))
    groups = [None] if by is None else list(dict.fromkeys(table[by]))
    size = (7.2 if panel is None else 2 + 3.1 * len(parts), 4.2)
    figure, axes = plt.subplots(1, len(parts), figsize=size, sharey=sharey, squeeze=False)
    words = None if pd.api.types.is_numeric_dtype(table[x]) else list(dict.fromkeys(table[x]))
    width = np.ptp(range(len(words)) if words else table[x].to_numpy(dtype=float))
    for place, (key, part) in zip(axes[0], parts, strict=True):
        for _, line in thin.groupby(thin_by, sort=False) if thin is not None else ():
            place.plot(line[x], line[value], color="#bbbbbb", linewidth=0.7, linestyle="-", zorder=1)
        for i, group in enumerate(groups):
            rows = part if by is None else part[part[by] == group]
            at = np.array([words.index(word) for word in rows[x]] if words else rows[x], dtype=float)
            shift = 0.012 * (i - (len(groups) - 1) / 2)
            at = at * (1 + shift) if logx else at + shift * width * (not band)
            style = look(i) if dashed is None else look(i) | {"linestyle": "--" if group in dashed else "-"}
            _line(place, at, rows, value, group, band, style)
        for word, level in ({"": 0.0} if horizontal is None else horizontal).items():
            _reference(place.axhline, place, word, level, (0.99, level), ("axes fraction", "data"), "right")
        for word, level in (vertical or {}).items():
            _reference(place.axvline, place, word, level, (level, 0.97), ("data", "axes fraction"), "left")
        place.set(xlabel=xlabel, title=panel_title.format(key) if panel else "")
        if logx:
            place.set_xscale("log")
        if words:
            place.set_xticks(range(len(words)), words)
    axes[0][0].set_ylabel(ylabel)
    _finish(figure, axes[0], title, legend=legend and by is not None)
    return figure


def _line(
    place: Axes, at: np.ndarray, rows: pd.DataFrame, value: str, label: Any, band: bool, style: dict[str, Any]
) -> None:
    if band:
        low, high = limits(rows, value)
        place.fill_between(at, low, high, alpha=0.2, linewidth=0, color=style["color"], zorder=2)
        place.plot(at, rows[value], label=label, markersize=5, zorder=3, **style)
    else:
        place.errorbar(
            at, rows[value], yerr=error(rows, value), label=label, capsize=2, markersize=5, linewidth=1.3, **style
        )


def _reference(draw: Any, place: Axes, word: str, level: float, at: tuple, coords: tuple, side: str) -> None:
    draw(level, color="black" if not word else GREY, linewidth=0.8, linestyle="-" if not word else DOTTED)
    if word:
        place.annotate(
            f" {word} ",
            at,
            xycoords=coords,
            color=GREY,
            ha=side,
            va="bottom" if side == "right" else "top",
            fontsize=10,
        )


_BEYOND = 4  # where "always" and "never" are drawn, in points beyond the rates studied


def crossings(crossovers: pd.DataFrame) -> pd.DataFrame:
    """A table of crossovers as it is drawn: in %, "always" and "never" beyond the rates, no limit at the estimate.

    :func:`name_ends` writes the two words at the axis.
    """
    top = 100 * crossovers.highest_rate.max()
    values = {name: crossovers[name].fillna(crossovers.crossover) for name in ("crossover", "low", "high")}
    return crossovers.assign(**{name: np.clip(100 * x, -_BEYOND, top + _BEYOND) for name, x in values.items()})


def name_ends(axis: Axis, crossovers: pd.DataFrame) -> None:
    """Ticks for :func:`crossings`: a rate every ten points, "always" below the first and "never" above the last."""
    top = int(100 * crossovers.highest_rate.max())
    rates = list(range(0, top + 1, 10))
    axis.set_ticks([-_BEYOND, *rates, top + _BEYOND], ["always", *map(str, rates), "never"])


def scatter(table: pd.DataFrame, x: str, y: str, panel: str, *, title: str, label: str, unit: float = 1.0) -> Figure:
    """Predicted (``y``) against true (``x``), both times ``unit``: a panel per ``panel``, with the line of equality.

    Both axes are logarithmic beyond +-1, so that signs and sizes are seen; ``label`` says what they are, with its unit.
    """
    parts = list(table.groupby(panel, sort=False))
    figure, axes = plt.subplots(1, len(parts), figsize=(3.1 * len(parts), 3.5), sharex=True, sharey=True, squeeze=False)
    for place, (name, part) in zip(axes[0], parts, strict=True):
        place.scatter(unit * part[x], unit * part[y], s=16, color="C0")
        place.axline((-1, -1), (1, 1), color=GREY, linewidth=0.8, linestyle="-")
        place.set(xscale="symlog", yscale="symlog", xlabel=f"true {label}", title=name)
    axes[0][0].set_ylabel(f"predicted {label}")
    _finish(figure, axes[0], title, legend=False)
    return figure


def heat(
    wide: pd.DataFrame,
    *,
    title: str,
    xlabel: str = "",
    ylabel: str = "",
    text: pd.DataFrame | None = None,
    bar: str | None = None,
    diverging: bool = True,
    figsize: tuple[float, float] | None = None,
) -> Figure:
    """A matrix with its numbers (or ``text``) in its cells; ``diverging`` colours are centred on 0, else grey is drawn.

    ``bar`` labels the colour bar; None leaves it out.
    """
    figure, axes = plt.subplots(figsize=figsize or (2.6 + 0.9 * wide.shape[1], 0.42 * len(wide) + 1.6))
    limit = float(np.nanmax(np.abs(wide.to_numpy(dtype=float))))
    colours = {"cmap": "PuOr_r", "vmin": -limit, "vmax": limit} if diverging else {"cmap": "Greys", "vmin": 0}
    sns.heatmap(
        wide,
        annot=True if text is None else text,
        fmt=".2f" if text is None else "",
        ax=axes,
        linewidths=0.5,
        cbar=bar is not None,
        cbar_kws={"label": bar} if bar else None,
        annot_kws={"size": 9},
        **(colours if diverging else colours | {"vmax": 3 * limit}),
    )
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.set_yticklabels(axes.get_yticklabels(), rotation=0)
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
    "inconclusive": {"color": "#F0E442", "hatch": ".."},
    "shown": {"color": "#009E73", "hatch": "\\\\"},
    "untestable": {"color": "#BBBBBB", "hatch": "//"},
    "not run": {"color": "#E8E8E8", "hatch": ""},
    "strict": {"color": "#222222"},
    "strong": {"color": "#777777"},
    "natural": {"color": "#CCCCCC"},
}


def stacked(
    table: pd.DataFrame,
    label: str,
    parts: Sequence[str],
    *,
    title: str,
    xlabel: str,
    notes: Sequence[str] = (),
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


def images(strips: Mapping[str, pd.DataFrame], *, title: str) -> Figure:
    """Small grey pictures, a strip a word: ``pixels`` in rows of ``width``, each under its label as ``observed``.

    Bold: the label was flipped, the ``clean`` one in brackets. :func:`datalab.sections.pictures.strips` makes strips.
    """
    columns = max(len(examples) for examples in strips.values())
    size = (0.95 * columns, 1.75 * len(strips))
    figure, axes = plt.subplots(len(strips), columns, figsize=size, squeeze=False)
    for row, (word, examples) in zip(axes, strips.items(), strict=True):
        row[0].set_ylabel(word, fontsize=10)
        for place, example in zip(row, examples.itertuples(), strict=True):
            place.imshow(np.reshape(example.pixels, (-1, int(example.width))), cmap="gray_r", interpolation="nearest")
            flipped = example.observed != example.clean
            caption = f"{example.observed} ({example.clean})" if flipped else example.observed
            weight = "bold" if flipped else "normal"
            place.set(xticks=[], yticks=[])
            place.set_title(caption, fontsize=11, loc="center", fontweight=weight)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    figure.tight_layout()
    return figure


def _finish(figure: Figure, axes: Sequence[Axes], title: str, legend: bool) -> None:
    """The title over all panels, one legend under them."""
    if len(axes) == 1:
        axes[0].set_title(title)
    else:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    figure.tight_layout()
    if legend:
        handles, labels = axes[0].get_legend_handles_labels()
        height = figure.get_figheight()
        figure.legend(
            handles, labels, loc="upper center", ncols=min(4, len(labels)), bbox_to_anchor=(0.5, 0.1 / height)
        )
