"""Label-noise generators. Each returns new labels; the caller's array is never changed."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, softmax
from scipy.stats import truncnorm

from datalab import labels as label_kinds
from datalab.errors import UserError, did_you_mean

Labels = NDArray[np.int64]

KINDS = ("symmetric", "pair", "instance")


def corrupt(
    labels: ArrayLike, kind: str, rate: float, n_classes: int, rng: np.random.Generator, x: ArrayLike | None = None
) -> Labels:
    """Flip a fixed number of labels.

    Parameters
    ----------
    labels
        (n,) whole numbers in 0..n_classes-1, in any type that holds them: the clean labels.
    kind
        ``"symmetric"``: exactly ``round(rate * n_c)`` flips in each class c, each to a uniformly drawn other class.
        ``"pair"``: the same number, each to the next class, (c + 1) mod n_classes.
        ``"instance"``: ``round(rate * n)`` flips in all, see :func:`instance`.
    rate
        The noise rate in [0, 1], a fraction. ``round`` rounds halves to even.
    n_classes
        The number of classes; at least 2 unless the rate is 0.
    rng
        Source of the draws.
    x
        (n, d) finite features; used by ``"instance"`` alone.

    Raises UserError for an unknown kind, a rate outside [0, 1], labels out of range, or missing features.
    """
    y = label_kinds.codes(labels, n_classes)
    if y.ndim != 1:
        raise UserError(f"labels: must be a vector (n,), got shape {y.shape}; for one-hot rows pass .argmax(1)")
    if kind not in KINDS:
        raise UserError(f"noise kind: unknown '{kind}'{did_you_mean(kind, KINDS)}")
    if not 0 <= rate <= 1:
        raise UserError(f"noise rate: must lie in [0, 1], got {rate}")
    if rate == 0 or len(y) == 0:
        return y.copy()
    if n_classes < 2:
        raise UserError(f"noise: needs at least 2 classes to flip between, got {n_classes}")
    if kind == "instance":
        return instance(y, rate, n_classes, rng, _features(x, len(y)))
    noisy = y.copy()
    for c in range(n_classes):
        members = np.flatnonzero(y == c)
        flipped = rng.choice(members, round(rate * len(members)), replace=False)
        step = rng.integers(1, n_classes, len(flipped)) if kind == "symmetric" else 1
        noisy[flipped] = (c + step) % n_classes
    return noisy


def instance(y: Labels, rate: float, n_classes: int, rng: np.random.Generator, x: NDArray[np.float64]) -> Labels:
    """Instance-dependent noise after Xia et al. 2020 (arXiv 2006.07836, algorithm 2), with ``round(rate * n)`` flips.

    Each example draws a flip rate q_i from a normal (rate, 0.1) truncated to [0, 1], and each class y a standard
    normal matrix W_y (d, C); example i would go to class j != y_i with probability q_i softmax_j(x_i' W_{y_i}).
    Independent draws miss the nominal rate (the truncation alone makes 5 % about 10 %), so which examples flip is
    drawn from the same model *given* the number of flips: a set of that size has probability proportional to the
    product of q_i / (1 - q_i) over it. In this model the features decide where a label goes, not whether it flips.

    x is (n, d), taken as it is: the larger its norm, the nearer the destination is to a function of x. Returns (n,)
    labels.
    """
    n, d = x.shape
    q = truncnorm.rvs(-rate / 0.1, (1 - rate) / 0.1, loc=rate, scale=0.1, size=n, random_state=rng)
    flipped = _given_size(q, round(rate * n), rng)
    noisy = y.copy()
    for c in range(n_classes):
        projection = rng.standard_normal((d, n_classes))
        members = np.flatnonzero(flipped & (y == c))
        score = x[members] @ projection
        score[:, c] = -np.inf
        noisy[members] = _draw_rows(softmax(score, axis=1), rng)
    return noisy


def realised_rate(clean: ArrayLike, noisy: ArrayLike) -> float:
    """The fraction of labels that differ, in [0, 1]; nan for no labels. Raises UserError when the lengths differ."""
    agree = label_kinds.same(clean, noisy, ("clean", "noisy"))
    return float(np.mean(~agree)) if agree.size else float("nan")


def _given_size(q: NDArray[np.float64], size: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Independent draws of probability q_i, given that ``size`` of them succeed (conditional Poisson sampling).

    By rejection. Multiplying all odds by one constant does not change the conditional law; the constant that makes
    ``size`` the expected count makes the acceptance about 1 / sqrt(2 pi var).
    """
    if size in (0, len(q)):
        return np.full(len(q), size > 0)
    log_odds = logit(np.clip(q, 1e-12, 1 - 1e-12))
    low, high = -log_odds.max() - 40, -log_odds.min() + 40
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if expit(log_odds + middle).sum() < size else (low, middle)
    p = expit(log_odds + high)
    while True:
        drawn = rng.random(len(q)) < p
        if drawn.sum() == size:
            return drawn


def _draw_rows(probabilities: NDArray[np.float64], rng: np.random.Generator) -> Labels:
    """One class drawn from each row; a class of probability 0 is never drawn."""
    cumulative = probabilities.cumsum(1)
    threshold = rng.random((len(probabilities), 1)) * cumulative[:, -1:]
    return (cumulative <= threshold).sum(1)


def _features(x: ArrayLike | None, n: int) -> NDArray[np.float64]:
    if x is None:
        raise UserError("noise kind 'instance': needs the features x of shape (n, d), got none")
    features = np.asarray(x, dtype=np.float64)
    features = features.reshape(len(features), -1) if features.ndim > 1 else features
    if features.ndim != 2 or len(features) != n:
        raise UserError(f"x: must have one row per label, shape ({n}, d), got {np.shape(x)}")
    if not np.isfinite(features).all():
        raise UserError("x: must be finite for instance-dependent noise, got NaN or infinity")
    return features
