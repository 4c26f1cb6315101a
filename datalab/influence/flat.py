"""What the estimators share that hold H as a product with vectors, over all parameters as one."""

from typing import Literal

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
        self._operator = CURVATURES[self.curvature](self._network, lambda: self._batches(x, y), len(x))
        self._d = self._automatic(mean_diagonal(self._network, self._batches(x, y), len(x)))

    def _damped(self, vectors: Tensor) -> Tensor:
        """(H + d I) v, (S, k, P)."""
        return self._operator.product(vectors) + self._d[:, None, None] * vectors

    def _solve(self, directions: Directions) -> Directions:
        return self._network.unflatten(self._solve_flat(self._network.flatten(directions)))

    def _solve_flat(self, vectors: Tensor) -> Tensor:
        """(H + d I)^-1 v, (S, k, P)."""
        raise NotImplementedError
