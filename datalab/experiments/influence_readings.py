"""What the tables of section 2.2 say, in sentences computed from them."""

import numpy as np
import pandas as pd

from datalab.experiments.influence_cells import FREE


def _interval(row: pd.Series, name: str) -> str:
    low, high = row[f"{name} low"], row[f"{name} high"]
    return f"{row[name]:.3f}" + ("" if np.isnan(low) else f" [{low:.3f}, {high:.3f}]")


def refits(table: pd.DataFrame) -> str:
    """Correlation and size of error of every estimator's prediction of a refit."""
    lines = [
        f"- **{row.estimator}**: correlation {_interval(row, 'Pearson')}, relative RMS error "
        f"{_interval(row, 'relative RMS error')}."
        for _, row in table.iterrows()
    ]
    return "\n".join([*lines, f"\nOver {table.sets.max()} data sets, {table.refits.max()} refits in all."])


def retrained(table: pd.DataFrame) -> str:
    """What can be known of single removals in an MLP, and how far off the size of a prediction is."""
    half = table["half of the seeds with the other"].median()
    light, heavy = table["EKFAC"].median(), table["EKFAC, heavier damping"].median()
    size, other = table["size of prediction / change"].median(), table["the same, heavier damping"].median()
    return (
        f"Medians over {len(table)} data sets: half of the seeds correlates with the other at {half:.2f}, which is "
        f"what there is to be known; EK-FAC's prediction with the change at {light:.2f} with the default damping and "
        f"{heavy:.2f} with a thousand times that. Its size is {size:.1f} times the change's with the default, "
        f"{other:.2f} times with the heavier damping."
    )


def lds(best: pd.DataFrame) -> str:
    """Which estimator adds up best, and what the damping is worth."""
    lines = []
    for _, row in best.iterrows():
        text = f"- **{row.estimator}**: {row['LDS at the default']:.3f} at its default"
        if not np.isnan(row["best damping / mean diagonal"]):
            text += f", {_interval(row, 'LDS at the best')} at the best damping of the grid"
            text += f" ({row['best damping / mean diagonal']:g} x mean diagonal)"
        if not np.isnan(row["EKFAC ahead"]):
            text += f"; EK-FAC at its best is ahead by {_interval(row, 'EKFAC ahead')}"
        lines.append(text + ".")
    return "\n".join(lines)


def against_free(table: pd.DataFrame) -> str:
    """Whether any influence score finds wrong labels better than the loss does, which is free."""
    name = "AUROC difference"
    paid = table[~table.score.isin(FREE)]
    better = paid[paid[f"{name} low"] > 0]
    worse = paid[paid[f"{name} high"] < 0]
    judged = int(paid[f"{name} low"].notna().sum())
    text = (
        f"Of {judged} comparisons of an influence score with the loss, at one rate each, the 95 % interval lies above "
        f"0 in {len(better)} and below 0 in {len(worse)}"
    )
    if judged:
        text += f"; after Holm's correction {int((paid['p (Holm)'] <= 0.05).sum())} differ at 5 %"
    least = paid.loc[paid[name].idxmin()]
    most = paid.loc[paid[name].idxmax()]
    return (
        f"{text}. The largest gain is {most[name]:+.3f} ({most.score}, {most['flipped labels (%)']:g} %), the largest "
        f"loss {least[name]:+.3f} ({least.score}, {least['flipped labels (%)']:g} %). "
        + (
            "**The free scores do as well as influence at finding flipped labels, or better.**"
            if not len(better)
            else "**Where the interval lies above 0, influence finds flipped labels that the loss does not.**"
        )
    )


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
