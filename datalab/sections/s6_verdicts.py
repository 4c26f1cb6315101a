"""Section 6, the board of all statements: what the paper says, whether it agrees with itself, what was measured.

The board is read from the record's claims, a frame with the columns of ``claims.csv``; nothing is measured here.
"""

import re
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import pandas as pd

from datalab.ledger import NOT_RUN, PAPER_VERDICTS, SHOWN, UNTESTABLE, VERDICTS
from datalab.record.parameters import Estimate, SectionParameters
from datalab.sections import SECTIONS, compare

READS = ("all",)

AUDIT = "1_paper_audit"
# Statements that another section measures than the one they stand in, by the beginning of their id.
_ELSEWHERE = {
    "TITLE.": "0",
    "ABS.variance_explained": "4.2",
    "ABS.framework_f1": "5.1",
    "S1.stress_degradation": "5.1",
    "S1.improvement": "4.1",
    "S3.2.n_levels": "4.2",
    "S3.2.train_sizes": "4.4",
    "S5.1.no_arch_change": "4.5",
    "S6.via": "4.3",
}

# The ten findings that matter, each read from one statement's row: the question in our words.
FINDINGS = {
    "TITLE.threshold": "Is there a noise rate from which influence pruning beats random, and is it 15 %?",
    "TITLE.only_when": "Is influence pruning no better than random at or below that rate?",
    "T1.if_vs_vanilla": "Does influence pruning beat keeping everything, at 20 % flipped labels, all stopped early?",
    "T1.full_vs_vanilla": "Does DATA-LAB, as the paper words it, beat plain training?",
    "S4.1.consistent_all": "On every benchmark?",
    "S3.3.kl_prevents_collapse": "Does the KL term keep the weights from collapsing?",
    "S4.3.aw_most": "Do the adaptive weights contribute most?",
    "S4.2.baseline_drops": "Does the baseline fall as the influence level rises, noise held equal?",
    "S5.3.filtering": "Does removing high-influence examples hurt, at 20 % flipped labels, all stopped early?",
    "ABS.framework_f1": "Can failures of influence pruning be foreseen better than by always expecting one?",
}

# What to do, by a statement's verdict: if the paper's direction holds, if it is refuted, and if it stays open.
ADVICE = {
    "TITLE.only_when": (
        "At 15 % wrong labels or less, do not prune by influence in place of at random.",
        "Pruning by influence can beat random at 15 % wrong labels or less: test it on your data.",
        "Whether pruning by influence beats random at 15 % wrong labels or less is not settled at all rates together; "
        "notebook 0 has it rate by rate. Test before you prune.",
    ),
    "T1.if_vs_vanilla": (
        "At 20 % wrong labels, all stopped early, pruning by influence is better than keeping everything, in F1 and in "
        "accuracy.",
        "At 20 % wrong labels, all stopped early, pruning by influence is not better than keeping everything in both "
        "F1 and accuracy.",
        "At 20 % wrong labels, all stopped early, pruning by influence is not shown to beat keeping everything in both "
        "F1 and accuracy (notebooks 0 and 7 have each rate): keep all unless a smaller set is worth something in "
        "itself.",
    ),
    "T1.full_vs_vanilla": (
        "Weights by DATA-LAB as worded pay.",
        "Weights by a scorer that sees features alone do not pay: it cannot see a wrong label.",
        "Weights by a scorer that sees features alone are not shown to pay; let the scorer see label and loss.",
    ),
    "S3.3.kl_prevents_collapse": (
        "Never train example weights without a term that keeps them together.",
        "The KL term is not what keeps weights from collapsing.",
        "Whether the KL term keeps weights from collapsing is open in this record.",
    ),
}
_ANSWERS = {"reproduced": 0, "direction reproduced": 0, "not reproduced: null": 1, "not reproduced: opposite": 1}
TEXT, EXCLUDED, CONSTRUCTED = "what the paper says, in our words", "printed value excluded?", "true by construction"


class Parameters(SectionParameters):
    """The board reads the record: every profile does the same."""


def estimate(parameters: Parameters) -> Estimate:
    """A few seconds: it reads the record's claims and counts them."""
    return Estimate(seconds=8.0, memory=4e8, what="reads the record's claims, no training")


def notebook_of(claim_id: str) -> str:
    """The notebook that measures a statement a run can reach (for one that none can, the audit's).

    ``S3.1.x`` is measured by section 3.1, a figure of table 1, ``T1.x``, by section 4.1.
    """
    own = re.sub(r"^T(\d)\.", r"S4.\1.", claim_id)
    number = next((number for start, number in _ELSEWHERE.items() if claim_id.startswith(start)), own[1:4])
    return next((section.stem for section in SECTIONS if section.number == number), AUDIT)


def board(claims: pd.DataFrame, profile: str) -> pd.DataFrame:
    """All statements, a row each, both columns side by side; ``profile``, the record's, says why one was not run."""
    claims = claims.astype(object).where(claims.notna(), "")
    verdict = claims.verdict.replace("", NOT_RUN)
    measured_by = claims.notebook.str.removeprefix("notebooks/").str.removesuffix(".ipynb")
    by_rule = claims.id.map(notebook_of).where(verdict != UNTESTABLE, AUDIT)
    not_run = claims.id.map(lambda key: reason_not_run(key, profile, set(measured_by)))
    return pd.DataFrame(
        {
            "statement": claims.id,
            "section": claims.section.str.split("/").str[0],
            TEXT: claims.text,
            "reported": (claims.reported.astype(str) + " " + claims.unit).where(claims.reported != "", "").str.strip(),
            "paper": claims.paper_check + claims.paper_strength.map(lambda level: level and f" ({level})"),
            "unsupported": claims.unsupported.astype(bool),
            "measured": claims.apply(_measured, axis=1),
            "n": claims.n.map(lambda n: str(n).removesuffix(".0") or None),
            "verdict": verdict,
            EXCLUDED: claims.excluded.replace("", "-"),
            CONSTRUCTED: claims.by_construction,
            "why": claims.why.where(verdict != NOT_RUN, not_run),
            "notebook": measured_by.where(measured_by != "", by_rule),
        }
    )


def reason_not_run(claim_id: str, profile: str, active: Set[str]) -> str:
    """Which notebook would measure a statement; ``active``: those that measured something in the record."""
    stem = notebook_of(claim_id)
    if stem not in active:
        return f"notebook {stem} has measured nothing in this record: `datalab run {stem} --profile {profile}`"
    return f"notebook {stem} does not measure it in profile {profile}"


def _measured(row: Mapping[str, Any]) -> str:
    """``0.74 [0.70, 0.78]``, with no more digits than the interval supports; a word, such as "never", as it is."""
    try:
        value = float(row["measured"])
    except ValueError:
        return row["measured"]
    low, high = (np.nan if row[name] == "" else float(row[name]) for name in ("low", "high"))
    width = np.ptp([end for end in (value, low, high) if np.isfinite(end)] or [0.0])
    digits = int(np.clip(1 - np.floor(np.log10(width)), 0, 6)) if width > 0 else 1 if np.isinf(value) else 3
    words = {-np.inf: "below all rates", np.inf: "above all rates"}  # where a crossover lies, or an end of its interval
    value, low, high = (words.get(number, f"{number:.{digits}f}") for number in (value, low, high))
    return f"{value} [{low}, {high}]" if "nan" not in (low, high) else value


def counts(board: pd.DataFrame) -> pd.DataFrame:
    """Measured verdicts per section of the paper, with totals."""
    return compare.tally(board, "section", "verdict", VERDICTS)


def both_columns(board: pd.DataFrame) -> pd.DataFrame:
    """Paper column against measured column: the two are never merged, only counted side by side."""
    both = board.assign(measured=board.verdict, paper=board.paper.str.split(" ").str[0])
    return compare.tally(both, "measured", "paper", PAPER_VERDICTS, VERDICTS)


def not_run(board: pd.DataFrame) -> pd.DataFrame:
    """What was not run and why: one row a reason, with the number of statements and their ids."""
    waiting = board[board.verdict == NOT_RUN].groupby("why", sort=False).statement
    sizes, names = [len(ids) for _, ids in waiting], [", ".join(ids) for _, ids in waiting]
    return pd.DataFrame({"why": list(waiting.groups), "statements": sizes, "which": names})


def findings(board: pd.DataFrame) -> pd.DataFrame:
    """The ten findings that matter, each with the statement it is read from: measured, n, verdict and why."""
    rows = board.set_index("statement").loc[list(FINDINGS)].reset_index()
    rows.insert(0, "question", list(FINDINGS.values()))
    return rows[["question", "statement", "reported", "measured", "n", "verdict", EXCLUDED, "why", "notebook"]]


def advice(board: pd.DataFrame) -> list[str]:
    """What a practitioner can take from this record: sentences chosen by verdicts, so that they follow the data."""
    verdict = board.set_index("statement").verdict
    return [answers[_ANSWERS.get(verdict[key], 2)] for key, answers in ADVICE.items()]


def established(board: pd.DataFrame) -> pd.DataFrame:
    """Statements with a measured answer: neither untestable, nor not run, nor a level shown without comparison."""
    columns = ["statement", "section", TEXT, "reported", "measured", "n", "verdict", EXCLUDED, CONSTRUCTED]
    return board.loc[~board.verdict.isin([NOT_RUN, UNTESTABLE, SHOWN]), columns].reset_index(drop=True)


def summary(board: pd.DataFrame) -> str:
    """How many statements there are, how many of them a run can reach and this record measured, and what came of it."""
    number = board.verdict.value_counts()
    measured = number.drop([UNTESTABLE, NOT_RUN], errors="ignore")
    contradicted = board.paper.str.startswith("contradicted")
    came_to = ", ".join(f"{measured[name]} {name}" for name in VERDICTS if name in measured)
    held, by_rule = board[EXCLUDED].isin(["yes", "no"]), board[CONSTRUCTED] != ""
    forced = by_rule & ~board.verdict.isin([NOT_RUN, UNTESTABLE, SHOWN])
    return (
        f"Of {len(board)} statements, a run can reach {len(board) - number.get(UNTESTABLE, 0)}; this record measured "
        f"{measured.sum()} of them{': ' if came_to else ''}{came_to}. Of {held.sum()} printed figures that could be "
        f"held against an interval, {(board[EXCLUDED] == 'yes').sum()} lie outside; {forced.sum()} verdicts are true "
        f"by construction. "
        f"{contradicted.sum()} are contradicted by the paper itself, whatever a run finds."
    )
