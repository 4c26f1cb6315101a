"""Section 4.1's figures, drawn from its tables."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from datalab.sections.main_tables import ROWS

GREY = "#555555"


def methods(by_noise: pd.DataFrame, printed: Mapping[str, float]) -> Figure:
    """A panel a rate: every method's F1 less vanilla's, t-intervals; the paper's differences as ticks in each."""
    rates = list(dict.fromkeys(by_noise["noise rate (%)"]))
    names = [name for name in ROWS.values() if name != ROWS["vanilla"]]
    figure, panels = plt.subplots(1, len(rates), figsize=(3 + 2.6 * len(rates), 3.6), sharey=True, squeeze=False)
    for axes, rate in zip(panels[0], rates, strict=True):
        part = by_noise[by_noise["noise rate (%)"] == rate].set_index("method")
        for y, name in enumerate(names):
            row = part.loc[name]
            marker = "D" if name.startswith("Ours") else "o"
            colour = "C1" if name.startswith("Ours") else "C0"
            error = [[row["less vanilla"] - row["less vanilla low"]], [row["less vanilla high"] - row["less vanilla"]]]
            axes.errorbar(row["less vanilla"], y, xerr=error, marker=marker, color=colour, capsize=3, linestyle="none")
            if name in printed:
                axes.plot(printed[name], y, marker="|", markersize=16, color="black", markeredgewidth=1)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(title=f"{rate:g} % flipped", xlabel="F1 less vanilla's")
    panels[0][0].set_yticks(range(len(names)), names)
    panels[0][0].invert_yaxis()
    figure.suptitle("Which method improves on plain training? (tick: the paper)", x=0.01, ha="left")
    figure.tight_layout()
    return figure


def per_benchmark(tables: Mapping[str, pd.DataFrame], rate: float) -> Figure:
    """A row a data set: the gain in F1 of each variant over vanilla, t-intervals over seeds."""
    order = next(iter(tables.values())).sort_values("d", ignore_index=True)["data set"]
    figure, axes = plt.subplots(figsize=(7.4, 0.34 * len(order) + 1.5))
    for i, (variant, table) in enumerate(tables.items()):
        table = table.set_index("data set").loc[order]
        y = np.arange(len(order)) + 0.18 * (2 * i - 1)
        error = [table.d - table["d low"], table["d high"] - table.d]
        axes.errorbar(table.d, y, xerr=error, marker="oD"[i], capsize=2, linestyle="none", color=f"C{i}", label=variant)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(np.arange(len(order)), order)
    axes.set(
        xlabel="F1 of DATA-LAB less vanilla's",
        title=f"Does the gain hold on every data set? ({100 * rate:g} % flipped)",
    )
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.55 / figure.get_figheight()), ncols=2, title=None)
    return figure
