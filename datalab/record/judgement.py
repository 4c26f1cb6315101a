"""From paired differences, one a data set, to a statement's row: estimate, interval, effect size, verdict and why."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from datalab import claims, stats
from datalab.protocol import protocol

# Of several effects that must all hold, the first found of these settles the claim.
_SEVERITY = (
    claims.OPPOSITE,
    claims.NULL,
    claims.INCONCLUSIVE,
    claims.UNTESTABLE,
    claims.SHOWN,
    claims.DIRECTION,
    claims.REPRODUCED,
)
CONFIDENCE = 0.95  # of the interval shown; the verdict is read on the protocol's own


def judge(
    claim_id: str,
    d: ArrayLike,
    side: str | None = None,
    metric: str | None = "f1",
    scale: float = 1.0,
    alpha: float | None = None,
) -> dict[str, Any]:
    """The measured column of one statement, as arguments for ``Section.claim``.

    d: the effect's differences (n,), one a data set, as fractions (``scale`` 100 shows them in %); for a table's level,
       its difference to the base row's. ``side`` as in :func:`datalab.claims.measured_verdict`; None: the side on which
       the paper's figures lie. ``alpha``: the level at which a direction is read; None: the protocol's.
    """
    alpha = protocol().statistics["alpha"] if alpha is None else alpha
    claim, d = claims.find(claim_id), np.asarray(d, dtype=float)
    n = len(d)
    if n < 2 or not np.isfinite(d).all():
        said = claims.measured_verdict(claim, estimate=None)
        return {"measured": scale * float(d.mean()) if n else None, "n": n, "verdict": said.verdict, "note": said.why}
    shown = stats.t_interval(d, CONFIDENCE)
    wide = stats.t_interval(d, 1 - alpha)
    narrow = stats.t_interval(d, protocol().measured_verdict["equivalence_confidence"])
    said = claims.measured_verdict(
        claim,
        estimate=shown.estimate,
        interval=(wide.low, wide.high),
        narrow=(narrow.low, narrow.high),
        side=side or reported_side(claim),
        metric=metric,
    )
    return {
        "measured": scale * shown.estimate,
        "low": scale * shown.low,
        "high": scale * shown.high,
        "effect_size": stats.cohens_dz(d).estimate,
        "n": n,
        "verdict": said.verdict,
        "note": said.why,
    }


def judge_level(
    claim_id: str, level: ArrayLike, base: ArrayLike, metric: str | None = "f1", scale: float = 1.0
) -> dict[str, Any]:
    """The same of a table's level (n,), judged by its difference to the base row's level; shown in units of 1/scale.

    ``measured``, ``low`` and ``high`` are the level's own mean and interval; the difference is in ``note``.
    """
    level, base = (np.asarray(values, dtype=float) for values in (level, base))
    found = judge(claim_id, level - base, metric=metric)
    own = judge(claim_id, level, "greater", metric, scale)
    found |= {name: own.get(name) for name in ("measured", "low", "high")}
    if claims.base_row(claims.find(claim_id)) != claim_id:
        found["note"] += f"; difference to the base row {(level - base).mean():+.4f}"
    return found


def reported_side(claim: claims.Claim) -> str:
    """``greater``, ``less`` or ``none``: where the effect the paper reports lies; ``greater`` if it prints none."""
    effect = claims.reported_effect(claim)
    middle = 1.0 if effect is None else float(effect.middle)
    return "none" if middle == 0 else "greater" if middle > 0 else "less"


def weakest(claim_id: str, differences: dict[str, ArrayLike], **how: Any) -> dict[str, Any]:
    """Of a claim that holds only if all of several effects do: the one least in its favour, which ``note`` names.

    An intersection-union test: each effect is tested at the full level, so that "all hold" needs no correction; "one
    is on the other side" is not corrected for their number. ``differences`` maps a name to its (n,).
    """
    found = {name: judge(claim_id, d, **how) for name, d in differences.items()}
    sign = -1 if how.get("side") in ("less", "not_greater") else 1

    def favour(name: str) -> tuple[int, float]:
        one = found[name]
        limits = [one["measured"] if one.get(end) is None else one[end] for end in ("low", "high")]
        # One effect that fails refutes the whole, however wide another's interval.
        return _SEVERITY.index(one["verdict"]), min(sign * limit for limit in limits)

    name = min(found, key=favour)
    return found[name] | {"note": f"weakest of {len(found)}: {name}; {found[name]['note']}"}
