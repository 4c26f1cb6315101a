"""From what was measured to a statement for the record: estimate, interval, effect size, verdict and why.

Every maker of a :class:`~datalab.record.Statement` takes where its figure stands: ``table`` and ``row`` of the section,
and ``raw``, which raw rows it rests on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from datalab import stats
from datalab.ledger import verdict as rules
from datalab.ledger.claim import Claim, base_row, find, reported_effect
from datalab.protocol import protocol
from datalab.record import Statement

# Of several effects that must all hold, the first found of these settles the claim.
_SEVERITY = (
    rules.OPPOSITE,
    rules.NULL,
    rules.INCONCLUSIVE,
    rules.UNTESTABLE,
    rules.SHOWN,
    rules.DIRECTION,
    rules.REPRODUCED,
)
CONFIDENCE = 0.95  # of the interval shown; the verdict is read on the protocol's own
Raw = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


def judge(
    claim_id: str,
    d: ArrayLike,
    *,
    table: str,
    row: str | int,
    raw: Raw = None,
    side: str | None = None,
    metric: str | None = "f1",
    scale: float = 1.0,
    alpha: float | None = None,
    shown: float | str | None = None,
) -> Statement:
    """One statement, judged by paired differences.

    d: the effect's differences (n,), one a data set, as fractions (``scale`` 100 shows them in %); for a table's level,
       its difference to the base row's. ``side`` as in :func:`~datalab.ledger.verdict.measured_verdict`; None: the side
       on which the paper's figures lie. ``alpha``: the level at which a direction is read; None: the protocol's.
       ``shown`` stands in the record in place of the mean difference, which ``why`` then gives.
    """
    claim, d = find(claim_id), np.asarray(d, dtype=float)
    where = {"n": len(d), "table": table, "row": row, "raw": raw}
    if len(d) < 2 or not np.isfinite(d).all():
        return _in_place(read(claim_id, None, measured=scale * float(d.mean()) if len(d) else None, **where), shown)
    rule = protocol()
    alpha = rule.statistics["alpha"] if alpha is None else alpha
    inner, wide, narrow = (
        stats.t_interval(d, confidence)
        for confidence in (CONFIDENCE, 1 - alpha, rule.measured_verdict["equivalence_confidence"])
    )
    made = read(
        claim_id,
        inner.estimate,
        (wide.low, wide.high),
        narrow=(narrow.low, narrow.high),
        side=side or reported_side(claim),
        metric=metric,
        measured=scale * inner.estimate,
        limits=(scale * inner.low, scale * inner.high),
        effect_size=stats.cohens_dz(d).estimate,
        **where,
    )
    return _in_place(made, shown)


def _in_place(made: Statement, shown: float | str | None) -> Statement:
    """With ``shown`` (where it is not None) in place of the mean difference, which ``why`` then gives."""
    if shown is None:
        return made
    why = f"{made.why}; mean difference {made.measured:+.4f}"
    return replace(made, measured=shown, low=None, high=None, why=why)


def judge_level(claim_id: str, level: ArrayLike, base: ArrayLike, *, scale: float = 1.0, **how: Any) -> Statement:
    """A table's level (n,), judged by its difference to the base row's level; shown in units of 1/scale.

    ``measured``, ``low`` and ``high`` are the level's own mean and interval; the difference is in ``why``. ``how``
    (``table``, ``row``, ``raw``, ``metric``) is as for :func:`judge`.
    """
    level, base = (np.asarray(values, dtype=float) for values in (level, base))
    made = judge(claim_id, level - base, **how)
    own = judge(claim_id, level, side="greater", scale=scale, **how)
    why = made.why
    if base_row(find(claim_id)) != claim_id:
        why += f"; difference to the base row {(level - base).mean():+.4f}"
    return replace(made, measured=own.measured, low=own.low, high=own.high, why=why)


def judge_all(claim_id: str, differences: Mapping[str, ArrayLike], **how: Any) -> Statement:
    """Of a claim that holds only if all of several effects do: the one least in its favour, which ``why`` names.

    An intersection-union test: each effect is tested at the full level, so that "all hold" needs no correction; "one
    is on the other side" is not corrected for their number. ``differences`` maps a name to its (n,); ``how`` is as for
    :func:`judge`.
    """
    shown = how.pop("shown", None)
    made = {name: judge(claim_id, d, **how) for name, d in differences.items()}
    sign = -1 if how.get("side") in ("less", "not_greater") else 1

    def favour(name: str) -> tuple[int, float]:
        limits = [made[name].measured if end is None else end for end in (made[name].low, made[name].high)]
        # One effect that fails refutes the whole, however wide another's interval.
        return _SEVERITY.index(made[name].verdict), min(sign * limit for limit in limits)

    name = min(made, key=favour)
    return _in_place(replace(made[name], why=f"weakest of {len(made)}: {name}; {made[name].why}"), shown)


def read(
    claim_id: str,
    estimate: float | None,
    interval: tuple[float, float] | None = None,
    *,
    table: str | None = None,
    row: str | int | None = None,
    raw: Raw = None,
    n: int | str | None = None,
    effect_size: float | None = None,
    measured: float | str | None = None,
    limits: tuple[float, float] | None = None,
    **how: Any,
) -> Statement:
    """One statement, judged by an estimate and the (1 - alpha) interval it was given.

    ``how`` (``narrow``, ``side``, ``metric``) is as for :func:`~datalab.ledger.verdict.measured_verdict`;
    ``measured`` and ``limits`` stand in the record in place of ``estimate`` and ``interval``.
    """
    verdict = rules.measured_verdict(find(claim_id), estimate=estimate, interval=interval, **how)
    low, high = limits or interval or (None, None)
    return Statement(
        claim_id,
        estimate if measured is None else measured,
        low,
        high,
        effect_size,
        n,
        verdict.verdict,
        verdict.why,
        table,
        row,
        raw,
    )


def show(claim_id: str, measured: float, **where: Any) -> Statement:
    """A level with nothing to compare it to; ``where`` is as for :func:`read`."""
    return read(claim_id, measured, **where)


def reported_side(claim: Claim) -> str:
    """``greater``, ``less`` or ``none``: where the effect the paper reports lies; ``greater`` if it prints none."""
    effect = reported_effect(claim)
    middle = 1.0 if effect is None else float(effect.middle)
    return "none" if middle == 0 else "greater" if middle > 0 else "less"
