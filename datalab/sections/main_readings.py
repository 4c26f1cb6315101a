"""Sentences that say what section 4.1's tables show: computed from them, so that they hold in every profile."""

import pandas as pd

from datalab.sections.main_tables import ROWS
from datalab.sections.sentences import digits

ALPHA_SHOWN = 0.05


def against_vanilla(by_noise: pd.DataFrame) -> str:
    """Which methods are shown to be better or worse than vanilla, rate by rate."""
    said = []
    for rate, part in by_noise[by_noise.method != ROWS["vanilla"]].groupby("noise rate (%)", sort=False):
        better = part[part["less vanilla low"] > 0]
        worse = part[part["less vanilla high"] < 0]
        said.append(
            f"At **{rate:g} %** better than vanilla (95 % interval above 0): {_named(better)}; worse: {_named(worse)}."
        )
    return " ".join(said)


def _named(part: pd.DataFrame) -> str:
    if not len(part):
        return "none"
    return ", ".join(f"{row.method} ({digits(row['less vanilla'])})" for _, row in part.iterrows())


def worse_than_vanilla(cells: pd.DataFrame) -> str:
    """The rows of table 4.1 on which ours does worse than vanilla, metric by metric."""
    ours = cells[cells.method.str.startswith("Ours")]
    # A calibration error is better when it is lower.
    loses = ours[ours["less vanilla"].where(ours.metric == "ECE", -ours["less vanilla"]) > 0]
    if not len(loses):
        return "In no metric does either variant do worse than vanilla on average."
    said = []
    for _, row in loses.iterrows():
        sure = row["less vanilla low"] > 0 or row["less vanilla high"] < 0
        said.append(f"{row.method}: {row.metric} {digits(row['less vanilla'])}{'' if sure else ' (not settled)'}")
    return f"**Worse than vanilla on average**: {'; '.join(said)}."


def benchmarks(table: pd.DataFrame, variant: str) -> str:
    """On how many data sets one variant gains and loses, which it loses on, and what survives correction."""
    loses = table[table.d < 0]
    significant = table[table["p (Holm)"] < ALPHA_SHOWN]
    gain = table["improvement (%)"]
    names = f" ({', '.join(loses['data set'])})" if len(loses) else ""
    return (
        f"**{variant}**: better than vanilla on {int((table.d > 0).sum())} of {len(table)} data sets, worse on "
        f"{len(loses)}{names}; improvements from {gain.min():.1f} to {gain.max():.1f} %. At Holm-adjusted p < "
        f"{ALPHA_SHOWN:g} over the seeds: {int((significant.d > 0).sum())} gains and {int((significant.d < 0).sum())} "
        f"losses."
    )


def headline(table: pd.DataFrame) -> str:
    """The relative gain of each variant with its interval, and the test."""
    said = [
        f"**{row.variant}**: F1 {row['Ours F1']:.3f} against {row['Baseline F1']:.3f}, {row['gain (%)']:+.1f} % "
        f"[{row['gain (%) low']:.1f}, {row['gain (%) high']:.1f}], Wilcoxon p = {row['p (Wilcoxon)']:.2g} (floor "
        f"{row['p floor']:.2g}), better on {row['sets better']} of {row.sets}"
        for _, row in table[table.against == "vanilla"].iterrows()
    ]
    return "; ".join(said) + "."


def weights(table: pd.DataFrame) -> str:
    """Whether the weights tell clean from flipped labels."""
    said = []
    for variant, part in table.groupby("variant", sort=False):
        noisy = part[part.AUROC.notna()]
        values = ", ".join(f"{row.AUROC:.2f} at {row['noise rate (%)']:g} %" for _, row in noisy.iterrows())
        said.append(f"**{variant}**: AUROC of the weights for clean labels {values}")
    return "; ".join(said) + ". Half is chance."
