"""Influence where H is never formed: conjugate gradients, a Neumann series, a Krylov subspace.

All parameters are one vector here: directions are (S, k, P).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from datalab.errors import UserError
from datalab.influence.estimator import Damping, Estimator, warn
from datalab.influence.ggn import GGN, mean_diagonal
from datalab.influence.hessian import Hessian
from datalab.influence.sets import Batch, Held, Streamed
from datalab.influence.settings import count, number
from datalab.seeds import integer

CURVATURES = {"ggn": GGN, "hessian": Hessian}
_CHECK_EVERY = 10  # iterations of conjugate gradients between two looks at the residuals, which wait for the device
_WORTH_A_WARNING = 0.1  # relative residual of the Neumann series, and what it may leave of any vector
_LOST = 1e-2  # what rounding leaves of a vector, or takes of an eigenvalue, relative to it
_PRECISE = "a larger one, or dtype=torch.float64, would do"
_BREAKDOWN = 1e-10  # of the largest product so far: less than that is left of a vector that lies in the subspace


class MatrixFree(Estimator):
    """What these estimators share: H as a product with vectors, and how well it was inverted.

    ``curvature``: ``"ggn"``, the Gauss-Newton matrix; or ``"hessian"``, that of the mean loss, which may be indefinite.
    Either way ``"auto"`` damping takes the Gauss-Newton matrix's diagonal, which is positive.
    """

    def __init__(self, model, damping: Damping = "auto", *, curvature: Literal["ggn", "hessian"] = "ggn", **options):
        super().__init__(model, damping, **options)
        if curvature not in CURVATURES:
            raise UserError(f"curvature: must be one of {', '.join(CURVATURES)}, got {curvature!r}")
        self.curvature = curvature

    def _fit(self, data: Held | Streamed) -> None:
        self._operator = CURVATURES[self.curvature](self._feed, data)
        self._mean_diagonal = mean_diagonal(self._feed, data)

    def _damp(self) -> None:
        self._d = self._automatic(self._mean_diagonal)

    def _note_residual(self, name: str, lengths: Tensor, vectors: Tensor) -> None:
        """Lengths (S, k) of what is left, relative to those of vectors (S, k, P); a vector of zeros has none."""
        norms = vectors.norm(dim=2)
        self._note(name, torch.where(norms > 0, lengths / norms, 0.0))

    @property
    def residual_(self) -> float:
        """The largest relative residual of the last verb's solves; to look at it is to wait for the device."""
        return float(self._noted.get("residual", 0.0))

    def _damped(self, vectors: Tensor) -> Tensor:
        """(H + d I) v, (S, k, P)."""
        return self._operator.product(vectors) + self._d[:, None, None] * vectors


class CG(MatrixFree):
    """Solves (H + d I) v = g for each g, until |residual| <= ``tolerance`` |g| or ``iterations`` are spent.

    Conjugate gradients (Martens 2010; Koh & Liang 2017, sec. 3), equivalent to ``scipy.sparse.linalg.cg`` for many
    right-hand sides at once. Warns (:class:`~datalab.influence.estimator.InfluenceWarning`) where the tolerance was not
    reached and where the curvature is indefinite.
    """

    def __init__(self, model, damping="auto", *, tolerance: float = 1e-6, iterations: int = 1000, **options):
        super().__init__(model, damping, **options)
        self.tolerance = number("tolerance", tolerance, "a number above 0", lambda v: v > 0)
        self.iterations = count("iterations", iterations)

    def _solve_flat(self, vectors: Tensor) -> Tensor:
        solution, residual = torch.zeros_like(vectors), vectors.clone()
        direction = residual.clone()
        squared = residual.square().sum(2, keepdim=True)
        wanted = self.tolerance**2 * squared
        for i in range(self.iterations):
            product = self._damped(direction)
            along = (direction * product).sum(2, keepdim=True)
            going = squared > wanted
            self._note("indefinite", going & (along <= 0))
            step = torch.where(going, squared / along, 0.0)
            solution += step * direction
            residual -= step * product
            after = residual.square().sum(2, keepdim=True)
            direction = residual + torch.where(going, after / squared, 0.0) * direction
            squared = torch.where(going, after, squared)
            if i % _CHECK_EVERY == _CHECK_EVERY - 1 and not bool((squared > wanted).any()):
                break
        self._note_residual("residual", squared.sqrt()[..., 0], vectors)
        self._note_residual("rounding", (vectors - self._damped(solution)).norm(dim=2), vectors)
        return solution

    def _judge(self, results: list[Tensor], sets: Sequence[Held | Streamed]) -> None:
        super()._judge(results, sets)
        if bool(self._noted.get("indefinite")):
            warn("curvature: indefinite along a direction; a larger damping would not be", 5)
        elif (left := self.residual_) > self.tolerance:
            why = f"{self.iterations} leave a relative residual of {left:.1e}; more, or a larger damping, would do"
            warn(f"iterations: {why}", 5)
        elif (left := float(self._noted.get("rounding", 0.0))) > _LOST:
            warn(f"damping: is so small that rounding leaves a relative residual of {left:.1e}; {_PRECISE}", 5)


class LiSSA(MatrixFree):
    """v <- g + (I - (H + d I) / s) v, ``depth`` times, and v / s at the end: (H + d I)^-1 g as depth grows.

    A truncated Neumann series (Agarwal et al. 2017; Koh & Liang 2017, sec. 3), equivalent to gradient descent with step
    1/s; unlike the original's, each takes the whole training set. ``scale_`` is s, (S, 1, 1): 1.1 times the largest
    eigenvalue of H + d I, by power iteration from a vector drawn with ``seed``, so that the series converges at the
    rate 1 - d/s a step. Warns of a relative residual above 0.1; raises UserError where the series diverges.
    """

    def __init__(self, model, damping="auto", *, depth: int = 1000, seed: int = 0, **options):
        super().__init__(model, damping, **options)
        self.depth, self.seed = count("depth", depth), count("seed", seed, 0)

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
        self._note_residual("residual", (vectors - self._damped(v)).norm(dim=2), vectors)
        return v

    def _judge(self, results: list[Tensor], sets: Sequence[Held | Streamed]) -> None:
        if not self.residual_ <= 1:  # on a positive definite curvature every step shrinks it
            raise UserError("damping: the series diverges, as on an indefinite curvature; a larger one would do")
        super()._judge(results, sets)
        if (left := self.residual_) > _WORTH_A_WARNING:
            why = f"{self.depth} leaves a relative residual of {left:.2g}; more, or a larger damping, would do"
            warn(f"depth: {why}", 5)
        elif (left := float((1 - self._d / self.scale_[:, 0, 0]).max() ** self.depth)) > _WORTH_A_WARNING:
            why = f"may leave up to {left:.0%} of a direction of little curvature; more, or a larger damping, would do"
            warn(f"depth: {self.depth} {why}", 5)


class Arnoldi(MatrixFree):
    """H is replaced by its ``rank`` largest eigenpairs (l_r, u_r) in a Krylov subspace of ``iterations`` products.

    Influence is -sum_r (u_r' grad L) (u_r' grad l_i) / (l_r + d) (Schioppa et al. 2022); what is orthogonal to the
    subspace counts nothing, as in the paper, so scores grow with ``rank`` towards the exact ones. H is symmetric, so
    this is Lanczos' iteration, orthogonalised twice against all earlier vectors. ``iterations``: None is twice the
    rank; ``seed`` draws the first vector. ``eigenvalues_`` are the l_r, (S, rank), largest magnitude first.
    """

    _state = ("eigenvalues_", "_eigenvectors", "_mean_diagonal")

    def __init__(
        self, model, damping="auto", *, rank: int = 50, iterations: int | None = None, seed: int = 0, **options
    ):
        super().__init__(model, damping, **options)
        self.rank, self.seed = count("rank", rank), count("seed", seed, 0)
        self.iterations = 2 * self.rank if iterations is None else count("iterations", iterations)
        if rank > self.iterations:
            raise UserError(f"rank: must lie in 1..iterations, got {rank} of {self.iterations}")

    def _fit(self, data: Held | Streamed) -> None:
        super()._fit(data)
        network, like = self._network, self._network.like
        size = network.n_parameters
        steps = min(self.iterations, size)
        # Drawn once, on the CPU so that a seed means the same on every device.
        generator = torch.Generator().manual_seed(integer(self.seed, "arnoldi"))
        drawn = [torch.randn(1, 1, size, generator=generator, dtype=torch.float64).to(like) for _ in range(2)]
        vector, spare = (v.expand(network.models, 1, size) for v in drawn)
        basis = like.new_zeros(network.models, steps, size)
        basis[:, :1] = vector / vector.norm(dim=2, keepdim=True)
        projected = like.new_zeros(network.models, steps, steps, dtype=torch.float64)
        largest = like.new_zeros(network.models, 1, 1)
        for k in range(steps):
            product = self._operator.product(basis[:, k : k + 1])
            projected[:, : k + 1, k] = (basis[:, : k + 1] @ product.mT)[..., 0].double()
            largest = torch.maximum(largest, product.norm(dim=2, keepdim=True))
            if k + 1 == steps:
                break
            product, norm = _orthogonal(product, basis[:, : k + 1])
            going = norm > _BREAKDOWN * largest
            projected[:, k + 1, k] = torch.where(going, norm, 0.0)[:, 0, 0].double()
            # A subspace that H maps into itself is complete: go on from a new vector, with which it shares nothing; the
            # spare one's numbers, each moved by k places, are another vector at every step.
            fresh, length = _orthogonal(spare.roll(k, 2), basis[:, : k + 1])
            basis[:, k + 1 : k + 2] = torch.where(going, product / norm, fresh / length)
        values, vectors = torch.linalg.eigh((projected + projected.mT) / 2)
        chosen = values.abs().argsort(dim=1, descending=True)[:, : self.rank]
        self.eigenvalues_ = values.gather(1, chosen).to(like)
        columns = vectors.gather(2, chosen[:, None].expand(-1, steps, -1)).to(like)
        self._eigenvectors = network.unflatten(columns.mT @ basis)

    def _damp(self) -> None:
        super()._damp()
        damped = self.eigenvalues_ + self._d[:, None]
        if not bool((damped.abs() > 1e-12 * damped.abs().max()).all()):
            raise UserError("damping: an eigenvalue of the curvature is 0; a damping above 0 is needed")
        off = torch.finfo(damped.dtype).eps * self.eigenvalues_.abs().amax(1) / damped.abs().amin(1)
        if bool((off > _LOST).any()):
            warn(f"damping: is so small beside the largest eigenvalue that rounding moves scores; {_PRECISE}", 4)
        self._inverse = 1 / damped

    def _self_influence(self, batch: Batch) -> Tensor:
        if self._by_layer:
            return super()._self_influence(batch)
        along = self._over_sites(f.dot(u) for f, u in zip(self._factors(batch), self._eigenvectors, strict=True))
        return (along.square() * self._inverse[..., None]).sum(1)

    def _solve_flat(self, vectors: Tensor) -> Tensor:
        u = self._network.flatten(self._eigenvectors)
        return ((vectors @ u.mT) * self._inverse[:, None]) @ u


def _orthogonal(vector: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """What is left of vector (S, 1, P) outside the span of basis (S, k, P), and its length."""
    for _ in range(2):
        vector = vector - (vector @ basis.mT) @ basis
    return vector, vector.norm(dim=2, keepdim=True)
