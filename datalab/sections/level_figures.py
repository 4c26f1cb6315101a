"""Section 4.2's figures, drawn from its tables."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from datalab.sections.level_cell import DRAWS
from datalab.sections.level_tables import NAMES
from datalab.sections.trial import DATALAB

_TITLES = {
    "matched": "by influence, noise held equal",
    "unmatched": "by influence",
    "leverage": "by leverage (no labels)",
}


def curves(levels: pd.DataFrame) -> Figure:
    """A panel a draw: F1 of the baseline and of both variants by level, t-intervals; thin grey: the paper's."""
    figure, panels = plt.subplots(1, len(DRAWS), figsize=(11, 4), sharey=True)
    x = np.arange(len(NAMES))
    for axes, draw in zip(panels, DRAWS, strict=True):
        part = levels[levels.draw == draw]
        shown = [("Baseline F1", part[part.variant == "paper"], "baseline", "o-", "C0", -0.12)]
        shown += [
            ("Ours F1", part[part.variant == variant], f"ours, {variant}", style, colour, shift)
            for (variant, style, colour, shift) in (("paper", "s--", "C1", 0.0), ("label-aware", "D-.", "C2", 0.12))
        ]
        for column, one, label, style, colour, shift in shown:
            y = one[column].to_numpy()
            error = [y - one[f"{column} low"], one[f"{column} high"] - y]
            axes.errorbar(x + shift, y, yerr=error, fmt=style, color=colour, capsize=2, markersize=5, label=label)
        paper = part[part.variant == "paper"]
        for column, style in (("Baseline F1, paper", "-"), ("Ours F1, paper", "--")):
            axes.plot(x, paper[column], style, color="#888888", linewidth=0.9)
        axes.set(title=_TITLES[draw], xlabel="influence level")
        axes.set_xticks(x, NAMES, fontsize=9)
    panels[0].set_ylabel("macro-F1 on the clean test set")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, bbox_to_anchor=(0.5, -0.07))
    figure.suptitle(
        "Does F1 fall as the influence of the training set rises? (thin grey: the paper)", x=0.01, ha="left"
    )
    figure.tight_layout()
    return figure


def trends(table: pd.DataFrame) -> Figure:
    """The slope of F1 per level, a row a draw and method, t-intervals over data sets."""
    figure, axes = plt.subplots(figsize=(7, 3.6))
    names = {"vanilla": "baseline"} | {method: f"ours, {variant}" for variant, method in DATALAB.items()}
    labels = [f"{names[row.method]}, {_TITLES[row.draw]}" for row in table.itertuples()]
    y = np.arange(len(table))
    error = [table.slope - table["slope low"], table["slope high"] - table.slope]
    axes.errorbar(table.slope, y, xerr=error, fmt="o", capsize=3, linestyle="none")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(y, labels, fontsize=9)
    axes.invert_yaxis()
    axes.set(xlabel="F1 gained per level", title="Which way does F1 go with the level?")
    return figure
