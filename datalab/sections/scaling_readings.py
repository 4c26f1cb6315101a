"""Sentences that say what section 4.4's tables show."""

import pandas as pd


def scaling(table: pd.DataFrame) -> str:
    """Where the relative gain is largest, per variant, and whether more data helps."""
    said, column = [], "Relative Gain (%)"
    for variant, part in table.groupby("variant", sort=False):
        first, last, best = part.iloc[0], part.iloc[-1], part.loc[part[column].idxmax()]
        limits = f"[{best[f'{column} low']:.1f}, {best[f'{column} high']:.1f}]"
        said.append(
            f"**{variant}**: the gain goes from {first[column]:+.1f} % at {first['Training Size']} to "
            f"{last[column]:+.1f} % at {last['Training Size']} and is largest at {best['Training Size']} "
            f"({best[column]:+.1f} % {limits})"
        )
    base = table[table.variant == table.variant.iloc[0]]
    said.append(f"the baseline goes from {base['Baseline F1'].iloc[0]:.3f} to {base['Baseline F1'].iloc[-1]:.3f}")
    return "; ".join(said) + "."


def growth(table: pd.DataFrame, cost: pd.DataFrame) -> str:
    """How scoring grows, and what it holds at the largest size."""
    largest = cost.loc[cost.n.idxmax()]
    exponents = ", ".join(f"{row['data set']} {row.architecture} {row.exponent:.2f}" for _, row in table.iterrows())
    return (
        f"Seconds grow as n to the power of: {exponents}. At {int(largest.n):,} examples scoring took "
        f"{largest.seconds:.2f} s; its tensors held at most {cost['memory (MB)'].max():.0f} MB beyond the data, at any "
        f"size."
    )
