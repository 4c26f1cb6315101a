"""Influence with the exact Gauss-Newton matrix of all parameters, formed and factorised: for small models."""

import torch
from torch import Tensor

from datalab.errors import UserError
from datalab.influence import cholesky, features
from datalab.influence.estimator import Estimator
from datalab.influence.features import Factors, Tape
from datalab.influence.fisher import exact_cotangents

MAX_PARAMETERS = 15_000


class ExactGGN(Estimator):
    """H is the exact Gauss-Newton matrix over all parameters; the solver is Cholesky.

    It costs n C P^2 to form and P^3 / 3 to factorise, and P^2 numbers of memory. Raises UserError in ``fit`` above
    15,000 parameters, and when H + d I is not positive definite.
    """

    def _fit(self, x: Tensor, y: Tensor) -> None:
        self._layers = features.layers(self.model)
        self._shapes = [features.shape(layer) for layer in self._layers.values()]
        size = sum(out * n_in for out, n_in in self._shapes)
        if size > MAX_PARAMETERS:
            raise UserError(
                f"model: has {size:,} parameters, and ExactGGN forms their full matrix: at most {MAX_PARAMETERS:,}; "
                "use EKFAC or LastLayerGGN"
            )
        curvature = torch.zeros(size, size, dtype=x.dtype, device=x.device)
        for batch, _ in self._batches(x, y):
            tape = Tape(self.model, self._layers, batch)
            for cotangent in exact_cotangents(tape.logits):
                gradients = _flat([features.per_example(f) for f in tape.factors(cotangent)])
                curvature.addmm_(gradients.T, gradients)
        curvature /= len(x)
        self.damping_ = self._auto(float(curvature.diagonal().mean()))
        curvature.diagonal().add_(self.damping_)
        factor = cholesky.factorise(curvature)
        if factor is None:
            raise UserError(
                f"damping: the curvature plus {self.damping_:.3g} is not positive definite; a larger one would be"
            )
        self._factor = factor

    def _factors(self, x: Tensor, y: Tensor) -> list[Factors]:
        tape = Tape(self.model, self._layers, x)
        return tape.factors(features.loss_cotangent(tape.logits, y))

    def _self_influence(self, factors: list[Factors]) -> Tensor:
        gradients = _flat([features.per_example(f) for f in factors])
        return cholesky.half_solve(self._factor, gradients.T.contiguous()).square().sum(0)

    def _solve(self, gradients: list[Tensor]) -> list[Tensor]:
        solved = cholesky.solve(self._factor, _flat(gradients).T.contiguous()).T
        parts = solved.split([out * n_in for out, n_in in self._shapes], dim=1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, self._shapes, strict=True)]


def _flat(gradients: list[Tensor]) -> Tensor:
    """(k, P) from each layer's (k, out, in)."""
    return torch.cat([g.flatten(1) for g in gradients], 1)
