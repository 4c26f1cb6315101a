"""Curvature in Kronecker form: K-FAC and EK-FAC, in the eigenbases of each site's two moments.

At each site the Fisher's block is approximated in the basis Q_G (x) Q_A, with Q_A the eigenvectors of the mean of
sum_t a a' and Q_G those of the mean Fisher's sum_t g g'; the two differ in the eigenvalues they put there.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from datalab.errors import UserError
from datalab.influence import losses
from datalab.influence.estimator import Damping, Directions, Estimator, gathered
from datalab.influence.factors import Factors, Product, Shared
from datalab.influence.sets import Batch, Held, Streamed
from datalab.influence.settings import count
from datalab.influence.tape import LayerTape, ModuleTape
from datalab.seeds import generator

MAX_EXACT = 20  # cotangents, such as classes, up to which "auto" takes the exact Fisher
_FLOAT64_UP_TO = 2048  # of 5,000 classes float64 takes 40 s on a core

Fisher = Literal["auto", "exact", "sampled", "empirical"]
Moments = tuple[Tensor, Tensor, Tensor]
Bases = tuple[Tensor | None, Tensor]


class Kronecker(Estimator):
    """H is block-diagonal over the sites, each block a diagonal in a Kronecker eigenbasis.

    ``fisher``: ``"exact"`` over the classes (and positions), ``"sampled"`` (``samples`` classes of each example, drawn
    from the model's probabilities with ``seed`` by its place in the training set; of other losses random signs),
    ``"empirical"`` (the observed class), or ``"auto"``: exact up to 20 classes, sampled above. Padding, and examples
    of no weight, count nowhere. ``eigenvalues_`` is a list of (B, out, in), one a site.
    """

    _state = ("_bases", "eigenvalues_")

    def __init__(
        self, model, damping: Damping = "auto", *, fisher: Fisher = "auto", samples: int = 1, seed: int = 0, **options
    ):
        super().__init__(model, damping, **options)
        if fisher not in get_args(Fisher):
            raise UserError(f"fisher: must be one of {', '.join(get_args(Fisher))}, got {fisher!r}")
        self.fisher, self.samples, self.seed = fisher, count("samples", samples), count("seed", seed, 0)

    def _fit(self, data: Held | Streamed) -> None:
        moments = self._moments(data)
        self._bases = [_bases(of_site) for of_site in moments]
        self.eigenvalues_ = self._eigenvalues(data, moments)

    def _damp(self) -> None:
        totals = self._over_sites(v.sum((1, 2)) for v in self.eigenvalues_)
        d = self._automatic(totals / self._network.n_parameters)
        damped = [v + d.repeat_interleave(len(v) // len(d))[:, None, None].to(v) for v in self.eigenvalues_]
        least, most = min(float(v.min()) for v in damped), max(float(v.max()) for v in damped)
        if not least > (torch.finfo(damped[0].dtype).eps * most if self.damping == 0 else 0):
            raise UserError("damping: an eigenvalue of the curvature is 0; a damping above 0 is needed")
        self._inverse = [1 / v for v in damped]

    @abstractmethod
    def _eigenvalues(self, data: Held | Streamed, moments: list[list[Moments]]) -> list[Tensor]:
        """Each site's (B, out, in), in the order of its bases."""

    def _tapes(self, data: Held | Streamed) -> Iterator[tuple[ModuleTape | LayerTape, Iterator[Tensor]]]:
        """Each batch's tape and the cotangents whose squares add up to the Fisher."""
        rng, kind = generator(self.seed, "fisher"), self.fisher
        for batch in self._feed.batches(data):
            tape, exact = self._feed.curved(batch)
            if kind == "auto":  # the same for all: longer texts may follow
                kind = "exact" if tape.logits[0, 0].numel() <= MAX_EXACT else "sampled"
            if kind == "empirical":
                yield tape, iter([losses.over_models(self.loss.gradient, tape.logits, batch.y)])
            elif kind == "exact":
                yield tape, exact
            else:
                _, m, *outputs = tape.logits.shape
                draws = self.loss.draws(torch.Size(outputs))
                if len(outputs) == 1:
                    drawn = rng.random((m, self.samples, draws))
                else:  # position by position, so that it changes nothing how long the batch is padded
                    shape = outputs[0], self.samples, draws // outputs[0]
                    of_place = [generator(self.seed, "fisher", batch.start + i).random(shape) for i in range(m)]
                    drawn = np.stack(of_place).swapaxes(1, 2).reshape(m, self.samples, draws)
                sampled = partial(losses.over_models, self.loss.sampled, tape.logits, batch.y)
                uniforms = self._feed.moved(torch.as_tensor(drawn)).unbind(1)
                yield tape, (sampled(of_sample) / self.samples**0.5 for of_sample in uniforms)

    def _moments(self, data: Held | Streamed) -> list[list[Moments]]:
        """Each site's mean over the training set of sum_t a a' (B or 1, in, in), or an Embedding's diagonal of it (1,
        size); of the Fisher's sum_t g g' (B, out, out); and t: for a matrix's uses, and for its transpose's.
        """
        sums, n = [[] for _ in self._network.shapes], len(data)
        for tape, cotangents in self._tapes(data):
            factors, live = [], {}
            for cotangent in cotangents:
                factors = tape.factors(cotangent)
                self._mark(live, cotangent, factors)
                for of_site, f in zip(sums, factors, strict=True):
                    of_site += [[0, 0, 0, flip] for _, flip in f.parts[len(of_site) :]]
                    for total, (part, _) in zip(of_site, f.parts, strict=True):
                        g = part.gradients.flatten(1, 2)
                        total[1] = total[1] + g.mT @ g
            for of_site, f in zip(sums, factors, strict=True):  # the inputs are the same for every class
                for total, (part, _) in zip(of_site, f.parts, strict=True):
                    _, m, t, _ = part.gradients.shape
                    counted = live.get(t, live[1]).expand(m, t).to(part.gradients)
                    total[0] = total[0] + part.input_moment(counted)
                    total[2] = total[2] + counted.sum()
        return [[_upright(a / n, g / n, t / n, flip, len(uses)) for a, g, t, flip in uses] for uses in sums]

    def _mark(self, live: dict[int, Tensor], cotangent: Tensor, factors: list[Factors]) -> None:
        """Mark in ``live``, by the number of positions t, which of a batch's (m, t) the loss depends on; 1: examples.

        Padding is what has no gradient at any site of its length. A layer by itself may be without one where a unit is
        closed, so only a sequence's lengths are marked, at which a Linear layer or an Embedding works.
        """
        live[1] = live.get(1, False) | cotangent.flatten(2).any(2).any(0)[:, None]
        sequences = zip(self._network.sites, factors, strict=False)  # a stack has none: its positions are patches
        lengths = {part.gradients.shape[2] for site, f in sequences if site.of_sequences for part, _ in f.parts} - {1}
        for part in (part for f in factors for part, _ in f.parts):
            if (t := part.gradients.shape[2]) in lengths:
                live[t] = live.get(t, False) | part.gradients.any(3).any(0)

    def _own(self, data: Held | Streamed) -> Tensor:
        return gathered(map(self._self_influence, self._feed.large_batches(data)), 1, len(data))

    def _self_influence(self, batch: Batch) -> Tensor:
        triples = zip(self._factors(batch), self._bases, self._inverse, strict=True)
        return self._over_sites(f.weighted_squares(*bases, w) for f, bases, w in triples)

    def _against(self, data: Held | Streamed, tests: Batch) -> Iterator[Tensor]:
        # In the eigenbases a solve is a product element by element: there, and back, or there with both sides.
        sides: list[tuple[Bases | None, Tensor]] = []
        for f, bases, w in zip(self._factors(tests), self._bases, self._inverse, strict=True):
            v = f.rotate(*bases).per_example().mul_(w[:, None])
            out, n_in = v.shape[2:]
            positions = sum(part.gradients.shape[2] for part, _ in f.parts)
            back = v.shape[1] * out * n_in * (out + n_in) < len(data) * positions * (out**2 + n_in**2)
            sides.append((None, _back(v, *bases)) if back else (bases, v))
        return self._products(data, sides, lambda f, side: (f.rotate(*side[0]) if side[0] else f).dot(side[1]))

    def _solve(self, directions: Directions) -> Directions:
        """Q_G ((Q_G' v Q_A) * inverse) Q_A' at each site."""
        solved = []
        for v, (q_a, q_g), w in zip(directions, self._bases, self._inverse, strict=True):
            v = q_g[:, None].mT @ v
            solved.append(_back((v if q_a is None else v @ q_a[:, None]) * w[:, None], q_a, q_g))
        return solved


class KFAC(Kronecker):
    """The Fisher's block at each site is the Kronecker product of its two moments, A (x) G (Martens & Grosse 2015).

    A is the mean of sum_t a a' and G the mean Fisher's sum_t g g' divided by the t positions, as if inputs and output
    gradients were independent and positions uncorrelated (Grosse & Martens 2016); the eigenvalues are products of
    theirs, summed over the two uses of a matrix that is used with its transpose as well.
    """

    def _eigenvalues(self, data: Held | Streamed, moments: list[list[Moments]]) -> list[Tensor]:
        return [
            sum(_diagonal(q_g, g)[:, :, None] * _diagonal(q_a, a)[:, None] / t for a, g, t in uses)
            for uses, (q_a, q_g) in zip(moments, self._bases, strict=True)
        ]


class EKFAC(Kronecker):
    """In each site's Kronecker eigenbasis, the Fisher's own diagonal: L_jk = mean of (Q_G' grad Q_A)_jk^2.

    George et al. 2018; Grosse et al. 2023. Self-influence is sum_jk (Q_G' g)_j^2 (Q_A' a)_k^2 / (L_jk + d): no gradient
    is formed where weights are not shared over positions. ``"auto"`` damping is that of the exact Gauss-Newton matrix,
    since a rotation keeps the mean diagonal.
    """

    def _eigenvalues(self, data: Held | Streamed, moments: list[list[Moments]]) -> list[Tensor]:
        sums = [0] * len(moments)
        for tape, cotangents in self._tapes(data):
            rotated: dict[int, Product] = {}  # the inputs are the same for every class
            squares: dict[int, Tensor] = {}
            for cotangent in cotangents:
                for i, (f, (q_a, q_g)) in enumerate(zip(tape.factors(cotangent), self._bases, strict=True)):
                    if isinstance(f, Shared):
                        sums[i] += f.rotate(q_a, q_g).square_sum()
                        continue
                    if i not in rotated:
                        rotated[i] = f.rotate_inputs(q_a)
                    g = f.rotate_gradients(q_g).gradients
                    if f.rank_one:  # the classes' squares first, then one product with the inputs'
                        squares[i] = g.square_() if i not in squares else torch.addcmul(squares[i], g, g)
                    else:
                        sums[i] += replace(rotated[i], gradients=g).square_sum()
            for i, over_classes in squares.items():
                sums[i] += rotated[i].squares_of(over_classes)
        return [s / len(data) for s in sums]


def _back(v: Tensor, q_a: Tensor | None, q_g: Tensor) -> Tensor:
    """Q_G v Q_A' of each of k directions (B, k, out, in)."""
    v = q_g[:, None] @ v
    return v if q_a is None else v @ q_a[:, None].mT


def _upright(a: Tensor, g: Tensor, positions: Tensor, flip: bool, uses: int) -> Moments:
    """Moments of a matrix, from those of its transpose where ``flip``; full ones where it has several uses."""
    a = torch.diag_embed(a) if a.dim() == 2 and (flip or uses > 1) else a
    return (g, a, positions) if flip else (a, g, positions)


def _bases(moments: list[Moments]) -> Bases:
    """Q_A and Q_G: the eigenvectors of the two moments, and of several uses' those of the sum of their Kronecker
    products' partial traces.
    """
    a, g, _ = moments[0]
    if len(moments) > 1:
        a, g = (sum(p[1 - k].diagonal(dim1=1, dim2=2).sum() * p[k] for p in moments) for k in (0, 1))
    return None if a.dim() == 2 else _eigenvectors(a), _eigenvectors(g)


def _eigenvectors(moment: Tensor) -> Tensor:
    """Of symmetric matrices (B, d, d); in float64 whatever their dtype, but for the widest: any basis will do."""
    precise = moment.double() if moment.shape[-1] <= _FLOAT64_UP_TO else moment
    return torch.linalg.eigh(precise)[1].to(moment)


def _diagonal(q: Tensor | None, moment: Tensor) -> Tensor:
    """diag(Q' M Q) of each of B matrices, (B, d): eigenvalues, so at least 0 whatever was rounded."""
    return moment if q is None else (q * (moment @ q)).sum(1).clamp(min=0)
