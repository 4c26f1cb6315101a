"""From what was measured to a statement for the record: estimate, interval, effect size, verdict and why.

A verdict is read on a :class:`~datalab.stats.Measurement`, which has the three of one quantity: there is no way to hand
an interval in, or to show another estimate. Every maker of a :class:`~datalab.record.Statement` takes where its figure
stands: ``table`` and ``row`` of the section, and ``raw``, which raw rows it rests on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from datalab.ledger import verdict as rules
from datalab.ledger.claim import Claim, base_row, find, reported_effect
from datalab.protocol import protocol
from datalab.record import Statement
from datalab.stats import Measurement

# Of several effects that must all hold, the first found of these settles the claim.
_SEVERITY = (
    rules.OPPOSITE,
    rules.DIFFERENCE,
    rules.NULL,
    rules.INCONCLUSIVE,
    rules.UNTESTABLE,
    rules.SHOWN,
    rules.DIRECTION,
    rules.REPRODUCED,
)
_REFUTING = (rules.OPPOSITE, rules.DIFFERENCE, rules.NULL)
CONFIDENCE = 0.95  # of the interval shown; the verdict is read on the protocol's own
Raw = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


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
    in_its_unit: bool = True,
    beside: str = "",
) -> Statement:
    """One statement, judged by a measurement.

    of: what was measured, in fractions (``scale`` 100 shows it in %); an array (n,) is paired differences, one a data
       set. The verdict is on its distance to ``of.against``.
    side: as in :func:`~datalab.ledger.verdict.measured_verdict`; None: the side on which the paper's figures lie.
    smallest: the smallest effect of interest in the unit of ``of``, where that is not the metric's: of a relative gain,
       the metric's over the mean that it is relative to.
    alpha: the level at which a direction is read; None: the protocol's. ``tests``: over how many tests this one was
       picked, by Bonferroni, the interval shown included.
    in_its_unit: whether this is the quantity that the paper's figure is of, so that the two can be held together.
    beside: what else there is to say, in ``why``: a count, a share, a p.
    """
    claim, of = find(claim_id), of if isinstance(of, Measurement) else Measurement(np.asarray(of, dtype=float))
    where = {"n": of.n, "table": table, "row": row, "raw": raw}
    if not of.settled:
        made = read(claim_id, None, **where)
        return replace(made, measured=scale * of.estimate if of.n else None, why=_joined(made.why, beside))
    rule = protocol()
    alpha = rule.statistics["alpha"] if alpha is None else alpha
    tails = 1 - CONFIDENCE, alpha, 1 - rule.measured_verdict["equivalence_confidence"]
    inner, wide, narrow = (of.interval(1 - tail / tests) for tail in tails)

    def limits(interval: Any, less: float = 0.0) -> tuple[float, float]:
        return scale * (interval.low - less), scale * (interval.high - less)

    verdict = rules.measured_verdict(
        claim,
        estimate=scale * (of.estimate - of.against),
        interval=limits(wide, of.against),
        narrow=limits(narrow, of.against),
        side=side or reported_side(claim),
        smallest=scale * (rules.sesoi(metric) if smallest is None else smallest),
    )
    low, high = limits(inner)
    return Statement(
        claim_id,
        scale * of.estimate,
        low,
        high,
        effect_size=of.effect_size,
        verdict=verdict.verdict,
        why=_joined(verdict.why, f"Bonferroni over {tests}" if tests > 1 else "", beside),
        excluded=rules.excluded(claim, limits(wide)) if in_its_unit else "",
        **where,
    )


def judge_level(
    claim_id: str, level: Measurement | ArrayLike, difference: Measurement | ArrayLike, **how: Any
) -> Statement:
    """A level, a score in [0, 1], judged by its difference to a base: a table's base row, or a trivial rule.

    ``measured``, ``low`` and ``high`` are the level's own, which has no effect size; the difference, with its interval
    and its d_z, is in ``why``. ``how`` is as for :func:`judge`.
    """
    claim, made = find(claim_id), judge(claim_id, difference, **how)
    level = level if isinstance(level, Measurement) else Measurement(np.asarray(level, dtype=float), bounds=(0, 1))
    own = judge(claim_id, level, **how)
    why = made.why if base_row(claim) == claim_id else f"{made.why}; {_difference(made)}"
    # What the paper prints of a table's level is held against the difference, of any other against the level itself.
    excluded = made.excluded if base_row(claim) else own.excluded
    return replace(own, effect_size=None, verdict=made.verdict, why=why, excluded=excluded)


def judge_p(claim_id: str, p: float, d: ArrayLike, **how: Any) -> Statement:
    """A statement of a p-value, of no difference between two methods; ``d`` (n,) are the paired differences.

    What the paper says is that there is a difference; it is judged by the interval of d, on whichever side that lies.
    Shown is the p, which has no interval; the difference is in ``why``.
    """
    d = np.asarray(d, dtype=float)
    made = judge(claim_id, d, side="less" if d.mean() < 0 else "greater", in_its_unit=False, **how)
    return replace(made, measured=p, low=None, high=None, effect_size=None, why=f"{made.why}; {_difference(made)}")


def judge_all(claim_id: str, differences: Mapping[str, Measurement | ArrayLike], **how: Any) -> Statement:
    """Of a claim that holds only if all of several effects do: the one least in its favour, which ``why`` names.

    "All hold" is an intersection-union test: each effect at the full level, no correction. "One is on the other side",
    or too small to matter, is picked from all of them, and so read by Bonferroni over their number. ``differences``
    maps a name to a measurement; ``how`` is as for :func:`judge`.
    """
    made = {name: judge(claim_id, of, **how) for name, of in differences.items()}
    tests = how.get("tests", 1) * len(made)
    picked = {name: judge(claim_id, of, **{**how, "tests": tests}) for name, of in differences.items()}
    for name, statement in made.items():  # what refutes must do so though it was picked
        if statement.verdict in _REFUTING:
            made[name] = picked[name]
    sign = -1 if how.get("side") in ("less", "not_less") else 1

    def favour(name: str) -> tuple[int, float]:
        limits = [made[name].measured if end is None else end for end in (made[name].low, made[name].high)]
        # One effect that fails refutes the whole, however wide another's interval.
        return _SEVERITY.index(made[name].verdict), min(sign * limit for limit in limits)

    name = min(made, key=favour)
    return replace(made[name], why=f"weakest of {len(made)}: {name}; {made[name].why}")


def read(
    claim_id: str,
    estimate: float | None,
    interval: tuple[float, float] | None = None,
    *,
    table: str | None = None,
    row: str | int | None = None,
    raw: Raw = None,
    n: int | str | None = None,
    **how: Any,
) -> Statement:
    """One statement of an estimate and the (1 - alpha) interval of the same quantity; where there are units, use
    :func:`judge`. ``how`` (``narrow``, ``side``, ``metric``) is as for
    :func:`~datalab.ledger.verdict.measured_verdict`.
    """
    verdict = rules.measured_verdict(find(claim_id), estimate=estimate, interval=interval, **how)
    low, high = interval or (None, None)
    where = {"n": n, "table": table, "row": row, "raw": raw}
    return Statement(claim_id, estimate, low, high, verdict=verdict.verdict, why=verdict.why, **where)


def show(claim_id: str, measured: float | None, **where: Any) -> Statement:
    """A level with nothing to compare it to; ``where`` is as for :func:`read`."""
    return read(claim_id, measured, **where)


def _difference(made: Statement) -> str:
    limits = "" if made.low is None else f" [{made.low:+.4f}, {made.high:+.4f}], d_z {made.effect_size:+.2f}"
    return "no difference" if made.measured is None else f"difference {made.measured:+.4f}{limits}"


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))


def reported_side(claim: Claim) -> str:
    """``greater``, ``less`` or ``none``: where the effect the paper reports lies; ``greater`` if it prints none."""
    effect = reported_effect(claim)
    middle = 1.0 if effect is None else float(effect.middle)
    return "none" if middle == 0 else "greater" if middle > 0 else "less"
