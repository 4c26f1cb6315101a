"""Scores of predictions: higher is better, in [0, 1], except calibration error, where 0 is best.

``y (n,)`` are the true classes 0..C-1; ``predictions`` is ``(n,)`` or a stack ``(S, n)``, one row a model, and the
result a float or ``(S,)``. *Macro* means over the classes present in ``y``, each counting once, whatever its size, with
an undefined ratio (0 / 0) counted as 0: scikit-learn's ``labels=np.unique(y), average="macro", zero_division=0``.
All raise UserError for shapes that do not fit, no labels, or values out of range.
"""

import numpy as np
from numpy.typing import ArrayLike

from datalab.errors import UserError
from datalab.labels import dense

Floats = float | np.ndarray


def confusion(y: ArrayLike, predictions: ArrayLike, n_classes: int) -> np.ndarray:
    """Counts ``(C, C)`` or ``(S, C, C)``: [true class, predicted class]; one ``bincount`` for the whole stack."""
    y, stack = _labels(y, predictions, n_classes)
    models = np.arange(len(stack), dtype=np.int64)[:, None]
    codes = (models * n_classes + y) * n_classes + stack
    counts = np.bincount(codes.ravel(), minlength=len(stack) * n_classes**2).reshape(-1, n_classes, n_classes)
    return counts if np.ndim(predictions) == 2 else counts[0]


def macro_f1(y: ArrayLike, predictions: ArrayLike, n_classes: int) -> Floats:
    """Macro-F1, the study's primary metric: the mean over the classes present of 2 TP / (2 TP + FP + FN)."""
    counts = confusion(y, predictions, n_classes)
    return _macro(counts, 2 * _hits(counts), counts.sum(axis=-1) + counts.sum(axis=-2))


def macro_precision(y: ArrayLike, predictions: ArrayLike, n_classes: int) -> Floats:
    """Macro precision: the mean over the classes present of TP / (TP + FP); 0 for a class never predicted."""
    counts = confusion(y, predictions, n_classes)
    return _macro(counts, _hits(counts), counts.sum(axis=-2))


def macro_recall(y: ArrayLike, predictions: ArrayLike, n_classes: int) -> Floats:
    """Macro recall: the mean over the classes present of TP / (TP + FN); equals balanced accuracy."""
    counts = confusion(y, predictions, n_classes)
    return _macro(counts, _hits(counts), counts.sum(axis=-1))


def accuracy(y: ArrayLike, predictions: ArrayLike) -> Floats:
    """The share of predictions that are right."""
    y, predictions = dense(y, "y"), dense(predictions, "predictions")
    if y.ndim != 1 or y.size == 0 or predictions.shape[-1:] != y.shape:
        raise UserError(f"predictions: shape {predictions.shape} does not end in the number of labels, {y.shape}")
    return _plain((predictions == y).mean(axis=-1))


def ece(y: ArrayLike, probabilities: ArrayLike, bins: int = 15) -> Floats:
    """Expected calibration error of ``probabilities (n, C)`` or ``(S, n, C)``, top label (Guo et al. 2017, eq. 3).

    Binning: ``bins`` of equal width on the largest probability, (0, 1/bins], ..., (1 - 1/bins, 1], each weighing its
    share of the examples: sum_b n_b/n |accuracy_b - mean confidence_b|. Biased upwards when bins hold few examples, so
    compare it at equal n and equal bins only.
    """
    p, y = dense(probabilities, "probabilities").astype(float), dense(y, "y")
    if p.ndim not in (2, 3) or y.ndim != 1 or y.size == 0 or p.shape[-2] != len(y):
        raise UserError(f"probabilities: shape {p.shape} does not fit {y.shape} labels; use (n, C) or (S, n, C)")
    if bins < 1:
        raise UserError(f"bins: {bins} is too few; use at least 1")
    if not np.all((p >= 0) & (p <= 1 + 1e-6)):
        raise UserError("probabilities: some lie outside [0, 1]; pass probabilities, not logits")
    stack = p[None] if p.ndim == 2 else p
    confidence = stack.max(axis=-1)
    right = stack.argmax(axis=-1) == y
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    place += bins * np.arange(len(stack))[:, None]
    gaps = np.bincount(place.ravel(), weights=(right - confidence).ravel(), minlength=bins * len(stack))
    result = np.abs(gaps).reshape(len(stack), bins).sum(axis=1) / len(y)
    return float(result[0]) if p.ndim == 2 else result


def _labels(y: ArrayLike, predictions: ArrayLike, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    y, stack = dense(y, "y"), np.atleast_2d(dense(predictions, "predictions"))
    if y.ndim != 1 or y.size == 0:
        raise UserError(f"y: shape {y.shape} will not do; pass at least one label, (n,)")
    if stack.ndim != 2 or stack.shape[1] != len(y):
        raise UserError(f"predictions: shape {np.shape(predictions)} does not fit {len(y)} labels; use (n,) or (S, n)")
    for name, labels in (("y", y), ("predictions", stack)):
        if labels.dtype.kind not in "iu" or (labels.size and not 0 <= labels.min() <= labels.max() < n_classes):
            raise UserError(f"{name}: classes must be whole numbers from 0 to {n_classes - 1}")
    return y.astype(np.int64), stack.astype(np.int64)


def _hits(counts: np.ndarray) -> np.ndarray:
    return np.diagonal(counts, axis1=-2, axis2=-1)


def _macro(counts: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> Floats:
    """The mean of top / bottom over the classes with true rows in ``counts``; 0 / 0 counts 0.

    A class without true rows has no hits, so its ratio adds nothing to the sum.
    """
    present = counts.sum(axis=-1) > 0
    ratio = np.where(bottom > 0, top / np.maximum(bottom, 1), 0.0)
    return _plain(ratio.sum(axis=-1) / present.sum(axis=-1))


def _plain(x: np.ndarray) -> Floats:
    return float(x) if np.ndim(x) == 0 else x
