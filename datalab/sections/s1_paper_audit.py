"""Section 1: does the paper agree with itself? The audit's outcomes as tables, ranked and drawn. Nothing is trained."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from datalab import audit, ledger
from datalab.audit import Outcome
from datalab.ledger import Claim, RoundingInterval
from datalab.record.parameters import Estimate, SectionParameters
from datalab.sections import plots

STRENGTHS = ("strict", "strong", "natural")
_WORDS = {"f1": "F1", "T1": "table 4.1", "vs": "against"}
_TITLES = {"C23_accuracy_vs_p_r": "C23 accuracy against precision and recall"}
_MARKERS = {"consistent": "o", "contradicted": "X", "uncheckable": "s"}
_SHADES = {name: {"color": shade} for name, shade in zip(STRENGTHS, ("#222222", "#777777", "#CCCCCC"), strict=True)}


class Parameters(SectionParameters):
    """The audit reads the ledger alone: every profile does the same."""


def estimate(parameters: Parameters) -> Estimate:
    """A few seconds: 140 checks in exact arithmetic, and four figures."""
    return Estimate(seconds=12.0, memory=4e8, what="140 checks on printed figures, no training")


# --- tables ---


def statements(claims: Mapping[str, Claim]) -> pd.DataFrame:
    """All statements: where, what, as printed, the paper column and what it rests on."""
    rows = []
    for key, claim in claims.items():
        paper = ledger.paper_column(claim)
        rows.append(
            {
                "statement": key,
                "section": claim.section.split("/")[0],
                "what the paper says, in our words": claim.text,
                "printed": claim.reported_text(),
                "unit": claim.unit or "",
                "paper": paper.verdict,
                "strength": paper.strength or "",
                "unsupported": paper.unsupported,
                "rests on": audit.basis(key),
                "why": claim.paper_check.note,
            }
        )
    return pd.DataFrame(rows)


def checks(claims: Mapping[str, Claim], outcomes: Mapping[str, Outcome]) -> pd.DataFrame:
    """Every recomputed check: the formula, what it gives and may give, the status, and whether the ledger agrees."""
    rows = [
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
    ]
    return pd.DataFrame(rows)


def cells(claims: Mapping[str, Claim], outcomes: Mapping[str, Outcome]) -> pd.DataFrame:
    """The checks that hold one printed figure against one recomputed interval, and by how much they miss.

    ``miss`` is the distance between the two intervals in percent of the printed figure; 0 when they meet.
    """
    rows = []
    for key, outcome in outcomes.items():
        if outcome.printed is None or not isinstance(outcome.interval, RoundingInterval):
            continue
        rows.append(
            {
                "statement": key,
                "group": _group(key),
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
        )
    return pd.DataFrame(rows)


def contradictions(claims: Mapping[str, Claim], cells: pd.DataFrame) -> pd.DataFrame:
    """The contradictions, ranked: the strongest first, then by how many statements share it at that strength, then by
    the largest relative miss of a printed figure among those (empty where none is held against an interval).

    ``worst`` is the statement with that miss, else the first of the strongest; its note is the explanation.
    """
    rows = []
    for slug in sorted({claim.paper_check.contradiction for claim in claims.values()} - {None}):
        checks = {key: claim.paper_check for key, claim in claims.items() if claim.paper_check.contradiction == slug}
        number = {level: sum(check.strength == level for check in checks.values()) for level in STRENGTHS}
        strongest = next(level for level in STRENGTHS if number[level])
        at_strongest = [key for key, check in checks.items() if check.strength == strongest]
        misses = cells.set_index("statement")["miss"]
        misses = misses[misses.index.isin(at_strongest)]
        worst = str(misses.idxmax()) if len(misses) else at_strongest[0]
        rows.append(
            {
                "contradiction": title(slug),
                "strength": strongest,
                "statements": len(checks),
                **number,
                "largest miss (%)": float(misses.max()) if len(misses) else float("nan"),
                "worst": worst,
                "why": checks[worst].note,
            }
        )
    frame = pd.DataFrame(rows)
    keys = pd.DataFrame(
        {
            "level": frame["strength"].map(STRENGTHS.index),
            "number": [-row[row["strength"]] for _, row in frame.iterrows()],
            "miss": -frame["largest miss (%)"].fillna(-1),
        }
    )
    ranked = frame.loc[keys.sort_values(["level", "number", "miss"], kind="stable").index].reset_index(drop=True)
    ranked.insert(0, "rank", range(1, len(ranked) + 1))
    return ranked


def title(slug: str) -> str:
    """``C02_headline_f1_values`` as a reader sees it: ``C02 headline F1 values``."""
    return _TITLES.get(slug) or " ".join(_WORDS.get(word, word) for word in slug.split("_"))


def tally(frame: pd.DataFrame, rows: str, columns: str, order: Sequence[str]) -> pd.DataFrame:
    """Counts of ``columns`` (in ``order``) per value of ``rows``, with a total row and a total column."""
    counted = pd.crosstab(frame[rows], frame[columns]).reindex(columns=list(order), fill_value=0)
    counted = counted.reindex(list(dict.fromkeys(frame[rows])))
    counted["all"] = counted.sum(axis=1)
    counted.loc["all"] = counted.sum(axis=0)
    return counted.rename_axis(index=rows, columns=None).reset_index()


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


def _group(statement_id: str) -> str:
    """The table and the unit a printed figure belongs to: one panel of the figure each."""
    table = statement_id.split(".")[0]
    named = {
        "T1": "4.1: F1 from precision and recall",
        "T1b": "4.1: gain per benchmark (%)",
        "T2": "4.2: gap (points)",
        "T3": "4.3: difference to the full model",
        "T4": "4.4: relative gain (%)",
        "T5": "4.5: total overhead (%)",
    }
    if statement_id.startswith("S4.3.share"):
        return "4.3: share of the gain (%)"
    if statement_id.startswith("S4.5"):
        return named["T5"]
    if statement_id.startswith("ABS.f"):
        return "abstract: F1"
    return named.get(table, "abstract and 4.1: the text's %")


# --- sentences that follow the tables ---


def sentence_of_checks(checks: pd.DataFrame) -> str:
    """What the table of recomputed checks says, computed from it."""
    number, by_basis = checks["paper"].value_counts(), checks["rests on"].value_counts()
    apart = checks.loc[~checks["ledger agrees"], "statement"].tolist()
    ledger = "Code and ledger agree in all of them." if not apart else f"Code and ledger differ in {', '.join(apart)}."
    parts = ", ".join(f"{count} on {name}" for name, count in by_basis.items())
    return (
        f"{len(checks)} checks were recomputed ({parts}): {number.get('contradicted', 0)} contradicted, "
        f"{number.get('consistent', 0)} consistent, {number.get('uncheckable', 0)} undecided. {ledger}"
    )


def sentence_of_cells(cells: pd.DataFrame) -> str:
    """How many printed figures lie outside what the others allow, and which lies furthest."""
    outside = cells[cells["paper"] == "contradicted"]
    worst = cells.loc[cells["miss"].idxmax()]
    return (
        f"{len(outside)} of {len(cells)} printed figures lie outside what the paper's other figures allow. "
        f"Furthest is `{worst['statement']}`: printed {show(worst['printed'])}, allowed "
        f"[{worst['recomputed low']:.4g}, {worst['recomputed high']:.4g}], a miss of {worst['miss']:.0f} %."
    )


def sentence_of_contradictions(ranked: pd.DataFrame) -> str:
    """How many contradictions there are at each strength, and which lead."""
    number = ranked["strength"].value_counts()
    counted = ", ".join(f"{number.get(level, 0)} {level}" for level in STRENGTHS)
    leading = "; ".join(f"{row['contradiction']}: {row['why'].rstrip('.')}" for _, row in ranked.head(3).iterrows())
    return f"{len(ranked)} contradictions: {counted}. The three hardest to explain away are {leading}."


def sentence_of_statements(table: pd.DataFrame) -> str:
    """The paper column over all statements, and how much of it is a reading rather than arithmetic."""
    number, contradicted = table["paper"].value_counts(), table[table["paper"] == "contradicted"]
    shares = ", ".join(f"{number.get(name, 0)} {name}" for name in ledger.PAPER_VERDICTS)
    declared = int((contradicted["rests on"] == "declared").sum())
    computed, unsupported = len(contradicted) - declared, int(table["unsupported"].sum())
    return (
        f"Of {len(table)} statements the paper's own figures leave {shares}. {computed} of the contradictions were "
        f"recomputed by code; {declared} are readings of the text. {unsupported} statements have no support in the "
        "paper at all, contradicted or not."
    )


# --- figures ---

_ROWS = {
    "if": "+ influence functions",
    "ln": "+ label noise",
    "wo_fe": "w/o features",
    "wo_aw": "w/o weighting",
    "wo_reg": "w/o regularisation",
    "wo_all": "w/o all",
    "ABS.variance_explained.from_T2": "variance, from table 4.2",
    "ABS.framework_f1_ci": "0.74 in its interval",
    "ABS.framework_f1_ci.shape": "0.74 at its middle",
    "ABS.f1_vs_headline": "0.849 of 4.1 in it",
    "S4.1.headline_rel": "gain, from the text",
    "S4.1.headline_rel_from_T1": "gain, from table 4.1",
    "S4.1.headline_rel_from_T3": "gain, from table 4.3",
    "S4.1.mean_of_listed": "gain, from six benchmarks",
    "S4.3.share_aw": "weighting",
    "S4.3.share_reg": "regularisation",
    "S4.3.share_fe": "features",
    "S4.3.share_sum": "all three",
    "S4.5.text_vs_sum_train": "text, train",
    "S4.5.text_vs_sum_infer": "text, infer",
}


def printed_against_recomputed(cells: pd.DataFrame) -> Figure:
    """One panel a table and unit: what is printed (marker) and what the other printed figures allow (bar)."""
    groups = list(dict.fromkeys(cells["group"]))
    rows = -(-len(groups) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(10.5, 2.5 * rows + 0.6), squeeze=False)
    for panel, group in zip(axes.flat, groups, strict=False):
        _panel(panel, cells[cells["group"] == group], group)
    for panel in axes.flat[len(groups) :]:
        panel.set_visible(False)
    marks = [
        Line2D([], [], linestyle="", marker=marker, color=_colour(name), label=f"printed: {name}")
        for name, marker in _MARKERS.items()
    ]
    marks.append(Patch(color="#999999", label="what the other printed figures allow"))
    figure.legend(handles=marks, loc="lower center", ncols=2)
    figure.suptitle("Where does a printed figure lie outside what the paper's own numbers allow?", x=0.01, ha="left")
    figure.tight_layout(rect=(0, 0.07, 1, 0.99))
    return figure


def _panel(axes: Axes, cells: pd.DataFrame, title: str) -> None:
    places = np.arange(len(cells))
    left, right = cells["recomputed low"].to_numpy(), cells["recomputed high"].to_numpy()
    axes.hlines(places, left, right, color="#999999", linewidth=7)
    axes.plot(cells["recomputed"], places, linestyle="", marker="|", color="black", markersize=9)
    for place, (_, cell) in zip(places, cells.iterrows(), strict=True):
        marker, colour = _MARKERS[cell["paper"]], _colour(cell["paper"])
        axes.plot(cell["printed"], place, linestyle="", marker=marker, color=colour, markersize=8)
    axes.set_yticks(places, [_short(key) for key in cells["statement"]])
    axes.set_ylim(len(cells) - 0.4, -0.6)
    axes.set_title(title)
    axes.grid(axis="y", visible=False)


def _short(statement_id: str) -> str:
    """The row's name alone where the panel's title already says the column."""
    parts = statement_id.split(".")
    if parts[0] == "T5":
        return f"table, {parts[2]}"
    if parts[0] in ("T1", "T1b", "T2", "T3", "T4"):
        return _ROWS.get(parts[1], parts[1])
    return _ROWS.get(statement_id, parts[-1].replace("_", " "))


def _colour(verdict: str) -> str:
    return plots.VERDICT_LOOKS[verdict]["color"]


def contradictions_ranked(ranked: pd.DataFrame) -> Figure:
    """One bar a contradiction, its statements by strength, darkest strongest; the largest miss is written beside."""
    misses = ranked["largest miss (%)"]
    return plots.stacked(
        ranked,
        "contradiction",
        STRENGTHS,
        _SHADES,
        title="Which of the paper's contradictions are the hardest to explain away?",
        xlabel="statements that take part, by the strength of their contradiction",
        notes=[f"misses by {miss:.0f} %" if np.isfinite(miss) else "" for miss in misses],
    )
