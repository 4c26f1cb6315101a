"""From paired differences, one a data set, to a statement's row: estimate, interval, effect size, verdict and why."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from datalab import claims, stats
from datalab.protocol import protocol

CONFIDENCE = 0.95  # of the interval shown; the verdict is read on the protocol's own


def judge(claim_id: str, d: ArrayLike, side: str | None = None, metric: str | None = "f1") -> dict[str, Any]:
    """The measured column of one statement, as arguments for ``Section.claim``.

    d: the effect's differences (n,), one a data set, as fractions; for a table's level, its difference to the base
       row's. ``side`` as in :func:`datalab.claims.measured_verdict`; None: the side on which the paper's figures lie.
    """
    claim, d = claims.find(claim_id), np.asarray(d, dtype=float)
    n = len(d)
    if n < 2 or not np.isfinite(d).all():
        said = claims.measured_verdict(claim, estimate=None)
        return {"measured": float(d.mean()) if n else None, "n": n, "verdict": said.verdict, "note": said.why}
    shown = stats.t_interval(d, CONFIDENCE)
    wide = stats.t_interval(d, 1 - protocol().statistics["alpha"])
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
        "measured": shown.estimate,
        "low": shown.low,
        "high": shown.high,
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
    own = judge(claim_id, level, "greater", metric)
    found |= {name: None if own.get(name) is None else scale * own[name] for name in ("measured", "low", "high")}
    if claims.base_row(claims.find(claim_id)) != claim_id:
        found["note"] += f"; difference to the base row {(level - base).mean():+.4f}"
    return found


def reported_side(claim: claims.Claim) -> str:
    """``greater``, ``less`` or ``none``: where the effect lies that the paper reports; ``greater`` if it prints none."""
    effect = claims.reported_effect(claim)
    middle = 1.0 if effect is None else float(effect.middle)
    return "none" if middle == 0 else "greater" if middle > 0 else "less"
