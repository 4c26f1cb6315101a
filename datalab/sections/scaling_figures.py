"""Section 4.4's figures, drawn from its tables."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from datalab.sections.scaling_cell import METHODS


def curves(methods: pd.DataFrame) -> Figure:
    """A panel a data set and architecture: F1 of every method by training size (log), t-intervals over seeds."""
    groups = list(methods.groupby(["data set", "architecture"], sort=False))
    columns = min(len(groups), 2)
    rows = -(-len(groups) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(5.2 * columns, 3.3 * rows), squeeze=False)
    for axes, ((name, architecture), part) in zip(panels.flat, groups, strict=False):
        for i, method in enumerate(METHODS):
            one = part[part.method == method]
            error = [one.F1 - one["F1 low"], one["F1 high"] - one.F1]
            x = one.n * 1.04 ** (i - 2.5)
            axes.errorbar(x, one.F1, yerr=error, marker="osD^vP"[i], capsize=2, markersize=5, label=method)
        axes.set(xscale="log", title=f"{name}, {architecture}", xlabel="training examples", ylabel="macro-F1")
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, bbox_to_anchor=(0.5, -0.1 / rows - 0.04))
    figure.suptitle("Does more data help, and whom?", x=0.01, ha="left")
    figure.tight_layout()
    return figure


def cost(table: pd.DataFrame) -> Figure:
    """Seconds and memory of scoring by training size, both axes log."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
    for i, ((name, architecture), one) in enumerate(table.groupby(["dataset", "architecture"], sort=False)):
        style = {"marker": "osD^vP"[i % 6], "label": f"{name}, {architecture}"}
        left.plot(one.n, one.seconds, **style)
        right.plot(one.n, one["memory (MB)"], **style)
    ends = [table.n.min(), table.n.max()]
    top = table.seconds.max()
    left.plot(ends, [top * ends[0] / ends[1], top], color="#888888", linewidth=0.9, linestyle="-")
    left.annotate("in proportion to n", (ends[0], top * ends[0] / ends[1]), xytext=(8, 0), textcoords="offset points",
                  color="#555555", fontsize=9, va="top")  # fmt: skip
    left.set(xscale="log", yscale="log", xlabel="training examples", ylabel="seconds", title="Time to score them")
    right.set(xscale="log", xlabel="training examples", ylabel="MB", title="Memory of its tensors, beyond the data")
    right.set_ylim(bottom=0)
    left.legend(fontsize=8)
    figure.tight_layout()
    return figure
