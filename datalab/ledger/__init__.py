"""The paper's 277 statements, the two verdicts on each, and where they stand in its tables."""

from dataclasses import asdict
from typing import Any

from datalab.ledger.claim import PAPER_VERDICTS, PAPER_WORDS, Claim, claims, find, printed, sha256
from datalab.ledger.rounding import RoundingInterval
from datalab.ledger.title import title_verdict, title_verdict_2
from datalab.ledger.verdict import (
    ANSWERS,
    BEYOND,
    DIFFERENCE,
    DIRECTION,
    INCONCLUSIVE,
    NOT_RUN,
    NULL,
    OPPOSITE,
    REPRODUCED,
    SHOWN,
    UNTESTABLE,
    VERDICTS,
    Verdict,
    automatic,
    excluded,
    judge,
    judge_all,
    judge_level,
    judge_p,
    read,
)

__all__ = ["ANSWERS", "BEYOND", "DIFFERENCE", "DIRECTION", "INCONCLUSIVE", "NOT_RUN", "NULL", "OPPOSITE",
           "PAPER_VERDICTS", "PAPER_WORDS", "REPRODUCED", "SHOWN", "UNTESTABLE", "VERDICTS", "Claim",
           "RoundingInterval", "claims", "excluded", "find", "judge", "judge_all", "judge_level", "judge_p", "printed",
           "read", "sha256", "statements", "title_verdict", "title_verdict_2"]  # fmt: skip


def statements() -> list[dict[str, Any]]:
    """The ledger for a record (:class:`datalab.record.study.Study`): each statement's words and paper column, and the
    measured verdict it has where no section measured it."""
    unmeasured = Verdict(NOT_RUN, "no section of this record measured it")
    return [
        {
            "id": claim.id,
            "section": claim.section,
            "text": claim.text,
            "reported": claim.reported_text(),
            "unit": claim.unit,
            "paper_check": claim.paper_verdict,
            "paper_strength": claim.paper_check.strength,
            "unsupported": claim.unsupported_in_paper,
            "paper_note": claim.paper_check.note,
            "by_construction": claim.by_construction,
            "test": claim.run or claim.test,
            "ceiling": claim.verdict_ceiling,
            **asdict(automatic(claim) or unmeasured),  # verdict and why
        }
        for claim in claims().values()
    ]
