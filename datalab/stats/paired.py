"""Intervals and tests on paired differences, one value per unit (see the package's docstring for what a unit is)."""

from typing import NamedTuple

import numpy as np
import scipy  # scipy.stats takes over a second: it is imported where it is first used
from numpy.typing import ArrayLike
from scipy.special import expit, logit, nctdtr, stdtr, stdtrit

from datalab.errors import UserError
from datalab.labels import dense
from datalab.protocol import protocol
from datalab.stats.planning import p_floor

Floats = float | np.ndarray

# Rows x resamples are computed in blocks of this many float64 (1 MiB): they fit the cache, and memory stays flat.
_BLOCK = 2**17
# Sums that differ by less than this share of the sum of |d| count as equal: rounding must not decide a tie.
_TIE = 1e-10


class Interval(NamedTuple):
    """A mean difference with its interval; scalars for one problem, arrays ``(...)`` for a batch of them."""

    estimate: Floats
    low: Floats
    high: Floats
    confidence: float
    n: int


class PairedTest(NamedTuple):
    """A two-sided p-value beside the smallest one the test could have printed at this n."""

    p: Floats
    floor: float


class PairedBootstrap(NamedTuple):
    """The studentised bootstrap's interval and its p-value, which agree: p <= 1 - confidence iff 0 lies outside."""

    interval: Interval
    p: Floats


def t_interval(x: ArrayLike, confidence: float = 0.95, bounds: tuple[float, float] | None = None) -> Interval:
    """Student's t-interval for the mean of ``x (..., n)``; equivalent to ``scipy.stats.t.interval`` on mean and s.e.

    What varies: the units. Population: the units' (normal, or n large). Equal units give an interval of width 0.

    bounds: the ends (a, b) of the range of x, where it has one: 0 and 1 of an accuracy, 0 and inf of a ratio. The
       limits are then formed on the scale logit((mean - a) / (b - a)), or log(mean - a), the error carried over by the
       delta method, and carried back: no limit lies outside what can be.

    Raises:
        UserError: fewer than 2 units, a value that is not finite or out of bounds, a confidence outside (0, 1).
    """
    x, mean, error = _moments(x)
    _check_confidence(confidence)
    half = stdtrit(x.shape[-1] - 1, (1 + confidence) / 2) * error
    low, high = mean - half, mean + half
    if bounds is not None:
        a, b = bounds
        if not (np.all(mean >= a) and np.all(mean <= b)):
            raise UserError(f"bounds: a mean of {mean} lies outside [{a:g}, {b:g}]")
        with np.errstate(divide="ignore", invalid="ignore"):
            if np.isinf(b):
                inner = [a + (mean - a) * np.exp(sign * half / (mean - a)) for sign in (-1, 1)]
            else:
                share = (mean - a) / (b - a)
                slope = share * (1 - share) * (b - a)  # of the mean by its logit
                inner = [a + (b - a) * expit(logit(share) + sign * half / slope) for sign in (-1, 1)]
        # At an end itself all units are equal: no limits but the mean.
        low, high = (np.where((mean > a) & (mean < b), end, mean) for end in inner)
    return Interval(_plain(mean), _plain(low), _plain(high), confidence, x.shape[-1])


def guarded_interval(x: ArrayLike, confidence: float = 0.95, bounds: tuple[float, float] | None = None) -> Interval:
    """:func:`t_interval` of ``x (..., n)``, each end moved out to Hall's (1992) where that lies further.

    Hall's limits transform t by the sample's skewness. Where a few large units carry the mean, Student's end on the
    side away from them is too near: among 15 exponential units it misses 12 times as often as it says, this one 5 times
    (notebook 3.4). Under normality the two hardly differ. Verdicts are read on these limits; those shown are Student's.
    Limits on the scale of ``bounds`` are moved out to those without it too, as far as the bounds.
    """
    x, mean, error = _moments(x)
    n, student, (least, most) = x.shape[-1], t_interval(x, confidence, bounds), bounds or (-np.inf, np.inf)
    half = stdtrit(n - 1, (1 + confidence) / 2) / np.sqrt(n)
    centred = np.where(error[..., None] > 0, x - mean[..., None], np.arange(n) - (n - 1) / 2)
    skew = np.mean(centred**3, axis=-1) / np.mean(centred**2, axis=-1) ** 1.5
    flat = np.abs(skew) < 1e-6  # so also units that do not vary
    a = np.where(flat, 1.0, skew)

    def end(u: float) -> np.ndarray:
        """The mean that lies ``u`` transformed standard deviations away."""
        z = np.where(flat, u, 3 / a * (np.cbrt(1 + a * (u - a / (6 * n))) - 1))
        return mean - np.sqrt(n) * error * z

    low = np.minimum(student.low, np.maximum(np.minimum(end(half), mean - np.sqrt(n) * error * half), least))
    high = np.maximum(student.high, np.minimum(np.maximum(end(-half), mean + np.sqrt(n) * error * half), most))
    return Interval(student.estimate, _plain(low), _plain(high), confidence, n)


def t_test(d: ArrayLike) -> PairedTest:
    """Two-sided paired t-test of mean 0 on ``d (..., n)``: ``scipy.stats.ttest_1samp``, with the cases it leaves open.

    All-zero differences give p = 1; differences that are all equal but not 0 give nan (no variation, no test).
    """
    d, mean, error = _moments(d)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stdtr(d.shape[-1] - 1, -np.abs(mean / error))
    return PairedTest(_plain(_without_variation(p, mean, error)), 0.0)


def paired_bootstrap(
    d: ArrayLike, rng: np.random.Generator, resamples: int | None = None, confidence: float = 0.95
) -> PairedBootstrap:
    """Studentised (bootstrap-t), symmetric: interval mean +- q |t*| s.e., p = (1 + #{|t*| >= |t|}) / (resamples + 1).

    What varies: the units, drawn with replacement. Population: the data sets these are a sample of; no normality is
    assumed. Each resample's mean is divided by its own standard error (Efron & Tibshirani 1993, ch. 12.5); the plain
    percentile interval, which is not, covers about 91 % at 12 units when it says 95 %. The symmetric form (Hall 1988)
    is used because in simulation it is never more liberal than the t-test, where the equal-tailed one is under
    heavy tails (notebook 3_4_statistics). A resample without variation has |t*| = inf unless its mean equals the
    sample's: it counts against a finding. All problems of a batch share their resamples (common random numbers).

    Args:
        d: differences ``(..., n)``.
        resamples: the protocol's 10,000 when None. p cannot go below 1 / (resamples + 1).

    Returns:
        interval and p. Differences all equal: an interval of width 0, p = 1 if they are 0 and nan otherwise. With 2 or
        3 units too many resamples have no variation for a 95 % interval: its limits are infinite.

    Raises:
        UserError: fewer than 2 units, a value that is not finite, too few resamples for this confidence.
    """
    resamples = protocol().statistics["resamples"] if resamples is None else int(resamples)
    d, mean, error = _moments(d)
    _check_confidence(confidence)
    rank = int(np.ceil((resamples + 1) * confidence))
    if not 1 <= rank <= resamples:
        raise UserError(f"resamples: {resamples} are too few for a {confidence:.4%} interval; use more")
    n = d.shape[-1]
    weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n
    rows, means, errors = d.reshape(-1, n), mean.reshape(-1), error.reshape(-1)
    quantile, p = np.empty(len(rows)), np.empty(len(rows))
    block = max(1, _BLOCK // resamples)
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        centred = rows[part] - means[part, None]
        t_star = _studentised(centred, weights)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.abs(means[part] / errors[part])
        p[part] = (1 + np.sum(t_star >= t[:, None] * (1 - _TIE), axis=1)) / (resamples + 1)
        quantile[part] = np.partition(t_star, rank - 1, axis=1)[:, rank - 1]
    with np.errstate(invalid="ignore"):
        half = np.where(error > 0, quantile.reshape(mean.shape) * error, 0.0)
    interval = Interval(_plain(mean), _plain(mean - half), _plain(mean + half), confidence, n)
    p = _without_variation(p.reshape(mean.shape), mean, error)
    return PairedBootstrap(interval, _plain(p))


def sign_flip_test(d: ArrayLike, rng: np.random.Generator | None = None, draws: int | None = None) -> PairedTest:
    """Sign-flip permutation test of ``d (..., n)``, two-sided on |mean d|.

    What varies: the sign of each unit's difference, which under the null (method and comparator exchangeable within
    every unit, so d symmetric about 0) is a fair coin. It speaks of these units, needs no normality, and tests
    *symmetry about 0*: a skewed d of mean 0 is not in its null. Exact over all 2^n patterns while those are at most
    the protocol's 100,000 (n <= 16), with p >= 2 / 2^n; else random patterns with p = (1 + #{as extreme}) / (1 + draws)
    (Phipson & Smyth 2010). Equivalent to ``scipy.stats.permutation_test(permutation_type="samples")``, as one matrix
    product for the whole batch, and with ties decided up to rounding.

    Args:
        rng: needed when n > 16; all problems of a batch share its draws.
        draws: the protocol's 10,000 when None.
    """
    d, _, _ = _moments(d, least=1)
    n = d.shape[-1]
    exact = 2**n <= protocol().statistics["max_exact_sign_patterns"]
    if exact:
        # A pattern and its negative are equally extreme: hold the first sign and count half of them.
        codes = np.arange(2 ** (n - 1))
        signs = np.where(codes[:, None] >> np.arange(n) & 1, -1.0, 1.0)
    else:
        draws = protocol().statistics["resamples"] if draws is None else int(draws)
        if rng is None:
            raise UserError(f"rng: {n} units have more sign patterns than are enumerated; pass a generator")
        if draws < 1:
            raise UserError(f"draws: {draws} is too few; use at least 1")
        signs = rng.integers(0, 2, size=(draws, n)) * 2.0 - 1
    rows = d.reshape(-1, n)
    counts = np.empty(len(rows))
    block = max(1, _BLOCK // len(signs))
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        least = np.abs(part.sum(axis=1)) - _TIE * np.abs(part).sum(axis=1)
        counts[start : start + block] = np.sum(np.abs(part @ signs.T) >= least[:, None], axis=1)
    p = counts / len(signs) if exact else (1 + counts) / (1 + len(signs))
    floor = p_floor(n) if exact else max(p_floor(n), 1 / (1 + len(signs)))
    return PairedTest(_plain(p.reshape(d.shape[:-1])), floor)


def wilcoxon(d: ArrayLike) -> PairedTest:
    """Wilcoxon signed-rank test of ``d (..., n)``: ``scipy.stats.wilcoxon``, two-sided, zeros by Pratt's rule.

    The null is symmetry about 0, as for the sign-flip test, seen through ranks: one data set of huge gain counts no
    more than one of the largest rank. Exact up to 50 units without ties, else scipy's choice. All zero: p = 1.
    """
    d, _, _ = _moments(d, least=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.asarray(scipy.stats.wilcoxon(d, axis=-1, zero_method="pratt").pvalue, dtype=float)
    p = np.where(np.any(d != 0, axis=-1), p, 1.0)
    return PairedTest(_plain(p), p_floor(d.shape[-1]))


def cohens_dz(d: ArrayLike, confidence: float = 0.95) -> Interval:
    """Cohen's d_z = mean(d) / sd(d) of ``d (n,)`` with its exact interval under normality (noncentral t inverted).

    The unit is the standard deviation of the differences between *data sets*, not of scores between instances, so it
    is not comparable with a two-sample d. ``pingouin.compute_esci`` has a large-sample interval, symmetric about the
    estimate, which this one is not. No variation: nan with nan limits.
    """
    d, mean, error = _moments(d)
    _check_confidence(confidence)
    if d.ndim != 1:
        raise UserError(f"differences: shape {d.shape} is a batch; cohens_dz takes one row of units (n,)")
    n = d.shape[-1]
    if error == 0:
        return Interval(float("nan"), float("nan"), float("nan"), confidence, n)
    t = float(mean / error)
    low, high = (_noncentrality(t, n - 1, tail) / np.sqrt(n) for tail in ((1 + confidence) / 2, (1 - confidence) / 2))
    return Interval(float(t / np.sqrt(n)), float(low), float(high), confidence, n)


def paired_summary(d: ArrayLike, rng: np.random.Generator, confidence: float = 0.95) -> dict[str, float]:
    """The whole protocol on one row of differences ``d (n,)``, for a table: intervals, p-values, floor, effect sizes.

    pingouin gives the matched-pairs rank-biserial correlation and the Shapiro-Wilk p (nan below 4 units or without
    variation), which says whether the t-interval's assumption is in visible trouble.
    """
    import pingouin  # about 5 s: here, not at the top

    d, _, error = _moments(d)
    t, boot, effect = t_interval(d, confidence), paired_bootstrap(d, rng, confidence=confidence), cohens_dz(d)
    varied = bool(error > 0)
    flips = sign_flip_test(d, rng)
    ranks = pingouin.wilcoxon(d, zero_method="pratt")["RBC"].iloc[0] if varied else float("nan")
    shapiro = pingouin.normality(d)["pval"].iloc[0] if varied and d.size > 3 else float("nan")
    return {
        "n": d.size,
        "mean": t.estimate,
        "t_low": t.low,
        "t_high": t.high,
        "bootstrap_low": boot.interval.low,
        "bootstrap_high": boot.interval.high,
        "p_t": t_test(d).p,
        "p_bootstrap": boot.p,
        "p_sign_flip": flips.p,
        "p_wilcoxon": wilcoxon(d).p,
        "p_floor": flips.floor,
        "d_z": effect.estimate,
        "d_z_low": effect.low,
        "d_z_high": effect.high,
        "rank_biserial": float(ranks),
        "p_shapiro": float(shapiro),
    }


def _moments(d: ArrayLike, least: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``d`` checked, its mean, and the mean's standard error (exactly 0 where the units differ by rounding only)."""
    d = dense(d, "differences").astype(float)
    if d.ndim == 0 or d.shape[-1] < least:
        raise UserError(f"differences: shape {d.shape} has too few units; the last axis needs at least {least}")
    if not np.all(np.isfinite(d)):
        raise UserError(f"differences: {np.sum(~np.isfinite(d))} of {d.size} are not finite; drop failed cells first")
    mean = d.mean(axis=-1)
    if d.shape[-1] == 1:
        return d, mean, np.zeros_like(mean)
    error = d.std(axis=-1, ddof=1) / np.sqrt(d.shape[-1])
    return d, mean, np.where(np.ptp(d, axis=-1) <= 1e-12 * np.abs(d).max(axis=-1), 0.0, error)


def _studentised(centred: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """|t*| ``(rows, resamples)`` of centred rows ``(rows, n)`` under resampling weights ``(resamples, n)``."""
    n = centred.shape[-1]
    mean = np.abs(centred @ weights.T)
    squares = np.square(centred)
    variance = squares @ weights.T
    variance -= np.square(mean)
    scale = squares.mean(axis=1, keepdims=True)
    flat = variance <= _TIE * scale
    variance[flat] = 1.0
    t_star = mean / np.sqrt(variance / (n - 1))
    if flat.any():
        t_star[flat] = np.where(np.square(mean) <= _TIE * scale, 0.0, np.inf)[flat]
    return t_star


def _noncentrality(t: float, dof: int, tail: float) -> float:
    """The noncentrality delta at which P(T <= t) = tail, by Brent on ``nctdtr``; P falls as delta grows."""
    from scipy.optimize import brentq

    if abs(t) > 300:  # nctdtr breaks down; here T is delta / (chi / sqrt(dof)) to within 1 part in |t|
        return t * np.sqrt(scipy.stats.chi2.ppf(1 - tail if t > 0 else tail, dof) / dof)

    def gap(delta: float) -> float:
        below = float(nctdtr(dof, delta, t))
        # nctdtr gives nan in the far tails, where the answer is 1 (delta far below t) or 0 (far above).
        return (float(delta < t) if np.isnan(below) else below) - tail

    spread = 3 * np.sqrt(1 + t**2 / (2 * dof))
    while gap(t - spread) < 0 or gap(t + spread) > 0:
        spread *= 1.5
    return float(brentq(gap, t - spread, t + spread, xtol=1e-10))


def _without_variation(p: np.ndarray, mean: np.ndarray, error: np.ndarray) -> np.ndarray:
    return np.where(error > 0, p, np.where(mean == 0, 1.0, np.nan))


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise UserError(f"confidence: {confidence} is no probability; use a number between 0 and 1, such as 0.95")


def _plain(x: ArrayLike) -> Floats:
    x = np.asarray(x, dtype=float)
    return float(x) if x.ndim == 0 else x
