"""Influence by conjugate gradients (Martens 2010; Koh & Liang 2017, sec. 3): H + d I is never formed."""

import warnings

import torch
from torch import Tensor

from datalab.errors import UserError
from datalab.influence.estimator import InfluenceWarning
from datalab.influence.flat import MatrixFree

_CHECK_EVERY = 10  # iterations between two looks at the residuals, which wait for the device


class CG(MatrixFree):
    """Solves (H + d I) v = g for each g, until |residual| <= ``tolerance`` |g| or ``iterations`` are spent.

    Equivalent to ``scipy.sparse.linalg.cg``, for many right-hand sides at once. After each verb ``residual_`` is the
    largest relative residual of its solves. Warns (:class:`~datalab.influence.estimator.InfluenceWarning`) where the
    tolerance was not reached and where the curvature is indefinite. Parameters beside
    :class:`~datalab.influence.flat.MatrixFree`'s: ``tolerance`` and ``iterations``.
    """

    def __init__(self, model, damping="auto", *, tolerance: float = 1e-6, iterations: int = 1000, **options):
        super().__init__(model, damping, **options)
        if not tolerance > 0 or iterations < 1:
            raise UserError(f"tolerance: must be above 0, and iterations at least 1; got {tolerance}, {iterations}")
        self.tolerance, self.iterations = tolerance, iterations

    def _solve_flat(self, vectors: Tensor) -> Tensor:
        solution, residual = torch.zeros_like(vectors), vectors.clone()
        direction = residual.clone()
        squared = residual.square().sum(2, keepdim=True)
        wanted = self.tolerance**2 * squared
        indefinite = torch.zeros((), dtype=torch.bool, device=vectors.device)
        for i in range(self.iterations):
            product = self._damped(direction)
            along = (direction * product).sum(2, keepdim=True)
            going = squared > wanted
            indefinite |= (going & (along <= 0)).any()
            step = torch.where(going, squared / along, 0.0)
            solution += step * direction
            residual -= step * product
            after = residual.square().sum(2, keepdim=True)
            direction = residual + torch.where(going, after / squared, 0.0) * direction
            squared = torch.where(going, after, squared)
            if i % _CHECK_EVERY == _CHECK_EVERY - 1 and not bool((squared > wanted).any()):
                break
        worst = self._note_residual(squared.sqrt(), vectors)
        if bool(indefinite):
            warnings.warn(
                "curvature: indefinite along a direction; a larger damping would not be", InfluenceWarning, stacklevel=2
            )
        elif worst > self.tolerance:
            message = (
                f"iterations: {self.iterations} leave a relative residual of {worst:.1e}; more, or a larger "
                "damping, would do"
            )
            warnings.warn(message, InfluenceWarning, stacklevel=2)
        return solution
