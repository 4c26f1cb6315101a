"""Section 1: does the paper agree with itself? The audit's outcomes as tables, ranked and drawn. Nothing is trained."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from datalab import audit, ledger
from datalab.audit import Outcome
from datalab.ledger import Claim, RoundingInterval
from datalab.ledger.claim import STRENGTHS
from datalab.record.parameters import Estimate, SectionParameters
from datalab.sections import plots

_WORDS = {"f1": "F1", "T1": "table 4.1", "vs": "against"}
_TITLES = {"C23_accuracy_vs_p_r": "C23 accuracy against precision and recall"}
# The panels of the figure by the beginning of a statement's id, the longer before the shorter.
_PANELS = {
    "T1.": "4.1: F1 from precision and recall",
    "T1b.": "4.1: gain per benchmark (%)",
    "T2.": "4.2: gap (points)",
    "T3.": "4.3: difference to the full model",
    "T4.": "4.4: relative gain (%)",
    "T5.": "4.5: total overhead (%)",
    "S4.3.share": "4.3: share of the gain (%)",
    "S4.5": "4.5: total overhead (%)",
    "ABS.f": "abstract: F1",
    "": "abstract and 4.1: the text's %",
}
Parameters = SectionParameters  # the audit reads the ledger alone: every profile does the same


def estimate(parameters: Parameters) -> Estimate:
    """A few seconds: 141 checks in exact arithmetic, and four figures."""
    return Estimate(seconds=12.0, memory=4e8, what="141 checks on printed figures, no training")


def statements(claims: Mapping[str, Claim]) -> pd.DataFrame:
    """All statements: where, what, as printed, the paper column and what it rests on."""
    return pd.DataFrame(
        {
            "statement": key,
            "section": claim.section.split("/")[0],
            "what the paper says, in our words": claim.text,
            "printed": claim.reported_text(),
            "unit": claim.unit or "",
            "paper": claim.paper_verdict,
            "strength": claim.paper_check.strength or "",
            "unsupported": claim.unsupported_in_paper,
            "rests on": audit.basis(key),
            "why": claim.paper_check.note,
        }
        for key, claim in claims.items()
    )


def checks(claims: Mapping[str, Claim], outcomes: Mapping[str, Outcome]) -> pd.DataFrame:
    """Every recomputed check: the formula, what it gives and may give, the status, and whether the ledger agrees."""
    return pd.DataFrame(
        {
            "statement": key,
            "section": claims[key].section,
            "formula": outcome.formula,
            "printed": claims[key].reported_text(),
            "recomputed": show(outcome.recomputed),
            "interval": show(audit.ends(outcome.interval)),
            "paper": audit.verdict(outcome),
            "rests on": audit.basis(key),
            "ledger agrees": audit.agrees(outcome, claims[key].paper_check),
        }
        for key, outcome in outcomes.items()
    )


def cells(claims: Mapping[str, Claim], outcomes: Mapping[str, Outcome]) -> pd.DataFrame:
    """The checks that hold one printed figure against one recomputed interval, and by how much they miss.

    ``miss`` is the distance between the two intervals in percent of the printed figure; 0 when they meet.
    """
    return pd.DataFrame(
        {
            "statement": key,
            "group": next(panel for start, panel in _PANELS.items() if key.startswith(start)),
            "contradiction": claims[key].paper_check.contradiction,
            "printed": float(outcome.printed.middle),
            "printed low": float(outcome.printed.low),
            "printed high": float(outcome.printed.high),
            "recomputed": float(outcome.interval.middle),
            "recomputed low": float(outcome.interval.low),
            "recomputed high": float(outcome.interval.high),
            "paper": audit.verdict(outcome),
            "miss": float(100 * outcome.printed.gap(outcome.interval) / abs(outcome.printed.middle)),
        }
        for key, outcome in outcomes.items()
        if outcome.printed is not None and isinstance(outcome.interval, RoundingInterval)
    )


def contradictions(claims: Mapping[str, Claim], cells: pd.DataFrame) -> pd.DataFrame:
    """The contradictions, ranked: the strongest first, then by how many statements share it at that strength, then by
    the largest relative miss of a printed figure among those (empty where none is held against an interval).

    ``worst`` is the statement with that miss, else the first of the strongest; its note is the explanation.
    """
    rows, miss_of = [], cells.set_index("statement")["miss"]
    for slug in sorted({claim.paper_check.contradiction for claim in claims.values()} - {None}):
        checks = {key: claim.paper_check for key, claim in claims.items() if claim.paper_check.contradiction == slug}
        number = {level: sum(check.strength == level for check in checks.values()) for level in STRENGTHS}
        strongest = next(level for level in STRENGTHS if number[level])
        at_strongest = [key for key, check in checks.items() if check.strength == strongest]
        misses = miss_of[miss_of.index.isin(at_strongest)]
        worst = str(misses.idxmax()) if len(misses) else at_strongest[0]
        row = {"contradiction": title(slug), "strength": strongest, "statements": len(checks)} | number
        row |= {"largest miss (%)": misses.max(), "worst": worst, "why": checks[worst].note}
        place = (STRENGTHS.index(strongest), -number[strongest], -misses.max() if len(misses) else 1)
        rows.append((place, row))
    ranked = [row for _, row in sorted(rows, key=lambda placed: placed[0])]
    return pd.DataFrame([{"rank": rank} | row for rank, row in enumerate(ranked, 1)])


def title(slug: str) -> str:
    """``C02_headline_f1_values`` as a reader sees it: ``C02 headline F1 values``."""
    return _TITLES.get(slug) or " ".join(_WORDS.get(word, word) for word in slug.split("_"))


def show(value: Any) -> str:
    """A recomputed value for a table: four significant decimals, mappings as ``name value``."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value + 0.0:.{audit.DECIMALS}f}".rstrip("0").rstrip(".")
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {show(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return f"[{', '.join(show(inner) for inner in value)}]"
    return str(value)


def sentence_of_statements(table: pd.DataFrame) -> str:
    """The paper column over all statements, and how much of it is a reading rather than arithmetic."""
    number, contradicted = table["paper"].value_counts(), table[table["paper"] == "contradicted"]
    shares = ", ".join(f"{number.get(name, 0)} {name}" for name in ledger.PAPER_VERDICTS)
    declared = int((contradicted["rests on"] == "declared").sum())
    computed, unsupported = len(contradicted) - declared, int(table["unsupported"].sum())
    levels = contradicted["strength"].value_counts()
    strengths = ", ".join(f"{levels.get(level, 0)} {level}" for level in STRENGTHS)
    return (
        f"Of {len(table)} statements the paper's own figures leave {shares}. Of the contradictions {strengths}: no "
        f"reading rescues the strict ones. {computed} were recomputed by code; {declared} are readings of the text. "
        f"{unsupported} statements have no support in the "
        "paper at all, contradicted or not."
    )


def printed_against_recomputed(cells: pd.DataFrame) -> Figure:
    """One panel a table and unit: what is printed (marker) and what the other printed figures allow (bar)."""
    markers = {"consistent": "o", "contradicted": "X", "uncheckable": "s"}
    looks = {name: {"marker": marker, "color": plots.LOOKS[name]["color"]} for name, marker in markers.items()}
    grid = plots.Facets(cells, col="group", col_wrap=2, sharex=False, sharey=False, height=2.6, aspect=1.9)
    for (_, panel, _), part in grid.facet_data():
        axes = grid.axes[panel]
        axes.hlines(part["statement"], part["recomputed low"], part["recomputed high"], color="#999999", linewidth=7)
        axes.scatter(part["recomputed"], part["statement"], color="black", marker="|", s=80)
        for verdict, rows in part.groupby("paper"):
            axes.scatter(rows["printed"], rows["statement"], s=70, zorder=3, edgecolor="white", **looks[verdict])
    for axes in grid.axes.flat:
        axes.set_ylim(len(axes.get_yticks()) - 0.4, -0.6)
        axes.margins(x=0.1)
    grid.set_titles("{col_name}").set_axis_labels("printed; bar: what the other figures allow", "")
    grid.add_legend({name: plt.Line2D([], [], linestyle="", **look) for name, look in looks.items()}, title="printed")
    grid.lay_out()
    return plots.titled(grid.figure, "Where does a printed figure lie outside what the paper's own numbers allow?")
