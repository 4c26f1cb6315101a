"""The audit's figures, drawn from its tables. Each returns a matplotlib figure; the record saves and shows it."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

# Marker and hatch tell them apart in grey; the colours are Okabe and Ito's.
PAPER = {
    "consistent": {"color": "#0072B2", "marker": "o", "hatch": ""},
    "contradicted": {"color": "#D55E00", "marker": "X", "hatch": "xx"},
    "uncheckable": {"color": "#BBBBBB", "marker": "s", "hatch": "//"},
}
_MEASURED = {
    "reproduced": {"color": "#0072B2", "hatch": ""},
    "direction reproduced": {"color": "#56B4E9", "hatch": ""},
    "not reproduced: null": {"color": "#E69F00", "hatch": "--"},
    "not reproduced: opposite": {"color": "#D55E00", "hatch": "xx"},
    "inconclusive": {"color": "#F0E442", "hatch": ".."},
    "shown": {"color": "#009E73", "hatch": "\\\\"},
    "untestable": {"color": "#BBBBBB", "hatch": "//"},
    "not run": {"color": "#E8E8E8", "hatch": ""},
}
_ROWS = {
    "if": "+ influence functions",
    "ln": "+ label noise",
    "wo_fe": "w/o features",
    "wo_aw": "w/o weighting",
    "wo_reg": "w/o regularisation",
    "wo_all": "w/o all",
    "ABS.variance_explained.from_T2": "variance, from table 4.2",
    "ABS.framework_f1_ci": "0.74 in its interval",
    "ABS.framework_f1_ci.shape": "0.74 at its middle",
    "ABS.f1_vs_headline": "0.849 of 4.1 in it",
    "S4.1.headline_rel": "gain, from the text",
    "S4.1.headline_rel_from_T1": "gain, from table 4.1",
    "S4.1.headline_rel_from_T3": "gain, from table 4.3",
    "S4.1.mean_of_listed": "gain, from six benchmarks",
    "S4.3.share_aw": "weighting",
    "S4.3.share_reg": "regularisation",
    "S4.3.share_fe": "features",
    "S4.3.share_sum": "all three",
    "S4.5.text_vs_sum_train": "text, train",
    "S4.5.text_vs_sum_infer": "text, infer",
}
_STRENGTHS = {"strict": "#222222", "strong": "#777777", "natural": "#CCCCCC"}


def printed_against_recomputed(cells: pd.DataFrame) -> Figure:
    """One panel a table and unit: what is printed (marker) and what the other printed figures allow (bar)."""
    groups = list(dict.fromkeys(cells["group"]))
    rows = -(-len(groups) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(10.5, 2.5 * rows + 0.6), squeeze=False)
    for panel, group in zip(axes.flat, groups, strict=False):
        _panel(panel, cells[cells["group"] == group], group)
    for panel in axes.flat[len(groups) :]:
        panel.set_visible(False)
    marks = [
        Line2D([], [], linestyle="", marker=look["marker"], color=look["color"], label=f"printed: {name}")
        for name, look in PAPER.items()
    ]
    marks.append(Patch(color="#999999", label="what the other printed figures allow"))
    figure.legend(handles=marks, loc="lower center", ncols=2)
    figure.suptitle("Where does a printed figure lie outside what the paper's own numbers allow?", x=0.01, ha="left")
    figure.tight_layout(rect=(0, 0.07, 1, 0.99))
    return figure


def _panel(axes: Axes, cells: pd.DataFrame, title: str) -> None:
    places = np.arange(len(cells))
    left, right = cells["recomputed low"].to_numpy(), cells["recomputed high"].to_numpy()
    axes.hlines(places, left, right, color="#999999", linewidth=7)
    axes.plot(cells["recomputed"], places, linestyle="", marker="|", color="black", markersize=9)
    for place, (_, cell) in zip(places, cells.iterrows(), strict=True):
        look = PAPER[cell["paper"]]
        axes.plot(cell["printed"], place, linestyle="", marker=look["marker"], color=look["color"], markersize=8)
    axes.set_yticks(places, [_short(key) for key in cells["statement"]])
    axes.set_ylim(len(cells) - 0.4, -0.6)
    axes.set_title(title)
    axes.grid(axis="y", visible=False)


def _short(statement_id: str) -> str:
    """The row's name alone where the panel's title already says the column."""
    parts = statement_id.split(".")
    if parts[0] == "T5":
        return f"table, {parts[2]}"
    if parts[0] in ("T1", "T1b", "T2", "T3", "T4"):
        return _ROWS.get(parts[1], parts[1])
    return _ROWS.get(statement_id, parts[-1].replace("_", " "))


def contradictions_ranked(ranked: pd.DataFrame) -> Figure:
    """One bar a contradiction, its statements by strength, darkest strongest; the largest miss is written beside."""
    figure, axes = plt.subplots(figsize=(9, 0.27 * len(ranked) + 1.2))
    left = np.zeros(len(ranked))
    for strength, colour in _STRENGTHS.items():
        axes.barh(ranked["contradiction"], ranked[strength], left=left, color=colour, edgecolor="white", label=strength)
        left += ranked[strength].to_numpy()
    for place, miss in enumerate(ranked["largest miss (%)"]):
        if np.isfinite(miss):
            axes.text(left[place] + 0.1, place, f"misses by {miss:.0f} %", va="center", fontsize=9, color="#444444")
    axes.invert_yaxis()
    axes.set_ylim(len(ranked) - 0.4, -0.6)
    axes.set_xlim(0, left.max() + 1.8)
    axes.set_xlabel("statements that take part, by the strength of their contradiction")
    axes.set_title("Which of the paper's contradictions are the hardest to explain away?")
    axes.legend(loc="lower right")
    axes.grid(axis="y", visible=False)
    sns.despine(ax=axes, left=True)
    return figure


def by_section(counted: pd.DataFrame, order: list[str], title: str) -> Figure:
    """Stacked counts per section, from a table of :func:`~datalab.sections.s1_paper_audit.tally` without its totals."""
    counted = counted[counted["section"] != "all"]
    figure, axes = plt.subplots(figsize=(8.5, 0.3 * len(counted) + 1.4))
    left = np.zeros(len(counted))
    for name in order:
        look = PAPER.get(name) or _MEASURED[name]
        values = counted[name].to_numpy()
        if not values.any():
            continue
        axes.barh(
            counted["section"],
            values,
            left=left,
            color=look["color"],
            hatch=look["hatch"],
            edgecolor="white",
            label=name,
        )
        left += values
    axes.invert_yaxis()
    axes.set_xlabel("statements")
    axes.set_ylabel("section of the paper")
    axes.set_title(title)
    axes.legend(loc="lower right")
    axes.grid(axis="y", visible=False)
    return figure
