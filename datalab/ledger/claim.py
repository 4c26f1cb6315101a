"""The paper's 277 statements, and the paper column: does the paper agree with itself there?

The paper column is part of the ledger; what was measured is another column (:mod:`datalab.ledger.verdict`). Rates, F1
and accuracies are fractions of 1 here, as everywhere in the package.
"""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from datalab.errors import UserError, did_you_mean
from datalab.ledger.rounding import RoundingInterval
from datalab.protocol import from_yaml, frozen

STRENGTHS = ("strict", "strong", "natural")  # strongest first
PAPER_WORDS = {"consistent": "consistent", "inconsistent": "contradicted", "cannot_be_checked": "uncheckable"}
PAPER_VERDICTS = tuple(PAPER_WORDS.values())
_BASE_ROWS = {"T1": "vanilla", "T2": "minimal", "T3": "full", "T4": "1K"}
_LEVEL_COLUMNS = ("precision", "recall", "f1", "accuracy", "baseline_f1", "ours_f1")


@dataclass(frozen=True)
class PaperCheck:
    """What the ledger declares about a statement's agreement with the rest of the paper.

    ``recomputed`` and ``interval`` are declared figures; ``datalab.sections.s1_paper_audit`` recomputes them by code.
    """

    status: str
    note: str
    strength: str | None = None
    recomputed: Any = None
    interval: Any = None
    contradiction: str | None = None


@dataclass(frozen=True)
class Claim:
    """One statement of the paper, in our own words."""

    id: str
    section: str
    kind: str
    text: str
    relation: str
    test: str
    testability: str  # rerun | internal | untestable
    paper_check: PaperCheck
    reported: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    decimals: Any = None
    unit: str | None = None
    verdict_ceiling: str | None = None  # direction | value
    untestable_because: str | None = None
    lost_symbols: str | None = None
    unsupported_in_paper: bool = False
    by_construction: str | None = None  # why the measured outcome is what it is in every run, if it is
    run: str | None = None  # what was run, where that is not the test

    @property
    def value(self) -> float | None:
        """The printed figure, ``None`` where none was printed (or an interval was)."""
        return self.reported.get("value")

    @property
    def paper_verdict(self) -> str:
        """Does the paper agree with itself here? One of :data:`PAPER_VERDICTS`."""
        return PAPER_WORDS[self.paper_check.status]

    def printed(self, name: str = "value") -> RoundingInterval:
        """The printed figure (``value``, ``lo``, ``hi``, ``n_models``) with its rounding interval.

        A bound such as ``p < 0.001`` is ``[0, 0.001]``. Raises ``KeyError`` when the paper prints no such figure.
        """
        number = self.reported[name]
        if self.reported.get("op") == "<":
            bound = RoundingInterval.point(number)
            return RoundingInterval(Fraction(0), bound.high, bound.middle)
        decimals = self.decimals[name] if isinstance(self.decimals, Mapping) else self.decimals
        return RoundingInterval.printed(number, decimals)

    def reported_text(self) -> str:
        """The figure as printed: ``"0.70"``, ``"[0.73, 0.76]"``, ``"< 0.001"``; empty when there is none."""

        def show(name: str) -> str:
            decimals = self.decimals.get(name) if isinstance(self.decimals, Mapping) else self.decimals
            number = self.reported[name]
            return f"{number}" if decimals is None else f"{number:.{decimals}f}"

        if "lo" in self.reported:
            return f"[{show('lo')}, {show('hi')}]"
        if "value" not in self.reported:
            return ""
        return ("< " if self.reported.get("op") == "<" else "") + show("value")


@functools.cache
def _raw() -> bytes:
    return files("datalab.ledger").joinpath("claims.yaml").read_bytes()


def sha256() -> str:
    """The hash of the ledger's bytes, for the record."""
    return hashlib.sha256(_raw()).hexdigest()


@functools.cache
def claims() -> Mapping[str, Claim]:
    """All statements by id, in the paper's order. Read-only."""
    known = {}
    for row in from_yaml(_raw())["claims"]:
        check = PaperCheck(**{key: frozen(value) for key, value in row.pop("paper_check").items()})
        known[row["id"]] = Claim(paper_check=check, **{key: frozen(value) for key, value in row.items()})
    return MappingProxyType(known)


def find(claim_id: str) -> Claim:
    """The statement called ``claim_id``. Raises :class:`UserError` with a suggestion for an unknown one."""
    known = claims()
    if claim_id not in known:
        close = did_you_mean(claim_id, list(known))
        hint = close if "?" in close else "; `datalab claims` lists all of them"
        raise UserError(f"unknown claim '{claim_id}'{hint}")
    return known[claim_id]


def printed() -> dict[str, float | None]:
    """Every statement's printed figure by its id; ``None`` where the paper prints none."""
    return {claim_id: claim.value for claim_id, claim in claims().items()}


def base_row(claim: Claim) -> str | None:
    """The id of the cell that a table's level is judged against: the same column of its table's base row.

    Table 4.1: vanilla; 4.2: the minimal level; 4.3: the full model (the table's own delta column); 4.4: 1K. The base
    row's cell returns its own id; a statement that is no level returns ``None``.
    """
    parts = claim.id.split(".")
    if claim.kind != "table_cell" or len(parts) != 3 or parts[0] not in _BASE_ROWS or parts[2] not in _LEVEL_COLUMNS:
        return None
    return ".".join((parts[0], _BASE_ROWS[parts[0]], parts[2]))


def reported_effect(claim: Claim) -> RoundingInterval | None:
    """What the paper says the effect is, in the claim's unit, with its rounding interval.

    For a level in a table it is the difference to the base row; for another printed figure the figure itself; ``None``
    where nothing is printed or the cell is the base row.
    """
    base = base_row(claim)
    if base == claim.id or "value" not in claim.reported:
        return None
    return claim.printed() if base is None else claim.printed() - claims()[base].printed()
