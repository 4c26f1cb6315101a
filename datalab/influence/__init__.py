"""Influence functions: estimators of how much each training example matters, behind one interface.

``fit``, ``self_influence``, ``influence_on``, ``pairwise`` and ``leave_one_out``, on one model or on a stack of models.
What H is (``ggn``, ``hessian``, ``fisher``, ``kronecker``, ``softmax``) is kept apart from how H + d I is inverted
(``cholesky``, ``conjugate_gradients``, ``lissa``, ``arnoldi``, an eigenbasis) and from what both are made of:
``layers`` says what a layer multiplies, a ``tape`` takes it once, ``factors`` multiplies. ``retraining`` is the ground
truth.
"""

from datalab.influence import last_layer
from datalab.influence.arnoldi import Arnoldi
from datalab.influence.conjugate_gradients import CG
from datalab.influence.datainf import DataInf
from datalab.influence.ekfac import EKFAC
from datalab.influence.estimator import Estimator, InfluenceWarning
from datalab.influence.exact_ggn import ExactGGN
from datalab.influence.exact_hessian import ExactHessian
from datalab.influence.grad_cos import GradCos
from datalab.influence.grad_dot import GradDot
from datalab.influence.kfac import KFAC
from datalab.influence.last_layer import LastLayerGGN
from datalab.influence.lissa import LiSSA
from datalab.influence.tracin import TracIn
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
