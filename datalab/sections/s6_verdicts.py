"""Section 6, the board of all statements: what the paper says, whether it agrees with itself, what was measured.

The board is read from the record's claims, a frame with the columns of ``claims.csv``; nothing is measured here.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from datalab import ledger
from datalab.record.parameters import Estimate, SectionParameters
from datalab.sections import compare, sentences

READS = ("all",)

AUDIT = "1_paper_audit"
# The ten findings that matter, each read from one statement's row.
FINDINGS = (
    "TITLE.threshold", "TITLE.only_when", "T1.if_vs_vanilla", "T1.full_vs_vanilla", "S4.1.consistent_all",
    "S3.3.kl_prevents_collapse", "S4.3.aw_most", "S4.2.baseline_drops", "S5.3.filtering", "ABS.framework_f1",
)  # fmt: skip

TEXT, EXCLUDED, CONSTRUCTED = "what the paper says, in our words", "printed value excluded?", "true by construction"
Parameters = SectionParameters  # the board reads the record: every profile does the same


def estimate(parameters: Parameters) -> Estimate:
    """A few seconds: it reads the record's claims and counts them."""
    return Estimate(seconds=8.0, memory=4e8, what="reads the record's claims, no training")


def board(claims: pd.DataFrame) -> pd.DataFrame:
    """All statements, a row each, both columns side by side; ``notebook``: which measured it, "-" where none has."""
    claims = claims.astype(object).where(claims.notna(), "")
    verdict = claims.verdict.replace("", ledger.NOT_RUN)
    measured_by = claims.notebook.str.removeprefix("notebooks/").str.removesuffix(".ipynb")
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
            "why": claims.why,
            "notebook": measured_by.replace("", "-").mask(verdict == ledger.UNTESTABLE, AUDIT),
        }
    )


def _measured(row: Mapping[str, Any]) -> str:
    """``0.74 [0.70, 0.78]``, with no more digits than the interval supports; a word, such as "never", as it is.

    Its unit is said where it is another than that of what is reported.
    """
    try:
        value = float(row["measured"])
    except ValueError:
        return row["measured"]
    unit = "" if row["measured_unit"] == row["unit"] else row["measured_unit"]
    return sentences.figure(value, *(None if row[end] == "" else row[end] for end in ("low", "high")), unit)


def counts(board: pd.DataFrame) -> pd.DataFrame:
    """Measured verdicts per section of the paper, with totals; in the last column those true by construction."""
    return _tally(board, "section", "verdict", ledger.VERDICTS)


def both_columns(board: pd.DataFrame) -> pd.DataFrame:
    """Paper column against measured column: the two are never merged, only counted side by side."""
    both = board.assign(measured=board.verdict, paper=board.paper.str.split(" ").str[0])
    return _tally(both, "measured", "paper", ledger.PAPER_VERDICTS, ledger.VERDICTS)


def _forced(board: pd.DataFrame) -> pd.Series:
    """Which statements have a measured answer that could not have been another."""
    return (board[CONSTRUCTED] != "") & board.verdict.isin(ledger.ANSWERS)


def _tally(board: pd.DataFrame, rows: str, *how: Any) -> pd.DataFrame:
    """:func:`compare.tally` of the board, with the column ``true by construction``."""
    counts, forced = compare.tally(board, rows, *how), board[rows][_forced(board)]
    number = counts[rows].map(forced.value_counts()).fillna(0).astype(int)
    number.iloc[-1] = len(forced)
    return counts.assign(**{CONSTRUCTED: number})


def findings(board: pd.DataFrame) -> pd.DataFrame:
    """The ten findings that matter, each with the statement it is read from: measured, n, verdict and why."""
    asked = [sentences.QUESTIONS[statement][0] for statement in FINDINGS]
    questions = pd.DataFrame({"question": asked, "statement": FINDINGS})
    return questions.merge(board.drop(columns=["section", TEXT, "paper", "unsupported"]), on="statement")


def reading(findings: pd.DataFrame) -> str:
    """Of :func:`findings`, which statements of the paper hold, which do not, and which stay open."""
    words = {
        "**Holds**": [ledger.REPRODUCED, ledger.DIRECTION],
        "**Does not**": [ledger.NULL, ledger.OPPOSITE, ledger.DIFFERENCE],
        "**Open**": [ledger.INCONCLUSIVE],
        "**Not measured**": [verdict for verdict in ledger.VERDICTS if verdict not in ledger.ANSWERS],
    }
    named = findings.statement + np.where(findings[CONSTRUCTED] != "", " (by construction)", "")
    ids = {word: named[findings.verdict.isin(verdicts)] for word, verdicts in words.items()}
    return ". ".join(f"{word}: {sentences.listed(of_word)}" for word, of_word in ids.items()) + "."


def established(board: pd.DataFrame) -> pd.DataFrame:
    """Statements that are settled by what was measured."""
    columns = ["statement", "section", TEXT, "reported", "measured", "n", "verdict", EXCLUDED, CONSTRUCTED]
    settled = board.verdict.isin(ledger.ANSWERS) & (board.verdict != ledger.INCONCLUSIVE)
    return board.loc[settled, columns].reset_index(drop=True)


def summary(board: pd.DataFrame) -> str:
    """How many statements there are, how many of them a run can reach and this record measured, and what came of it."""
    number = board.verdict.value_counts()
    measured = number.drop([ledger.UNTESTABLE, ledger.NOT_RUN], errors="ignore")
    contradicted = board.paper.str.startswith("contradicted")
    forced = board.verdict[_forced(board)].value_counts()
    of_them = {name: f" ({count} of them by construction)" for name, count in forced.items()}
    came = [f"{measured[name]} {name}{of_them.get(name, '')}" for name in ledger.VERDICTS if name in measured]
    came_to = f": {', '.join(came)}" if came else ""
    held = board[EXCLUDED].isin(["yes", "no"])
    return (
        f"Of {len(board)} statements, a run can reach {len(board) - number.get(ledger.UNTESTABLE, 0)}; this record "
        f"measured {measured.sum()} of them{came_to}. Of {held.sum()} printed figures that could be held against an "
        f"interval, {(board[EXCLUDED] == 'yes').sum()} lie outside. "
        f"{contradicted.sum()} are contradicted by the paper itself, whatever a run finds; no reading rescues "
        f"{(board.paper == 'contradicted (strict)').sum()} of them."
    )
