"""The measured column: the protocol's rules (``measured_verdict`` in ``protocol.yaml``) for one statement."""

from dataclasses import dataclass

import numpy as np

from datalab.errors import UserError, did_you_mean
from datalab.ledger.claim import Claim, base_row, reported_effect
from datalab.ledger.rounding import RoundingInterval
from datalab.protocol import protocol
from datalab.stats import SIDES, decide

REPRODUCED = "reproduced"
DIRECTION = "direction reproduced"
NULL = "not reproduced: null"
OPPOSITE = "not reproduced: opposite"
DIFFERENCE = "not reproduced: difference"
INCONCLUSIVE = "inconclusive"
SHOWN = "shown"
UNTESTABLE = "untestable"
NOT_RUN = "not run"
VERDICTS = (REPRODUCED, DIRECTION, NULL, OPPOSITE, DIFFERENCE, INCONCLUSIVE, SHOWN, UNTESTABLE, NOT_RUN)

_UNIT_OF_F1 = {"F1": 1.0, "ratio": 1.0, "pp": 100.0}  # units in which the protocol's absolute tolerance is meaningful


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
    smallest: float | None = None,
) -> Verdict:
    """The measured column of one statement, by the protocol's rules (:func:`datalab.stats.decide`).

    estimate: the measured effect D, in the claim's unit (for a table's level: its difference to the base row's).
    interval: the (1 - alpha) confidence limits of D; ``None`` for a level with nothing to compare.
    narrow:   the 90 % limits of D (``measured_verdict.equivalence_confidence``); equivalence is read on them.
    side:     what the paper claims of D: ``greater`` or ``less`` than 0, ``none`` (no difference), ``not_greater``,
              ``not_less``.
    metric:   whose smallest effect of interest applies (:func:`sesoi`); ``None`` when D has none.
    smallest: that effect itself, where D is not in the metric's unit.

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
    wide = _limits(claim, "interval", interval)
    inner = None if narrow is None else _limits(claim, "narrow", narrow)
    settled = decide(estimate, wide, inner, side, sesoi(metric) if smallest is None else smallest)
    if settled == "holds" and side in ("greater", "less") and (value := _value(claim, inner)):
        return value
    return Verdict(*_WORDS[settled, "none" if side == "none" else side.partition("_")[0]])


_WORDS = {
    ("holds", "greater"): (DIRECTION, "the interval excludes 0 on the claimed side and the effect is large enough"),
    ("holds", "none"): (DIRECTION, "no difference is claimed, and the 90 % interval lies inside the smallest effect"),
    ("holds", "not"): (DIRECTION, "the limit on the side the claim rules out stays below the smallest effect"),
    ("null", "greater"): (NULL, "the 90 % interval lies inside the smallest effect of interest"),
    ("opposite", "greater"): (OPPOSITE, "the interval excludes 0 on the other side"),
    ("opposite", "not"): (OPPOSITE, "the interval excludes 0 on the side the claim rules out"),
    ("difference", "none"): (DIFFERENCE, "no difference is claimed, and the interval excludes 0"),
}
_WORDS |= {(settled, "less"): words for (settled, side), words in _WORDS.items() if side == "greater"}
_OPEN = (INCONCLUSIVE, "the interval settles neither the direction nor its absence")
_WORDS |= {("open", side): _OPEN for side in ("greater", "less", "none", "not")}


def excluded(claim: Claim, interval: tuple[float, float]) -> str:
    """Whether the figure that the paper prints lies outside the (1 - alpha) interval of what it is of: yes or no.

    With its rounding: a figure is outside if nothing that rounds to it is inside. Empty where none is printed.
    """
    effect = reported_effect(claim)
    if effect is None or not np.isfinite(interval).all():
        return ""
    low, high = effect.floats()
    return "yes" if high < interval[0] or low > interval[1] else "no"


def _value(claim: Claim, narrow: tuple[float, float] | None) -> Verdict | None:
    """``reproduced``, where the ceiling allows it and the 90 % interval is within tolerance of the reported effect."""
    effect = reported_effect(claim)
    if claim.verdict_ceiling != "value" or effect is None or narrow is None:
        return None
    allowed, middle = tolerance(claim, effect), float(effect.middle)
    if -allowed <= narrow[0] - middle and narrow[1] - middle <= allowed:
        return Verdict(REPRODUCED, f"the direction holds and the value is within {allowed:.3g} of the reported one")
    return None


def _limits(claim: Claim, name: str, pair: tuple[float, float]) -> tuple[float, float]:
    low, high = float(pair[0]), float(pair[1])
    if np.isnan(low) or np.isnan(high) or low > high:
        raise UserError(f"claim '{claim.id}': {name} is ({low:g}, {high:g}); it must be (low, high) with low <= high")
    return low, high
