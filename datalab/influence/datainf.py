"""Influence with DataInf (Kwon et al. 2024): the mean of inverses for the inverse of the mean."""

from collections.abc import Sequence

import torch
from torch import Tensor

from datalab.errors import UserError
from datalab.influence import layers
from datalab.influence.estimator import FLAT, Directions, Estimator
from datalab.influence.factors import Factors
from datalab.influence.sets import Batch, Held, Streamed

AUTO_SHARE = 0.1
_CANCELLED = 1e-3  # rounding errors, relative to what is left of a difference, above which it is refused


class DataInf(Estimator):
    """At each site H + d I is inverted as the mean over the training set of (g_j g_j' + d I)^-1, a closed form.

    (H + d I)^-1 v is then (v - mean_j g_j (g_j' v) / (d + |g_j|^2)) / d: one pass over the training set for any number
    of v, and n^2 inner products of gradients for the self-influence of all. ``"auto"`` damping is the paper's, d = l2 +
    0.1 times the mean diagonal of the gradients' second moment, for each site its own (``damping_`` is then (S,
    sites)). Raises UserError where the difference is little but rounding, as of one example under a tiny damping.
    """

    def _fit(self, data: Held | Streamed) -> None:
        self._data = data
        squares = 0
        for batch in self._feed.batches(data):
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
        by_site = (self._d > 0).all(0).tolist()
        flat = [site.layer for site, above in zip(self._network.sites, by_site, strict=True) if not above]
        if flat and self.damping != "auto":
            raise UserError("damping: must be above 0; DataInf divides by it")
        if flat and not any(by_site):
            raise UserError(FLAT)
        if flat:
            why = "is 0 for every example, as that of LoRA's A while its B is 0, so 'auto' damping is 0 there"
            cure = f"train the model first, or give a damping above 0; {layers.left(flat)}"
            raise UserError(f"model: the gradient of {layers.named(flat)} {why}: {cure}")

    def _norms(self, f: Factors) -> Tensor:
        return self._network.over_groups(f.square_norms())

    def _solve(self, directions: Directions) -> Directions:
        sums = [torch.zeros_like(v) for v in directions]
        for batch in self._feed.batches(self._data):
            for i, f in enumerate(self._factors(batch)):
                weights = self._network.over_groups(f.dot(directions[i]))
                weights = weights / (self._d[:, i, None] + self._norms(f))[:, None]
                sums[i] += f.weighted_total(weights.repeat_interleave(len(directions[i]) // len(weights), 0))
        dampings = [self._d[:, i].repeat_interleave(len(v) // len(self._d)) for i, v in enumerate(directions)]
        triples = [(v, s, d[:, None, None, None]) for v, s, d in zip(directions, sums, dampings, strict=True)]
        solved = [(v - s / self.n_) / d for v, s, d in triples]
        whole = [v / d for v, _, d in triples]
        self._note_left(*(self._over_sites(v.square().sum((2, 3)) for v in of).sqrt() for of in (solved, whole)))
        return solved

    def _self_influence(self, batch: Batch) -> Tensor:
        """sum over sites of (|g|^2 - mean_j (g' g_j)^2 / (d + |g_j|^2)) / d."""
        parts = []
        for part in self._parts(batch, self._feed.size if self._rank_one else None):
            own = self._factors(part)
            removed = [0] * len(own)
            for other in self._feed.batches(self._data):
                for i, f in enumerate(self._factors(other)):
                    products = self._network.over_groups(f.products(own[i])).square()
                    removed[i] = removed[i] + (products / (self._d[:, i, None] + self._norms(f))[:, None]).sum(2)
            triples = list(zip(map(self._norms, own), removed, self._d.T[..., None], strict=True))
            scores = [(norms - r / self.n_) / d for norms, r, d in triples]
            whole = [norms / d for norms, _, d in triples]
            scores, whole = (torch.stack(v, -1) if self._by_layer else sum(v) for v in (scores, whole))
            self._note_left(scores, whole)
            parts.append(scores)
        return torch.cat(parts, 1)

    def _note_left(self, difference: Tensor, whole: Tensor) -> None:
        """How much is left of wholes from which nearly as much was taken."""
        self._note("minus what is left", -torch.where(whole > 0, difference / whole, 1.0))

    def _judge(self, results: list[Tensor], sets: Sequence[Held | Streamed]) -> None:
        super()._judge(results, sets)
        dtype = self._network.like.dtype
        if not float(-self._noted["minus what is left"]) >= torch.finfo(dtype).eps / _CANCELLED:
            cure = "a larger one" if dtype == torch.float64 else "a larger one or dtype=torch.float64"
            why = f"is so small beside examples so few, or so alike, that {str(dtype)[6:]} loses the scores"
            raise UserError(f"damping: {why}; {cure} would do")
