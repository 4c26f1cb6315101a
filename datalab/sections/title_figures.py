"""The title's figures, drawn from its tables. Each returns a matplotlib figure; the record saves and shows it."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from datalab.protocol import protocol

NAMES = {"softmax": "softmax regression", "mlp": "MLP", "cnn": "patch CNN"}
CLAIM = "#777777"


def _claimed() -> float:
    return 100 * protocol().title_verdict["reproduced"]["crossover_interval_contains"]


def _zero(axes: Axes) -> None:
    axes.axhline(0, color="black", linewidth=0.8)


def _paper_line(axes: Axes, label_at: float = 0.97) -> None:
    axes.axvline(_claimed(), color=CLAIM, linewidth=1, linestyle=(0, (2, 2)))
    axes.annotate(
        "the paper's 15 %",
        (_claimed(), label_at),
        xycoords=("data", "axes fraction"),
        xytext=(4, 0),
        textcoords="offset points",
        color="#555555",
        va="top",
    )


def curve(table: pd.DataFrame, sets: pd.DataFrame) -> Figure:
    """The primary cell: d over the noise rate, mean and interval over data sets, each data set as a thin line."""
    figure, axes = plt.subplots()
    for _, one in sets.groupby("dataset", sort=False):
        axes.plot(one["noise rate (%)"], one["d (F1)"], color="#bbbbbb", linewidth=0.7, linestyle="-", zorder=1)
    rate = table["noise rate (%)"]
    axes.fill_between(rate, table.low, table.high, alpha=0.25, linewidth=0, color="C0", zorder=2)
    axes.plot(rate, table["d (F1)"], marker="o", color="C0", linestyle="-", zorder=3)
    last = table.iloc[-1]
    axes.annotate(
        "mean", (last["noise rate (%)"], last["d (F1)"]), xytext=(6, 0), textcoords="offset points", color="C0"
    )
    _zero(axes)
    _paper_line(axes)
    axes.set(
        xlabel="flipped training labels (%)",
        ylabel="macro-F1: influence − random",
        title="When does pruning by influence beat random subsampling?",
    )
    return figure


_BEYOND = 4  # where "always" and "never" are drawn, in points beyond the rates studied


def _beyond(values: pd.Series, top: float) -> pd.Series:
    return np.clip(100 * values, -_BEYOND, top + _BEYOND)


def _ticks(top: float) -> dict[float, str]:
    return {-_BEYOND: "always", **{t: str(t) for t in range(0, int(top) + 1, 10)}, top + _BEYOND: "never"}


def crossover_by_fraction(crossovers: pd.DataFrame) -> Figure:
    """Crossover against the fraction pruned, a panel per noise kind, a line per architecture, with intervals."""
    kinds = list(dict.fromkeys(crossovers.noise))
    size = (3.1 * len(kinds) + 1, 4.2)
    figure, panels = plt.subplots(1, len(kinds), figsize=size, sharex=True, sharey=True, squeeze=False)
    markers = dict(zip(NAMES, "osD", strict=True))
    top = 100 * crossovers.highest_rate.max()
    for axes, kind in zip(panels[0], kinds, strict=True):
        part = crossovers[crossovers.noise == kind]
        for name, one in part.groupby("architecture", sort=False):
            x = 100 * (1 - one.keep_fraction) + (list(NAMES).index(name) - 1) * 1.2
            y, low, high = (_beyond(one[column], top) for column in ("crossover", "low", "high"))
            style = {"color": f"C{list(NAMES).index(name)}", "marker": markers[name], "markersize": 5, "capsize": 2}
            axes.errorbar(x, y, yerr=[y - low, high - y], linestyle="-", linewidth=1.2, label=NAMES[name], **style)
        axes.axhline(_claimed(), color=CLAIM, linewidth=1, linestyle=(0, (2, 2)))
        axes.set(xlabel="training set pruned (%)", title=f"{kind} noise", ylim=(-_BEYOND - 2, top + _BEYOND + 2))
        axes.set_yticks(list(_ticks(top)), list(_ticks(top).values()))
    panels[0][0].set_ylabel("crossover: flipped labels (%)")
    handles, labels = panels[0][0].get_legend_handles_labels()
    handles.append(plt.Line2D([], [], color=CLAIM, linewidth=1, linestyle=(0, (2, 2))))
    labels.append("the paper's 15 %")
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), bbox_to_anchor=(0.5, -0.04))
    title = "Does one threshold exist, or does it move with the fraction pruned?"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    return figure


def crossover_by_dataset(table: pd.DataFrame) -> Figure:
    """A row per data set: its own crossover and the interval over its seeds."""
    figure, axes = plt.subplots(figsize=(7, 0.32 * len(table) + 1.4))
    top = 100 * table.highest_rate.max()
    x, low, high = (_beyond(table[column].fillna(table.crossover), top) for column in ("crossover", "low", "high"))
    y = np.arange(len(table))[::-1]
    seen = table["seen in the pilot"].to_numpy(dtype=bool)
    for mask, face, label in ((~seen, "C0", "never seen before this study"), (seen, "white", "seen in the pilot")):
        if mask.any():
            error = [(x - low)[mask], (high - x)[mask]]
            axes.errorbar(x[mask], y[mask], xerr=error, fmt="o", color="C0", mfc=face, capsize=2, label=label)
    axes.set_yticks(y, table.dataset)
    axes.axvline(_claimed(), color=CLAIM, linewidth=1, linestyle=(0, (2, 2)))
    axes.set_xticks(list(_ticks(top)), list(_ticks(top).values()))
    limits = (-_BEYOND - 2, top + _BEYOND + 2)
    axes.set(xlabel="crossover: flipped labels (%); dashed: the paper's 15 %", xlim=limits)
    axes.set_title("Is the threshold the same on every data set?")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.9 / figure.get_figheight()), ncols=2)
    return figure


def against_full(table: pd.DataFrame) -> Figure:
    """Influence and random, each against training on everything, over the noise rate."""
    figure, axes = plt.subplots()
    for (name, one), marker in zip(table.groupby("pruned by", sort=False), "os", strict=False):
        (line,) = axes.plot(one["noise rate (%)"], one["d (F1)"], marker=marker, label=name)
        axes.fill_between(one["noise rate (%)"], one.low, one.high, alpha=0.2, linewidth=0, color=line.get_color())
        last = one.iloc[-1]
        at = (last["noise rate (%)"], last["d (F1)"])
        axes.annotate(name, at, xytext=(7, -3), textcoords="offset points", color=line.get_color())
    _zero(axes)
    _paper_line(axes)
    axes.set(
        xlabel="flipped training labels (%)",
        ylabel="macro-F1: pruned − everything kept",
        title="Does pruning beat keeping everything?",
    )
    axes.margins(x=0.12)
    return figure


def rivals(table: pd.DataFrame) -> Figure:
    """A heat map: every score's d against random at the primary cell; a dot where the interval excludes 0."""
    wide = table.pivot(index="method", columns="noise rate (%)", values="d (F1)")
    wide = wide.loc[wide.mean(axis=1).sort_values(ascending=False).index]
    clear = table.assign(clear=(table.low > 0) | (table.high < 0))
    clear = clear.pivot(index="method", columns="noise rate (%)", values="clear").loc[wide.index]
    limit = float(np.abs(wide.to_numpy()).max())
    figure, axes = plt.subplots(figsize=(8.4, 0.42 * len(wide) + 1.6))
    text = wide.map(lambda v: f"{100 * v:+.1f}") + clear.map(lambda c: "•" if c else "")
    bar = {"label": "macro-F1 against random (points)", "format": lambda v, _: f"{100 * v:+.0f}"}
    sns.heatmap(
        wide, annot=text, fmt="", cmap="PuOr_r", vmin=-limit, vmax=limit, ax=axes, linewidths=0.5, cbar_kws=bar,
        annot_kws={"size": 9},
    )  # fmt: skip
    axes.set_yticklabels([name.replace("_", " ") for name in wide.index], rotation=0)
    axes.set_xticklabels([f"{rate:g}" for rate in wide.columns], rotation=0)
    axes.set(xlabel="flipped training labels (%)", ylabel="", title="Which score is worth pruning by?")
    axes.grid(False)
    return figure
