"""Does the paper agree with itself? Every arithmetic check among its statements, recomputed from its printed figures.

The ledger is handed in by the caller: this module knows how to audit statements, not where they are kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from datalab.audit import (
    ablation,
    benchmarks,
    counts,
    influence_levels,
    main_table,
    overhead,
    scaling,
)
from datalab.audit.outcomes import Check, Figures, Outcome
from datalab.ledger.rounding import RoundingInterval
from datalab.record.parameters import Estimate, SectionParameters

STRENGTHS = ("strict", "strong", "natural")
DECIMALS = 4  # to which the ledger declares its recomputed figures
_WORDS = {"f1": "F1", "T1": "table 4.1", "vs": "against"}
_TITLES = {"C23_accuracy_vs_p_r": "C23 accuracy against precision and recall"}
_PAPER = {"consistent": "consistent", "inconsistent": "contradicted", "cannot_be_checked": "uncheckable"}

_TOPICS = (counts, main_table, benchmarks, influence_levels, ablation, scaling, overhead)
CHECKS: dict[str, Check] = {key: check for topic in _TOPICS for key, check in topic.CHECKS.items()}


class Parameters(SectionParameters):
    """The audit reads the ledger alone: every profile does the same."""


def estimate(parameters: Parameters) -> Estimate:
    """A few seconds: 140 checks in exact arithmetic, and four figures."""
    return Estimate(seconds=12.0, memory=4e8, what="140 checks on printed figures, no training")


def outcomes(statements: Mapping[str, Any]) -> dict[str, Outcome]:
    """Every check's outcome by statement id, in the ledger's order."""
    figures = Figures(statements)
    return {key: CHECKS[key](figures) for key in statements if key in CHECKS}


def basis(statement_id: str) -> str:
    """Where a statement's paper verdict comes from.

    ``printed figures``: recomputed by code from them alone; ``figures and text``: by code, with a number or a list that
    a reader takes from the text; ``simulation``: by code, with simulated losses; ``declared``: a reading of the text.
    """
    if statement_id not in CHECKS:
        return "declared"
    if statement_id in counts.COUNTED:
        return "figures and text"
    return "simulation" if statement_id in counts.SIMULATED else "printed figures"


def verdict(outcome: Outcome) -> str:
    """An outcome in the words of the paper column: consistent, contradicted or uncheckable."""
    return _PAPER[outcome.status]


def agrees(outcome: Outcome, declared: Any) -> bool:
    """Whether code and ledger say the same: figures and interval to four decimals, and the status exactly."""
    return (
        same(outcome.recomputed, declared.recomputed)
        and same(_ends(outcome.interval), declared.interval)
        and outcome.status == declared.status
    )


def same(computed: Any, declared: Any) -> bool:
    """Equal structures: numbers to the ledger's four decimals, everything else exactly."""
    if isinstance(declared, Mapping):
        return (
            isinstance(computed, Mapping)
            and computed.keys() == declared.keys()
            and all(same(computed[key], declared[key]) for key in declared)
        )
    if isinstance(declared, list | tuple):
        return (
            isinstance(computed, list | tuple)
            and len(computed) == len(declared)
            and all(same(one, other) for one, other in zip(computed, declared, strict=True))
        )
    if isinstance(declared, int | float) and not isinstance(declared, bool):
        number = isinstance(computed, int | float) and not isinstance(computed, bool)
        return number and abs(computed - declared) <= 0.501 * 10**-DECIMALS
    return type(computed) is type(declared) and computed == declared


def statement_table(statements: Mapping[str, Any], columns: Mapping[str, Any]) -> pd.DataFrame:
    """All statements: where, what, as printed, the paper column and what it rests on.

    ``columns`` maps each id to its paper column (``verdict``, ``strength``, ``unsupported``).
    """
    rows = [
        {
            "statement": key,
            "section": home(one.section),
            "what the paper says, in our words": one.text,
            "printed": one.reported_text(),
            "unit": one.unit or "",
            "paper": columns[key].verdict,
            "strength": columns[key].strength or "",
            "unsupported": columns[key].unsupported,
            "rests on": basis(key),
            "why": one.paper_check.note,
        }
        for key, one in statements.items()
    ]
    return pd.DataFrame(rows)


def check_table(statements: Mapping[str, Any], found: Mapping[str, Outcome]) -> pd.DataFrame:
    """Every recomputed check: the formula, what it gives and may give, the status, and whether the ledger agrees."""
    rows = [
        {
            "statement": key,
            "section": statements[key].section,
            "formula": outcome.formula,
            "printed": statements[key].reported_text(),
            "recomputed": show(outcome.recomputed),
            "interval": show(_ends(outcome.interval)),
            "paper": verdict(outcome),
            "rests on": basis(key),
            "ledger agrees": agrees(outcome, statements[key].paper_check),
        }
        for key, outcome in found.items()
    ]
    return pd.DataFrame(rows)


def cell_table(statements: Mapping[str, Any], found: Mapping[str, Outcome]) -> pd.DataFrame:
    """The checks that hold one printed figure against one recomputed interval, and by how much they miss.

    ``miss`` is the distance between the two intervals in percent of the printed figure; 0 when they meet.
    """
    rows = []
    for key, outcome in found.items():
        if outcome.printed is None or not isinstance(outcome.interval, RoundingInterval):
            continue
        rows.append(
            {
                "statement": key,
                "group": _group(key),
                "contradiction": statements[key].paper_check.contradiction,
                "printed": float(outcome.printed.middle),
                "printed low": float(outcome.printed.low),
                "printed high": float(outcome.printed.high),
                "recomputed": float(outcome.interval.middle),
                "recomputed low": float(outcome.interval.low),
                "recomputed high": float(outcome.interval.high),
                "paper": verdict(outcome),
                "miss": float(100 * outcome.printed.gap(outcome.interval) / abs(outcome.printed.middle)),
            }
        )
    return pd.DataFrame(rows)


def contradiction_table(statements: Mapping[str, Any], cells: pd.DataFrame) -> pd.DataFrame:
    """The contradictions, ranked: the strongest first, then by how many statements share it at that strength, then by
    the largest relative miss of a printed figure among those (empty where none is held against an interval).

    ``worst`` is the statement with that miss, else the first of the strongest; its note is the explanation.
    """
    rows = []
    for slug in sorted({one.paper_check.contradiction for one in statements.values()} - {None}):
        members = {key: one for key, one in statements.items() if one.paper_check.contradiction == slug}
        number = {level: sum(one.paper_check.strength == level for one in members.values()) for level in STRENGTHS}
        strongest = next(level for level in STRENGTHS if number[level])
        misses = cells[cells["contradiction"] == slug].set_index("statement")["miss"]
        top = [key for key, one in members.items() if one.paper_check.strength == strongest]
        candidates = misses[misses.index.isin(top)]
        worst = str(candidates.idxmax()) if len(candidates) else top[0]
        rows.append(
            {
                "contradiction": title(slug),
                "strength": strongest,
                "statements": len(members),
                **number,
                "largest miss (%)": float(candidates.max()) if len(candidates) else float("nan"),
                "worst": worst,
                "why": members[worst].paper_check.note,
            }
        )
    frame = pd.DataFrame(rows)
    level = frame["strength"].map({name: place for place, name in enumerate(STRENGTHS)})
    at_level = [row[row["strength"]] for _, row in frame.iterrows()]
    keys = pd.DataFrame({"level": level, "number": at_level, "miss": frame["largest miss (%)"].fillna(-1)})
    ranked = frame.loc[
        keys.sort_values(["level", "number", "miss"], ascending=[True, False, False], kind="stable").index
    ]
    ranked.insert(0, "rank", range(1, len(ranked) + 1))
    return ranked.reset_index(drop=True)


def title(slug: str) -> str:
    """``C02_headline_f1_values`` as a reader sees it: ``C02 headline F1 values``."""
    return _TITLES.get(slug) or " ".join(_WORDS.get(word, word) for word in slug.split("_"))


def reading_of_checks(checks: pd.DataFrame) -> str:
    """What the table of recomputed checks says, computed from it."""
    number, by_basis = checks["paper"].value_counts(), checks["rests on"].value_counts()
    apart = checks.loc[~checks["ledger agrees"], "statement"].tolist()
    ledger = "Code and ledger agree in all of them." if not apart else f"Code and ledger differ in {', '.join(apart)}."
    parts = ", ".join(f"{count} on {name}" for name, count in by_basis.items())
    return (
        f"{len(checks)} checks were recomputed ({parts}): {number.get('contradicted', 0)} contradicted, "
        f"{number.get('consistent', 0)} consistent, {number.get('uncheckable', 0)} undecided. {ledger}"
    )


def reading_of_cells(cells: pd.DataFrame) -> str:
    """How many printed figures lie outside what the others allow, and which lies furthest."""
    outside = cells[cells["paper"] == "contradicted"]
    worst = cells.loc[cells["miss"].idxmax()]
    return (
        f"{len(outside)} of {len(cells)} printed figures lie outside what the paper's other figures allow. "
        f"Furthest is `{worst['statement']}`: printed {show(worst['printed'])}, allowed "
        f"[{worst['recomputed low']:.4g}, {worst['recomputed high']:.4g}], a miss of {worst['miss']:.0f} %."
    )


def reading_of_contradictions(ranked: pd.DataFrame) -> str:
    """How many contradictions there are at each strength, and which lead."""
    number = ranked["strength"].value_counts()
    counted = ", ".join(f"{number.get(level, 0)} {level}" for level in STRENGTHS)
    leading = "; ".join(f"{row['contradiction']}: {row['why'].rstrip('.')}" for _, row in ranked.head(3).iterrows())
    return f"{len(ranked)} contradictions: {counted}. The three hardest to explain away are {leading}."


def reading_of_statements(table: pd.DataFrame) -> str:
    """The paper column over all statements, and how much of it is a reading rather than arithmetic."""
    number, contradicted = table["paper"].value_counts(), table[table["paper"] == "contradicted"]
    shares = ", ".join(f"{number.get(name, 0)} {name}" for name in _PAPER.values())
    declared = int((contradicted["rests on"] == "declared").sum())
    computed, unsupported = len(contradicted) - declared, int(table["unsupported"].sum())
    return (
        f"Of {len(table)} statements the paper's own figures leave {shares}. {computed} of the contradictions were "
        f"recomputed by code; {declared} are readings of the text. {unsupported} statements have no support in the "
        "paper at all, contradicted or not."
    )


def home(section: str) -> str:
    """The section a statement stands in: ``4.1`` of ``4.1/4.3``, ``Title`` of ``Title/4.1``."""
    return section.split("/")[0]


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
        return f"{value + 0.0:.{DECIMALS}f}".rstrip("0").rstrip(".")
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {show(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return f"[{', '.join(show(inner) for inner in value)}]"
    return str(value)


def _ends(interval: RoundingInterval | tuple[RoundingInterval, ...] | None) -> Any:
    if isinstance(interval, tuple):
        return [list(one.floats()) for one in interval]
    return None if interval is None else list(interval.floats())


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
