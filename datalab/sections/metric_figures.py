"""Section 3.1's figures, drawn from its tables."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from datalab.sections.metric_cell import ARCHITECTURES, METHODS, STRATA

_TITLES = {"influence": "strata by self-influence", "leverage": "strata by leverage (no labels)"}


def strata(by_stratum: pd.DataFrame) -> Figure:
    """A panel a kind of strata: accuracy of every system in each stratum; colour: architecture, marker: method."""
    figure, panels = plt.subplots(1, 2, figsize=(9.6, 4), sharey=True)
    for axes, kind in zip(panels, STRATA, strict=True):
        part = by_stratum[by_stratum.strata == kind]
        for i, architecture in enumerate(ARCHITECTURES):
            for j, method in enumerate(METHODS):
                one = part[part.system == f"{architecture}, {method}"]
                x = one.stratum + 0.07 * (3 * i + j - 4)
                style = {"marker": "osD"[j], "linestyle": ("-", "--", ":")[j], "color": f"C{i}"}
                axes.plot(x, one.accuracy, markersize=5, linewidth=0.9, label=f"{architecture}, {method}", **style)
        axes.set(title=_TITLES[kind], xlabel="stratum of the test set (1: lowest)", ylim=(0, 1.03))
        axes.set_xticks(np.arange(1, part.stratum.max() + 1))
    panels[0].set_ylabel("accuracy, mean over data sets")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    figure.suptitle("Where do systems differ?", x=0.01, ha="left")
    figure.tight_layout()
    return figure


def precision(agreement: pd.DataFrame) -> Figure:
    """Left the rank agreement with plain accuracy, right the variance against it, by the target's tilt."""
    figure, panels = plt.subplots(1, 2, figsize=(9.6, 3.6))
    for i, kind in enumerate(STRATA):
        part = agreement[agreement.strata == kind]
        x = part["tilt of the target"] + 0.03 * (2 * i - 1)
        for axes, column in zip(panels, ("Kendall's tau", "variance ratio"), strict=True):
            error = [part[column] - part[f"{column} low"], part[f"{column} high"] - part[column]]
            axes.errorbar(x, part[column], yerr=error, marker="os"[i], capsize=2, color=f"C{i}", label=_TITLES[kind])
    panels[0].set(ylabel="Kendall's tau with plain accuracy", title="Does it rank the systems alike?")
    panels[1].set(ylabel="sampling variance / plain accuracy's", title="What does it cost in precision?", yscale="log")
    panels[1].set_yticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"])
    panels[1].minorticks_off()
    panels[1].axhline(1, color="black", linewidth=0.8)
    for axes in panels:
        axes.set_xlabel("tilt of the target towards high strata")
    panels[0].legend(fontsize=9, loc="lower center")
    figure.tight_layout()
    return figure
