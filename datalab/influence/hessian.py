"""Curvature: the Hessian of the mean loss as a product with vectors, by differentiating twice.

Equivalent to a product with ``torch.func.hessian``. Unlike the Gauss-Newton matrix it may be indefinite.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.nn.attention import SDPBackend, sdpa_kernel

from datalab.errors import UserError
from datalab.influence.feed import Feed
from datalab.influence.losses import Loss
from datalab.influence.network import Network
from datalab.influence.sets import Batch, Held, Streamed, line, over
from datalab.influence.tape import between, differentiable

_AT_ONCE = 64  # vectors multiplied at a time
_TRIED = 16  # examples on which second derivatives are tried
_CURE = "the Gauss-Newton matrix needs none (ExactGGN, curvature='ggn')"


class Hessian:
    """H of a feed's model on a training set; raises UserError for a stack."""

    def __init__(self, feed: Feed, data: Held | Streamed):
        if feed.network.is_stack:
            raise UserError("curvature: the Hessian takes one model at a time; a stack takes the Gauss-Newton matrix")
        self.network, self._feed, self._data, self._vectorised = feed.network, feed, data, None
        # Where each number of the sites' matrices, (P,), stands among the parameters, which are those rearranged.
        sizes = [p.numel() for p in self.network.parameters]
        numbered = zip(self.network.parameters, torch.arange(sum(sizes)).split(sizes), strict=True)
        places = self.network.arranged([numbers.view(p.shape) for p, numbers in numbered])
        self._order = torch.cat([of_site.flatten() for of_site in places]).to(self.network.like.device)
        self._check(next(feed.batches(data, _TRIED)))

    def product(self, vectors: Tensor) -> Tensor:
        """H v for each of k vectors, (1, k, P)."""
        parameters = self.network.parameters
        by_parameter = vectors[0][:, self._order.argsort()].split([p.numel() for p in parameters], 1)
        directions = [v.unflatten(1, p.shape).contiguous() for v, p in zip(by_parameter, parameters, strict=True)]
        sums = [torch.zeros_like(v) for v in directions]
        for _, gradients in _gradients(self.network, self._feed.loss, self._feed.batches(self._data)):
            if self._vectorised is None:
                self._vectorised = self._agree(gradients, directions)
            step = _AT_ONCE if self._vectorised else 1
            for i in range(0, len(directions[0]), step):
                part = [v[i : i + step] for v in directions]
                for total, s in zip(sums, _along(gradients, parameters, part, self._vectorised), strict=True):
                    total[i : i + step] += s
        return torch.cat([total.flatten(1) for total in sums], 1)[None, :, self._order] / len(self._data)

    def _check(self, batch: Batch) -> None:
        """Raise UserError where second derivatives of a few examples are not symmetric, or an autograd.Function takes
        part, whose backward may have no derivative itself.
        """
        rng, parameters = torch.Generator().manual_seed(0), self.network.parameters
        u, v = ([torch.randn(1, *p.shape, generator=rng).to(p) for p in parameters] for _ in range(2))
        for loss, gradients in _gradients(self.network, self._feed.loss, [batch]):
            if any(isinstance(node, BackwardCFunction) for node in between(loss)):
                why = "an autograd.Function takes part, whose backward may have no derivative itself"
                raise UserError(f"model: {why}; {_CURE}")
            try:
                hu, hv = (_flat(_along(gradients, parameters, d, vectorised=False)) for d in (u, v))
            except RuntimeError as error:
                raise UserError(f"model: cannot be differentiated twice: {line(error)}; {_CURE}") from error
        apart, most = (_flat(u) @ hv - _flat(v) @ hu).abs(), 30 * torch.finfo(u[0].dtype).eps ** 0.5
        finite = bool(torch.isfinite(hu + hv).all())  # else fit names the example
        if finite and bool(apart > most * torch.maximum(hu.norm(), hv.norm())):
            raise UserError(f"model: its second derivatives are not symmetric; {_CURE}")

    def _agree(self, gradients: Sequence[Tensor], directions: list[Tensor]) -> bool:
        """Whether torch differentiates this model right under vmap: of normalisations it does not."""
        first = [v[:1] for v in directions]
        plain = _along(gradients, self.network.parameters, first, vectorised=False)
        try:
            fast = _along(gradients, self.network.parameters, first, vectorised=True)
        except RuntimeError:
            return False
        scales = [float(a.abs().max()) for a in plain]
        triples = zip(plain, fast, scales, strict=True)
        return all(s < float("inf") and torch.allclose(a, b, rtol=1e-3, atol=1e-4 * s) for a, b, s in triples)

    def matrix(self) -> Tensor:
        """H itself, (1, P, P)."""
        return self.product(torch.eye(self.network.n_parameters)[None].to(self.network.like))


def _gradients(network: Network, loss: Loss, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, Sequence[Tensor]]]:
    """Each batch's summed loss, and its gradient, to be differentiated again (as MATH alone can)."""
    with differentiable(network.module, network.parameters), sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        for batch in batches:
            y = over(batch.y, lambda of_models: of_models[0])
            total = loss.value(network.forward(batch.x), y).sum()
            yield total, torch.autograd.grad(total, network.parameters, create_graph=True)


def _along(
    gradients: Sequence[Tensor], parameters: Sequence[Tensor], directions: list[Tensor], vectorised: bool
) -> list[Tensor]:
    """The derivative of the gradients along k directions, each parameter's (k, *shape)."""
    curved = [(g, v if vectorised else v[0]) for g, v in zip(gradients, directions, strict=True) if g.requires_grad]
    if not curved:
        return [torch.zeros_like(v) for v in directions]
    options = {"retain_graph": True, "allow_unused": True, "is_grads_batched": vectorised}
    of, by = zip(*curved, strict=True)
    second = torch.autograd.grad(of, parameters, by, **options)
    second = [s if s is None or vectorised else s[None] for s in second]
    return [torch.zeros_like(v) if s is None else s for s, v in zip(second, directions, strict=True)]


def _flat(values: Sequence[Tensor]) -> Tensor:
    return torch.cat([v.detach().to_dense().flatten() for v in values])
