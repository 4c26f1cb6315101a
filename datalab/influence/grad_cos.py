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
        lengths = self._over_sites(v.square().sum((2, 3)) for v in directions).sqrt()
        return super()._product(x, y, directions) / self._scale(lengths, x, y)

    def _pairs(self, x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> Tensor:
        return super()._pairs(x, y, x_test, y_test) / self._scale(self._norms(x_test, y_test), x, y)

    def _norms(self, x: Tensor, y: Tensor) -> Tensor:
        """Each example's gradient norm, (S, n)."""
        return torch.cat([super(GradCos, self)._self_influence(batch) for batch in self._batches(x, y)], 1).sqrt()

    def _scale(self, lengths: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """The product (S, k, n) of k lengths (S, k) with every example's gradient norm."""
        return (lengths[:, :, None] * self._norms(x, y)[:, None]).clamp(min=_TINY)
