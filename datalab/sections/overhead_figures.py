"""Section 4.5's figure, drawn from its table."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from datalab import framework
from datalab.sections.overhead_tables import BASES, COLUMNS


def overheads(cells: pd.DataFrame) -> Figure:
    """A panel a measure: the overhead of every component, both variants, with the paper's figure as a tick."""
    figure, panels = plt.subplots(1, len(COLUMNS), figsize=(11, 3.4), sharey=True)
    names = list(BASES)
    for axes, title in zip(panels, COLUMNS.values(), strict=True):
        for i, variant in enumerate(framework.VARIANTS):
            part = cells[(cells.variant == variant) & (cells.measure == title)].set_index("component").loc[names]
            y = np.arange(len(names)) + 0.15 * (2 * i - 1)
            error = [part.ours - part["ours low"], part["ours high"] - part.ours]
            axes.errorbar(
                part.ours, y, xerr=error, marker="oD"[i], capsize=2, color=f"C{i}", linestyle="none", label=variant
            )
        axes.plot(part.paper, np.arange(len(names)), "|", color="black", markersize=16, markeredgewidth=1)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(title=title.removesuffix(" (%)"), xlabel="%")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    panels[0].legend(fontsize=9)
    figure.suptitle("What does each component cost? (tick: the paper)", x=0.01, ha="left")
    figure.tight_layout()
    return figure
