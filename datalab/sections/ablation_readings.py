"""Sentences that say what section 4.3's tables show."""

import pandas as pd

from datalab.sections.sentences import digits


def ablation(table: pd.DataFrame) -> str:
    """Which removals hurt, which help, per variant."""
    said = []
    for variant, part in table.groupby("variant", sort=False):
        rest = part[part["Delta vs Full"].notna()]
        hurts, helps = rest[rest["Delta vs Full high"] < 0], rest[rest["Delta vs Full low"] > 0]
        said.append(
            f"**{variant}**: removing hurts (95 % interval below 0): {_named(hurts)}; removing *helps*: {_named(helps)}"
        )
    return "; ".join(said) + "."


def _named(part: pd.DataFrame) -> str:
    names = (f"{row.configuration} ({digits(row['Delta vs Full'])})" for _, row in part.iterrows())
    return ", ".join(names) or "none"


def contributions(table: pd.DataFrame) -> str:
    """The total gain and the largest component, per variant and rate; shares only where the gain is settled."""
    said = []
    for (variant, rate), part in table.groupby(["variant", "noise rate (%)"], sort=False):
        total, first = part.iloc[0], part.sort_values("Shapley value (F1)", ascending=False).iloc[0]
        gain = f"{digits(total['total gain'])} [{total['total gain low']:.3f}, {total['total gain high']:.3f}]"
        if total["gain settled"]:
            end = f"{first.component} is largest (P = {first['P(largest)']:.2f}), {first['share of gain (%)']} % of it"
        else:
            end = (
                f"its sign is open, so shares mean nothing; largest: {first.component} (P = {first['P(largest)']:.2f})"
            )
        said.append(f"{variant}, {rate:g} %: gain of all three {gain}; {end}")
    return ". ".join(said) + "."
