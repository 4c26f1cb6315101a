"""Influence by LiSSA (Agarwal et al. 2017; Koh & Liang 2017, sec. 3): a truncated Neumann series."""

import warnings

import torch
from torch import Tensor

from datalab.errors import UserError
from datalab.influence.estimator import InfluenceWarning
from datalab.influence.flat import MatrixFree
from datalab.seeds import integer

_WORTH_A_WARNING = 0.1  # relative residual


class LiSSA(MatrixFree):
    """v <- g + (I - (H + d I) / s) v, ``depth`` times, and v / s at the end: (H + d I)^-1 g as depth grows.

    The scale s is 1.1 times the largest eigenvalue of H + d I, by power iteration: the series then converges, at the
    rate 1 - d/s a step. Unlike the original, each step multiplies with the whole training set, so that a result is no
    random number. Equivalent to gradient descent with step 1/s. Parameters beside
    :class:`~datalab.influence.flat.MatrixFree`'s: ``depth``, the number of steps, and ``seed`` of the power iteration.
    ``scale_`` is s, (S, 1, 1); after each verb ``residual_`` is the largest relative residual of its solves, of which
    one above 0.1 is warned of.
    """

    def __init__(self, model, damping="auto", *, depth: int = 1000, seed: int = 0, **options):
        super().__init__(model, damping, **options)
        if depth < 1:
            raise UserError(f"depth: must be at least 1, got {depth}")
        self.depth, self.seed = depth, seed

    def _damp(self) -> None:
        super()._damp()
        generator = torch.Generator().manual_seed(integer(self.seed, "lissa"))
        network = self._network
        v = torch.randn(1, 1, network.n_parameters, generator=generator, dtype=torch.float64)
        v = v.to(network.like).expand(network.models, -1, -1)
        for _ in range(30):
            v = self._damped(v / v.norm(dim=2, keepdim=True))
        self.scale_ = 1.1 * v.norm(dim=2, keepdim=True)

    def _solve_flat(self, vectors: Tensor) -> Tensor:
        v = vectors.clone()
        for _ in range(self.depth):
            v = vectors + v - self._damped(v) / self.scale_
        v = v / self.scale_
        residual = self._note_residual(vectors - self._damped(v), vectors)
        if not residual <= 1:  # on a positive definite curvature every step shrinks it
            raise UserError(
                "damping: the series diverges, as it does on an indefinite curvature; a larger one would do"
            )
        if residual > _WORTH_A_WARNING:
            warnings.warn(
                f"depth: {self.depth} leaves a relative residual of {residual:.2g}; more, or a larger damping, "
                "would do",
                InfluenceWarning,
                stacklevel=2,
            )
        return v
