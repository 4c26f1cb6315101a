"""The paper against its own arithmetic: exact checks on its printed figures, a dictionary of them a topic."""

from collections.abc import Mapping
from typing import Any

from datalab.audit import tables, text
from datalab.audit.check import Figures, Outcome
from datalab.ledger import PAPER_WORDS, Claim, RoundingInterval, find

__all__ = ["DECIMALS", "Figures", "Outcome", "agrees", "basis", "ends", "outcomes", "same", "verdict"]

DECIMALS = 4  # to which the ledger declares its recomputed figures


def outcomes(statements: Mapping[str, Claim]) -> dict[str, Outcome]:
    """Every check's outcome by statement id, in the ledger's order."""
    figures, checks = Figures(statements), {}
    for topic in (*text.TOPICS, *tables.TOPICS):
        checks |= topic(figures)
    return {key: checks[key] for key in statements if key in checks}


def basis(statement_id: str) -> str:
    """Where a statement's paper verdict comes from.

    ``printed figures``: recomputed by code from them alone; ``figures and text``: by code, with a number or a list that
    a reader takes from the text; ``simulation``: by code, with simulated losses; ``declared``: a reading of the text.
    """
    if find(statement_id).paper_check.recomputed is None:
        return "declared"
    if statement_id in text.COUNTED:
        return "figures and text"
    return "simulation" if statement_id in text.SIMULATED else "printed figures"


def verdict(outcome: Outcome) -> str:
    """An outcome in the words of the paper column: consistent, contradicted or uncheckable."""
    return PAPER_WORDS[outcome.status]


def agrees(outcome: Outcome, declared: Any) -> bool:
    """Whether code and ledger say the same: figures and interval to four decimals, and the status exactly."""
    figures = same(outcome.recomputed, declared.recomputed) and same(ends(outcome.interval), declared.interval)
    return figures and outcome.status == declared.status


def same(computed: Any, declared: Any) -> bool:
    """Equal structures: numbers to the ledger's four decimals, everything else exactly."""
    if isinstance(declared, Mapping) and isinstance(computed, Mapping):
        keys_agree = computed.keys() == declared.keys()
        return keys_agree and all(same(computed[key], declared[key]) for key in declared)
    if isinstance(declared, list | tuple) and isinstance(computed, list | tuple):
        return len(computed) == len(declared) and all(map(same, computed, declared))
    numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in (computed, declared)]
    if all(numbers):
        return abs(computed - declared) <= 0.501 * 10**-DECIMALS
    return type(computed) is type(declared) and computed == declared


def ends(interval: RoundingInterval | tuple[RoundingInterval, ...] | None) -> Any:
    """An interval's ends as floats, ``[low, high]``; of several a list of such."""
    if isinstance(interval, tuple):
        return [ends(part) for part in interval]
    return None if interval is None else list(interval.floats())
