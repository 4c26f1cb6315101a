"""Sentences that say what the title's tables show: computed from them, so that they hold in every profile."""

import numpy as np
import pandas as pd

from datalab.protocol import protocol
from datalab.stats import crossover_label


def _rates(rates: pd.Series) -> str:
    return ", ".join(f"{rate:g}" for rate in rates) + " %" if len(rates) else "no rate"


def primary(table: pd.DataFrame, crossover: pd.Series) -> str:
    """Where influence beats random, where it loses, where neither is shown; and the crossover."""
    better, worse = table[table.low > 0], table[table.high < 0]
    open_ = table[(table.low <= 0) & (table.high >= 0)]
    limits = [crossover.lowest_rate, crossover.highest_rate]
    at, low, high = (crossover_label(crossover[name], limits) for name in ("crossover", "low", "high"))
    return (
        f"Influence pruning beats random (95 % t-interval above 0) at {_rates(better['noise rate (%)'])}, loses to it "
        f"at {_rates(worse['noise rate (%)'])}, and neither is shown at {_rates(open_['noise rate (%)'])}. "
        f"The crossover is {at}, 95 % interval [{low}, {high}]; P(always better) = {crossover.p_always:.2f}, "
        f"P(never better) = {crossover.p_never:.2f}."
    )


def movement(crossovers: pd.DataFrame) -> str:
    """Whether one threshold exists: how the crossovers spread over all settings, how many intervals hold 15 %."""
    claimed = protocol().title_verdict["reproduced"]["crossover_interval_contains"]
    holds = ((crossovers.low <= claimed) & (crossovers.high >= claimed)).sum()
    finite = crossovers[np.isfinite(crossovers.crossover)]
    spread = (
        f"from {100 * finite.crossover.min():.1f} to {100 * finite.crossover.max():.1f} % flipped labels"
        if len(finite)
        else "nowhere inside the rates studied"
    )
    trend = []
    for (name, kind), one in finite.groupby(["architecture", "noise"], sort=False):
        if len(one) > 2:
            rho = one.crossover.corr(1 - one.keep_fraction, method="spearman")
            trend.append(f"{name}, {kind}: {rho:+.2f}")
    always, never = np.isneginf(crossovers.crossover).sum(), np.isposinf(crossovers.crossover).sum()
    return (
        f"Over {len(crossovers)} settings the crossover lies {spread}; in {always} influence is better at every rate, "
        f"in {never} at none. {holds} of {len(crossovers)} intervals contain {100 * claimed:g} %. "
        f"Rank correlation of the crossover with the fraction pruned: {'; '.join(trend) or 'too few crossovers'}."
    )


def per_dataset(table: pd.DataFrame) -> str:
    """How far the data sets differ."""
    inside = table[np.isfinite(table.crossover)]
    always, never = np.isneginf(table.crossover).sum(), np.isposinf(table.crossover).sum()
    spread = f", from {100 * inside.crossover.min():.1f} to {100 * inside.crossover.max():.1f} %" if len(inside) else ""
    return (
        f"Of {len(table)} data sets, {always} gain from influence pruning at every rate, {never} at none, and "
        f"{len(inside)} cross in between{spread}."
    )


def keeping_all(table: pd.DataFrame) -> str:
    """Where pruning by influence beats keeping everything."""
    one = table[table["pruned by"] == "influence"]
    rates = "noise rate (%)"
    return (
        f"Against keeping everything, influence pruning is better at {_rates(one[one.low > 0][rates])} and worse at "
        f"{_rates(one[one.high < 0][rates])}."
    )


def best_rival(table: pd.DataFrame) -> str:
    """Which score leads on average over the rates, and where the title's method stands."""
    mean = table.groupby("method")["d (F1)"].mean().sort_values(ascending=False)
    place = list(mean.index).index("influence") + 1
    return (
        f"Averaged over the rates, {mean.index[0].replace('_', ' ')} leads ({100 * mean.iloc[0]:+.1f} points of F1 "
        f"against random) and self-influence is number {place} of {len(mean)} ({100 * mean['influence']:+.1f}). "
        f"No test is made between the scores; the rows only order means."
    )


def choices(crossovers: pd.DataFrame) -> str:
    """How far one unstated choice moves the crossover, and which choices put the claimed threshold in the interval."""
    claimed = protocol().title_verdict["reproduced"]["crossover_interval_contains"]
    limits = crossovers[["crossover", "lowest_rate", "highest_rate"]].itertuples(index=False)
    shown = [crossover_label(value, [low, high]) for value, low, high in limits]
    moved = "; ".join(f"{arm}: {value}" for arm, value in zip(crossovers.arm, shown, strict=True))
    holds = crossovers.arm[(crossovers.low <= claimed) & (crossovers.high >= claimed)]
    return (
        f"{moved}. The interval contains {100 * claimed:g} % under: {', '.join(holds) or 'none of them'}. "
        f"The verdict is read on the choice named in advance, whichever way the others fall."
    )


def holm(table: pd.DataFrame) -> str:
    """How many of all cells survive the correction, on either side."""
    alpha = protocol().statistics["alpha"]
    significant = table[table["p (Holm)"] <= alpha]
    above, below = (significant["d (F1)"] > 0).sum(), (significant["d (F1)"] < 0).sum()
    return (
        f"{len(table)} cells; at Holm-adjusted p ≤ {alpha:g}, influence beats random in {above} and loses in {below}. "
        f"They are listed for the reader and do not enter the verdict."
    )
