"""Influence by LiSSA (Agarwal et al. 2017; Koh & Liang 2017, sec. 3): a truncated Neumann series."""

import torch
from torch import Tensor

from datalab.errors import UserError
from datalab.influence.flat import MatrixFree
from datalab.seeds import integer


class LiSSA(MatrixFree):
    """v <- g + (I - (H + d I) / s) v, ``depth`` times, and v / s at the end: (H + d I)^-1 g as depth grows.

    The scale s is 1.1 times the largest eigenvalue of H + d I, by power iteration: the series then converges, at the rate
    1 - d/s a step. Unlike the original, each step multiplies with the whole training set, so that a result is no random
    number. Equivalent to gradient descent with step 1/s. Parameters beside
    :class:`~datalab.influence.flat.MatrixFree`'s: ``depth``, the number of steps, and ``seed`` of the power iteration.
    ``scale_`` is s, one a model.
    """

    def __init__(self, model, damping="auto", *, depth: int = 1000, seed: int = 0, **options):
        super().__init__(model, damping, **options)
        if depth < 1:
            raise UserError(f"depth: must be at least 1, got {depth}")
        self.depth, self.seed = depth, seed

    def _fit(self, x: Tensor, y: Tensor) -> None:
        super()._fit(x, y)
        generator = torch.Generator().manual_seed(integer(self.seed, "lissa"))
        network = self._network
        v = torch.randn(network.models, 1, network.n_parameters, generator=generator, dtype=torch.float64)
        v = v.to(network.like)
        for _ in range(30):
            v = self._damped(v / v.norm(dim=2, keepdim=True))
        self.scale_ = 1.1 * v.norm(dim=2, keepdim=True)

    def _solve_flat(self, vectors: Tensor) -> Tensor:
        v = vectors.clone()
        for _ in range(self.depth):
            v = vectors + v - self._damped(v) / self.scale_
        if not bool(torch.isfinite(v).all()):
            raise UserError("depth: the series diverges, as it does on an indefinite curvature; use a larger damping")
        return v / self.scale_
