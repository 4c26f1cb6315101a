"""The ledger of the paper's 277 statements and the two verdicts each of them gets.

The *paper* column says whether the paper agrees with itself; it is part of the ledger. The *measured* column says what
the study found; its rules are those of ``protocol.yaml``. The two are never merged.

Rates, F1 and accuracies are fractions of 1 here, as everywhere in the package.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import numpy as np
import yaml

from datalab.errors import UserError, did_you_mean
from datalab.ledger.rounding import RoundingInterval
from datalab.protocol import protocol

REPRODUCED = "reproduced"
DIRECTION = "direction reproduced"
NULL = "not reproduced: null"
OPPOSITE = "not reproduced: opposite"
INCONCLUSIVE = "inconclusive"
SHOWN = "shown"
UNTESTABLE = "untestable"
NOT_RUN = "not run"
VERDICTS = (REPRODUCED, DIRECTION, NULL, OPPOSITE, INCONCLUSIVE, SHOWN, UNTESTABLE, NOT_RUN)

PAPER_VERDICTS = ("consistent", "contradicted", "uncheckable")
STRENGTHS = ("strict", "strong", "natural")  # strongest first
SIDES = ("greater", "less", "none", "not_greater", "not_less")

_PAPER = {"consistent": "consistent", "inconsistent": "contradicted", "cannot_be_checked": "uncheckable"}
_EDGE = 1e-9  # a grid's 0.1 is the protocol's 0.10
_UNIT_OF_F1 = {"F1": 1.0, "ratio": 1.0, "pp": 100.0}  # units in which the protocol's absolute tolerance is meaningful
_BASE_ROWS = {"T1": "vanilla", "T2": "minimal", "T3": "full", "T4": "1K"}
_LEVEL_COLUMNS = ("precision", "recall", "f1", "accuracy", "baseline_f1", "ours_f1")


# --- the ledger -------------------------------------------------------------------------------------------------------


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

    @property
    def value(self) -> float | None:
        """The printed figure, ``None`` where none was printed (or an interval was)."""
        return self.reported.get("value")

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
    found = {}
    for row in yaml.safe_load(_raw())["claims"]:
        check = PaperCheck(**{key: _frozen(value) for key, value in row.pop("paper_check").items()})
        found[row["id"]] = Claim(paper_check=check, **{key: _frozen(value) for key, value in row.items()})
    return MappingProxyType(found)


def find(claim_id: str) -> Claim:
    """The statement called ``claim_id``. Raises :class:`UserError` with a suggestion for an unknown one."""
    known = claims()
    if claim_id not in known:
        close = did_you_mean(claim_id, list(known))
        raise UserError(
            f"unknown claim '{claim_id}'{close if '?' in close else '; `datalab claims` lists all of them'}"
        )
    return known[claim_id]


def _frozen(node: Any) -> Any:
    if isinstance(node, dict):
        return MappingProxyType({key: _frozen(value) for key, value in node.items()})
    return tuple(_frozen(value) for value in node) if isinstance(node, list) else node


def printed() -> dict[str, float | None]:
    """Every statement's printed figure by its id; ``None`` where the paper prints none."""
    return {claim_id: claim.value for claim_id, claim in claims().items()}


def statements() -> list[dict[str, Any]]:
    """The ledger for a record (:class:`datalab.record.study.Ledger`): each statement's words and paper column, and the
    measured verdict it has where no section measured it."""
    rows = []
    for claim in claims().values():
        paper = paper_column(claim)
        unmeasured = automatic(claim) or Verdict(NOT_RUN, "no section of this record measured it")
        rows.append(
            {
                "id": claim.id,
                "section": claim.section,
                "text": claim.text,
                "reported": claim.reported_text(),
                "unit": claim.unit,
                "paper_check": paper.verdict,
                "paper_strength": paper.strength,
                "unsupported": paper.unsupported,
                "paper_note": claim.paper_check.note,
                "test": claim.test,
                "ceiling": claim.verdict_ceiling,
                "verdict": unmeasured.verdict,
                "why": unmeasured.why,
            }
        )
    return rows


# --- the paper column -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PaperColumn:
    """Does the paper agree with itself here? ``strength`` is set for ``contradicted`` only."""

    verdict: str
    strength: str | None
    unsupported: bool

    def __str__(self) -> str:
        words = self.verdict + (f" ({self.strength})" if self.strength else "")
        return words + (", unsupported" if self.unsupported else "")


def paper_column(claim: Claim) -> PaperColumn:
    """The paper column of one statement."""
    check = claim.paper_check
    return PaperColumn(_PAPER[check.status], check.strength, claim.unsupported_in_paper)


# --- the measured column ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """One of :data:`VERDICTS` and the reason for it, in one sentence."""

    verdict: str
    why: str


def automatic(claim: Claim) -> Verdict | None:
    """The measured verdict of a statement no run can reach; ``None`` for one that a run can."""
    if claim.testability == "internal":
        return Verdict(UNTESTABLE, "it is about the paper's own text and figures: the paper column is its verdict")
    if claim.testability == "untestable":
        return Verdict(UNTESTABLE, str(claim.untestable_because))
    return None


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


def tolerance(claim: Claim, effect: RoundingInterval) -> float:
    """How far a measured effect may lie from the reported one: max(0.02 F1, 25 %) + the rounding half-width.

    The absolute part holds in units of F1 (``ratio``, ``F1``, and ``pp`` as hundredths); other units have none.
    """
    rule = protocol().measured_verdict
    absolute = rule["tolerance_f1"] * _UNIT_OF_F1.get(str(claim.unit), 0.0)
    return max(absolute, rule["tolerance_relative"] * abs(float(effect.middle))) + float(effect.half_width)


def sesoi(metric: str | None) -> float:
    """The smallest effect of interest: ``f1``, ``accuracy`` or ``relative_overhead``; 0 for ``None``."""
    if metric is None:
        return 0.0
    table = protocol().statistics["sesoi"]
    if metric not in table:
        raise UserError(f"unknown metric '{metric}'{did_you_mean(metric, list(table))}")
    return float(table[metric])


def measured_verdict(
    claim: Claim,
    *,
    estimate: float | None,
    interval: tuple[float, float] | None = None,
    narrow: tuple[float, float] | None = None,
    side: str = "greater",
    metric: str | None = "f1",
) -> Verdict:
    """The measured column of one statement, by the protocol's rules.

    estimate: the measured effect D, in the claim's unit (for a table's level: its difference to the base row's).
    interval: the (1 - alpha) confidence limits of D; ``None`` for a level with nothing to compare.
    narrow:   the 90 % limits of D (``measured_verdict.equivalence_confidence``); equivalence is read on them.
    side:     what the paper claims of D: ``greater`` or ``less`` than 0, ``none`` (no difference), ``not_greater``,
              ``not_less``.
    metric:   whose smallest effect of interest applies (:func:`sesoi`); ``None`` when D has none.

    A statement that no run can reach keeps its automatic verdict. ``verdict_ceiling`` caps the result: under
    ``direction`` a matching value is still only ``direction reproduced``. Raises :class:`UserError` on an unknown side,
    or on limits that are not in order.
    """
    if (fixed := automatic(claim)) is not None:
        return fixed
    if side not in SIDES:
        raise UserError(f"claim '{claim.id}': unknown side '{side}'{did_you_mean(side, SIDES)}")
    if estimate is None or not np.isfinite(estimate):
        return Verdict(INCONCLUSIVE, "no estimate could be formed from the rows")
    if interval is None or base_row(claim) == claim.id:
        return Verdict(SHOWN, "a level with nothing to compare it to")
    low, high = _limits(claim, "interval", interval)
    small = sesoi(metric)
    if side in ("less", "not_less"):  # mirror: below, the claimed side is the positive one
        estimate, low, high = -estimate, -high, -low
    verdict = _directed(claim, estimate, low, high, narrow, side, small)
    if verdict.verdict == DIRECTION and claim.verdict_ceiling == "value" and side in ("greater", "less"):
        verdict = _value(claim, side, narrow) or verdict
    return verdict


def _directed(
    claim: Claim,
    estimate: float,
    low: float,
    high: float,
    narrow: tuple[float, float] | None,
    side: str,
    small: float,
) -> Verdict:
    """The verdict on the direction, in the protocol's order. ``less`` and ``not_less`` arrive mirrored."""
    inner = None if narrow is None else _limits(claim, "narrow", narrow)
    equivalent = inner is not None and -small < inner[0] and inner[1] < small
    if side in ("greater", "less"):
        if low > 0 and estimate > small:
            return Verdict(DIRECTION, "the interval excludes 0 on the claimed side and the effect is large enough")
        if equivalent:
            return Verdict(NULL, "the 90 % interval lies inside the smallest effect of interest")
        if high < 0:
            return Verdict(OPPOSITE, "the interval excludes 0 on the other side")
    elif side == "none":
        if equivalent:
            return Verdict(DIRECTION, "no difference is claimed, and the 90 % interval lies inside the smallest effect")
        if low > 0 or high < 0:
            return Verdict(OPPOSITE, "no difference is claimed, and the interval excludes 0")
    else:  # not_greater, not_less
        if low > 0:
            return Verdict(OPPOSITE, "the interval excludes 0 on the side the claim rules out")
        if high < small:
            return Verdict(DIRECTION, "the limit on the side the claim rules out stays below the smallest effect")
    return Verdict(INCONCLUSIVE, "the interval settles neither the direction nor its absence")


def _value(claim: Claim, side: str, narrow: tuple[float, float] | None) -> Verdict | None:
    effect = reported_effect(claim)
    if effect is None or narrow is None:
        return None
    low, high = _limits(claim, "narrow", narrow)
    allowed = tolerance(claim, effect)
    off = (low - float(effect.middle), high - float(effect.middle))
    if -allowed <= off[0] and off[1] <= allowed:
        return Verdict(REPRODUCED, f"the direction holds and the value is within {allowed:.3g} of the reported one")
    return None


def _limits(claim: Claim, name: str, pair: tuple[float, float]) -> tuple[float, float]:
    low, high = float(pair[0]), float(pair[1])
    if np.isnan(low) or np.isnan(high) or low > high:
        raise UserError(f"claim '{claim.id}': {name} is ({low:g}, {high:g}); it must be (low, high) with low <= high")
    return low, high


# --- the title --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Condition:
    """One condition of the title's rule: which side it serves (``needed``, ``refutes``, ``reproduces``) and whether it
    holds. ``detail`` names the figures it was read from."""

    role: str
    text: str
    held: bool
    detail: str


@dataclass(frozen=True)
class TitleVerdict:
    """``verdict`` is ``refuted``, ``reproduced`` or ``inconclusive``; ``conditions`` says which condition held."""

    verdict: str
    conditions: tuple[Condition, ...]

    def measured(self) -> Verdict:
        """The same in the ledger's words, for the measured column of ``TITLE.threshold``."""
        words = {"refuted": OPPOSITE, "reproduced": REPRODUCED, "inconclusive": INCONCLUSIVE}
        failed = [condition.text for condition in self.conditions if condition.role != "refutes" and not condition.held]
        refuting = [condition.text for condition in self.conditions if condition.role == "refutes" and condition.held]
        reason = "; ".join(refuting if self.verdict == "refuted" else [f"not held: {text}" for text in failed])
        return Verdict(words[self.verdict], reason or "every condition of the title's rule holds")


def title_verdict(
    rates: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    crossover: tuple[float, float],
    *,
    n_datasets: int,
) -> TitleVerdict:
    """The verdict on the paper's title, read on the primary cell alone (protocol: ``title_verdict``).

    rates: (r,) noise rates as fractions. low, high: (r,) 95 % t-interval limits of d(rate) = F1(influence) - F1(random)
    over the data sets' means. crossover: the crossover's 95 % interval as fractions of labels; ``inf`` ends mean that
    the bootstrap found no crossing on that side, ``nan`` that there is no interval. n_datasets: how many sets the
    limits rest on; below the protocol's minimum nothing is concluded.

    A condition over rates holds only if the grid has such a rate. Raises :class:`UserError` on limits of another length
    than the rates, limits out of order, or a rate outside [0, 1).
    """
    rule, small = protocol().title_verdict, sesoi("f1")
    rate, lower, upper = (np.asarray(values, dtype=float) for values in (rates, low, high))
    if rate.ndim != 1 or lower.shape != rate.shape or upper.shape != rate.shape or not rate.size:
        raise UserError(
            f"title verdict: rates {rate.shape}, low {lower.shape}, high {upper.shape}; all three must be (r,), r >= 1"
        )
    if not (np.all(rate >= 0) and np.all(rate < 1)):
        raise UserError(f"title verdict: rates are {rate.tolist()}; they must be fractions in [0, 1), 0.15 for 15 %")
    if not np.all(lower <= upper):
        raise UserError("title verdict: some limits are missing or out of order; each rate needs low <= high")

    cells = [f"{100 * r:g} %: [{a:+.4f}, {b:+.4f}]" for r, a, b in zip(rate, lower, upper, strict=True)]

    def over(role: str, text: str, where: np.ndarray, fulfils: np.ndarray) -> Condition:
        """Refuting needs one rate where it is fulfilled; reproducing needs all of them, and at least one."""
        named = np.flatnonzero(where & fulfils if role == "refutes" else where)
        held = bool(named.size) and bool(fulfils[named].all())
        return Condition(role, text, held, "; ".join(cells[i] for i in named) or "at no rate")

    early = rule["refuted"]["lower_limit_above_0_at_rate_at_most"]
    late = rule["refuted"]["upper_limit_below_0_at_rate_at_least"]
    target = rule["reproduced"]["crossover_interval_contains"]
    inside = rule["reproduced"]["crossover_interval_inside"]
    flat = rule["reproduced"]["upper_limit_below_sesoi_at_rate_at_most"]
    clear = rule["reproduced"]["lower_limit_above_0_at_rate_at_least"]
    left, right = (float(limit) for limit in crossover)
    shown = f"[{100 * left:.3g} %, {100 * right:.3g} %]"
    refutes = (
        over("refutes", f"influence beats random at a rate <= {100 * early:g} %", rate <= early + _EDGE, lower > 0),
        over("refutes", f"random beats influence at a rate >= {100 * late:g} %", rate >= late - _EDGE, upper < 0),
    )
    needed = Condition(
        "needed", f"at least {rule['min_datasets']} data sets", n_datasets >= rule["min_datasets"], f"{n_datasets}"
    )
    reproduces = (
        Condition("reproduces", f"the crossover interval contains {100 * target:g} %", left <= target <= right, shown),
        Condition(
            "reproduces",
            f"the crossover interval lies inside ({100 * inside[0]:g}, {100 * inside[1]:g}) %",
            inside[0] < left and right < inside[1],
            shown,
        ),
        over(
            "reproduces",
            f"the upper limit is below the smallest effect at rates <= {100 * flat:g} %",
            rate <= flat + _EDGE,
            upper < small,
        ),
        over(
            "reproduces", f"the lower limit is above 0 at rates >= {100 * clear:g} %", rate >= clear - _EDGE, lower > 0
        ),
    )
    conditions = (needed, *refutes, *reproduces)
    verdict = str(rule["otherwise"])
    if needed.held and any(condition.held for condition in refutes):
        verdict = "refuted"
    elif needed.held and all(condition.held for condition in reproduces):
        verdict = "reproduced"
    return TitleVerdict(verdict, conditions)
