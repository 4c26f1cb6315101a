"""What an estimate and its two intervals settle: the one rule by which every verdict is read, and its level simulated.

``side`` is what is claimed of an effect D: ``greater`` or ``less`` than 0, ``none`` (no difference), ``not_greater``,
``not_less``. ``small`` is the smallest effect of interest, in the unit of D; 0 where there is none.
"""

SIDES = ("greater", "less", "none", "not_greater", "not_less")
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
