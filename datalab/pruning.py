"""What to drop: scores of examples, and the mask of those kept.

One convention: **a high score is dropped first**. The title's method drops the highest self-influence, so its score
is the self-influence itself; ``harm`` is the influence on the validation loss (``influence.influence_on``, whose
positive values say that more weight on the example raises the loss). Scores are pure functions of arrays and take
leading axes, (S, n, C) for S models, wherever (n, C) is written.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datalab import labels as label_kinds
from datalab.errors import UserError, did_you_mean

Floats = NDArray[np.floating]
Mask = NDArray[np.bool_]

QUOTAS = ("per_class", "global")


def keep(
    scores: ArrayLike,
    labels: ArrayLike,
    keep_fraction: float,
    quota: str = "per_class",
    shares: ArrayLike | None = None,
) -> Mask:
    """The mask (n,) of the examples kept: the lowest scores, ``round(keep_fraction * n)`` of them.

    Parameters
    ----------
    scores
        (n,) numbers without NaN; the highest are dropped. Of equal scores the earlier example is kept.
    labels
        (n,) labels of any type as observed (noisy ones, where they are noisy); see :mod:`datalab.labels`.
    keep_fraction
        In (0, 1].
    quota
        ``"per_class"``: each observed class keeps its share, or that of ``shares``, see :func:`class_counts`.
        ``"global"``: no quota; at least one example is kept.
    shares
        (C,) the share of what is kept that each class should have, where it is not the observed one.

    Raises UserError for a NaN or masked score, labels that are none, mismatched lengths, a fraction outside (0, 1] or
    an unknown quota.
    """
    scores, labels = label_kinds.dense(scores, "scores"), label_kinds.classes(labels).codes
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise UserError(f"scores: need one per label, got shape {scores.shape} for labels of shape {labels.shape}")
    if scores.dtype.kind not in "biuf":
        raise UserError(f"scores: must be numbers, got {scores.dtype}")
    if np.isnan(scores).any():
        raise UserError(f"scores: must be numbers, got {np.isnan(scores).sum()} NaN of {len(scores)}")
    _check(keep_fraction, quota)
    order = np.argsort(scores, kind="stable")
    mask = np.zeros(len(scores), dtype=bool)
    if quota == "global":
        mask[order[: max(_round(keep_fraction * len(scores)), 1)]] = True
        return mask
    for c, count in enumerate(class_counts(labels, keep_fraction, shares)):
        mask[order[labels[order] == c][:count]] = True
    return mask


def class_counts(labels: ArrayLike, keep_fraction: float, shares: ArrayLike | None = None) -> NDArray[np.int64]:
    """How many examples of each class a quota keeps, (max label + 1,), by largest remainder.

    The counts sum to ``round(keep_fraction * n)``, or to the number of observed classes where that is more: every
    observed class keeps at least one. Equal remainders go to the lower class; what a raised class costs is taken from
    the largest. Labels are whole numbers from 0; of other types, number them first (:func:`datalab.labels.classes`).
    ``shares`` (C,), numbers from 0 with a positive sum: kept are as many of each class as its share says, all where
    there are fewer; what they lack falls to the others in proportion. Raises UserError for shares that are none.
    """
    _check(keep_fraction, "per_class")
    sizes = np.bincount(label_kinds.codes(labels), minlength=0 if shares is None else len(shares))
    share = np.round(_wanted(sizes, keep_fraction, shares), 9)
    counts = np.maximum(np.floor(share), sizes > 0).astype(np.int64)
    missing = _round(keep_fraction * sizes.sum()) - counts.sum()
    if missing > 0:
        counts[np.argsort(-(share - counts), kind="stable")[:missing]] += 1
    for _ in range(-missing):
        largest = np.argmax(counts)
        counts[largest] -= counts[largest] > 1
    return counts


def _wanted(sizes: NDArray[np.int64], keep_fraction: float, shares: ArrayLike | None) -> Floats:
    if shares is None:
        return keep_fraction * sizes
    shares = np.asarray(shares, dtype=float)
    if shares.shape != sizes.shape or not (np.isfinite(shares) & (shares >= 0)).all() or not shares[sizes > 0].sum():
        raise UserError(f"shares: need one number from 0 for each of {len(sizes)} classes, got {shares.tolist()}")
    total, open_ = keep_fraction * sizes.sum(), (sizes > 0) & (shares > 0)
    wanted = np.zeros(len(sizes))
    while open_.any():
        left = total - wanted[~open_].sum()
        wanted[open_] = left * shares[open_] / shares[open_].sum()
        full = open_ & (wanted > sizes)
        if not full.any():
            return wanted
        wanted[full], open_ = sizes[full], open_ & ~full
    rest = sizes - wanted  # the classes that have a share hold too few: the others, by size
    return wanted + (total - wanted.sum()) * rest / max(rest.sum(), 1)


def random_subset(
    labels: ArrayLike,
    keep_fraction: float,
    quota: str = "per_class",
    shares: ArrayLike | None = None,
    *,
    rng: np.random.Generator,
) -> Mask:
    """The mask (n,) of a uniformly drawn subset with the same class counts as :func:`keep` under that quota."""
    codes = label_kinds.classes(labels).codes
    return keep(rng.random(len(codes)), codes, keep_fraction, quota, shares)


def oracle(observed: ArrayLike, clean: ArrayLike) -> Mask:
    """The mask (n,) that drops exactly the examples whose observed label is not the clean one. It needs the truth."""
    return label_kinds.same(observed, clean, ("observed", "clean"))


def keep_hardest(self_influence: ArrayLike) -> Floats:
    """Minus the self-influence (n,): the *least* influential, easiest examples score high and are dropped first."""
    return -np.asarray(self_influence)


def loss(probabilities: ArrayLike, labels: ArrayLike) -> Floats:
    """Cross-entropy -log p_y in nats, (n,), at least 0; high = the model disbelieves the label = drop first."""
    p = _at_label(*_checked(probabilities, labels))
    return -np.log(np.maximum(p, np.finfo(p.dtype).tiny))


def el2n(probabilities: ArrayLike, labels: ArrayLike) -> Floats:
    """Error L2 norm |p - onehot(y)|, (n,), in [0, sqrt 2] (Paul et al. 2021); high = hard = drop first."""
    p, labels = _checked(probabilities, labels)
    p_label = _at_label(p, labels)
    return np.sqrt(np.maximum((p * p).sum(-1) - p_label**2, 0) + (1 - p_label) ** 2)


def margin(probabilities: ArrayLike, labels: ArrayLike) -> Floats:
    """Best other probability minus the label's, (n,), in [-1, 1]; high = confidently wrong = drop first."""
    return logit_margin(*_checked(probabilities, labels))


def logit_margin(logits: ArrayLike, labels: NDArray[np.int64]) -> Floats:
    """Best other logit minus the label's, (..., n), of logits (..., n, C) and labels (..., n); high = drop first.

    Its mean over the looks at a model in training is minus the area under the margin (Pleiss et al. 2020, eq. 2).
    """
    others = np.array(logits)
    at_label = _at_label(others, labels)
    np.put_along_axis(others, labels[..., None], -np.inf, axis=-1)
    return others.max(-1) - at_label


def forgetting(correct: ArrayLike) -> Floats:
    """Forgetting events (Toneva et al. 2019) from a history (T, n) of bools, one row per check of the training set.

    The score (n,) counts the changes from right to wrong, 0..T/2; an example never right scores T + 1, beyond all
    others. High = forgotten often or never learnt = drop first. Whole numbers: ties are many, and :func:`keep` says
    who stays.
    """
    correct = label_kinds.flags(correct, "correct")
    events = (correct[:-1] & ~correct[1:]).sum(0)
    return np.where(correct.any(0), events, len(correct) + 1).astype(np.float64)


def confident_learning(probabilities: ArrayLike, labels: ArrayLike) -> Floats:
    """Confident learning (Northcutt et al. 2021) on *out-of-sample* probabilities (n, C); labels (n,).

    The score (n,) lies in [0, 2]: above 1 for the label issues, the examples that the confident joint counts off its
    diagonal, at most 1 for the others; within each group it is (1 + margin) / 2. High = likely mislabelled = drop
    first. The issues are those that cleanlab's ``compute_confident_joint`` returns, unless the most probable class is
    itself not confident while two others are (cleanlab counts the first, the paper does not); the order within a
    group is that of cleanlab's ``normalized_margin``.
    """
    likely = confident_class(probabilities, labels)
    issue = (likely >= 0) & (likely != label_kinds.codes(labels))
    return (1 + margin(probabilities, labels)) / 2 + issue


def confident_class(probabilities: ArrayLike, labels: ArrayLike) -> NDArray[np.int64]:
    """The class (n,) each example is confidently counted in, -1 for none (Northcutt et al. 2021, eq. 1).

    Class j is confident for an example when its probability reaches the mean probability of j over the examples
    labelled j; of several, the most probable. A class that no example is labelled with is never confident.
    """
    p, labels = _checked(probabilities, labels)
    if p.ndim != 2:
        raise UserError(f"probabilities: must be (n, C) with one label a row, got {p.shape} for labels {labels.shape}")
    return confident_at(p, class_means(p, labels))


def class_means(p: Floats, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """The mean probability (C,) of every class over the rows of p (n, C) labelled with it; inf where there is none."""
    counts = np.bincount(labels, minlength=p.shape[1])
    sums = np.bincount(labels, weights=_at_label(p, labels), minlength=p.shape[1])
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)


def confident_at(p: Floats, thresholds: NDArray[np.float64]) -> NDArray[np.int64]:
    """The most probable class (n,) of p (n, C) among those that reach their thresholds (C,), -1 for none."""
    confident = np.where(p >= thresholds - 1e-6, p, -1.0)
    return np.where(confident.max(1) >= 0, confident.argmax(1), -1)


def _checked(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    """The probabilities (..., n, C), and for each the column (..., n) of its label."""
    p = label_kinds.shares(probabilities)
    codes = label_kinds.codes(labels, p.shape[-1])
    if p.ndim < 2 or codes.shape not in (p.shape[:-1], p.shape[-2:-1]):
        raise UserError(f"labels: need one for each row of probabilities {p.shape}, got shape {codes.shape}")
    return p, np.broadcast_to(codes, p.shape[:-1])


def _at_label(p: Floats, labels: NDArray[np.int64]) -> Floats:
    return np.take_along_axis(p, labels[..., None], axis=-1)[..., 0]


def _check(keep_fraction: float, quota: str) -> None:
    if not 0 < keep_fraction <= 1:
        raise UserError(f"keep fraction: must lie in (0, 1], got {keep_fraction}")
    if quota not in QUOTAS:
        raise UserError(f"quota: unknown '{quota}'{did_you_mean(quota, QUOTAS)}")


def _round(count: float) -> int:
    """Halves go to even; the tenth decimal is rounding noise of the product."""
    return round(round(count, 9))
