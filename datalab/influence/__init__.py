"""Influence functions: estimators of how much each training example matters, behind one interface.

``fit``, ``self_influence``, ``influence_on``, ``pairwise`` and ``leave_one_out``, on one model or on a stack of models.
``save`` and ``load``; ``losses`` and ``sets`` say what a model may have been trained on and how data may be given. The
options of all are :class:`Estimator`'s; all take trainable parameters alone, unless ``include_frozen`` is given.
What H is (``ggn``, ``hessian``, ``losses``, ``kronecker``, ``softmax``) is kept apart from how H + d I is inverted
(``cholesky``, ``iterative``, an eigenbasis) and from what both are made of: ``layers`` says what a layer multiplies, a
``tape`` takes it once, ``factors`` multiplies. The ground truth is :mod:`datalab.retraining`.
"""

from pathlib import Path

from torch import nn

from datalab.influence import last_layer, losses, saved
from datalab.influence.datainf import DataInf
from datalab.influence.estimator import Estimator, InfluenceWarning, Top, computing
from datalab.influence.exact import ExactGGN, ExactHessian
from datalab.influence.gradients import Checkpoints, GradCos, GradDot, TracIn
from datalab.influence.iterative import CG, Arnoldi, LiSSA
from datalab.influence.kronecker import EKFAC, KFAC
from datalab.influence.last_layer import LastLayerGGN
from datalab.influence.trak import TRAK
from datalab.stack import Stack

__all__ = [
    "CG", "EKFAC", "KFAC", "TRAK", "Arnoldi", "Checkpoints", "DataInf", "Estimator", "ExactGGN", "ExactHessian",
    "GradCos", "GradDot", "InfluenceWarning", "LastLayerGGN", "LiSSA", "Top", "TracIn", "last_layer", "load", "losses",
]  # fmt: skip

_KINDS = (Arnoldi, EKFAC, ExactGGN, ExactHessian, GradCos, GradDot, KFAC, LastLayerGGN)


def load(path: str | Path, model: nn.Module | Stack, *, loss: losses.Loss | None = None) -> Estimator:
    """The fitted estimator that ``save(path)`` wrote, on the model it was fitted on.

    ``loss`` is that of the fit, None for cross-entropy. Raises UserError for another file, another model (how it is
    built, its state dict, what is trainable, its logits on two examples in the file) or another loss.
    """
    with computing():
        estimator = saved.read({kind.__name__: kind for kind in _KINDS}, path, model, loss or losses.CrossEntropy())
        estimator._damp()
    return estimator
