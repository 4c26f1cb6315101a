"""The paper against its own arithmetic: a table of exact checks on its printed figures.

The ledger's statements are handed in: this room knows how to audit them, not where they are kept.
"""

from collections.abc import Mapping
from typing import Any

from datalab.audit import table_4_1, tables_4_2_to_4_5, text
from datalab.audit.outcomes import CHECKS, Figures, Outcome
from datalab.ledger import RoundingInterval

__all__ = ["CHECKS", "DECIMALS", "Figures", "Outcome", "agrees", "basis", "ends", "outcomes", "same", "verdict"]

DECIMALS = 4  # to which the ledger declares its recomputed figures
_TOPICS = (text, table_4_1, tables_4_2_to_4_5)  # importing them enters their checks
_PAPER = {"consistent": "consistent", "inconsistent": "contradicted", "cannot_be_checked": "uncheckable"}


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
    if statement_id in text.COUNTED:
        return "figures and text"
    return "simulation" if statement_id in text.SIMULATED else "printed figures"


def verdict(outcome: Outcome) -> str:
    """An outcome in the words of the paper column: consistent, contradicted or uncheckable."""
    return _PAPER[outcome.status]


def agrees(outcome: Outcome, declared: Any) -> bool:
    """Whether code and ledger say the same: figures and interval to four decimals, and the status exactly."""
    return (
        same(outcome.recomputed, declared.recomputed)
        and same(ends(outcome.interval), declared.interval)
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
            and all(same(ours, theirs) for ours, theirs in zip(computed, declared, strict=True))
        )
    if isinstance(declared, int | float) and not isinstance(declared, bool):
        number = isinstance(computed, int | float) and not isinstance(computed, bool)
        return number and abs(computed - declared) <= 0.501 * 10**-DECIMALS
    return type(computed) is type(declared) and computed == declared


def ends(interval: RoundingInterval | tuple[RoundingInterval, ...] | None) -> Any:
    """An interval's ends as floats, ``[low, high]``; of several a list of such."""
    if isinstance(interval, tuple):
        return [list(part.floats()) for part in interval]
    return None if interval is None else list(interval.floats())
