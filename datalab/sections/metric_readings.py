"""Sentences that say what section 3.1's tables show."""

import pandas as pd

from datalab.sections.sentences import digits

TAU = "Kendall's tau"


def agreement(table: pd.DataFrame) -> str:
    """Whether the metric turns pairs of systems around, and at what cost in variance."""
    said = []
    for strata, part in table[table["tilt of the target"] != 0].groupby("strata", sort=False):
        turned, sure = part["reversed pairs"].sum(), part["both significant"].sum()
        low, high = part["variance ratio"].min(), part["variance ratio"].max()
        said.append(
            f"**Strata by {strata}**: over {len(part)} targets {turned} of {part.pairs.sum()} pairs of systems are "
            f"reversed, {sure} of them with both differences significant; Kendall's tau from "
            f"{part[TAU].min():.2f} to {part[TAU].max():.2f}; the variance is {low:.2f} to {high:.2f} times that of "
            f"plain accuracy"
        )
    return ". ".join(said) + "."


def strata(by_stratum: pd.DataFrame) -> str:
    """How much of a system's accuracy the stratum alone explains."""
    said = []
    for kind, part in by_stratum.groupby("strata", sort=False):
        mean = part.groupby("stratum").accuracy.mean()
        spread = part.groupby("stratum").accuracy.agg(lambda a: a.max() - a.min())
        said.append(
            f"**{kind}**: mean accuracy goes from {mean.iloc[0]:.2f} in the lowest stratum to {mean.iloc[-1]:.2f} in "
            f"the highest; between systems it differs by {spread.min():.3f} to {spread.max():.3f} inside a stratum"
        )
    return "; ".join(said) + "."


def pruning(table: pd.DataFrame) -> str:
    """Where pruning helps and where it hurts."""
    said = []
    for kind, part in table.groupby("strata", sort=False):
        column = "influence less full"
        helps, hurts = part[part[f"{column} low"] > 0], part[part[f"{column} high"] < 0]
        said.append(f"by {kind} it helps in {_named(helps, column)} and hurts in {_named(hurts, column)}")
    return "Pruning the MLP by influence: " + "; ".join(said) + " (95 % intervals)."


def _named(part: pd.DataFrame, column: str) -> str:
    return ", ".join(f"stratum {row.stratum} ({digits(row[column])})" for _, row in part.iterrows()) or "no stratum"
