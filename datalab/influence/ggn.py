"""Curvature: the Gauss-Newton matrix H as a product with vectors, exact over the classes, from the layers' factors.

H is the mean over examples of sum_c G_ic G_ic', with G_ic the gradient for a cotangent of the loss's curvature
(:mod:`~datalab.influence.losses`). So H v needs, at each site, the inputs times v, once for all classes; the C numbers
G_ic' v; and one product back. Equivalent to ``torch.func.jvp`` followed by ``torch.func.vjp``, at half the FLOP.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from datalab.influence.estimator import at_once
from datalab.influence.factors import Dense, Factors, turned
from datalab.influence.feed import Feed
from datalab.influence.sets import Held, Streamed

_KEPT = 1 << 24  # numbers of factors kept between products; beyond, they are taken anew for each
_PROJECTED = 1 << 23  # numbers of projected inputs held at a time

# A batch: of each part of a site's factors the site, whether it holds the transpose, and its gradients for every class.
Linearised = list[tuple[int, bool, Factors, Tensor]]


def mean_diagonal(feed: Feed, data: Held | Streamed) -> Tensor:
    """The mean diagonal of the Gauss-Newton matrix of each model, (S,): the mean squared norm of G_ic over P."""
    total, network = 0, feed.network
    for batch in feed.batches(data):
        tape, cotangents = feed.curved(batch)
        for cotangent in cotangents:
            total = total + sum(network.over_groups(f.square_norms()) for f in tape.factors(cotangent)).sum(1)
    return total / (len(data) * network.n_parameters)


class GGN:
    """H of a feed's network, or of each of its stack's S models, on a training set."""

    def __init__(self, feed: Feed, data: Held | Streamed):
        self.network, self._feed, self._data = feed.network, feed, data
        gradients = [part.gradients for f in feed.factors(next(feed.batches(data, 1))) for part, _ in f.parts]
        of_example = feed.outputs.numel() * sum(g.numel() for g in gradients)
        self._like = gradients[0].new_zeros(())  # a last layer's are in float64
        most = at_once(self._like.device, _KEPT)
        self._at_most = max(1, most // of_example)  # examples whose gradients for every class may be held
        self._kept: list[Linearised] = []
        numbers = 0
        for linearised in self._linearise():
            numbers += sum(g.numel() + (f.inputs.numel() if isinstance(f, Dense) else 0) for *_, f, g in linearised)
            if numbers > most:
                self._kept = []
                break
            self._kept.append(linearised)

    def product(self, vectors: Tensor) -> Tensor:
        """H v for each of k vectors of every model, (S, k, P)."""
        out = torch.zeros_like(vectors)
        for linearised in self._kept or self._linearise():
            widest = max(g[0, 0].numel() for *_, g in linearised)  # positions of all examples of the batch
            k = max(1, at_once(vectors.device, _PROJECTED) // (widest * self.network.models))
            for i in range(0, vectors.shape[1], k):
                out[:, i : i + k] += self._of_batch(linearised, vectors[:, i : i + k])
        return out / len(self._data)

    def matrix(self) -> Tensor:
        """H itself, (S, P, P)."""
        size, models = self.network.n_parameters, self.network.models
        out = self._like.new_zeros(models, size, size)
        for linearised in self._kept or self._linearise():
            alone = len(linearised) == len(self.network.shapes)
            if not (alone and all(f.rank_one and g.shape[1] == models for *_, f, g in linearised)):
                return self.product(torch.eye(size).to(self._like).expand(models, -1, -1))
            pairs = [(pad(f.inputs[:, :, 0], (0, int(f.bias)), value=1.0), g) for *_, f, g in linearised]
            for s in range(models):
                _add_rank_one(out[s], [(a.expand(models, -1, -1)[s], g[:, s, :, 0]) for a, g in pairs])
        for of_model in out:
            of_model.triu_().add_(of_model.triu(1).mT).div_(len(self._data))
        return out

    def _of_batch(self, linearised: Linearised, vectors: Tensor) -> Tensor:
        over_groups = self.network.over_groups
        by_site = self.network.unflatten(vectors)
        projected = [f.project(turned(by_site[site], flip)) for site, flip, f, _ in linearised]
        # (S, m, k, C): each class's gradient times each vector, summed over the sites
        pairs = zip(linearised, projected, strict=True)
        along = sum(over_groups(torch.einsum("cbmto,bmtko->bmkc", g, z)) for (*_, g), z in pairs)
        back = [0] * len(by_site)
        for site, flip, f, g in linearised:
            weights = along.repeat_interleave(g.shape[1] // len(along), 0)
            back[site] = back[site] + turned(f.back(torch.einsum("cbmto,bmkc->bmtko", g, weights)), flip)
        return self.network.flatten(back)

    def _linearise(self) -> Iterator[Linearised]:
        for batch in self._feed.batches(self._data, self._at_most):
            tape, cotangents = self._feed.curved(batch)
            by_class = [tape.factors(cotangent) for cotangent in cotangents]
            yield [
                (site, flip, part, torch.stack([f.parts[p][0].gradients for f in factors]))
                for site, factors in enumerate(zip(*by_class, strict=True))
                for p, (part, flip) in enumerate(factors[0].parts)
            ]


def _add_rank_one(out: Tensor, sites: list[tuple[Tensor, Tensor]]) -> None:
    """Add a batch's sum_ic G_ic G_ic' to the upper triangle of out (P, P): P^2 m FLOP, whatever C is.

    Each site has inputs (m, in) and gradients (C, m, out); rows (o, .) against columns (q, .) of two sites are
    a' diag(w) a, with w = sum_c g_co g_cq.
    """
    row = 0
    for i, (a, g) in enumerate(sites):
        for o in range(g.shape[2]):
            rows, column = out[row : row + a.shape[1]], row
            for j, (b, h) in enumerate(sites[i:]):
                h = h if j else h[:, :, o:]
                weights = torch.einsum("cm,cmq->mq", g[:, :, o], h)
                right = (weights[:, :, None] * b[:, None]).flatten(1)
                rows[:, column : column + right.shape[1]].addmm_(a.T, right)
                column += right.shape[1]
            row += a.shape[1]
