"""The measured column: the protocol's rules (``measured_verdict`` in ``protocol.yaml``), and statements judged by them.

A verdict is read on a :class:`~datalab.stats.Measurement`, which has estimate, interval and effect size of one
quantity: there is no way to hand an interval in, or to show another estimate. Every maker of a
:class:`~datalab.record.Statement` takes where its figure stands: ``table`` and ``row`` of the section, and ``raw``,
which raw rows it rests on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from datalab.errors import UserError, did_you_mean
from datalab.ledger.claim import Claim, base_row, find, reported_effect
from datalab.ledger.rounding import RoundingInterval
from datalab.protocol import protocol
from datalab.record import Statement
from datalab.stats import SIDES, Measurement, decide, guarded, near, outside

REPRODUCED = "reproduced"
DIRECTION = "direction reproduced"
NULL = "not reproduced: null"
OPPOSITE = "not reproduced: opposite"
DIFFERENCE = "not reproduced: difference"
INCONCLUSIVE = "inconclusive"
SHOWN = "shown"
UNTESTABLE = "untestable"
NOT_RUN = "not run"
ANSWERS = (REPRODUCED, DIRECTION, NULL, OPPOSITE, DIFFERENCE, INCONCLUSIVE)
BEYOND = {-np.inf: "below all rates", np.inf: "above all rates"}  # where a crossover lies, or an end of its interval
VERDICTS = (*ANSWERS, SHOWN, UNTESTABLE, NOT_RUN)

# Of several effects that must all hold, the first found of these settles the claim.
_SEVERITY = (OPPOSITE, DIFFERENCE, NULL, INCONCLUSIVE, UNTESTABLE, SHOWN, DIRECTION, REPRODUCED)
_REFUTING = (OPPOSITE, DIFFERENCE, NULL)
CONFIDENCE = 0.95  # of the interval shown; the verdict is read on the protocol's own
Raw = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
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
    smallest: float | None = None,
    in_its_unit: bool = True,
) -> Verdict:
    """The measured column of one statement, by the protocol's rules (:func:`datalab.stats.decide`).

    estimate: the measured effect D, in the claim's unit (for a table's level: its difference to the base row's).
    interval: the (1 - alpha) confidence limits of D; ``None`` for a level with nothing to compare.
    narrow:   the 90 % limits of D (``measured_verdict.equivalence_confidence``); equivalence is read on them.
    side:     what the paper claims of D: ``greater`` or ``less`` than 0, ``either`` of these, ``none`` (no difference),
              ``not_greater``, ``not_less``.
    smallest: the smallest effect of interest, in the unit of D; ``None``: that of F1.
    in_its_unit: whether the paper's figure is of D, so that the two can be held together.

    A statement that no run can reach keeps its automatic verdict. ``verdict_ceiling`` caps the result: under
    ``direction`` a matching value is still only ``direction reproduced``. Nothing is held against the paper that its
    own figure allows: a measured effect too small to matter, where the printed one is, is only shown; a difference,
    where none is printed, must leave what rounds to none. Raises :class:`UserError` on an unknown side, or on limits
    that are not in order.
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
    smallest = sesoi("f1") if smallest is None else smallest
    settled = decide(estimate, wide, inner, side, smallest)
    kind = {"none": "none", "not_greater": "not", "not_less": "not"}.get(side, "sided")
    if in_its_unit and (effect := reported_effect(claim)) is not None:
        low, high = effect.floats()
        if settled == "holds" and kind == "sided" and (value := _value(claim, effect, inner)):
            return value
        if settled == "null" and -smallest < low and high < smallest:
            return Verdict(SHOWN, "measured and printed effect both lie inside the smallest effect of interest")
        if settled == "difference" and wide[0] <= high and low <= wide[1]:
            return Verdict(INCONCLUSIVE, "none is claimed, and the interval holds what rounds to the printed figure")
    return Verdict(*_WORDS.get((settled, kind), _OPEN))


_WORDS = {
    ("holds", "sided"): (DIRECTION, "the interval excludes 0 on the claimed side and the effect is large enough"),
    ("holds", "none"): (DIRECTION, "no difference is claimed, and the 90 % interval lies inside the smallest effect"),
    ("holds", "not"): (DIRECTION, "the limit on the side the claim rules out stays below the smallest effect"),
    ("null", "sided"): (NULL, "the 90 % interval lies inside the smallest effect of interest"),
    ("opposite", "sided"): (OPPOSITE, "the interval excludes 0 on the other side"),
    ("opposite", "not"): (OPPOSITE, "the interval excludes 0 on the side the claim rules out"),
    ("difference", "none"): (DIFFERENCE, "no difference is claimed, and the interval excludes 0"),
}
_OPEN = (INCONCLUSIVE, "neither the direction nor its absence is settled")


def excluded(claim: Claim, interval: tuple[float, float]) -> str:
    """Whether the figure that the paper prints lies outside the (1 - alpha) interval of what it is of: yes or no.

    With its rounding: a figure is outside if nothing that rounds to it is inside. An end may be infinite: an interval
    open on one side excludes what lies beyond its other end. Empty where no figure is printed or there is no interval.
    """
    effect = reported_effect(claim)
    if effect is None or np.isnan(interval).any():
        return ""
    low, high = effect.floats()
    return "yes" if outside(interval, low, high) else "no"


def _value(claim: Claim, effect: RoundingInterval, narrow: tuple[float, float] | None) -> Verdict | None:
    """``reproduced``, where the ceiling allows it and the 90 % interval is within tolerance of the reported effect."""
    if claim.verdict_ceiling != "value" or narrow is None:
        return None
    allowed = tolerance(claim, effect)
    if near(narrow, float(effect.middle), allowed):
        return Verdict(REPRODUCED, f"the direction holds and the value is within {allowed:.3g} of the reported one")
    return None


def _limits(claim: Claim, name: str, pair: tuple[float, float]) -> tuple[float, float]:
    low, high = float(pair[0]), float(pair[1])
    if np.isnan(low) or np.isnan(high) or low > high:
        raise UserError(f"claim '{claim.id}': {name} is ({low:g}, {high:g}); it must be (low, high) with low <= high")
    return low, high


def judge(
    claim_id: str,
    of: Measurement | ArrayLike,
    *,
    table: str,
    row: str | int,
    raw: Raw = None,
    side: str | None = None,
    metric: str | None = "f1",
    smallest: float | None = None,
    scale: float = 1.0,
    alpha: float | None = None,
    tests: int = 1,
    unit: str | None = None,
    beside: str = "",
) -> Statement:
    """One statement, judged by a measurement.

    of: what was measured, in fractions (``scale`` 100 shows it in %); an array (n,) is paired differences, one a data
       set. The verdict is on its distance to ``of.against``.
    side: as in :func:`measured_verdict`; None: the side on which the paper's figures lie.
    smallest: the smallest effect of interest in the unit of ``of``, where that is not the metric's: of a relative gain,
       the metric's over the mean that it is relative to.
    alpha: the level at which a direction is read; None: the protocol's. ``tests``: over how many tests this one was
       picked, by Bonferroni, the interval shown included.
    unit: what this is measured in, where the paper's figure is of another quantity; the two are then not held together.
    beside: what else there is to say, in ``why``: a count, a share, a p.
    """
    claim, of = find(claim_id), _measurement(of)
    where = {"n": of.n, "table": table, "row": row, "raw": raw}
    if not of.settled:
        made = replace(read(claim_id, None, **where), unit=unit)
        few = of.n and np.isfinite(of.estimate) and made.verdict == INCONCLUSIVE
        why = _joined("fewer than two values have no interval" if few else made.why, beside)
        return replace(made, measured=scale * of.estimate if of.n else None, why=why)
    rule = protocol()
    alpha = rule.statistics["alpha"] if alpha is None else alpha
    tails = 1 - CONFIDENCE, alpha, 1 - rule.measured_verdict["equivalence_confidence"]
    inner = of.interval(1 - tails[0] / tests)
    wide, narrow = (guarded(of, 1 - tail / tests) for tail in tails[1:])

    def limits(interval: Any, less: float = 0.0) -> tuple[float, float]:
        return scale * (interval.low - less), scale * (interval.high - less)

    verdict = measured_verdict(
        claim,
        estimate=scale * (of.estimate - of.against),
        interval=limits(wide, of.against),
        narrow=limits(narrow, of.against),
        side=side or reported_side(claim),
        smallest=scale * (sesoi(metric) if smallest is None else smallest),
        in_its_unit=unit is None,
    )
    alike = np.ptp(of.values) < 1e-12 and not claim.by_construction  # an interval without width is none
    if alike and verdict.verdict in ANSWERS:
        verdict = Verdict(INCONCLUSIVE, "its values are all alike, which tells nothing of others")
    low, high = limits(inner)
    ends = (np.format_float_positional(end, precision=3, fractional=False, trim="-") for end in limits(wide))
    read_on = f"at {100 * (1 - alpha / tests):.5g} % [{', '.join(ends)}]" if wide.low < wide.high else ""
    return Statement(
        claim_id,
        scale * of.estimate,
        low,
        high,
        effect_size=of.effect_size,
        verdict=verdict.verdict,
        why=_joined(verdict.why, read_on, f"Bonferroni over {tests}" if tests > 1 else "", beside),
        excluded=excluded(claim, limits(wide)) if unit is None and not alike else "",
        unit=unit,
        **where,
    )


def judge_level(
    claim_id: str, level: Measurement | ArrayLike, difference: Measurement | ArrayLike, **how: Any
) -> Statement:
    """A level, a score in [0, 1], judged by its difference to a base: a table's base row, or a trivial rule.

    ``measured``, ``low`` and ``high`` are the level's own, which has no effect size; the difference, with its interval
    and its d_z, is in ``why``, beside that of the paper's two levels. ``how`` is as for :func:`judge`.
    """
    claim, made = find(claim_id), judge(claim_id, difference, **how)
    own = judge(claim_id, _measurement(level, bounds=(0, 1)), **how)
    why = made.why if base_row(claim) == claim_id else f"{made.why}; {_difference(made)}"
    if base_row(claim) and (effect := reported_effect(claim)) is not None:
        why = f"{why}; the paper's {sum(effect.floats()) / 2:+.4g}"
    # What the paper prints of a table's level is held against the difference, of any other against the level itself.
    excluded = made.excluded if base_row(claim) else own.excluded
    return replace(own, effect_size=None, verdict=made.verdict, why=why, excluded=excluded)


def judge_p(claim_id: str, p: float, d: ArrayLike, **how: Any) -> Statement:
    """A statement of a p-value, of no difference between two methods; ``d`` (n,) are the paired differences.

    What the paper says is that there is a difference; it is judged by the interval of d, on whichever side that lies.
    Shown is the p, which has no interval; the difference is in ``why``.
    """
    made = judge(claim_id, d, side="either", unit="probability", **how)
    return replace(made, measured=p, low=None, high=None, effect_size=None, why=f"{made.why}; {_difference(made)}")


def judge_all(claim_id: str, differences: Mapping[str, Measurement | ArrayLike], **how: Any) -> Statement:
    """Of a claim that holds only if all of several effects do: the one that settles it, which ``why`` names.

    That is one that refutes it, whether or not another has a smaller effect; else one whose 95 % interval lies on the
    other side; else that with the furthest limit.

    "All hold" is an intersection-union test: each effect at the full level, no correction. "One is on the other side",
    or too small to matter, is picked from all of them, and so read by Bonferroni over their number. ``differences``
    maps a name to a measurement; ``how`` is as for :func:`judge`. A printed figure that one of them excludes is
    excluded.
    """
    differences = {name: _measurement(of) for name, of in differences.items()}
    made = {name: judge(claim_id, of, **how) for name, of in differences.items()}
    tests = how.get("tests", 1) * len(made)
    picked = {name: judge(claim_id, of, **{**how, "tests": tests}) for name, of in differences.items()}
    for name, statement in made.items():  # what refutes must do so though it was picked
        if statement.verdict in _REFUTING:
            made[name] = picked[name]
    sign = -1 if how.get("side") in ("less", "not_greater") else 1  # the claimed side is the positive one

    def limits(name: str) -> list[float]:
        """The shown limits of one effect's distance to what it is compared with, the lower first."""
        ends, against = (made[name].low, made[name].high), how.get("scale", 1.0) * differences[name].against
        return sorted(sign * ((made[name].measured if end is None else end) - against) for end in ends)

    def favour(name: str) -> tuple[int, bool, float]:
        # One effect that fails refutes the whole, however wide another's interval; one that is behind says more of an
        # open claim than one whose interval is merely long.
        return _SEVERITY.index(made[name].verdict), limits(name)[1] >= 0, limits(name)[0]

    name = min(made, key=favour)
    settles = f"weakest of {len(made)}: {name}"
    if made[name].verdict in _REFUTING:  # which is not always the one with the smallest effect
        settles = f"of {len(made)}, settled by {name}"
    elif made[name].verdict == INCONCLUSIVE:
        choice = "" if made[name] is picked[name] else ", with limits uncorrected for the choice"
        settles = f"of {len(made)} the least in favour, {name}{choice}"
    excluded = "yes" if any(statement.excluded == "yes" for statement in made.values()) else made[name].excluded
    return replace(made[name], why=f"{settles}; {made[name].why}", excluded=excluded)


def read(claim_id: str, estimate: float | None, **where: Any) -> Statement:
    """One statement of an estimate that has no interval; where there are units, use :func:`judge`.

    ``where`` is its ``table``, ``row``, ``raw`` and ``n``.
    """
    verdict = measured_verdict(find(claim_id), estimate=estimate)
    return Statement(claim_id, estimate, verdict=verdict.verdict, why=verdict.why, **where)


def _measurement(of: Measurement | ArrayLike, bounds: tuple[float, float] | None = None) -> Measurement:
    """A measurement as it is, or of values (n,), one a data set."""
    return of if isinstance(of, Measurement) else Measurement(np.asarray(of, dtype=float), bounds)


def _difference(made: Statement) -> str:
    limits = "" if made.low is None else f" [{made.low:+.4f}, {made.high:+.4f}], d_z {made.effect_size:+.2f}"
    return "no difference" if made.measured is None else f"difference {made.measured:+.4f}{limits}"


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))


def reported_side(claim: Claim) -> str:
    """``greater``, ``less`` or ``none``: where the effect the paper reports lies; ``greater`` if it prints none.

    ``none`` too where rounding can have made the effect: .64 against .65 claims no direction.
    """
    low, high = (1.0, 1.0) if (effect := reported_effect(claim)) is None else effect.floats()
    return "greater" if low > 0 else "less" if high < 0 else "none"
