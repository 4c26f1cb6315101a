"""Influence with the full curvature matrix of all parameters, formed and factorised: for small models."""

import torch
from torch import Tensor

from datalab.errors import UserError
from datalab.influence import cholesky, losses
from datalab.influence.estimator import MAX_PARAMETERS, Estimator, warn
from datalab.influence.ggn import GGN, mean_diagonal
from datalab.influence.hessian import Hessian
from datalab.influence.sets import Batch, Held, Streamed

_WORTH_A_WARNING = 1e-2  # of a removal's predicted change, rounding error


class ExactGGN(Estimator):
    """H is the exact Gauss-Newton matrix over all parameters; the solver is Cholesky.

    It costs n P^2 FLOP to form (4 n P^2 where weights are shared over positions) and P^3 / 3 to factorise, and 2 P^2
    numbers of memory a model. On softmax regression H is the Hessian. Raises UserError in ``fit`` above 15,000
    parameters, and when H + d I is not positive definite. ``leave_one_out`` warns
    (:class:`~datalab.influence.estimator.InfluenceWarning`) where rounding may be a hundredth of a removal's change.
    """

    _state = ("_curvature",)

    def _fit(self, data: Held | Streamed) -> None:
        _refuse_above(self._network.n_parameters, type(self).__name__)
        self._curvature = GGN(self._feed, data).matrix()

    def _damp(self) -> None:
        self._d = self._automatic(self._curvature.diagonal(dim1=1, dim2=2).mean(1))
        self._cholesky = self._factorised(self._d)

    def _factorised(self, d: Tensor) -> list[Tensor]:
        """The Cholesky factor of each model's H + d I, for d (S,)."""
        damped = self._curvature.clone()
        damped.diagonal(dim1=1, dim2=2).add_(d[:, None])
        factors, infos = zip(*map(cholesky.factorise, damped), strict=True)
        cholesky.refuse_indefinite(infos, d, damped.dtype)
        return list(factors)

    def _self_influence(self, batch: Batch) -> Tensor:
        if self._by_layer:
            return super()._self_influence(batch)
        parts = []
        for part in self._parts(batch):
            flat = self._network.flatten([f.per_example() for f in self._factors(part)])
            halves = zip(self._cholesky, flat, strict=True)
            parts.append(torch.stack([cholesky.half_solve(f, g.T.contiguous()).square_().sum(0) for f, g in halves]))
        return torch.cat(parts, 1)

    def _solve_flat(self, vectors: Tensor) -> Tensor:
        pairs = zip(self._cholesky, vectors, strict=True)
        return torch.stack([cholesky.solve(f, v.T.contiguous()).T for f, v in pairs])

    def _leave_one_out(self, data: Held | Streamed, target: Held | Streamed) -> Tensor:
        """One Newton step on the objective without example i, whose curvature lacks i's own part: the leverage.

        With M = H + (d - l2/n) I and G_i (C, P), G_i' G_i the Gauss-Newton matrix of example i, the step is (M - G_i'
        G_i / n)^-1 u / n for u = grad l_i + l2 theta: by Woodbury's identity a C x C solve (Cook 1977; Rad & Maleki
        2020).
        """
        n, network = self.n_, self._network
        factors = self._factorised(self._d - self.l2 / n)
        gradient = network.flatten(self._mean_gradient(target))
        halves = [cholesky.half_solve(f, t.T.contiguous())[:, 0] for f, t in zip(factors, gradient, strict=True)]
        penalty = self.l2 * network.flatten(network.values())
        columns, left = [], []
        rows_of_example = 1 + self._feed.outputs.numel()
        for batch in self._feed.batches(data, max(1, self._gradients_at_once() // rows_of_example)):
            tape, cotangents = self._feed.curved(batch)
            both = [losses.over_models(self.loss.gradient, tape.logits, batch.y), *cotangents]
            rows = torch.stack([network.flatten([f.per_example() for f in tape.factors(c)]) for c in both])
            rows[0] += penalty
            pairs = enumerate(zip(factors, halves, strict=True))
            changes, unlevered = zip(*(_newton_step(f, t, rows[:, s], n) for s, (f, t) in pairs), strict=True)
            columns.append(torch.stack(changes))
            left += unlevered
        if (off := torch.finfo(network.like.dtype).eps / float(torch.stack(left).min())) > _WORTH_A_WARNING:
            why = f"is so small that some examples alone decide a direction, and a removal may be {off:.0%} off"
            warn(f"damping: {why}; a larger one, or dtype=torch.float64, would do", 7)
        return torch.cat(columns, 1)


class ExactHessian(Estimator):
    """H is the Hessian of the mean loss (Koh & Liang 2017, eq. 2); the solver is its eigenbasis.

    Where H + d I is indefinite ``fit`` warns (:class:`~datalab.influence.estimator.InfluenceWarning`) and goes on: such
    scores are of no quadratic model of the loss, and self-influence may be negative. ``"auto"`` damping takes the
    Gauss-Newton matrix's diagonal, which is positive. ``eigenvalues_`` are H's, (P,). Raises UserError in ``fit`` above
    15,000 parameters, for a stack, and where an eigenvalue of H + d I is 0.
    """

    _state = ("eigenvalues_", "_basis", "_mean_diagonal")

    def _fit(self, data: Held | Streamed) -> None:
        _refuse_above(self._network.n_parameters, type(self).__name__)
        curvature = Hessian(self._feed, data).matrix()[0].double()
        self.eigenvalues_, self._basis = torch.linalg.eigh((curvature + curvature.T) / 2)
        self._mean_diagonal = mean_diagonal(self._feed, data)

    def _damp(self) -> None:
        damped = self.eigenvalues_ + self._automatic(self._mean_diagonal)
        if float(damped.abs().min()) <= 1e-12 * float(damped.abs().max()):
            raise UserError(f"damping: the Hessian plus {self.damping_:.3g} is singular; another damping is needed")
        if (negative := int((damped < 0).sum())) > 0:
            why = f"{negative} of {len(damped)} eigenvalues are negative, the least {float(damped.min()):.2g}"
            warn(f"model: its Hessian plus {self.damping_:.3g} is indefinite ({why}): ExactGGN is not")
        self._inverse = 1 / damped

    def _solve_flat(self, vectors: Tensor) -> Tensor:
        return (((vectors.double() @ self._basis) * self._inverse) @ self._basis.T).to(vectors)


def _newton_step(factor: Tensor, target: Tensor, rows: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The target's change (m,) from rows (1 + C, m, P): u and the C rows of G_i; ``target`` is L^-1 grad L.

    And by how much the largest leverage is below 1, about.
    """
    c, m, p = rows.shape
    half = cholesky.half_solve(factor, rows.reshape(c * m, p).T.contiguous()).T.reshape(c, m, p)
    u, g = half[0], half[1:].transpose(0, 1)
    gram = n * torch.eye(c - 1, dtype=g.dtype, device=g.device) - g @ g.mT
    leverage = torch.linalg.solve(gram, (g @ u[..., None])[..., 0])
    pivots = torch.linalg.cholesky_ex(gram / n)[0].diagonal(dim1=1, dim2=2)
    return (u @ target + ((g @ target) * leverage).sum(1)) / n, pivots.square().min()


def _refuse_above(parameters: int, name: str) -> None:
    """Raise UserError above the number of parameters whose full matrix can be held."""
    if parameters > MAX_PARAMETERS:
        most = f"at most {MAX_PARAMETERS:,}; use EKFAC"
        raise UserError(f"model: has {parameters:,} parameters, and {name} forms their full matrix: {most}")
