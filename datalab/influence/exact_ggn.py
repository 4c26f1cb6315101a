"""Influence with the exact Gauss-Newton matrix of all parameters, formed and factorised: for small models."""

from functools import partial

import torch
from torch import Tensor

from datalab.errors import UserError
from datalab.influence import cholesky, fisher
from datalab.influence.estimator import Batch, Directions, Estimator
from datalab.influence.ggn import GGN

MAX_PARAMETERS = 15_000


class ExactGGN(Estimator):
    """H is the exact Gauss-Newton matrix over all parameters; the solver is Cholesky.

    It costs n P^2 FLOP to form (4 n P^2 where weights are shared over positions) and P^3 / 3 to factorise, and 2 P^2
    numbers of memory a model. Raises UserError in ``fit`` above 15,000 parameters, and when H + d I is not positive
    definite. On softmax regression H is the Hessian. Parameters: :class:`~datalab.influence.estimator.Estimator`.
    """

    def _fit(self, x: Tensor, y: Tensor) -> None:
        refuse_above(self._network.n_parameters, type(self).__name__)
        self._curvature = GGN(self._network, partial(self._batches, x, y), len(x)).matrix()
        self._damp()

    def _damp(self) -> None:
        self._d = self._automatic(self._curvature.diagonal(dim1=1, dim2=2).mean(1))
        self._factors_of = self._factorised(self._d)

    def _factorised(self, d: Tensor) -> list[Tensor]:
        """The Cholesky factor of each model's H + d I."""
        found = []
        for curvature, each in zip(self._curvature, d, strict=True):
            damped = curvature.clone()
            damped.diagonal().add_(each)
            factor = cholesky.factorise(damped)
            if factor is None:
                raise UserError(
                    f"damping: the curvature plus {float(each):.3g} is not positive definite; a larger one would be"
                )
            found.append(factor)
        return found

    def _self_influence(self, batch: Batch) -> Tensor:
        parts = []
        for part in self._parts(batch):
            flat = self._network.flatten(self._per_example(part))
            halves = zip(self._factors_of, flat, strict=True)
            parts.append(torch.stack([cholesky.half_solve(f, g.T.contiguous()).square_().sum(0) for f, g in halves]))
        return torch.cat(parts, 1)

    def _solve(self, directions: Directions) -> Directions:
        flat = self._network.flatten(directions)
        solved = [cholesky.solve(f, v.T.contiguous()).T for f, v in zip(self._factors_of, flat, strict=True)]
        return self._network.unflatten(torch.stack(solved))

    def _leave_one_out(self, x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor) -> Tensor:
        """One Newton step on the objective without example i, whose curvature lacks i's own part: the leverage.

        Over n that objective is the old one less l_i / n and less l2 |theta|^2 / 2n, so with M = H + (d - l2/n) I and
        G_i (C, P), G_i' G_i the Gauss-Newton matrix of example i, the step is (M - G_i' G_i / n)^-1 u / n for u = grad
        l_i + l2 theta; by Woodbury's identity that takes a C x C solve (Cook 1977; Rad & Maleki 2020).
        """
        n, network = self.n_, self._network
        factors = self._factorised(self._d - self.l2 / n)
        target = network.flatten(self._mean_gradient(x_val, y_val))
        target = [cholesky.half_solve(f, t.T.contiguous())[:, 0] for f, t in zip(factors, target, strict=True)]
        penalty = self.l2 * network.flatten([v[:, None] for v in self._values()])
        columns = []
        n_classes = network.logits(next(self._batches(x, y, 1)).x).shape[-1]
        for batch in self._batches(x, y, max(1, self._gradients_at_once() // (1 + n_classes))):
            tape = network.tape(batch.x)
            every = [fisher.loss_cotangent(tape.logits, batch.y), *fisher.exact_cotangents(tape.logits)]
            rows = torch.stack(
                [network.flatten([f.per_example() for f in tape.factors(cotangent)]) for cotangent in every]
            )
            rows[0] += penalty
            columns.append(
                torch.stack(
                    [_newton_step(f, t, rows[:, s], n) for s, (f, t) in enumerate(zip(factors, target, strict=True))]
                )
            )
        return torch.cat(columns, 1)


def _newton_step(factor: Tensor, target: Tensor, rows: Tensor, n: int) -> Tensor:
    """The target's change (m,) from rows (1 + C, m, P): u and the C rows of G_i; ``target`` is L^-1 grad L."""
    c, m, p = rows.shape
    half = cholesky.half_solve(factor, rows.reshape(c * m, p).T.contiguous()).T.reshape(c, m, p)
    u, g = half[0], half[1:].transpose(0, 1)
    gram = n * torch.eye(c - 1, dtype=g.dtype, device=g.device) - g @ g.mT
    leverage = torch.linalg.solve(gram, (g @ u[..., None])[..., 0])
    return (u @ target + ((g @ target) * leverage).sum(1)) / n


def refuse_above(parameters: int, name: str) -> None:
    """Raise UserError above the number of parameters whose full matrix can be held."""
    if parameters > MAX_PARAMETERS:
        raise UserError(
            f"model: has {parameters:,} parameters, and {name} forms their full matrix: at most {MAX_PARAMETERS:,}; "
            "use EKFAC or LastLayerGGN"
        )
