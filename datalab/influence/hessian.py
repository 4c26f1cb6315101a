"""Curvature: the Hessian of the mean loss as a product with vectors, by differentiating twice.

Equivalent to a product with ``torch.func.hessian``. Unlike the Gauss-Newton matrix it may be indefinite.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from datalab.errors import UserError
from datalab.influence.losses import Loss
from datalab.influence.network import Network
from datalab.influence.sets import Batch, over
from datalab.influence.tape import differentiable

_AT_ONCE = 64  # vectors multiplied at a time


class Hessian:
    """H of one model on a training set; parameters as :class:`~datalab.influence.ggn.GGN`'s.

    Raises UserError for a stack.
    """

    def __init__(self, network: Network, loss: Loss, batches: Callable[[int | None], Iterator[Batch]], n: int):
        if network.is_stack:
            raise UserError("curvature: the Hessian takes one model at a time; a stack takes the Gauss-Newton matrix")
        self.network, self._loss, self._batches, self.n = network, loss, batches, n
        self._parameters, self._vectorised = network.parameters, None
        # Where each number of the sites' matrices, (P,), stands among the parameters, which are those rearranged.
        sizes = [p.numel() for p in self._parameters]
        numbered = zip(self._parameters, torch.arange(sum(sizes)).split(sizes), strict=True)
        places = {id(p): numbers.view(p.shape) for p, numbers in numbered}
        arranged = [site.arrange(*(places[id(p)] for p in site.parameters)).flatten() for site in network.sites]
        self._order = torch.cat(arranged).to(network.like.device)

    def product(self, vectors: Tensor) -> Tensor:
        """H v for each of k vectors, (1, k, P)."""
        by_parameter = vectors[0][:, self._order.argsort()].split([p.numel() for p in self._parameters], 1)
        directions = [v.unflatten(1, p.shape).contiguous() for v, p in zip(by_parameter, self._parameters, strict=True)]
        sums = [torch.zeros_like(v) for v in directions]
        for gradients in self._gradients():
            if self._vectorised is None:
                self._vectorised = self._agree(gradients, directions)
            step = _AT_ONCE if self._vectorised else 1
            for i in range(0, len(directions[0]), step):
                part = [v[i : i + step] for v in directions]
                for total, s in zip(sums, self._second(gradients, part, self._vectorised), strict=True):
                    total[i : i + step] += s
        return torch.cat([total.flatten(1) for total in sums], 1)[None, :, self._order] / self.n

    def _gradients(self) -> Iterator[tuple[Tensor, ...]]:
        """The gradient of each batch's summed loss, to be differentiated again (as MATH alone can)."""
        with differentiable(self.network.module, self._parameters), sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            for batch in self._batches(None):
                y = over(batch.y, lambda of_models: of_models[0])
                loss = self._loss.value(self.network.forward(batch.x), y).sum()
                yield torch.autograd.grad(loss, self._parameters, create_graph=True)

    def _second(self, gradients: Sequence[Tensor], directions: list[Tensor], vectorised: bool) -> list[Tensor]:
        """The derivative of the gradients along k directions, each parameter's (k, *shape)."""
        curved = [(g, v if vectorised else v[0]) for g, v in zip(gradients, directions, strict=True) if g.requires_grad]
        if not curved:
            return [torch.zeros_like(v) for v in directions]
        options = {"retain_graph": True, "allow_unused": True, "is_grads_batched": vectorised}
        along, by = zip(*curved, strict=True)
        second = torch.autograd.grad(along, self._parameters, by, **options)
        second = [s if s is None or vectorised else s[None] for s in second]
        return [torch.zeros_like(v) if s is None else s for s, v in zip(second, directions, strict=True)]

    def _agree(self, gradients: Sequence[Tensor], directions: list[Tensor]) -> bool:
        """Whether torch differentiates this model right under vmap: of normalisations it does not."""
        first = [v[:1] for v in directions]
        plain = self._second(gradients, first, vectorised=False)
        try:
            fast = self._second(gradients, first, vectorised=True)
        except RuntimeError:
            return False
        scales = [float(a.abs().max()) for a in plain]
        triples = zip(plain, fast, scales, strict=True)
        return all(s < float("inf") and torch.allclose(a, b, rtol=1e-3, atol=1e-4 * s) for a, b, s in triples)

    def matrix(self) -> Tensor:
        """H itself, (1, P, P)."""
        size = self.network.n_parameters
        return self.product(torch.eye(size, dtype=self.network.like.dtype, device=self.network.like.device)[None])
