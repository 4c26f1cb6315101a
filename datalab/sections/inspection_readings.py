"""Sentences that say what section 3.3's tables show."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from datalab.sections.inspection_pictures import Weighted


def collapse(table: pd.DataFrame) -> str:
    """The effective sample size at both ends of the sweep, per variant."""
    said = []
    for variant, part in table.groupby("variant", sort=False):
        part = part.sort_values("lambda2")
        first, last, best = part.iloc[0], part.iloc[-1], part.loc[part.F1.idxmax()]
        said.append(
            f"**{variant}**: at lambda2 = {first.lambda2:g} the weights rest on {100 * first['ESS / n']:.1f} % of the "
            f"sample, at {last.lambda2:g} on {100 * last['ESS / n']:.1f} %; F1 goes from {first.F1:.3f} over at most "
            f"{best.F1:.3f} (lambda2 = {best.lambda2:g}) to {last.F1:.3f}"
        )
    return "; ".join(said) + "."


def sight(table: pd.DataFrame) -> str:
    """What each variant's weights know of the flipped labels, beside what its losses know."""
    said = []
    for variant, part in table.groupby("variant", sort=False):
        best = part.loc[part["AUROC of weights"].idxmax()]
        said.append(
            f"the weights of **{variant}** tell clean from flipped labels with AUROC {best['AUROC of weights']:.2f} at "
            f"best (its own losses: {best['AUROC of small loss']:.2f})"
        )
    return "; ".join(said).capitalize() + "."


def temperature(table: pd.DataFrame) -> str:
    """How far a hundredfold change of tau moves things."""
    said = []
    for variant, part in table.groupby("variant", sort=False):
        said.append(
            f"**{variant}**: ESS / n from {part['ESS / n'].min():.2f} to {part['ESS / n'].max():.2f}, F1 from "
            f"{part.F1.min():.3f} to {part.F1.max():.3f}, gap to the optimum from "
            f"{part['gap to optimum (nats)'].min():.3f} to {part['gap to optimum (nats)'].max():.3f} nats"
        )
    return f"As tau goes from {table.tau.min():g} to {table.tau.max():g}: " + "; ".join(said) + "."


def identity(table: pd.DataFrame) -> str:
    """How closely the optimum reaches the minimum, and that nothing goes below."""
    off = (table["at the optimal weights"] - table.minimum).abs().max()
    margin = (table["best of random"] - table.minimum).min()
    return (
        f"At the optimal weights the objective equals the formula within {off:.0e} nats; the best of the random "
        f"weights stays {margin:.1e} nats above it."
    )


def pictures(found: Sequence[Weighted]) -> str:
    """How many of the pictured images have a flipped label."""
    said = [
        f"**{one.variant}**: {_flipped(one, one.highest)} most weighted and {_flipped(one, one.lowest)} least weighted "
        f"images have a flipped label (AUROC {one.auroc:.2f})"
        for one in found
    ]
    return "; ".join(said) + "."


def _flipped(one: Weighted, chosen: np.ndarray) -> str:
    return f"{int((one.observed != one.clean)[chosen].sum())} of {len(chosen)}"
