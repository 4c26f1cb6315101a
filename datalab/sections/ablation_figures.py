"""Section 4.3's figures, drawn from its tables."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from datalab import framework
from datalab.sections.ablation_tables import COMPONENTS


def contributions(table: pd.DataFrame) -> Figure:
    """A panel a variant: each component's Shapley value by noise rate, with t-intervals, and their sum."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
    for axes, variant in zip(panels, framework.VARIANTS, strict=True):
        part = table[table.variant == variant]
        rates = list(dict.fromkeys(part["noise rate (%)"]))
        x = np.arange(len(rates), dtype=float)
        shown = [(title, part[part.component == title], "Shapley value (F1)") for title in COMPONENTS.values()]
        shown.append(("all three", part[part.component == next(iter(COMPONENTS.values()))], "total gain"))
        for i, (name, one, column) in enumerate(shown):
            y = one[column].to_numpy()
            error = [y - one[f"{column} low"], one[f"{column} high"] - y]
            colour = "black" if name == "all three" else f"C{i}"
            style = {"marker": "osD*"[i], "markersize": 10 if name == "all three" else 6, "color": colour}
            axes.errorbar(x + 0.16 * (i - 1.5), y, yerr=error, capsize=2, linestyle="none", label=name, **style)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xticks(x, [f"{rate:g} %" for rate in rates])
        axes.set(title=variant, xlabel="flipped training labels")
    panels[0].set_ylabel("contribution to F1 (Shapley value)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, bbox_to_anchor=(0.5, -0.08))
    figure.suptitle("What does each component contribute?", x=0.01, ha="left")
    figure.tight_layout()
    return figure
