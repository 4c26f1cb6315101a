"""Section 5.3's figures, drawn from its tables."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure


def filtering(table: pd.DataFrame) -> Figure:
    """A panel a noise rate: F1 less everything's by the share removed, by influence, and the relabelling control."""
    rates = list(dict.fromkeys(table["noise rate (%)"]))
    figure, panels = plt.subplots(1, len(rates), figsize=(2 + 2.9 * len(rates), 3.8), sharey=True, squeeze=False)
    shown = (
        ("less everything", "removed by influence", "o-", "C0"),
        ("less random removal", "the same, less random removal", "s--", "C1"),
        ("relabelled less everything", "relabelled instead (needs the truth)", "D:", "C2"),
    )
    for axes, rate in zip(panels[0], rates, strict=True):
        part = table[table["noise rate (%)"] == rate]
        for i, (column, label, style, colour) in enumerate(shown):
            y = part[column].to_numpy()
            error = [y - part[f"{column} low"], part[f"{column} high"] - y]
            x = part["removed (%)"] + 0.5 * (i - 1)
            axes.errorbar(x, y, yerr=error, fmt=style, color=colour, capsize=2, markersize=5, label=label)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(title=f"{rate:g} % flipped", xlabel="removed (% of the training set)")
    panels[0][0].set_ylabel("difference in F1")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, bbox_to_anchor=(0.5, -0.08), fontsize=10)
    figure.suptitle("Does removing high-influence examples hurt?", x=0.01, ha="left")
    figure.tight_layout()
    return figure


def ensembles(table: pd.DataFrame, printed: float) -> Figure:
    """Every ensemble, member and variant: its gain over the single MLP, t-intervals; the paper's as a line."""
    figure, axes = plt.subplots(figsize=(7.4, 0.36 * len(table) + 1.3))
    column, y = "gain over the MLP (%)", np.arange(len(table))
    error = [table[column] - table[f"{column} low"], table[f"{column} high"] - table[column]]
    axes.errorbar(table[column], y, xerr=error, fmt="o", capsize=3, linestyle="none")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axvline(printed, color="#888888", linewidth=0.9, linestyle="--")
    axes.annotate(" the paper's ensemble", (printed, -0.7), color="#555555", fontsize=9, annotation_clip=False)
    axes.set_yticks(y, table.method)
    axes.invert_yaxis()
    axes.set(xlabel="gain in F1 over the single MLP (%)", title="What does an ensemble bring?\n")
    return figure
