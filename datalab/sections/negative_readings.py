"""Sentences that say what section 5.3's tables show."""

import pandas as pd

from datalab.sections.sentences import digits


def filtering(table: pd.DataFrame, share: float) -> str:
    """At one share removed: the effect of removal by influence, noise rate by noise rate."""
    said = []
    for _, row in table[table["removed (%)"] == 100 * share].iterrows():
        shown = _settled(row, "less everything", "hurts", "helps")
        control = _settled(row, "less random removal", "loses to random removal", "beats random removal")
        said.append(
            f"at {row['noise rate (%)']:g} % flipped labels it {shown} ({row['relative (%)']:+.1f} % F1) and {control} "
            f"({digits(row['less random removal'])})"
        )
    return f"Removing the {100 * share:g} % of highest self-influence: " + "; ".join(said) + "."


def _settled(row: pd.Series, column: str, below: str, above: str) -> str:
    if row[f"{column} high"] < 0:
        return below
    return above if row[f"{column} low"] > 0 else "is not shown to matter"


def curriculum(table: pd.DataFrame) -> str:
    """Which order is shown to be better or worse than random order."""
    said = []
    for _, row in table[table["less random order"].notna()].iterrows():
        way = _settled(row, "less random order", "is worse than random order", "is better than random order")
        said.append(f"{row.order} at {row['noise rate (%)']:g} % {way} ({digits(row['less random order'])})")
    return "; ".join(said) + "."


def ensembles(table: pd.DataFrame) -> str:
    """The gain of the ensembles beside DATA-LAB's."""
    column = "gain over the MLP (%)"
    rows = table.set_index("method")
    names = ["four different models", "four seeds of the MLP", "datalab_paper", "datalab_label_aware"]
    said = [
        f"{name} {rows.loc[name, column]:+.1f} % [{rows.loc[name, f'{column} low']:.1f}, "
        f"{rows.loc[name, f'{column} high']:.1f}]"
        for name in names
    ]
    return "Over the single MLP: " + "; ".join(said) + "."
