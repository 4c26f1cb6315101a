"""Influence functions: estimators of how much each training example matters, behind one interface.

``fit``, ``self_influence``, ``influence_on``, ``pairwise`` and ``leave_one_out``, on one model or on a stack of models.
What H is (``ggn``, ``hessian``, ``fisher``, ``kronecker``, ``softmax``) is kept apart from how H + d I is inverted
(``cholesky``, ``iterative``, an eigenbasis) and from what both are made of: ``layers`` says what a layer multiplies, a
``tape`` takes it once, ``factors`` multiplies. ``retraining`` is the ground truth.
"""

from datalab.influence import last_layer
from datalab.influence.datainf import DataInf
from datalab.influence.estimator import Estimator, InfluenceWarning
from datalab.influence.exact import ExactGGN, ExactHessian
from datalab.influence.gradients import GradCos, GradDot, TracIn
from datalab.influence.iterative import CG, Arnoldi, LiSSA
from datalab.influence.kronecker import EKFAC, KFAC
from datalab.influence.last_layer import LastLayerGGN
from datalab.influence.trak import TRAK

__all__ = [
    "CG",
    "EKFAC",
    "KFAC",
    "TRAK",
    "Arnoldi",
    "DataInf",
    "Estimator",
    "ExactGGN",
    "ExactHessian",
    "GradCos",
    "GradDot",
    "InfluenceWarning",
    "LastLayerGGN",
    "LiSSA",
    "TracIn",
    "last_layer",
]
