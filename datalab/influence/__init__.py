"""Influence functions: estimators of how much each training example matters, behind one interface.

``fit``, ``self_influence``, ``influence_on`` and ``pairwise`` on one model; ``last_layer.scores_many`` on a stack of
models. Curvature (``softmax``, ``fisher``) is kept apart from solver (``cholesky``) and from ``features``.
"""

from datalab.influence import last_layer
from datalab.influence.ekfac import EKFAC
from datalab.influence.estimator import Estimator
from datalab.influence.exact_ggn import ExactGGN
from datalab.influence.last_layer import LastLayerGGN

__all__ = ["EKFAC", "Estimator", "ExactGGN", "LastLayerGGN", "last_layer"]
