"""Section 5.1's figures, drawn from its rows and tables."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from datalab.sections.monitor_cell import STATISTICS


def streams(rows: pd.DataFrame) -> Figure:
    """A panel a stream: accuracy and confidence by window, and the share of seeds in which each statistic alarms."""
    names = list(dict.fromkeys(rows.dataset))
    figure, panels = plt.subplots(2, len(names), figsize=(1 + 3.2 * len(names), 5), sharex="col", squeeze=False)
    for (top, bottom), name in zip(panels.T, names, strict=True):
        one = rows[rows.dataset == name]
        quiet = one[one.part == "quiet"].window.max() + 1
        at = one.window + np.where(one.part == "shifted", quiet, 0)
        by_window = one.assign(at=at).groupby("at")
        top.plot(by_window.accuracy.mean(), color="C0", marker="o", markersize=3, linestyle="-", label="accuracy")
        top.plot(by_window.confidence.mean(), color="C1", marker="s", markersize=3, linestyle="--", label="confidence")
        for i, statistic in enumerate(STATISTICS):
            share = by_window[f"{statistic} alarm"].mean()
            bottom.plot(
                share, color=f"C{i + 2}", marker="^vD"[i], markersize=4, linestyle=("-", "--", ":")[i], label=statistic
            )
        for axes in (top, bottom):
            axes.axvline(quiet - 0.5, color="black", linewidth=0.9)
            axes.set_ylim(-0.02, 1.02)
        top.set_title(f"{name}: {one.kind.iloc[0]}")
        bottom.set_xlabel("window of 100 examples")
    panels[0][0].set_ylabel("mean over seeds")
    panels[1][0].set_ylabel("share of seeds with alarm")
    panels[0][0].legend(fontsize=9, loc="lower left")
    panels[1][0].legend(fontsize=9, loc="center left")
    figure.suptitle("Does a label-free monitor see the shift before accuracy falls? (line: the shift begins)", x=0.01,
                    ha="left")  # fmt: skip
    figure.tight_layout()
    return figure


def predictor(table: pd.DataFrame, printed: tuple[float, float, float]) -> Figure:
    """Every rule's F1 with its cluster interval; the paper's figure and interval as a band."""
    figure, axes = plt.subplots(figsize=(7, 2.9))
    y = np.arange(len(table))
    value, low, high = printed
    axes.axvspan(low, high, color="#dddddd")
    axes.axvline(value, color="#555555", linewidth=0.9)
    error = [table.F1 - table["F1 low"], table["F1 high"] - table.F1]
    axes.errorbar(table.F1, y, xerr=error, fmt="o", capsize=3, linestyle="none")
    axes.set_yticks(y, table.rule)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="F1 of foreseeing that influence pruning loses to random",
             title="Can a failure be foreseen? (band: the paper)")  # fmt: skip
    return figure
