"""Curvature: the Hessian of the mean loss as a product with vectors, by differentiating twice.

Unlike the Gauss-Newton matrix it may be indefinite, away from an optimum and, with saturating layers, at one.
Equivalent to a product with ``torch.func.hessian``.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from datalab.errors import UserError
from datalab.influence.estimator import Batch
from datalab.influence.tape import Network


class Hessian:
    """H of one model on a training set; parameters as :class:`~datalab.influence.ggn.GGN`'s, stacks excluded."""

    def __init__(self, network: Network, batches: Callable[[], Iterator[Batch]], n: int):
        if network.is_stack:
            raise UserError("curvature: the Hessian takes one model at a time; a stack takes the Gauss-Newton matrix")
        self.network, self._batches, self.n = network, batches, n
        self._sites = [site for each in network.sites.values() for site in each]
        self._parameters = list({id(p): p for site in self._sites for p in site.parameters()}.values())

    def product(self, vectors: Tensor) -> Tensor:
        """H v for each of k vectors, (1, k, P)."""
        directions = [self._in_parameters(v) for v in vectors[0]]
        sums = [[torch.zeros_like(p) for p in self._parameters] for _ in directions]
        frozen = [p for p in self._parameters if not p.requires_grad]
        try:
            for p in frozen:
                p.requires_grad_(True)
            # The other kernels of attention cannot be differentiated twice.
            with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
                for batch in self._batches():
                    logits = self.network.module(batch.x)
                    loss = functional.cross_entropy(logits, batch.y[0], reduction="sum")
                    gradients = torch.autograd.grad(loss, self._parameters, create_graph=True)
                    for total, direction in zip(sums, directions, strict=True):
                        self._add(total, gradients, direction)
        finally:
            for p in frozen:
                p.requires_grad_(False)
        return torch.stack([self._in_sites(total) for total in sums], 1) / self.n

    def matrix(self) -> Tensor:
        """H itself, (1, P, P)."""
        size = self.network.n_parameters
        return self.product(torch.eye(size, dtype=self.network.like.dtype, device=self.network.like.device)[None])

    def _add(self, total: list[Tensor], gradients: Sequence[Tensor], direction: list[Tensor]) -> None:
        # One vector at a time: torch's second derivatives of normalisations are wrong under vmap.
        curved = [(g, v) for g, v in zip(gradients, direction, strict=True) if g.requires_grad]
        if not curved:
            return
        along, by = zip(*curved, strict=True)
        second = torch.autograd.grad(along, self._parameters, by, retain_graph=True, allow_unused=True)
        for each, s in zip(total, second, strict=True):
            if s is not None:
                each += s

    def _in_parameters(self, vector: Tensor) -> list[Tensor]:
        """A vector (P,) over the sites' matrices as one over the parameters, which are those matrices rearranged."""
        found = {id(p): torch.zeros_like(p) for p in self._parameters}
        matrices = self.network.unflatten(vector[None, None])
        for site, matrix in zip(self._sites, matrices, strict=True):
            _, back = torch.func.vjp(site.arrange, *(p.detach() for p in site.parameters()))
            for p, part in zip(site.parameters(), back(matrix[:, 0]), strict=True):
                found[id(p)] += part
        return list(found.values())

    def _in_sites(self, values: list[Tensor]) -> Tensor:
        """Values of the parameters as one vector (1, P) over the sites' matrices."""
        by_parameter = {id(p): v for p, v in zip(self._parameters, values, strict=True)}
        arranged = [site.arrange(*(by_parameter[id(p)] for p in site.parameters())) for site in self._sites]
        return self.network.flatten([matrix[:, None] for matrix in arranged])[:, 0]
