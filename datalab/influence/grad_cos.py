"""Influence without curvature or scale: the cosine between loss gradients."""

import torch
from torch import Tensor

from datalab.influence.estimator import Batch, Directions
from datalab.influence.grad_dot import GradDot

_TINY = 1e-30  # a gradient of norm 0 has cosine 0 with everything


class GradCos(GradDot):
    """Influence is minus the cosine of grad L and grad l_i, in [-1, 1].

    Without scale there is no self-influence worth the name: it is 1 for every example whose gradient is not 0.
    ``influence_on`` takes the cosine with the mean gradient, so it is not the mean of ``pairwise``.
    """

    def _self_influence(self, batch: Batch) -> Tensor:
        return (super()._self_influence(batch) > 0).to(self._network.like.dtype)

    def _product(self, x: Tensor, y: Tensor, directions: Directions) -> Tensor:
        squares = sum(self._network.over_groups(v.square().sum((2, 3))) for v in directions)
        norms = torch.cat([GradDot._self_influence(self, batch) for batch in self._batches(x, y)], 1).sqrt()
        product = super()._product(x, y, directions)
        return product / (squares.sqrt()[:, :, None] * norms[:, None]).clamp(min=_TINY)
