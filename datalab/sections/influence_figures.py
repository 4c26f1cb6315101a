"""The figures of section 2.2, drawn from its tables and rows."""

import itertools
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from datalab.sections.influence_cells import FREE, VALIDATION
from datalab.sections.influence_tables import kind

GREY = "#555555"


def refits(rows: pd.DataFrame, dataset: str) -> Figure:
    """Predicted against true changes on one data set, a panel an estimator, with the line where they are equal."""
    part = kind(rows, "refit")
    part = part[part.dataset == dataset]
    names = ["ExactGGN", "LastLayerGGN", "EKFAC"]
    said = {"ExactGGN": "with leverage (ExactGGN)", "LastLayerGGN": "derivative alone", "EKFAC": "EK-FAC"}
    figure, panels = plt.subplots(1, 3, figsize=(9, 3.4), sharex=True, sharey=True)
    unit = 1e4
    for axes, name in zip(panels, names, strict=True):
        one = part[part.estimator == name]
        ends = np.linspace(unit * one.actual.min(), unit * one.actual.max(), 500)
        axes.plot(ends, ends, color=GREY, linewidth=0.8, linestyle="-")
        axes.scatter(unit * one.actual, unit * one.predicted, s=16, color="C0")
        axes.set(title=said[name], xlabel="true change (1e-4 nats)", xscale="symlog", yscale="symlog")
    panels[0].set_ylabel("predicted change (1e-4 nats)")
    figure.suptitle(f"Does a prediction foresee the refit without an example? ({dataset})", x=0.01, ha="left")
    figure.tight_layout()
    return figure


def lds(table: pd.DataFrame) -> Figure:
    """LDS over the damping, a line an estimator, with t-intervals; what has no damping to move as a dashed level."""
    figure, axes = plt.subplots(figsize=(7.6, 4.4))
    moved = table.dropna(subset="damping / mean diagonal")
    right = moved["damping / mean diagonal"].max()
    labels = []
    for i, (name, one) in enumerate(moved.groupby("estimator", sort=False)):
        x = one["damping / mean diagonal"] * 1.06 ** (i - 1.5)
        error = [one.LDS - one["LDS low"], one["LDS high"] - one.LDS]
        marker = "osD^"[i % 4]
        axes.errorbar(x, one.LDS, yerr=error, marker=marker, markersize=5, capsize=2, color=f"C{i}", linestyle="-")
        labels.append((one.LDS.iloc[-1], name, f"C{i}"))
    for _, one in table[table["damping / mean diagonal"].isna()].iterrows():
        axes.axhline(one.LDS, color=GREY, linewidth=0.9, linestyle="--")
        labels.append((one.LDS, one.estimator, GREY))
    for y, (_, name, colour) in zip(_spread([y for y, _, _ in labels], 0.045), labels, strict=True):
        axes.annotate(f"  {name}", (right * 1.4, y), color=colour, va="center", annotation_clip=False)
    axes.set(
        xscale="log",
        xlabel="damping / mean diagonal of H",
        ylabel="linear datamodeling score",
        title="Do influences add up to what training on a random half gives?",
    )
    axes.set_xlim(right=right * 1.5)
    return figure


def _spread(values: list[float], gap: float) -> list[float]:
    """The values, moved apart to at least ``gap``, in their order."""
    order = np.argsort(values, kind="stable")
    placed = np.array(values, dtype=float)
    for a, b in itertools.pairwise(order):
        placed[b] = max(placed[b], placed[a] + gap)
    return list(placed - (placed - values).mean())


def auroc(table: pd.DataFrame, difference: pd.DataFrame) -> Figure:
    """Left the mean AUROC by rate, a line a score, free ones dashed; right the paired difference to the loss's, with
    t-intervals.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 4.6))
    whole = table.groupby("score", sort=False).size()
    several = table[table.score.map(whole) == whole.max()]
    look = {
        name: {"linestyle": "--" if name in FREE else "-", "color": f"C{i % 7}", "marker": "osD^vP*Xh"[i % 9]}
        for i, name in enumerate(several.score.unique())
    }
    for name, one in several.groupby("score", sort=False):
        left.plot(one["flipped labels (%)"], one.AUROC, markersize=4, linewidth=1.3, **look[name])
    near = difference[difference.score.isin(look) & (difference.score != VALIDATION)]
    labels = []
    for i, (name, one) in enumerate(near.groupby("score", sort=False)):
        x, mean = one["flipped labels (%)"] + 0.35 * (i - 3), one["AUROC difference"]
        error = [mean - one["AUROC difference low"], one["AUROC difference high"] - mean]
        right.errorbar(x, mean, yerr=error, markersize=5, capsize=2, linewidth=1.2, **look[name])
        labels.append((mean.iloc[-1], name))
    right.axhline(0, color="black", linewidth=0.8)
    end, gap = several["flipped labels (%)"].max(), 0.055 * np.ptp(right.get_ylim())
    for y, (_, name) in zip(_spread([y for y, _ in labels], gap), labels, strict=True):
        right.annotate(f"  {name}", (end + 1.5, y), color=look[name]["color"], va="center", annotation_clip=False)
    apart = several[several.score == VALIDATION].iloc[0]
    left.annotate(VALIDATION, (apart["flipped labels (%)"], apart.AUROC), xytext=(8, 8), textcoords="offset points",
                  color=look[VALIDATION]["color"])  # fmt: skip
    left.set(xlabel="flipped training labels (%)", ylabel="AUROC", title="Which score finds the wrong labels?")
    right.set(xlabel="flipped training labels (%)", ylabel="AUROC less the loss's", title="Is it better than the loss?")
    figure.tight_layout()
    return figure


def agreement(table: pd.DataFrame) -> Figure:
    """Rank correlations of all scores as a matrix with its numbers."""
    square = table.set_index("score")
    figure, axes = plt.subplots(figsize=(8.4, 6.2))
    sns.heatmap(square, annot=True, fmt=".2f", cmap="Greys", vmin=0, vmax=3, cbar=False, square=False, ax=axes,
                annot_kws={"fontsize": 9, "color": "black"})  # fmt: skip
    axes.set(xlabel="", ylabel="", title="Do the scores rank the training set alike?")
    axes.tick_params(axis="x", rotation=45)
    plt.setp(axes.get_xticklabels(), ha="right", rotation_mode="anchor")
    return figure


def damping(path: pd.DataFrame) -> Figure:
    """How the ranking and the AUROC of one model's self-influence move with the damping; the default marked."""
    figure, axes = plt.subplots(figsize=(7, 3.6))
    own = path[path.own].damping.item()
    axes.plot(path.damping, path.auroc, marker="o", markersize=4, linestyle="-")
    axes.plot(path.damping, path.spearman, marker="s", markersize=4, linestyle="--")
    axes.axvline(own, color=GREY, linewidth=0.9)
    last = path.iloc[-1]
    axes.annotate("  AUROC", (last.damping, last.auroc), color="C0", va="center", annotation_clip=False)
    axes.annotate("  rank correlation\n  with the default's", (last.damping, last.spearman), color="C1", va="center",
                  annotation_clip=False)  # fmt: skip
    axes.annotate(" default", (own, axes.get_ylim()[0]), va="bottom", color=GREY)
    axes.set(xscale="log", xlabel="damping d", title="How much does the damping matter for finding wrong labels?")
    return figure


def draw_images(row: Sequence[Axes], study, chosen: Sequence[int]) -> None:
    """One image a panel, under its label as observed; bold: a flipped label, with the clean one."""
    for place, i in zip(row, chosen, strict=True):
        place.imshow(study.images[i], cmap="gray_r")
        place.set(xticks=[], yticks=[])
        wrong = study.observed[i] != study.clean[i]
        text = study.observed[i] + (f" ({study.clean[i]})" if wrong else "")
        place.set_title(text, fontsize=11, loc="center", fontweight="bold" if wrong else "normal")


def pictures(study) -> Figure:
    """The examples of highest and of lowest self-influence, each with its observed label, and the clean one."""
    rows = (("highest", study.highest), ("lowest", study.lowest))
    columns = len(study.highest)
    figure, axes = plt.subplots(2, columns, figsize=(columns * 0.95, 3.6), squeeze=False)
    for row, (word, chosen) in zip(axes, rows, strict=True):
        draw_images(row, study, chosen)
        row[0].set_ylabel(word, fontsize=11)
    title = "Highest and lowest self-influence: label as observed (the clean one, where it was flipped)"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.tight_layout()
    return figure
