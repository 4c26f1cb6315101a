"""Section 3.3's figures, drawn from its tables and pictures."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from datalab import framework
from datalab.sections.influence_figures import draw_images
from datalab.sections.inspection_pictures import Weighted


def sweep(table: pd.DataFrame, moved: str) -> Figure:
    """ESS, AUROC and F1 by one parameter, a line a variant, t-intervals; a lambda2 of 0 stands at the left end."""
    columns = ("ESS / n", "AUROC of weights", "F1")
    figure, panels = plt.subplots(1, 3, figsize=(10.5, 3.5))
    values = np.array(sorted(table[moved].unique()))
    at = np.arange(len(values))
    for axes, column in zip(panels, columns, strict=True):
        for i, variant in enumerate(framework.VARIANTS):
            part = table[table.variant == variant].sort_values(moved)
            error = [part[column] - part[f"{column} low"], part[f"{column} high"] - part[column]]
            axes.errorbar(at + 0.08 * (2 * i - 1), part[column], yerr=error, marker="oD"[i], capsize=2, color=f"C{i}",
                          linestyle=("-", "--")[i], label=variant)  # fmt: skip
        axes.set_xticks(at, [f"{value:g}" for value in values])
        axes.set(xlabel=moved, title=column)
    panels[0].set_ylim(0, 1.05)
    panels[1].axhline(0.5, color="black", linewidth=0.8)
    panels[0].legend(fontsize=9, loc="upper left" if moved == "lambda2" else "lower right")
    question = "What does the KL term hold together?" if moved == "lambda2" else "What does the temperature do?"
    figure.suptitle(question, x=0.01, ha="left")
    figure.tight_layout()
    return figure


def pictures(found: Sequence[Weighted]) -> Figure:
    """A row each of the most and least weighted images, per variant; bold: a flipped label, with the clean one."""
    rows = [(one, word, getattr(one, word)) for one in found for word in ("highest", "lowest")]
    figure, axes = plt.subplots(len(rows), len(rows[0][2]), figsize=(len(rows[0][2]) * 0.95, 1.75 * len(rows)))
    for row, (one, word, chosen) in zip(axes, rows, strict=True):
        draw_images(row, one, chosen)
        row[0].set_ylabel(f"{one.variant}\n{word}", fontsize=10)
    title = "Highest and lowest weight: label as observed (the clean one, where it was flipped)"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.tight_layout()
    return figure
