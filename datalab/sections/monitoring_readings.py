"""Sentences that say what section 5.1's tables show."""

import pandas as pd


def predictor(table: pd.DataFrame) -> str:
    """Every rule's F1, and whether the best leads the trivial one."""
    said = [f"{row.rule} {row.F1:.2f} [{row['F1 low']:.2f}, {row['F1 high']:.2f}]" for _, row in table.iterrows()]
    best = table.loc[table.F1.idxmax()]
    lead = "leads" if best["less low"] > 0 else "is not shown to lead"
    return (
        f"F1 of foreseeing a failure ({table.failures.iloc[0]} of {table.configurations.iloc[0]} configurations fail): "
        f"{'; '.join(said)}. The best rule, {best.rule}, {lead} the trivial one."
    )


def monitors(table: pd.DataFrame) -> str:
    """Delay and false alarms, stream by stream and statistic by statistic."""
    said = []
    for name, part in table.groupby("data set", sort=False):
        each = ", ".join(
            f"{row.statistic} {'no failure' if pd.isna(row.delay) else f'{row.delay:+.1f} windows'} "
            f"(false alarms {100 * row['false alarms']:.0f} %)"
            for _, row in part.iterrows()
        )
        said.append(f"**{name}** ({part['shift'].iloc[0]}): {each}")
    return "Delay of the alarm behind the fall of accuracy, below 0 before it: " + "; ".join(said) + "."


def silence(table: pd.DataFrame) -> str:
    """Where accuracy falls while confidence stays."""
    silent = table[(table["accuracy falls by low"] > 0) & (table["half less it low"] > 0)]["data set"]
    return (
        f"Accuracy falls, and confidence by less than half as much (95 % intervals over seeds), on: "
        f"{', '.join(silent) or 'no stream'} of {len(table)} streams."
    )


def existing(table: pd.DataFrame) -> str:
    """Whether weights improve published pruning."""
    said = [
        f"{row.method} with {row.weights} {row['less without']:+.3f} [{row['less without low']:.3f}, "
        f"{row['less without high']:.3f}]"
        for _, row in table[table["less without"].notna()].iterrows()
    ]
    return "F1 with weights less without: " + "; ".join(said) + "."
