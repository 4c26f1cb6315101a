"""The figures of section 3.4: rates with their intervals against what was promised, and the floors of p."""

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    import seaborn as sns
    from matplotlib.axes import Axes

MARKERS = "osD^v"
GREY = "#555555"


def levels(frame: pd.DataFrame) -> "sns.FacetGrid":
    """Rejections of a true null, panels by distribution and level."""
    title = "How often does each test reject a null that is true?"
    return _rate_dots(frame, ("units", "{} data sets"), ("shape", "{}"), "alpha", title, "rejections (%)")


def coverage(frame: pd.DataFrame) -> "sns.FacetGrid":
    """Coverage of each interval, panels by distribution."""
    title = "How often does a 95 % interval hold the truth?"
    return _rate_dots(frame, ("units", "{} data sets"), ("shape", "{}"), None, title, "coverage (%)")


def power(frame: pd.DataFrame, effect: float) -> "sns.FacetGrid":
    """Power at a true difference of ``effect`` (F1), panels by seeds and level."""
    title = f"Would a true difference of {effect:g} F1 be found?"
    return _rate_dots(frame, ("seed_sd", "spread {:g}"), ("seeds", "{} seeds"), "alpha", title, "power (%)")


def _rate_dots(
    frame: pd.DataFrame, line: tuple[str, str], panel: tuple[str, str], row: str | None, title: str, axis: str
) -> "sns.FacetGrid":
    """Rates (%) as dots with their intervals: a line for each method and group, panels side by side and by ``row``.

    ``frame`` has ``method``, ``rate``, ``low``, ``high`` and ``promised`` or ``wanted``, a thin vertical line named in
    the first panel. ``line`` and ``panel`` are (column, label with ``{}``). Every line is named on the axis, so no
    legend is needed; the marker tells the groups apart, the colour the methods.
    """
    import seaborn as sns

    group, named = line
    reference = "promised" if "promised" in frame else "wanted"
    methods, groups = list(frame["method"].unique()), list(frame[group].unique())
    colours = dict(zip(methods, sns.color_palette("colorblind", len(methods)), strict=True))
    place = {(m, g): i * (len(groups) + 0.6) + j for i, m in enumerate(methods) for j, g in enumerate(groups)}
    height = 1.1 + 0.19 * len(place)
    order = None if row is None else list(frame[row].unique())
    grid = sns.FacetGrid(frame, col=panel[0], row=row, row_order=order, height=height, aspect=3.4 / height,
                         sharex="row")  # fmt: skip
    for (i, j, _), data in grid.facet_data():
        if data.empty:
            continue
        axes = grid.axes[i, j]
        axes.axvline(data[reference].iloc[0], color=GREY, linewidth=1)
        for record in data.to_dict("records"):
            y = place[record["method"], record[group]]
            colour = colours[record["method"]]
            axes.plot([record["low"], record["high"]], [y, y], color=colour, linewidth=1.6, linestyle="-")
            axes.plot(
                record["rate"], y, MARKERS[groups.index(record[group]) % len(MARKERS)], color=colour, markersize=5
            )
    grid.set(yticks=list(place.values()), ylim=(max(place.values()) + 0.8, -1.6))
    for axes in grid.axes[:, 0]:
        axes.set_yticklabels([f"{method}, {named.format(g)}" for method, g in place])
        at = axes.lines[0].get_xdata()[0]
        side = "left" if at < sum(axes.get_xlim()) / 2 else "right"
        axes.annotate(f" {reference} {at:g} % ", (at, -1.5), va="top", ha=side, fontsize=9, color=GREY)
    title_of = panel[1].format("{col_name}")
    grid.set_titles(title_of if row is None else title_of + ", " + row + " {row_name:.2g}")
    grid.set_axis_labels(axis, "")
    grid.figure.suptitle(title, x=0.01, ha="left", y=1.03)
    return grid


def floor_lines(frame: pd.DataFrame, levels: list[float], printed: list[float], seeds: int, title: str) -> "Axes":
    """The p floors by number of seeds, the levels as thin lines, the paper's ``printed`` p-values at its ``seeds``."""
    import matplotlib.pyplot as plt
    import seaborn as sns

    long = frame.melt("seeds", ["paired", "unpaired"], var_name="test", value_name="p")
    _, axes = plt.subplots(figsize=(7.5, 4.6))
    sns.lineplot(long, x="seeds", y="p", hue="test", style="test", markers=["o", "s"], palette="colorblind",
                 ax=axes, legend=False)  # fmt: skip
    last = frame.iloc[-1]
    for test in ("paired", "unpaired"):
        axes.annotate(f"  {test}", (last["seeds"], last[test]), va="center", annotation_clip=False)
    for level in levels:
        axes.axhline(level, color=GREY, linewidth=0.8)
        axes.annotate(f"level {level:.2g}", (last["seeds"], level), va="bottom", ha="right", fontsize=10, color=GREY)
    if printed:
        axes.plot([seeds] * len(printed), printed, marker="x", color="black", linestyle="none", markersize=8)
        note = f"the paper's printed p,\n{seeds} seeds"
        axes.annotate(note, (seeds, min(printed)), (frame["seeds"].iloc[0], min(printed) / 300), va="top", fontsize=10,
                      arrowprops={"arrowstyle": "-", "color": GREY, "shrinkB": 5})  # fmt: skip
    axes.set(yscale="log", xlabel="seeds per arm", ylabel="smallest two-sided p", title=title)
    axes.set_xlim(frame["seeds"].iloc[0] - 0.3, last["seeds"] + 0.3)
    return axes
