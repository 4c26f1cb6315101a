"""Curvature: the Gauss-Newton matrix H as a product with vectors, exact over the classes, from the layers' factors.

For cross-entropy H is the mean over examples of sum_c G_ic G_ic', with G_ic the gradient for the cotangent sqrt(p_c) (p
- e_c) (:mod:`~datalab.influence.fisher`). So H v needs, at each site, the inputs times v, once for all classes; the C
numbers G_ic' v; and one product back: 4 k P n FLOP for k vectors, half of what a forward and a reverse derivative take.
Equivalent to ``torch.func.jvp`` followed by ``torch.func.vjp``.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from datalab.influence import fisher
from datalab.influence.estimator import Batch
from datalab.influence.factors import Factors
from datalab.influence.tape import Network

_KEPT = 1 << 24  # numbers of factors kept between products; beyond, they are taken anew for each
_PROJECTED = 1 << 23  # numbers of projected inputs held at a time

Linearised = list[tuple[Factors, Tensor]]  # a batch: each site's factors, and its gradients for every class


def mean_diagonal(network: Network, batches: Iterator[Batch], n: int) -> Tensor:
    """The mean diagonal of the Gauss-Newton matrix of each model, (S,): the mean squared norm of G_ic over P."""
    total = 0
    for batch in batches:
        tape = network.tape(batch.x)
        for cotangent in fisher.exact_cotangents(tape.logits):
            total = total + sum(network.over_groups(f.square_norms()) for f in tape.factors(cotangent)).sum(1)
    return total / (n * network.n_parameters)


class GGN:
    """H of a network on a training set.

    Parameters
    ----------
    network
        The model, or a stack of S.
    batches
        Yields the training set's batches, and can be called again.
    n
        How many examples they hold.
    """

    def __init__(self, network: Network, batches: Callable[[], Iterator[Batch]], n: int):
        self.network, self._batches, self.n = network, batches, n
        self._kept: list[Linearised] | None = None
        kept: list[Linearised] = []
        numbers = 0
        for linearised in self._linearise():
            numbers += sum(f.inputs.numel() + g.numel() if hasattr(f, "inputs") else g.numel() for f, g in linearised)
            if numbers > _KEPT:
                return
            kept.append(linearised)
        self._kept = kept

    def product(self, vectors: Tensor) -> Tensor:
        """H v for each of k vectors of every model, (S, k, P)."""
        out = torch.empty_like(vectors)
        widest = max(d_out for _, d_out, _ in self.network.shapes)
        for linearised in self._kept or self._linearise():
            positions = max(g.shape[2] * g.shape[3] for _, g in linearised)  # of all examples of the batch
            k = max(1, _PROJECTED // (positions * widest * self.network.models))
            for i in range(0, vectors.shape[1], k):
                part = self._of_batch(linearised, vectors[:, i : i + k])
                out[:, i : i + k] = part if linearised is self._first else out[:, i : i + k] + part
        return out / self.n

    def matrix(self) -> Tensor:
        """H itself, (S, P, P)."""
        like, size = self.network.like, self.network.n_parameters
        identity = torch.eye(size, dtype=like.dtype, device=like.device)
        return self.product(identity.expand(self.network.models, -1, -1))

    def _of_batch(self, linearised: Linearised, vectors: Tensor) -> Tensor:
        over_groups = self.network.over_groups
        projected = [f.project(v) for (f, _), v in zip(linearised, self.network.unflatten(vectors), strict=True)]
        # (S, m, k, C): each class's gradient times each vector, summed over the sites
        along = sum(
            over_groups(torch.einsum("cbmto,bmtko->bmkc", g, z))
            for (_, g), z in zip(linearised, projected, strict=True)
        )
        back = []
        for f, g in linearised:
            weights = along.repeat_interleave(g.shape[1] // len(along), 0)
            back.append(f.back(torch.einsum("cbmto,bmkc->bmtko", g, weights)))
        return self.network.flatten(back)

    def _linearise(self) -> Iterator[Linearised]:
        for batch in self._batches():
            tape = self.network.tape(batch.x)
            every = [tape.factors(c) for c in fisher.exact_cotangents(tape.logits)]
            linearised = [(site[0], torch.stack([f.gradients for f in site])) for site in zip(*every, strict=True)]
            if batch.start == 0:
                self._first = linearised
            yield linearised
