"""What the tables of section 2.2 say, in sentences computed from them."""

import numpy as np
import pandas as pd

from datalab.protocol import protocol
from datalab.sections.influence_cells import FREE


def _interval(row: pd.Series, name: str) -> str:
    low, high = row[f"{name} low"], row[f"{name} high"]
    return f"{row[name]:.3f}" + ("" if np.isnan(low) else f" [{low:.3f}, {high:.3f}]")


def refits(table: pd.DataFrame) -> str:
    """Correlation and size of error of every estimator's prediction of a refit."""
    if table.empty:
        return "No data set of this run is small enough to be refitted to convergence example by example."
    lines = [
        f"- **{row.estimator}**: correlation {_interval(row, 'Pearson')}, relative RMS error "
        f"{_interval(row, 'relative RMS error')}."
        for _, row in table.iterrows()
    ]
    return "\n".join([*lines, f"\nOver {table.sets.max()} data sets, {table.refits.max()} refits in all."])


def retrained(table: pd.DataFrame) -> str:
    """What can be known of single removals in an MLP, and how far off the size of a prediction is."""
    best = table["best to be had"].median()
    light, heavy = table["EKFAC"].median(), table["EKFAC, heavier damping"].median()
    size, other = table["size of prediction / change"].median(), table["the same, heavier damping"].median()
    return (
        f"Medians over {len(table)} data sets: the change itself is known so well that a perfect prediction would "
        f"correlate with it at {best:.2f}; EK-FAC's does at {light:.2f} with the default damping and at {heavy:.2f} "
        f"with a thousand times that. Its size is {size:.1f} times the change's with the default, {other:.2f} times "
        "with the heavier damping."
    )


def lds(tuned: pd.DataFrame) -> str:
    """Which estimator adds up best, and what the damping is worth."""
    lines = []
    for _, row in tuned.iterrows():
        text = f"- **{row.estimator}**: {_interval(row, 'default')} at its default"
        if not np.isnan(row["damping / mean diagonal"]):
            text += f", {_interval(row, 'tuned elsewhere')} at the damping chosen on the other data sets"
            text += f" (median {row['damping / mean diagonal']:g} x mean diagonal)"
        if not np.isnan(row["EKFAC ahead"]):
            text += f"; EK-FAC so tuned is ahead by {_interval(row, 'EKFAC ahead')}"
        lines.append(text + ".")
    return "\n".join(lines)


def against_free(table: pd.DataFrame) -> str:
    """Whether any influence score finds wrong labels better than the loss does, which is free.

    A gain is one that Holm's correction leaves at the protocol's alpha; "no better" needs every interval to end below
    the smallest difference of interest; anything else is open.
    """
    alpha, small = protocol().statistics["alpha"], protocol().statistics["sesoi"]["accuracy"]
    paid = table[~table.score.isin(FREE)]
    name, sets = "AUROC difference", int(table.sets.max())
    known = paid.dropna(subset=f"{name} low")
    found = known[known["p (Holm)"] <= alpha]
    gains, losses = found[found[name] > 0], found[found[name] < 0]
    most, least = paid.loc[paid[name].idxmax()], paid.loc[paid[name].idxmin()]
    spans = [f"{row[name]:+.3f} ({row.score}, {row['flipped labels (%)']:g} %)" for row in (most, least)]
    text = (
        f"Of {len(known)} comparisons of an influence score with the loss on {sets} data sets, after Holm's correction "
        f"at {alpha:g}, {len(gains)} find a gain and {len(losses)} a deficit; the means run from {spans[1]} to "
        f"{spans[0]}. "
    )
    if len(gains):
        return text + "**Some influence score finds flipped labels that the loss does not.**"
    if len(known) and (known[f"{name} high"] < small).all():
        return text + f"**No influence score finds flipped labels better than the loss by {small:g} AUROC or more.**"
    return text + "**Whether influence finds flipped labels better than the loss is open on these data sets.**"


def agreement(table: pd.DataFrame) -> str:
    """Who agrees with the exact Gauss-Newton matrix, or, where it was too large for every data set, with EK-FAC."""
    square = table.set_index("score")
    base = "ExactGGN" if "ExactGGN" in square.columns else "EKFAC"
    others = square[base].drop(base).sort_values(ascending=False)
    named = ", ".join(f"{name} {value:.2f}" for name, value in others.items())
    return f"Rank correlation with {base}, mean over data sets: {named}."


def cost(table: pd.DataFrame) -> str:
    """What the dearest and the cheapest cost."""
    dear, cheap = table.iloc[-1], table.iloc[0]
    own = table.set_index("score").loc["EKFAC"]
    return (
        f"EK-FAC takes {own.milliseconds:.1f} ms a model to fit and score; the cheapest score, {cheap.score}, "
        f"{cheap.milliseconds:.2f} ms, and the dearest, {dear.score}, {dear.milliseconds:.0f} ms."
    )


def pictures(study) -> str:
    """How many of the pictures shown carry a wrong label."""
    wrong = study.observed != study.clean
    top, bottom = int(wrong[study.highest].sum()), int(wrong[study.lowest].sum())
    return (
        f"Of the {len(study.highest)} examples of highest self-influence {top} carry a flipped label, of the "
        f"{len(study.lowest)} of lowest {bottom}; {100 * wrong.mean():.0f} % of all do."
    )


def damping(path: pd.DataFrame, of_halves: pd.DataFrame, estimator: str = "EKFAC") -> str:
    """How far finding wrong labels, and predicting halves, move over the dampings looked at."""
    moved = of_halves[of_halves.estimator == estimator].LDS
    return (
        f"Over the dampings {path.damping.min():.0e} to {path.damping.max():.0e} the AUROC moves between "
        f"{path.auroc.min():.3f} and {path.auroc.max():.3f}, and no ranking correlates less than "
        f"{path.spearman.min():.2f} with the default's; the linear datamodeling score of {estimator} moved between "
        f"{moved.min():.2f} and {moved.max():.2f} on the grid above."
    )
