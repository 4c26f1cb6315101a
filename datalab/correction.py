"""Losses that allow for wrong labels, and what confident learning estimates of them.

Forward correction (Patrini et al. 2017) with its transition matrix, and smoothed labels (Szegedy et al. 2016; under
label noise Lukasik et al. 2020); the shares of the true classes, and of wrong labels.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datalab import pruning

SUREST = 5  # the noise rate is read off one row in so many


def transition_matrix(probabilities: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """T (C, C), T[i, j] = P(observed label j | true class i), rows of sum 1, by confident learning.

    From *out-of-sample* probabilities (n, C) and observed labels (n,): :func:`confident_joint`, its rows scaled to sum
    1. A class nobody is confidently in keeps its labels. Raises UserError for shapes that do not match or labels out of
    range.
    """
    joint = confident_joint(probabilities, labels)
    row = joint.sum(1, keepdims=True)
    return np.where(row > 0, joint / np.where(row > 0, row, 1), np.eye(len(joint)))


def clean_shares(probabilities: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """The estimated shares (C,) of the true classes, by confident learning; errors as :func:`transition_matrix`.

    A label that no confident example bears counts as right.
    """
    joint = confident_joint(probabilities, labels)
    observed = np.bincount(np.asarray(labels), minlength=len(joint))
    joint[np.diag_indices_from(joint)] += np.where(joint.sum(0) > 0, 0, observed)
    return joint.sum(1) / joint.sum()


def confident_joint(probabilities: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """The examples of true class i labelled j, (C, C): those counted that are labelled j and confidently in class i.

    Columns are scaled to the observed labels' counts (Northcutt et al. 2021, section 3).
    """
    p, labels = np.asarray(probabilities), np.asarray(labels)
    n_classes = p.shape[1]
    likely = pruning.confident_class(p, labels)
    counted = likely >= 0
    joint = np.zeros((n_classes, n_classes))
    np.add.at(joint, (likely[counted], labels[counted]), 1.0)
    observed = np.bincount(labels, minlength=n_classes)
    column = joint.sum(0)
    return joint * np.where(column > 0, observed / np.maximum(column, 1), 0.0)


class ForwardCorrected(nn.Module):
    """A classifier (n, d) -> logits (n, C) trained on its prediction of the *observed* label.

    The loss is -log sum_i p_i T[i, y] (Patrini et al. 2017, theorem 2): with the true T its minimiser on noisy labels
    is that of the cross-entropy on clean ones.
    """

    def __init__(self, classifier: nn.Module):
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, C) of the *true* label, for x (n, d)."""
        return self.classifier(x)

    def objective(self, x: Tensor, labels: Tensor, transition: Tensor) -> Tensor:
        """The mean corrected loss of one batch x (m, d), labels (m,), under transition (C, C)."""
        log_p = torch.log_softmax(self.classifier(x), -1)
        towards = transition.T[labels].clamp(min=1e-12).log()  # log T[., y], (m, C)
        return -torch.logsumexp(log_p + towards, -1).mean()


class LabelSmoothed(nn.Module):
    """A classifier (n, d) -> logits (n, C) trained on labels of which a ``share`` is spread evenly over all classes."""

    def __init__(self, classifier: nn.Module, share: float = 0.1):
        super().__init__()
        self.classifier, self.share = classifier, share

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, C) for x (n, d)."""
        return self.classifier(x)

    def objective(self, x: Tensor, labels: Tensor) -> Tensor:
        """The mean cross-entropy of one batch x (m, d), labels (m,), to the smoothed labels."""
        return cross_entropy(self.classifier(x), labels, label_smoothing=self.share)


def noise_rates(p: NDArray, y: NDArray[np.int64]) -> dict[str, float]:
    """What out-of-sample probabilities p (n, C) say of the share of wrong labels y (n,); none of it is that share.

    ``calibrated``: what the confident joint, scaled to the observed labels, has off its diagonal (Northcutt et al.
    2021); ``counted``: the share of examples that it counts there. Both take hard rows for wrong ones. ``surest``: the
    share of labels that differ from the prediction among the fifth of the rows that the models are surest of, where few
    are hard; ``all``: the same among all rows; ``by_class``: the same among the surest fifth of each predicted class,
    weighted by its size, since the surest of all may hold none of a class that is wronger than others.
    """
    likely, order = p.argmax(1), np.argsort(-p.max(1), kind="stable")
    differs, by_class = likely != y, 0.0
    for c, size in zip(*np.unique(likely, return_counts=True), strict=True):
        of_class = order[likely[order] == c]
        by_class += differs[of_class[: -(-size // SUREST)]].mean() * size / len(y)
    joint = confident_joint(p, y)
    counted = float((pruning.confident_learning(p, y) > 1).mean())
    surest = float(differs[order[: -(-len(y) // SUREST)]].mean())
    calibrated = float(1 - np.trace(joint) / joint.sum())
    every = float(differs.mean())
    return {"calibrated": calibrated, "counted": counted, "surest": surest, "all": every, "by_class": float(by_class)}
