"""Influence with DataInf (Kwon et al. 2024): the mean of inverses for the inverse of the mean."""

import torch
from torch import Tensor

from datalab.errors import UserError
from datalab.influence.estimator import Directions, Estimator
from datalab.influence.factors import Factors
from datalab.influence.sets import Batch, Held, Streamed

AUTO_SHARE = 0.1


class DataInf(Estimator):
    """At each site H + d I is inverted as the mean over the training set of (g_j g_j' + d I)^-1, a closed form.

    (H + d I)^-1 v is then (v - mean_j g_j (g_j' v) / (d + |g_j|^2)) / d: one pass over the training set for any number
    of v, and n^2 inner products of gradients for the self-influence of all. ``"auto"`` damping is the paper's, d = l2 +
    0.1 times the mean diagonal of the gradients' second moment, for each site its own (``damping_`` is then (S,
    sites)).
    """

    def _fit(self, data: Held | Streamed) -> None:
        self._data = data
        squares = 0
        for batch in self._batches(data):
            factors = self._factors(batch)
            squares = squares + torch.stack([self._norms(f).sum(1) for f in factors], 1)
        self._rank_one = all(f.rank_one for f in factors)
        sizes = torch.tensor([g * out * n_in for g, out, n_in in self._network.shapes]).to(squares)
        self._second_moment = squares / (len(data) * sizes)

    def _damp(self) -> None:
        if self.damping == "auto":
            self._d = self.l2 + AUTO_SHARE * self._second_moment
            self.damping_ = self._d if self._network.is_stack else self._d[0]
        else:
            self._d = torch.full_like(self._second_moment, float(self.damping))
            self.damping_ = float(self.damping)
        if not bool((self._d > 0).all()):
            raise UserError("damping: must be above 0 at every layer; DataInf divides by it")

    def _norms(self, f: Factors) -> Tensor:
        return self._network.over_groups(f.square_norms())

    def _solve(self, directions: Directions) -> Directions:
        sums = [torch.zeros_like(v) for v in directions]
        for batch in self._batches(self._data):
            for i, f in enumerate(self._factors(batch)):
                weights = self._network.over_groups(f.dot(directions[i]))
                weights = weights / (self._d[:, i, None] + self._norms(f))[:, None]
                sums[i] += f.weighted_total(weights.repeat_interleave(len(directions[i]) // len(weights), 0))
        dampings = [self._d[:, i].repeat_interleave(len(v) // len(self._d)) for i, v in enumerate(directions)]
        triples = zip(directions, sums, dampings, strict=True)
        return [(v - s / self.n_) / d[:, None, None, None] for v, s, d in triples]

    def _self_influence(self, batch: Batch) -> Tensor:
        """sum over sites of (|g|^2 - mean_j (g' g_j)^2 / (d + |g_j|^2)) / d."""
        parts = []
        for part in self._parts(batch, self._batch if self._rank_one else None):
            own = self._factors(part)
            removed = [0] * len(own)
            for other in self._batches(self._data):
                for i, f in enumerate(self._factors(other)):
                    products = self._network.over_groups(f.products(own[i])).square()
                    removed[i] = removed[i] + (products / (self._d[:, i, None] + self._norms(f))[:, None]).sum(2)
            triples = zip(own, removed, self._d.T[..., None], strict=True)
            scores = [(self._norms(f) - r / self.n_) / d for f, r, d in triples]
            parts.append(torch.stack(scores, -1) if self._by_layer else sum(scores))
        return torch.cat(parts, 1)
