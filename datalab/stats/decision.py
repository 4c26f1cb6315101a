"""What an estimate and its two intervals settle: the one rule by which every verdict is read, and its level simulated.

``side`` is what is claimed of an effect D: ``greater`` or ``less`` than 0, ``either`` of these, ``none`` (no
difference), ``not_greater``, ``not_less``. ``small`` is the smallest effect of interest, in the unit of D; 0 where
there is none.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datalab.stats.multiplicity import bonferroni
from datalab.stats.paired import t_test

SIDES = ("greater", "less", "either", "none", "not_greater", "not_less")
HOLDS, NULL, OPPOSITE, DIFFERENCE, OPEN = ("holds", "null", "opposite", "difference", "open")
Limits = tuple[float, float]


def decide(estimate: float, wide: Limits, narrow: Limits | None, side: str, small: float) -> str:
    """What is settled of the claim.

    wide:   the (1 - alpha) limits of D, on which a direction is read: ``HOLDS`` where they exclude 0 on the claimed
            side and ``estimate`` is beyond ``small``; ``OPPOSITE`` where they exclude it on the other.
    narrow: the limits on which equivalence is read: ``NULL`` where they lie inside (-small, small). Where no difference
            is claimed, that is ``HOLDS``, and wide limits that exclude 0 are a ``DIFFERENCE``.

    Anything else is ``OPEN``.
    """
    (low, high), sign = wide, 1
    if side == "either":
        side = "less" if estimate < 0 else "greater"
    if side in ("less", "not_less"):  # mirror: below, the claimed side is the positive one
        sign, low, high = -1, -high, -low
    equivalent = narrow is not None and -small < narrow[0] and narrow[1] < small
    if side in ("greater", "less"):
        if low > 0 and sign * estimate > small:
            return HOLDS
        return NULL if equivalent else OPPOSITE if high < 0 else OPEN
    if side == "none":
        return HOLDS if equivalent else DIFFERENCE if low > 0 or high < 0 else OPEN
    return OPPOSITE if low > 0 else HOLDS if high < small else OPEN


def near(narrow: Limits, value: float, tolerance: float) -> bool:
    """Whether D is shown to be a printed ``value``: the limits for equivalence lie within ``tolerance`` of it."""
    return -tolerance <= narrow[0] - value and narrow[1] - value <= tolerance


def outside(wide: Limits, low: float, high: float) -> bool:
    """Whether a printed figure, anything from ``low`` to ``high``, is excluded: none of it lies inside the limits."""
    return high < wide[0] or low > wide[1]


def refuting_p(d: ArrayLike) -> NDArray[np.float64]:
    """The smallest one-sided p, by Bonferroni, of a mean above 0 among tests of d (..., tests, units): (...).

    The title's version 2 reads it of d at low noise rates and of -d at high ones. 1 where there is no test; units that
    do not vary say nothing.
    """
    d = np.asarray(d, dtype=float)
    if not d.shape[-2]:
        return np.ones(d.shape[:-2])
    two_sided = np.nan_to_num(t_test(d).p, nan=1.0)
    return bonferroni(np.where(d.mean(axis=-1) > 0, two_sided / 2, 1 - two_sided / 2)).min(axis=-1)
