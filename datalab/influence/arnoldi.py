"""Influence in a Krylov subspace (Schioppa et al. 2022): Arnoldi's iteration distils H to its largest eigenvalues."""

import torch
from torch import Tensor

from datalab.errors import UserError
from datalab.influence.estimator import Batch
from datalab.influence.flat import MatrixFree
from datalab.seeds import integer

_BREAKDOWN = 1e-10  # of the largest product so far: less than that is left of a vector that lies in the subspace


class Arnoldi(MatrixFree):
    """H is replaced by its ``rank`` largest eigenpairs (l_r, u_r) in a Krylov subspace of ``iterations`` products.

    Influence is -sum_r (u_r' grad L) (u_r' grad l_i) / (l_r + d); what is orthogonal to the subspace counts nothing, as
    in the paper, so scores grow with ``rank`` towards the exact ones, which they equal once the subspace holds every
    gradient. H is symmetric, so this is Lanczos' iteration, orthogonalised twice against all earlier vectors. Once
    fitted, an example costs ``rank`` inner products. Parameters beside
    :class:`~datalab.influence.flat.MatrixFree`'s: ``rank``, ``iterations`` (None: twice the rank) and ``seed`` of the
    first vector. ``eigenvalues_`` are the l_r, (S, rank), largest magnitude first.
    """

    def __init__(
        self, model, damping="auto", *, rank: int = 50, iterations: int | None = None, seed: int = 0, **options
    ):
        super().__init__(model, damping, **options)
        iterations = 2 * rank if iterations is None else iterations
        if not 1 <= rank <= iterations:
            raise UserError(f"rank: must lie in 1..iterations, got {rank} of {iterations}")
        self.rank, self.iterations, self.seed = rank, iterations, seed

    def _fit(self, x: Tensor, y: Tensor) -> None:
        vars(self).pop("eigenvalues_", None)
        super()._fit(x, y)
        network, like = self._network, self._network.like
        size = network.n_parameters
        steps = min(self.iterations, size)
        generator = torch.Generator().manual_seed(integer(self.seed, "arnoldi"))

        def drawn() -> Tensor:
            vector = torch.randn(1, 1, size, generator=generator, dtype=torch.float64).to(like)
            return vector.expand(network.models, 1, size)

        basis = like.new_zeros(network.models, steps, size)
        vector = drawn()
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
            # A subspace that H maps into itself is complete: go on from a new vector, with which it shares nothing.
            fresh, length = _orthogonal(drawn(), basis[:, : k + 1])
            basis[:, k + 1 : k + 2] = torch.where(going, product / norm, fresh / length)
        values, vectors = torch.linalg.eigh((projected + projected.mT) / 2)
        chosen = values.abs().argsort(dim=1, descending=True)[:, : self.rank]
        self.eigenvalues_ = values.gather(1, chosen).to(like)
        columns = vectors.gather(2, chosen[:, None].expand(-1, steps, -1)).to(like)
        self._eigenvectors = network.unflatten(columns.mT @ basis)
        self._invert()

    def _damp(self) -> None:
        super()._damp()
        if hasattr(self, "eigenvalues_"):
            self._invert()

    def _invert(self) -> None:
        """1 / (l_r + d), (S, rank)."""
        damped = self.eigenvalues_ + self._d[:, None]
        if not bool((damped.abs() > 1e-12 * damped.abs().max()).all()):
            raise UserError("damping: an eigenvalue of the curvature is 0; a damping above 0 is needed")
        self._inverse = 1 / damped

    def _self_influence(self, batch: Batch) -> Tensor:
        return (self._along(batch).square() * self._inverse[..., None]).sum(1)

    def _along(self, batch: Batch) -> Tensor:
        """Each eigenvector times each example's gradient, (S, rank, m)."""
        return self._over_sites(f.dot(u) for f, u in zip(self._factors(batch), self._eigenvectors, strict=True))

    def _solve_flat(self, vectors: Tensor) -> Tensor:
        u = self._network.flatten(self._eigenvectors)
        return ((vectors @ u.mT) * self._inverse[:, None]) @ u


def _orthogonal(vector: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """What is left of vector (S, 1, P) outside the span of basis (S, k, P), and its length."""
    for _ in range(2):
        vector = vector - (vector @ basis.mT) @ basis
    return vector, vector.norm(dim=2, keepdim=True)
