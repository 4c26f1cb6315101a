"""Sentences that say what section 4.2's tables show."""

import pandas as pd

from datalab.sections.level_tables import BASELINE
from datalab.sections.sentences import digits


def trends(table: pd.DataFrame, draw: str) -> str:
    """Which way F1 goes with the level, for one draw."""
    said = []
    for _, row in table[table.draw == draw].iterrows():
        way = "rises" if row["slope low"] > 0 else "falls" if row["slope high"] < 0 else "is not shown to move"
        said.append(
            f"{row.method} {way} (slope {digits(row.slope, 4)} a level "
            f"[{row['slope low']:.4f}, {row['slope high']:.4f}], end to end {digits(row['end to end'])}; "
            f"r over runs {row['r, runs']:.2f}, over the five means {row['r, level means']:.2f})"
        )
    return f"**{draw.capitalize()}**: " + "; ".join(said) + "."


def confounded(table: pd.DataFrame) -> str:
    """How much of an unmatched trend is the noise that comes with influence."""
    slope = table[table.method == BASELINE].set_index("draw").slope
    return (
        f"Without matching, the baseline's slope is {digits(slope['unmatched'], 4)} a level; with the share of flipped "
        f"labels held equal it is {digits(slope['matched'], 4)}; by leverage, which knows no label, "
        f"{digits(slope['leverage'], 4)}."
    )


def variance(table: pd.DataFrame, printed: float) -> str:
    """The three shares beside the paper's one."""
    said = [
        f"{row.draw}: {row['total (%)']:.1f} % of the total, {row['partial (%)']:.1f} % partial "
        f"(p = {row.p:.2g}), {row['within data set (%)']:.1f} % within data sets (p = {row['p, within']:.2g})"
        for _, row in table.iterrows()
    ]
    return f"Variance of F1 explained by the level; the paper says {printed:g} %, not of what. " + "; ".join(said) + "."


def gaps(levels: pd.DataFrame, draw: str) -> str:
    """Where ours is shown to be ahead of the baseline, per variant."""
    said = []
    for variant, part in levels[levels.draw == draw].groupby("variant", sort=False):
        ahead = part[part["Gap (pp) low"] > 0].level
        behind = part[part["Gap (pp) high"] < 0].level
        said.append(
            f"**{variant}** is ahead of the baseline at {', '.join(ahead) or 'no level'} and behind at "
            f"{', '.join(behind) or 'none'}"
        )
    return "; ".join(said) + " (95 % intervals)."
