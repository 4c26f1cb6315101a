"""The title's rules, versions 1 and 2: refuted, reproduced or inconclusive."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from datalab import stats
from datalab.errors import UserError
from datalab.ledger.verdict import INCONCLUSIVE, OPPOSITE, REPRODUCED, Verdict, sesoi
from datalab.protocol import protocol


@dataclass(frozen=True)
class Condition:
    """One condition of the title's rule: which side it serves (``needed``, ``refutes``, ``reproduces``) and whether it
    holds. ``detail`` names the figures it was read from, ``p`` is one of them where there is one."""

    role: str
    text: str
    held: bool
    detail: str
    p: float = np.nan


@dataclass(frozen=True)
class TitleVerdict:
    """``verdict`` is ``refuted``, ``reproduced`` or ``inconclusive``; ``conditions`` says which condition held."""

    verdict: str
    conditions: tuple[Condition, ...]

    def measured(self) -> Verdict:
        """The same in the ledger's words, for the measured column of ``TITLE.threshold``."""
        words = {"refuted": OPPOSITE, "reproduced": REPRODUCED, "inconclusive": INCONCLUSIVE}
        refuting = [condition.text for condition in self.conditions if condition.role == "refutes" and condition.held]
        reasons = {"refuted": refuting, "reproduced": ["every condition of the title's rule holds"]}
        return Verdict(words[self.verdict], "; ".join(reasons.get(self.verdict) or self._why_neither()))

    def _why_neither(self) -> list[str]:
        """Why the title is neither refuted nor reproduced: the conditions of each that do not hold."""
        sides = {
            "needed": "not concluded",
            "refutes": "not refuted, for it is not shown",
            "reproduces": "not reproduced",
        }
        lines = []
        for role, side in sides.items():
            missed = [f"{c.text} ({c.detail})" for c in self.conditions if c.role == role and not c.held]
            lines += [f"{side}: {', '.join(missed)}"] if missed else []
        return lines


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
    over the data sets' means. crossover: the crossover's 95 % interval as fractions of labels; ``inf`` ends mean no
    crossing on that side, ``nan`` that there is no interval. n_datasets: how many sets the
    limits rest on; below the protocol's minimum nothing is concluded.

    A condition over rates holds only if the grid has such a rate; that one of several rates refutes is not corrected
    for their number, and says so (notebook 3.4 simulates how often it errs). Raises :class:`UserError` on limits of
    another length than the rates, limits out of order, or a rate outside [0, 1).
    """
    rate, lower, upper = (np.asarray(values, dtype=float) for values in (rates, low, high))
    if rate.ndim != 1 or lower.shape != rate.shape or upper.shape != rate.shape or not rate.size:
        shapes = f"rates {rate.shape}, low {lower.shape}, high {upper.shape}"
        raise UserError(f"title verdict: {shapes}; all three must be (r,), r >= 1")
    if not (np.all(rate >= 0) and np.all(rate < 1)):
        raise UserError(f"title verdict: rates are {rate.tolist()}; they must be fractions in [0, 1), 0.15 for 15 %")
    if not np.all(lower <= upper):
        raise UserError("title verdict: some limits are missing or out of order; each rate needs low <= high")

    def at_rates(role: str, text: str, side: str, bound: float, fulfils: np.ndarray) -> Condition:
        """Refuting needs one rate where it is fulfilled; reproducing needs all of them, and at least one."""
        where = rate <= bound + 1e-9 if side == "<=" else rate >= bound - 1e-9  # a grid's 0.1 is the protocol's 0.10
        named = np.flatnonzero(where & fulfils if role == "refutes" else where)
        held = bool(named.size) and bool(fulfils[named].all())
        cells = [f"{100 * rate[i]:g} %: [{lower[i]:+.4f}, {upper[i]:+.4f}]" for i in named]
        return Condition(role, f"{text} {side} {100 * bound:g} %", held, "; ".join(cells) or "at no rate")

    rule = protocol().title_verdict
    reproduced, fewest = rule["reproduced"], rule["min_datasets"]
    target, (least, most) = reproduced["crossover_interval_contains"], reproduced["crossover_interval_inside"]
    left, right = (float(limit) for limit in crossover)
    shown = _limits(left, right, rate)
    contains, inside = f"contains {100 * target:g} %", f"lies inside ({100 * least:g}, {100 * most:g}) %"
    early = rule["refuted"]["lower_limit_above_0_at_rate_at_most"]
    late = rule["refuted"]["upper_limit_below_0_at_rate_at_least"]
    flat = reproduced["upper_limit_below_sesoi_at_rate_at_most"]
    clear, small = reproduced["lower_limit_above_0_at_rate_at_least"], upper < sesoi("f1")
    needed = Condition("needed", f"at least {fewest} data sets", n_datasets >= fewest, f"{n_datasets}")
    refutes = (
        at_rates("refutes", "influence beats random at a rate, uncorrected,", "<=", early, lower > 0),
        at_rates("refutes", "random beats influence at a rate, uncorrected,", ">=", late, upper < 0),
    )
    reproduces = (
        Condition("reproduces", f"the crossover interval {contains}", left <= target <= right, shown),
        Condition("reproduces", f"the crossover interval {inside}", least < left and right < most, shown),
        at_rates("reproduces", "the upper limit is below the smallest effect at rates", "<=", flat, small),
        at_rates("reproduces", "the lower limit is above 0 at rates", ">=", clear, lower > 0),
    )
    return _concluded(needed, refutes, reproduces, rule["otherwise"])


def title_verdict_2(
    rates: Sequence[float], d: Mapping[str, ArrayLike], crossovers: Mapping[str, tuple[float, float]]
) -> TitleVerdict:
    """The verdict by version 2's rule, read on the balanced data sets at the primary training.

    rates: (r,) noise rates as fractions. d: by reading, (sets, r) differences of influence from random, one a data set.
    crossovers: by reading, the crossover's 95 % interval, as :func:`title_verdict` takes it. Both must have exactly the
    protocol's readings. Raises :class:`UserError` where they do not, or on shapes that do not fit.
    """
    rule = protocol().protocol_2["title_verdict"]
    readings, rate = protocol().protocol_2["readings"], np.asarray(rates, dtype=float)
    if set(d) != set(readings) or set(crossovers) != set(readings):
        raise UserError(f"title verdict: readings are {sorted(d)} and {sorted(crossovers)}; they must be {readings}")
    d = {reading: np.asarray(d[reading], dtype=float) for reading in readings}
    if len({values.shape for values in d.values()}) > 1 or d[readings[0]].shape[1:] != rate.shape:
        shapes = {reading: values.shape for reading, values in d.items()}
        raise UserError(f"title verdict: d has shapes {shapes}; each must be (sets, {rate.size}), one column a rate")
    n, fewest = len(d[readings[0]]), rule["min_datasets"]
    bounds = rule["refuted"]
    early = rate <= bounds["ahead_at_rate_at_most"] + 1e-9
    late = rate >= bounds["behind_at_rate_at_least"] - 1e-9
    p = [stats.refuting_p(np.hstack([values[:, early], -values[:, late]]).T) for values in d.values()]
    target, (least, most) = rule["reproduced"].values()
    inside = f"the crossover interval contains {100 * target:g} % inside ({100 * least:g}, {100 * most:g}) %"
    refutes, reproduces = [], []
    for reading, q in zip(readings, stats.holm(p), strict=True):
        text = f"{reading}: gain at a low rate, or loss at a high one"
        refutes.append(Condition("refutes", text, bool(q < bounds["alpha"]), f"p {q:.2g} (Holm)", float(q)))
        low, high = crossovers[reading]
        held = bool(low <= target <= high and least < low and high < most)
        text = f"{reading}: {inside}"
        reproduces.append(Condition("reproduces", text, held, _limits(low, high, rate)))
    needed = Condition("needed", f"at least {fewest} balanced data sets", n >= fewest, f"{n}")
    return _concluded(needed, refutes, reproduces, rule["otherwise"])


def _limits(low: float, high: float, rates: np.ndarray) -> str:
    """A crossover's limits; beyond the rates studied they are open."""
    return f"[{stats.crossover_label(low, rates)}, {stats.crossover_label(high, rates)}]"


def _concluded(
    needed: Condition, refutes: Sequence[Condition], reproduces: Sequence[Condition], otherwise: str
) -> TitleVerdict:
    verdict = otherwise
    if needed.held and any(condition.held for condition in refutes):
        verdict = "refuted"
    elif needed.held and all(condition.held for condition in reproduces):
        verdict = "reproduced"
    return TitleVerdict(verdict, (needed, *refutes, *reproduces))
