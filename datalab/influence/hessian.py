"""Curvature: the Hessian of the mean loss as a product with vectors, by differentiating twice.

Equivalent to a product with ``torch.func.hessian``. Unlike the Gauss-Newton matrix it may be indefinite.
"""

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.nn.attention import SDPBackend, sdpa_kernel

from datalab.errors import UserError
from datalab.influence.losses import Loss
from datalab.influence.network import Network, copied
from datalab.influence.sets import Batch, line, over, rows
from datalab.influence.tape import between, differentiable

_AT_ONCE = 64  # vectors multiplied at a time
_TRIED, _STEP = 16, 1e-9  # examples on which second derivatives are tried, and a difference's step in the parameters
_CURE = "the Gauss-Newton matrix needs none (ExactGGN, curvature='ggn')"


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
        self._check(next(batches(_TRIED)))

    def product(self, vectors: Tensor) -> Tensor:
        """H v for each of k vectors, (1, k, P)."""
        by_parameter = vectors[0][:, self._order.argsort()].split([p.numel() for p in self._parameters], 1)
        directions = [v.unflatten(1, p.shape).contiguous() for v, p in zip(by_parameter, self._parameters, strict=True)]
        sums = [torch.zeros_like(v) for v in directions]
        for gradients in self._gradients(self._batches(None)):
            if self._vectorised is None:
                self._vectorised = self._agree(gradients, directions)
            step = _AT_ONCE if self._vectorised else 1
            for i in range(0, len(directions[0]), step):
                part = [v[i : i + step] for v in directions]
                for total, s in zip(sums, self._second(gradients, part, self._vectorised), strict=True):
                    total[i : i + step] += s
        return torch.cat([total.flatten(1) for total in sums], 1)[None, :, self._order] / self.n

    def _check(self, batch: Batch) -> None:
        """Raise UserError where second derivatives of a few examples are wrong: not symmetric, or, if an
        autograd.Function takes part, whose backward may have no derivative itself, no difference of gradients.
        """
        rng = torch.Generator().manual_seed(0)
        u, v = ([torch.randn(1, *p.shape, generator=rng).to(p) for p in self._parameters] for _ in range(2))
        for gradients in self._gradients([batch]):
            try:
                hu, hv = (_flat(self._second(gradients, along, vectorised=False)) for along in (u, v))
            except RuntimeError as error:
                raise UserError(f"model: cannot be differentiated twice: {line(error)}; {_CURE}") from error
        apart, most = (_flat(u) @ hv - _flat(v) @ hu).abs(), 30 * torch.finfo(u[0].dtype).eps ** 0.5
        if not bool(torch.isfinite(hu + hv).all()):
            return  # fit names the example
        wrong = bool(apart > most * torch.maximum(hu.norm(), hv.norm()))
        if not wrong and self._opaque:
            with contextlib.suppress(Exception):  # it may have no copy in float64
                wrong = self._no_derivative(batch, rng)
        if wrong:
            raise UserError(f"model: its second derivatives are wrong (a backward that has none itself?); {_CURE}")

    def _no_derivative(self, batch: Batch, rng: torch.Generator) -> bool:
        """Whether H v is no central difference, in float64 on a copy; a kink on the way may spoil one of three."""
        other, network = copy.copy(self), copy.copy(self.network)
        names = {id(p): name for name, p in network.module.named_parameters()}
        other.network, network.module = network, copied(network.module, torch.float64)
        other._parameters = [network.module.get_parameter(names[id(p)]) for p in self._parameters]
        network.like = other._parameters[0].detach()
        x, y = (over(of, lambda w: w.double() if w.is_floating_point() else w) for of in (batch.x, batch.y))
        batch = batch._replace(x=rows(x, 0, 4), y=rows(y, 0, 4, axis=1))
        for _ in range(3):
            v = [torch.randn(1, *p.shape, generator=rng).to(p) for p in other._parameters]
            found = []
            for step in (1e-3, _STEP, -2 * _STEP):  # away from kinks at 0, and to both sides
                for p, along in zip(other._parameters, v, strict=True):
                    p.data.add_(along[0], alpha=step)
                for gradients in other._gradients([batch]):
                    if not found:  # what has no gradient stays, such as an Embedding's row of padding
                        v = [along * (g.to_dense() != 0) for along, g in zip(v, gradients, strict=True)]
                        product = _flat(other._second(gradients, v, vectorised=False))
                    found.append(_flat(gradients))
            apart = (found[1] - found[2]) / (2 * _STEP) - product
            if not bool(apart.norm() > 1e-3 * product.norm() + 1e-5 * found[0].norm()):
                return False
        return True

    def _gradients(self, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, ...]]:
        """The gradient of each batch's summed loss, to be differentiated again (as MATH alone can)."""
        with differentiable(self.network.module, self._parameters), sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            for batch in batches:
                y = over(batch.y, lambda of_models: of_models[0])
                loss = self._loss.value(self.network.forward(batch.x), y).sum()
                self._opaque = any(isinstance(node, BackwardCFunction) for node in between(loss))
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


def _flat(values: Sequence[Tensor]) -> Tensor:
    return torch.cat([v.detach().to_dense().flatten() for v in values])
