"""Curvature: the Hessian of the mean loss as a product with vectors, by differentiating twice.

Unlike the Gauss-Newton matrix it may be indefinite, away from an optimum and, with saturating layers, at one.
Equivalent to a product with ``torch.func.hessian``.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from datalab.errors import UserError
from datalab.influence.estimator import Batch
from datalab.influence.tape import Network

_VECTORS = 256  # multiplied at a time


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
        out = torch.zeros_like(vectors)
        frozen = [p for p in self._parameters if not p.requires_grad]
        try:
            for p in frozen:
                p.requires_grad_(True)
            # The other kernels of attention cannot be differentiated twice.
            with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
                for batch in self._batches():
                    logits = self.network.module(batch.x)
                    loss = functional.cross_entropy(logits, batch.y[0], reduction="sum")
                    for i in range(0, vectors.shape[1], _VECTORS):
                        out[:, i : i + _VECTORS] += self._of_batch(loss, vectors[:, i : i + _VECTORS])
        finally:
            for p in frozen:
                p.requires_grad_(False)
        return out / self.n

    def matrix(self) -> Tensor:
        """H itself, (1, P, P)."""
        size = self.network.n_parameters
        return self.product(torch.eye(size, dtype=self.network.like.dtype, device=self.network.like.device)[None])

    def _of_batch(self, loss: Tensor, vectors: Tensor) -> Tensor:
        directions = [v.transpose(0, 1).contiguous() for v in self.network.unflatten(vectors)]
        # A site's matrices are its parameters rearranged, so their vector-Jacobian product carries v over to those.
        tangents = self._batched([site.matrix() for site in self._sites], directions)
        gradients = torch.autograd.grad(loss, self._parameters, create_graph=True)
        curved = [(g, t) for g, t in zip(gradients, tangents, strict=True) if g.requires_grad]
        second = self._batched(*zip(*curved, strict=True)) if curved else [torch.zeros_like(t) for t in tangents]
        by_parameter = {id(p): s for p, s in zip(self._parameters, second, strict=True)}
        arranged = [
            torch.func.vmap(site.arrange)(*(by_parameter[id(p)] for p in site.parameters())).transpose(0, 1)
            for site in self._sites
        ]
        return self.network.flatten(arranged)

    def _batched(self, outputs, cotangents) -> list[Tensor]:
        """For each parameter the vector-Jacobian products (k, ...) of k cotangents; 0 where it plays no part."""
        found = torch.autograd.grad(
            outputs, self._parameters, cotangents, retain_graph=True, is_grads_batched=True, allow_unused=True
        )
        k = len(cotangents[0])
        return [p.new_zeros(k, *p.shape) if g is None else g for p, g in zip(self._parameters, found, strict=True)]
