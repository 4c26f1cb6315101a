"""The board of all statements: what the paper says, whether it agrees with itself, what was measured, what follows.

The board is read from the record's claims (``claims.csv``, handed in as a data frame); nothing is measured here.
"""

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import pandas as pd

from datalab.record.parameters import Estimate, SectionParameters
from datalab.sections import SECTIONS

READS = ("all",)

AUDIT = "1_paper_audit"
NOT_RUN, UNTESTABLE, SHOWN = "not run", "untestable", "shown"

# Which notebook measures a statement of a section, by what it is about; the first fitting prefix of its id decides.
_NOTEBOOKS = (
    ("TITLE.", "0_title_noise_threshold"),
    ("ABS.variance_explained", "4_2_influence_level"),
    ("ABS.framework_f1", "5_1_monitoring"),
    ("S1.stress_degradation", "5_1_monitoring"),
    ("S1.improvement", "4_1_main_results"),
    ("S3.1.", "3_1_problem_formulation"),
    ("S3.2.n_levels", "4_2_influence_level"),
    ("S3.2.train_sizes", "4_4_scaling"),
    ("S3.2.", "3_2_experimental_framework"),
    ("S3.3.", "3_3_framework"),
    ("S3.4.", "3_4_statistics"),
    ("T1.", "4_1_main_results"),
    ("S4.1.", "4_1_main_results"),
    ("T2.", "4_2_influence_level"),
    ("S4.2.", "4_2_influence_level"),
    ("T3.", "4_3_ablation"),
    ("S4.3.", "4_3_ablation"),
    ("T4.", "4_4_scaling"),
    ("S4.4.", "4_4_scaling"),
    ("T5.", "4_5_overhead"),
    ("S4.5.", "4_5_overhead"),
    ("S5.1.no_arch_change", "4_5_overhead"),
    ("S5.1.", "5_1_monitoring"),
    ("S5.3.", "5_3_negative_results"),
    ("S6.via", "4_3_ablation"),
)


# The ten findings that matter, each read from one statement's row: the question in our words, and what to do about it,
# by whether the paper's direction holds (reproduced), is refuted, or stays open.
FINDINGS = (
    ("TITLE.threshold", "Is there a noise rate from which influence pruning beats random, and is it 15 %?"),
    ("TITLE.only_when", "Is influence pruning no better than random at or below that rate?"),
    ("T1.if_vs_vanilla", "Does influence pruning beat keeping everything, at 20 % flipped labels?"),
    ("T1.full_vs_vanilla", "Does DATA-LAB, as the paper words it, beat plain training?"),
    ("S4.1.consistent_all", "On every benchmark?"),
    ("S3.3.kl_prevents_collapse", "Does the KL term keep the weights from collapsing?"),
    ("S4.3.aw_most", "Do the adaptive weights contribute most?"),
    ("S4.2.baseline_drops", "Does the baseline fall as the influence level rises, noise held equal?"),
    ("S5.3.filtering", "Does removing high-influence examples hurt, at 20 % flipped labels?"),
    ("ABS.framework_f1", "Can failures of influence pruning be foreseen better than by always expecting one?"),
)


class Parameters(SectionParameters):
    """The board reads the record: every profile does the same."""


def estimate(parameters: Parameters) -> Estimate:
    """A few seconds: it reads the record's claims and counts them."""
    return Estimate(seconds=8.0, memory=4e8, what="reads the record's claims, no training")


def notebook_of(claim_id: str) -> str:
    """The notebook that measures a statement a run can reach (for one that none can, the audit's)."""
    return next((stem for prefix, stem in _NOTEBOOKS if claim_id.startswith(prefix)), AUDIT)


def board(claims: pd.DataFrame, profile: str) -> pd.DataFrame:
    """All statements, both columns side by side.

    claims: the record's claims, one row a statement of the ledger, with the columns of ``claims.csv``.
    profile: the record's profile, for why a statement was not run.
    """
    paper = claims["paper_check"].fillna("").astype(str)
    strength = claims["paper_strength"].fillna("").astype(str)
    verdict = claims["verdict"].fillna("").replace("", NOT_RUN)
    active = {_stem(notebook) for notebook in claims["notebook"] if not _empty(notebook)}
    why = [
        reason_not_run(key, profile, active) if found == NOT_RUN else str(given)
        for key, found, given in zip(claims["id"], verdict, claims["why"].fillna(""), strict=True)
    ]
    notebooks = [
        _stem(given) if not _empty(given) else AUDIT if found == UNTESTABLE else notebook_of(key)
        for given, found, key in zip(claims["notebook"], verdict, claims["id"], strict=True)
    ]
    return pd.DataFrame(
        {
            "statement": claims["id"],
            "section": [str(section).split("/")[0] for section in claims["section"]],
            "what the paper says, in our words": claims["text"],
            "reported": [_reported(row) for _, row in claims.iterrows()],
            "paper": [name + (f" ({level})" if level else "") for name, level in zip(paper, strength, strict=True)],
            "unsupported": claims["unsupported"].astype(bool),
            "measured": [_measured(row) for _, row in claims.iterrows()],
            "n": [None if _empty(n) else str(n).removesuffix(".0") for n in claims["n"]],
            "verdict": verdict,
            "why": why,
            "notebook": notebooks,
        }
    )


def reason_not_run(claim_id: str, profile: str, active: Set[str]) -> str:
    """Which notebook would measure a statement; ``active``: those that measured something in the record."""
    stem = notebook_of(claim_id)
    if stem not in {section.stem for section in SECTIONS}:
        return f"needs notebook {stem}, which this version of the package does not have"
    if stem not in active:
        return f"notebook {stem} has measured nothing in this record: `datalab run {stem} --profile {profile}`"
    return f"notebook {stem} does not measure it in profile {profile}"


def counts(rows: pd.DataFrame, verdicts: Sequence[str]) -> pd.DataFrame:
    """Measured verdicts per section of the paper, in the order of ``verdicts``, with totals."""
    counted = pd.crosstab(rows["section"], rows["verdict"]).reindex(columns=list(verdicts), fill_value=0)
    counted = counted.reindex(list(dict.fromkeys(rows["section"])))
    counted["all"] = counted.sum(axis=1)
    counted.loc["all"] = counted.sum(axis=0)
    return counted.rename_axis(index="section", columns=None).reset_index()


def both_columns(rows: pd.DataFrame, verdicts: Sequence[str], paper: Sequence[str]) -> pd.DataFrame:
    """Paper column against measured column: the two are never merged, only counted side by side."""
    head = rows["paper"].str.split(" ").str[0]
    counted = pd.crosstab(rows["verdict"], head).reindex(index=list(verdicts), columns=list(paper), fill_value=0)
    counted["all"] = counted.sum(axis=1)
    counted.loc["all"] = counted.sum(axis=0)
    return counted.rename_axis(index="measured", columns=None).reset_index()


def not_run(rows: pd.DataFrame) -> pd.DataFrame:
    """What was not run and why: one row a reason, with the number of statements and their ids."""
    waiting = rows[rows["verdict"] == NOT_RUN]
    grouped = waiting.groupby("why", sort=False)["statement"]
    return pd.DataFrame(
        {
            "why": list(grouped.groups),
            "statements": [len(names) for _, names in grouped],
            "which": [", ".join(names) for _, names in grouped],
        }
    )


def title_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The statements of the title, which the study was built for."""
    kept = ["statement", "what the paper says, in our words", "reported", "paper", "measured", "verdict", "why"]
    return rows.loc[rows["statement"].str.startswith("TITLE."), kept].reset_index(drop=True)


def findings(rows: pd.DataFrame) -> pd.DataFrame:
    """The ten findings that matter, each with the statement it is read from: measured, n, verdict and why."""
    by_id = rows.set_index("statement")
    kept = ["reported", "measured", "n", "verdict", "why", "notebook"]
    return pd.DataFrame(
        [{"question": question, "statement": key} | by_id.loc[key, kept].to_dict() for key, question in FINDINGS]
    )


def advice(rows: pd.DataFrame) -> list[str]:
    """What a practitioner can take from this record: sentences chosen by verdicts, so that they follow the data."""
    said = rows.set_index("statement").verdict
    holds, against = {"reproduced", "direction reproduced"}, {"not reproduced: null", "not reproduced: opposite"}

    def choose(key: str, yes: str, no: str, open_: str) -> str:
        return yes if said[key] in holds else no if said[key] in against else open_

    return [
        choose(
            "TITLE.only_when",
            "Below about 15 % wrong labels, do not prune by influence in place of at random.",
            "Pruning by influence can pay below 15 % wrong labels too: test it on your data.",
            "Below about 15 % wrong labels nothing here says that pruning by influence pays: test before you prune.",
        ),
        choose(
            "T1.if_vs_vanilla",
            "At 20 % wrong labels pruning by influence is better than keeping everything.",
            "At 20 % wrong labels pruning by influence is not better than keeping everything.",
            "At 20 % wrong labels it is open whether pruning by influence beats keeping everything: keep all unless a "
            "smaller set is worth something in itself.",
        ),
        choose(
            "T1.full_vs_vanilla",
            "Weights by DATA-LAB as worded pay.",
            "Weights by a scorer that sees features alone do not pay: it cannot see a wrong label.",
            "Weights by a scorer that sees features alone are not shown to pay; let the scorer see label and loss.",
        ),
        choose(
            "S3.3.kl_prevents_collapse",
            "Never train example weights without a term that keeps them together.",
            "The KL term is not what keeps weights from collapsing.",
            "Whether the KL term keeps weights from collapsing is open in this record.",
        ),
        "For finding wrong labels, look at the plain loss beside any influence score: it costs nothing (section 2).",
    ]


def open_questions(rows: pd.DataFrame) -> pd.DataFrame:
    """Measured statements that stay open: the interval allows both directions. More data sets would narrow it."""
    kept = ["statement", "section", "what the paper says, in our words", "measured", "n"]
    return rows.loc[rows["verdict"] == "inconclusive", kept].reset_index(drop=True)


def established(rows: pd.DataFrame) -> pd.DataFrame:
    """Statements with a measured answer: neither untestable, nor not run, nor a level shown without comparison."""
    answered = ~rows["verdict"].isin([NOT_RUN, UNTESTABLE, SHOWN])
    kept = ["statement", "section", "what the paper says, in our words", "reported", "measured", "n", "verdict"]
    return rows.loc[answered, kept].reset_index(drop=True)


def sentences(rows: pd.DataFrame, verdicts: Sequence[str]) -> list[str]:
    """What the board says, as sentences computed from it."""
    number = rows["verdict"].value_counts()
    reach = len(rows) - int(number.get(UNTESTABLE, 0))
    done = reach - int(number.get(NOT_RUN, 0))
    found = ", ".join(f"{number[name]} {name}" for name in verdicts if name in number and name not in _SILENT)
    contradicted = int(rows["paper"].str.startswith("contradicted").sum())
    return [
        f"Of {len(rows)} statements, a run can reach {reach}; this record measured {done} of them"
        + (f": {found}." if found else "."),
        f"{contradicted} statements are contradicted by the paper itself, whatever a run finds.",
        *(f"{row.statement}: {row.verdict}. {_sentence(row.why)}" for row in title_rows(rows).itertuples()),
    ]


_SILENT = (UNTESTABLE, NOT_RUN)


def _sentence(text: str) -> str:
    """``text`` with a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""


def _reported(row: Mapping[str, Any]) -> str:
    reported = "" if _empty(row["reported"]) else str(row["reported"])
    return f"{reported} {row['unit']}" if reported and not _empty(row["unit"]) else reported


def _measured(row: Mapping[str, Any]) -> str:
    """``0.74 [0.70, 0.78]``, with no more digits than the interval supports."""
    if _empty(row["measured"]):
        return ""
    try:
        value, low, high = (
            float(row[name]) if not _empty(row[name]) else np.nan for name in ("measured", "low", "high")
        )
    except ValueError:
        return str(row["measured"])  # a word, such as "never"
    width = high - low
    digits = 3 if not np.isfinite(width) or width <= 0 else int(np.clip(1 - np.floor(np.log10(width)), 0, 6))
    if np.isnan(low) or np.isnan(high):
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _stem(notebook: Any) -> str:
    return str(notebook).removeprefix("notebooks/").removesuffix(".ipynb")


def _empty(value: Any) -> bool:
    return value is None or value == "" or bool(pd.isna(value))
