"""What the estimators share that hold H as a product with vectors, over all parameters as one."""

from abc import abstractmethod
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from datalab.errors import UserError
from datalab.influence.estimator import Directions, Estimator
from datalab.influence.ggn import GGN, mean_diagonal
from datalab.influence.hessian import Hessian

CURVATURES = {"ggn": GGN, "hessian": Hessian}


class MatrixFree(Estimator):
    """H is never formed; the solver multiplies with it.

    Parameters beside :class:`~datalab.influence.estimator.Estimator`'s:

    curvature
        ``"ggn"``, the Gauss-Newton matrix; or ``"hessian"``, that of the mean loss, which may be indefinite. Either way
        ``"auto"`` damping takes the Gauss-Newton matrix's diagonal, which is positive.
    """

    def __init__(
        self,
        model,
        damping: float | Literal["auto"] = "auto",
        *,
        curvature: Literal["ggn", "hessian"] = "ggn",
        **options,
    ):
        super().__init__(model, damping, **options)
        if curvature not in CURVATURES:
            raise UserError(f"curvature: must be one of {', '.join(CURVATURES)}, got {curvature!r}")
        self.curvature = curvature

    def _fit(self, x: Tensor, y: Tensor) -> None:
        self.residual_ = 0.0
        self._operator = CURVATURES[self.curvature](self._network, partial(self._batches, x, y), len(x))
        self._mean_diagonal = mean_diagonal(self._network, self._batches(x, y), len(x))
        self._damp()

    def _damp(self) -> None:
        self._d = self._automatic(self._mean_diagonal)

    def _fitted(self, name: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        self.residual_ = 0.0  # of the solves of one verb
        return super()._fitted(name, x, y)

    def _note_residual(self, residuals: Tensor, vectors: Tensor) -> float:
        """The largest norm of residuals relative to that of vectors, (S, k, P) both; a vector of zeros has none."""
        norms = vectors.norm(dim=2)
        worst = float(torch.where(norms > 0, residuals.norm(dim=2) / norms, 0.0).max())
        self.residual_ = max(self.residual_, worst)
        return worst

    def _damped(self, vectors: Tensor) -> Tensor:
        """(H + d I) v, (S, k, P)."""
        return self._operator.product(vectors) + self._d[:, None, None] * vectors

    def _solve(self, directions: Directions) -> Directions:
        return self._network.unflatten(self._solve_flat(self._network.flatten(directions)))

    @abstractmethod
    def _solve_flat(self, vectors: Tensor) -> Tensor:
        """(H + d I)^-1 v, (S, k, P)."""
