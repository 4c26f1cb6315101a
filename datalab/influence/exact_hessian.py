"""Influence with the explicit Hessian of all parameters (Koh & Liang 2017, eq. 2): for small models."""

import warnings
from functools import partial

import torch
from torch import Tensor

from datalab.errors import UserError
from datalab.influence.estimator import Directions, Estimator, InfluenceWarning
from datalab.influence.exact_ggn import refuse_above
from datalab.influence.ggn import mean_diagonal
from datalab.influence.hessian import Hessian


class ExactHessian(Estimator):
    """H is the Hessian of the mean loss; the solver is its eigenbasis.

    It costs about 6 n P^2 to form and 9 P^3 to diagonalise. Where H + d I is indefinite ``fit`` warns
    (:class:`~datalab.influence.estimator.InfluenceWarning`) and goes on: such scores are of no quadratic model of the
    loss, and self-influence may be negative. ``"auto"`` damping takes the Gauss-Newton matrix's diagonal, which is
    positive. ``eigenvalues_`` are H's, (P,). Raises UserError in ``fit`` above 15,000 parameters, for a stack, and
    where an eigenvalue of H + d I is 0. Parameters: :class:`~datalab.influence.estimator.Estimator`.
    """

    def _fit(self, x: Tensor, y: Tensor) -> None:
        refuse_above(self._network.n_parameters, type(self).__name__)
        curvature = Hessian(self._network, partial(self._batches, x, y), len(x)).matrix()[0].double()
        self.eigenvalues_, self._basis = torch.linalg.eigh((curvature + curvature.T) / 2)
        self._mean_diagonal = mean_diagonal(self._network, self._batches(x, y), len(x))
        self._damp()

    def _damp(self) -> None:
        damped = self.eigenvalues_ + self._automatic(self._mean_diagonal)
        if float(damped.abs().min()) <= 1e-12 * float(damped.abs().max()):
            raise UserError(f"damping: the Hessian plus {self.damping_:.3g} is singular; another damping is needed")
        if (negative := int((damped < 0).sum())) > 0:
            warnings.warn(
                f"model: its Hessian plus {self.damping_:.3g} is indefinite ({negative} of {len(damped)} eigenvalues "
                f"are negative, the least {float(damped.min()):.2g}): ExactGGN is not",
                InfluenceWarning,
                stacklevel=3,
            )
        self._inverse = 1 / damped

    def _solve(self, directions: Directions) -> Directions:
        flat = self._network.flatten(directions)
        solved = ((flat.double() @ self._basis) * self._inverse) @ self._basis.T
        return self._network.unflatten(solved.to(flat))
