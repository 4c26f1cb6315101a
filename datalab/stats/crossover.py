"""At which rate does a rising difference cross zero? An isotonic fit, its first zero, and what the data leave open.

Conventions. ``rates (R,)`` rise strictly, in the caller's unit (shares here). A difference d > 0 speaks for the method.
The fit is the least-squares non-decreasing one, equal weights, linear between rates. A crossover is a float:

* a rate: the smallest at which the fit is 0;
* ``-inf``: "always better": the fit is above 0 at the smallest rate already, so it crosses below it, if anywhere;
* ``+inf``: "never better": the fit is nowhere above 0, up to the largest rate (0 everywhere counts as never).

Infinities order correctly, so a quantile of crossovers needs no special case; nan never appears.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from datalab.errors import UserError
from datalab.labels import dense
from datalab.protocol import protocol
from datalab.stats.paired import Interval, t_interval

ALWAYS, NEVER = -np.inf, np.inf


class CrossoverBootstrap(NamedTuple):
    """A crossover with its interval. ``low`` may be -inf and ``high`` inf: open towards that side.

    ``p_always`` and ``p_never`` are the shares of resamples in which the method is always, never better over the
    rates studied. ``draws (resamples,)`` are the resampled crossovers.
    """

    estimate: float
    low: float
    high: float
    p_always: float
    p_never: float
    sets: int
    draws: np.ndarray


def isotonic(y: ArrayLike) -> np.ndarray:
    """The least-squares non-decreasing fit to each row of ``y (..., R)``, equal weights.

    Equivalent to ``sklearn.isotonic.isotonic_regression`` row by row, for thousands of short rows at once: by the
    max-min formula fit_i = max_{a<=i} min_{b>=i} mean(y_a..y_b) (Robertson, Wright & Dykstra 1988, th. 1.4.4), in
    O(R^2) memory a row.
    """
    y = np.asarray(y, dtype=float)
    size = y.shape[-1]
    total = np.concatenate([np.zeros((*y.shape[:-1], 1)), np.cumsum(y, axis=-1)], axis=-1)
    fit = np.full(y.shape, -np.inf)
    for a in range(size):
        means = (total[..., a + 1 :] - total[..., a : a + 1]) / np.arange(1, size - a + 1)
        least = np.minimum.accumulate(means[..., ::-1], axis=-1)[..., ::-1]
        np.maximum(fit[..., a:], least, out=fit[..., a:])
    return fit


def crossover(rates: ArrayLike, d_mean: ArrayLike) -> float | np.ndarray:
    """The crossover of mean differences ``d_mean (..., R)`` over ``rates (R,)``; see the module for its conventions.

    Raises:
        UserError: rates that do not rise, lengths that differ, values that are not finite.
    """
    rates, d_mean = _checked(rates, d_mean)
    crossing = _first_zero(rates, isotonic(d_mean))
    return float(crossing) if crossing.ndim == 0 else crossing


def crossover_label(value: float, rates: ArrayLike) -> str:
    """A crossover for a table: ``"14.2 %"``, ``"< 0 %"`` (always better) or ``"> 40 %"`` (never better)."""
    if value == ALWAYS:
        return f"< {100 * np.min(rates):g} %"
    if value == NEVER:
        return f"> {100 * np.max(rates):g} %"
    return f"{100 * value:.1f} %"


def crossover_bootstrap(
    d: ArrayLike,
    rates: ArrayLike,
    rng: np.random.Generator,
    resamples: int | None = None,
    confidence: float | None = None,
) -> CrossoverBootstrap:
    """The crossover of ``d (sets, seeds, R)``: its interval over the data sets, and a two-level bootstrap of it.

    The interval holds every rate at which the sets' mean difference may be 0: ``low`` is the crossover of the upper
    t-limits of d over the rates, ``high`` that of the lower (Fieller's inversion of a test; the isotonic fit keeps
    order, so the estimate lies between). It is studentised and has no random part: two tables give one crossover one
    interval, and ``high`` is below a rate where the t-interval of d there lies above 0. A percentile interval of the
    draws covers some 90 % at 15 sets, by this study's slope (notebook 3.4).

    In the draws the data sets vary, drawn with replacement, then for every set drawn its seeds, with replacement and
    anew; a seed's whole curve over the rates stays together, since its rates share splits and initial weights.

    Args:
        resamples, confidence: the protocol's (2,000, 0.95) when None.

    Raises:
        UserError: a shape other than (sets, seeds, rates), fewer than 2 sets, rates that do not rise, nan or inf.
    """
    rules = protocol().crossover
    resamples = rules["resamples"] if resamples is None else int(resamples)
    confidence = rules["confidence"] if confidence is None else confidence
    rates, d = _checked(rates, d)
    if d.ndim != 3 or d.shape[0] < 2 or d.shape[1] < 1:
        raise UserError(f"d: shape {d.shape} will not do; it needs (sets, seeds, rates) with at least 2 sets")
    if resamples < 1 or not 0 < confidence < 1:
        raise UserError(f"resamples, confidence: {resamples}, {confidence}; use at least 1, and a number in (0, 1)")
    sets, seeds, _ = d.shape
    # Resampling is a matter of weights: how often each (set, seed) was drawn, and then one matrix product.
    drawn = rng.integers(0, sets, (resamples, sets, 1)) * seeds + rng.integers(0, seeds, (resamples, sets, seeds))
    flat = (drawn + sets * seeds * np.arange(resamples)[:, None, None]).ravel()
    weights = np.bincount(flat, minlength=resamples * sets * seeds).reshape(resamples, sets * seeds) / (sets * seeds)
    draws = _first_zero(rates, isotonic(weights @ d.reshape(sets * seeds, -1)))
    estimate, low, high = _with_limits(rates, d, confidence)
    return CrossoverBootstrap(
        estimate=estimate,
        low=low,
        high=high,
        p_always=float(np.mean(draws == ALWAYS)),
        p_never=float(np.mean(draws == NEVER)),
        sets=sets,
        draws=draws,
    )


def crossovers_apart(a: ArrayLike, b: ArrayLike, rates: ArrayLike, confidence: float | None = None) -> Interval:
    """The crossover of ``a`` less that of ``b``, both (sets, seeds, R) of the same data sets, in the unit of ``rates``.

    A crossover beyond the rates counts at the first or the last of them. The limits are the two crossovers' own
    (:func:`crossover_bootstrap`), their distances from the estimates squared and added (Zou & Donner 2008), as if the
    two were independent: where they rise and fall together, which those of one study do, the interval is too long.
    Percentiles of the resampled difference are too short (notebook 3.4 simulates both). Nothing random is in it.

    Raises:
        UserError: as :func:`crossover_bootstrap`; ``a`` and ``b`` of different shapes.
    """
    confidence = protocol().crossover["confidence"] if confidence is None else confidence
    (rates, a), (_, b) = _checked(rates, a), _checked(rates, b)
    if a.shape != b.shape or a.ndim != 3 or len(a) < 2:
        raise UserError(f"a, b: shapes {a.shape}, {b.shape}; both need the same (sets, seeds, rates), at least 2 sets")
    (of_a, low_a, high_a), (of_b, low_b, high_b) = (
        np.clip(_with_limits(rates, d, confidence), rates[0], rates[-1]) for d in (a, b)
    )
    apart = of_a - of_b
    low, high = apart - np.hypot(of_a - low_a, high_b - of_b), apart + np.hypot(high_a - of_a, of_b - low_b)
    return Interval(float(apart), float(low), float(high), confidence, len(a))


def crossovers_without(
    d: ArrayLike, rates: ArrayLike, groups: ArrayLike, confidence: float | None = None
) -> dict[Any, tuple[float, float, float]]:
    """The crossover of ``d (sets, seeds, R)`` and its two limits, as :func:`crossover_bootstrap`'s, without each group.

    ``groups (sets,)`` has the group of every set: itself, or what sets of a kind have in common. An interval over sets
    holds where these are drawn one by one; one that hangs on a single set, or on a kind of them, shows here.

    Raises:
        UserError: as :func:`crossover_bootstrap`, groups of another length, and fewer than 2 sets without one of them.
    """
    confidence = protocol().crossover["confidence"] if confidence is None else confidence
    rates, d = _checked(rates, d)
    groups = np.asarray(groups)
    if d.ndim != 3 or groups.shape != d.shape[:1]:
        raise UserError(f"d, groups: shapes {d.shape}, {groups.shape}; they must be (sets, seeds, rates) and (sets,)")
    others = {group: d[groups != group] for group in dict.fromkeys(groups.tolist())}
    if few := [group for group, rest in others.items() if len(rest) < 2]:
        raise UserError(f"groups: without {few[0]!r} fewer than 2 sets are left; at least 2 are needed")
    return {group: _with_limits(rates, rest, confidence) for group, rest in others.items()}


def _with_limits(rates: np.ndarray, d: np.ndarray, confidence: float) -> tuple[float, float, float]:
    """The crossover of d (sets, seeds, R), and those of the upper and of the lower t-limits of the sets' means."""
    limits = t_interval(d.mean(axis=1).T, confidence)  # of each rate
    ends = (d.mean(axis=(0, 1)), limits.high, limits.low)
    estimate, low, high = (float(_first_zero(rates, isotonic(end))) for end in ends)
    return estimate, low, high


def _first_zero(rates: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """The first zero of non-decreasing ``fit (..., R)``, linear between rates; see the module's conventions."""
    after = np.argmax(fit >= 0, axis=-1)  # the first rate at which the fit is not below 0
    before = np.maximum(after - 1, 0)
    high = np.take_along_axis(fit, after[..., None], axis=-1)[..., 0]
    low = np.take_along_axis(fit, before[..., None], axis=-1)[..., 0]
    span = np.where(after > before, high - low, 1.0)
    share = np.where(span > 0, -low / np.where(span > 0, span, 1.0), 1.0)
    inside = np.where(after > before, rates[before] + share * (rates[after] - rates[before]), rates[0])
    return np.where(fit[..., 0] > 0, ALWAYS, np.where(fit[..., -1] <= 0, NEVER, inside))


def _checked(rates: ArrayLike, d: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    rates, d = dense(rates, "rates").astype(float), dense(d, "d").astype(float)
    if rates.ndim != 1 or rates.size < 2 or not np.all(np.diff(rates) > 0):
        raise UserError(f"rates: {rates.tolist()} will not do; pass at least 2, each above the one before")
    if d.ndim == 0 or d.shape[-1] != rates.size:
        raise UserError(f"d: shape {d.shape} does not end in the number of rates, {rates.size}")
    if not np.all(np.isfinite(d)):
        raise UserError(f"d: {np.sum(~np.isfinite(d))} of {d.size} are not finite; drop the failed cells' sets first")
    return rates, d
