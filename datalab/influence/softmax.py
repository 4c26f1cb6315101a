"""Curvature: the Gauss-Newton matrix of a softmax's layer, in the C - 1 dimensions where it lives.

The layer's parameters are (C, p): one row a class, p = h + 1 with the bias last; a (n, p) are its inputs with a one
appended. The gradient of example i is (p_i - y_i) a_i', and its Gauss-Newton matrix (diag(p_i) - p_i p_i') kron a_i
a_i'; both are orthogonal to adding one vector to every class, so for gradients x

    x' (H + d I)^-1 x  =  x_r' (H_r + d (I - 11'/C) kron I)^-1 x_r,

where r leaves one class out, whichever. Block (j, k) of H_r is sum_i w_ijk a_i a_i': all blocks j >= k come of one
product of the weights (C (C-1) / 2, n) with the p (p+1) / 2 distinct products of features, a quarter of the work of the
full matrix. In float32 the inputs are whitened first, by T with T' T = (mean a a' + delta I)^-1, formed in float64:
scores do not change, and the condition number falls from that of the features to that of the classes' spread.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from datalab.influence import cholesky
from datalab.influence.losses import towards

_FEW_PAIRS = 6  # up to here one product a pair is faster than forming the products of features
_ROWS = 8  # features whose products with all others are formed at a time: they stay in the cache
_SAFE = 1e-5  # the first float32 refinement's relative change
_SMALL = 200  # up to this many parameters float64 costs no more than checking float32
_WEIGHTS = 1 << 24  # numbers of weights, a pair of classes and an example, formed at a time
_SOLVE_NUMBERS = 1 << 23  # right-hand sides solved at a time, in numbers


class Examples(NamedTuple):
    """A batch at the last layer, in float64: inputs with a one appended (m, p), probabilities (m, C), the loss's
    gradient (m, C), and the mass (m, 1) that multiplies each example's curvature, as class weights do.
    """

    inputs: Tensor
    probabilities: Tensor
    gradient: Tensor
    mass: Tensor | float = 1.0


def examples(features: Tensor, logits: Tensor, labels: Tensor) -> Examples:
    """The batch of features (m, h), logits (m, C) and labels (m,) of cross-entropy, with a one for the bias."""
    probabilities = torch.softmax(logits.double(), 1)
    return Examples(pad(features.double(), (0, 1), value=1.0), probabilities, towards(probabilities, labels[:, None]))


class SoftmaxGGN:
    """H + d I of one softmax layer, factorised once for any number of scores.

    ``batches`` yields the training set's :class:`Examples`, and can be iterated again; ``damping_`` is d = absolute +
    relative * mean diagonal of H over all C p parameters; ``dtype`` is that of the matrix and its factor: float32 is to
    be ``whitened`` once more, and solutions are refined against the float64 operator. ``sound`` says whether H + d I is
    positive definite in this dtype and, in float32 alone, the first refinement of a solution changes it by no more than
    1e-5: on a wide range of ill-conditioned problems that bounds the relative error of self-influence by 1e-4. Nothing
    here waits for the device.
    """

    def __init__(self, batches: Iterable[Examples], absolute: float, relative: float, dtype=torch.float64):
        self._batches, self._dtype, self._whiten = batches, dtype, None
        diagonal, spread, self.moment, self.n = 0.0, 0.0, 0.0, 0
        for batch in batches:
            variance = batch.probabilities * batch.mass * (1 - batch.probabilities)
            diagonal = diagonal + variance.sum(1) @ batch.inputs.square().sum(1)
            spread = spread + variance.sum(0)
            if dtype != torch.float64:
                self.moment = self.moment + batch.inputs.T @ batch.inputs
            self.n += len(variance)
            self.n_classes, self.width = batch.probabilities.shape[1], batch.inputs.shape[1]
        self.damping_ = absolute + relative * diagonal / (self.n * self.n_classes * self.width)
        # Leave out the class of the largest variance: without a frequent class the rest is nearly singular.
        classes = torch.arange(self.n_classes - 1, device=spread.device)
        self._kept = classes + (classes >= spread.argmax())
        if dtype == torch.float64:
            self._factor, self.info = cholesky.factorise(self._build(torch.ones_like(batch.inputs[0])))
            self.sound = self.info == 0
        else:
            self._ridge = self.damping_ / (spread.mean() / self.n).clamp(min=1e-12)
            self.moment, self._last = self.moment / self.n, batch

    def whitened(self, values: Tensor, vectors: Tensor) -> Self:
        """Factorised in float32, from the eigenvalues and eigenvectors of ``moment``, the mean of a a'."""
        scale = (values.clamp(min=0) + self._ridge).rsqrt()
        self._whiten = scale[:, None] * vectors.T
        self._factor, self.info = cholesky.factorise(self._build(scale.square().to(self._dtype)))
        self.sound = (self.info == 0) & (self._first_refinement(self._last) <= _SAFE)
        return self

    def self_influence(self, inputs: Tensor, gradient: Tensor) -> Tensor:
        """g' (H + d I)^-1 g of examples with inputs (m, p) and gradient (m, C), both float64: (m,), at least 0."""
        size = gradient.abs().amax(1).clamp(min=1e-300)  # float32 would underflow on an example long learnt
        columns = max(_SOLVE_NUMBERS // len(self._factor), 1)
        scores = torch.empty_like(size)
        for i in range(0, len(size), columns):
            part = slice(i, i + columns)
            unit = (gradient[part] / size[part, None]).T[self._kept].to(self._dtype)
            right = (unit[:, None] * self._transformed(inputs[part])).view(len(self._factor), -1)
            scores[part] = cholesky.half_solve(self._factor, right).square_().sum(0)
        return scores * size.square()

    def direction(self, gradients: Tensor) -> Tensor:
        """(H + d I)^-1 x for T directions x (T, C, p), in float64 (refined to 1e-9 from float32).

        H is blind to one vector added to every class: the mean of x over these is divided by d.
        """
        mean = gradients.mean(1, keepdim=True)
        right = (gradients - mean)[:, self._kept]
        solution = self._solve(right)
        if self._dtype != torch.float64:
            done = torch.zeros((), dtype=torch.bool, device=right.device)
            for _ in range(4):
                if done.device.type == "cpu" and bool(done):  # elsewhere to look is to wait
                    break
                step = torch.where(done, 0.0, self._solve(right - self._apply(solution)))
                solution += step
                done = step.norm() <= 1e-9 * solution.norm()
        whole = torch.zeros_like(gradients).index_copy_(1, self._kept, solution)
        whole -= whole.mean(1, keepdim=True)
        return whole + torch.where(self.damping_ > 0, mean / self.damping_, 0.0)

    def _first_refinement(self, batch: Examples) -> Tensor:
        """The relative change of (H + d I)^-1 x by one refinement, for x a sum of gradients with alternating signs."""
        signs = torch.ones_like(batch.gradient[:, :1])
        signs[1::2] = -1
        right = ((batch.gradient * signs).T @ batch.inputs)[None, self._kept]
        solution = self._solve(right)
        return self._solve(right - self._apply(solution)).norm() / solution.norm()

    def _build(self, metric: Tensor) -> Tensor:
        """The lower triangle of H_r + d (I - 11'/C) kron metric, ((C-1) p, (C-1) p)."""
        k, p = self.n_classes - 1, self.width
        rows, columns = torch.tril_indices(k, k, device=metric.device)
        blocks = torch.zeros(len(rows), p, p, dtype=self._dtype, device=metric.device)
        same = (rows == columns).double()
        for batch in self._batches:
            p_kept, scaled = (p.T[self._kept] for p in (batch.probabilities, batch.probabilities * batch.mass))
            inputs = self._transformed(batch.inputs)
            size = max(_WEIGHTS // len(batch.inputs), 1)
            for start in range(0, len(rows), size):
                pairs = slice(start, start + size)
                weights = scaled[rows[pairs]] / self.n * (same[pairs, None] - p_kept[columns[pairs]])
                _add_blocks(blocks[pairs], inputs, weights.to(self._dtype))
        damping = self.damping_ * (same - 1 / self.n_classes)
        blocks.diagonal(dim1=1, dim2=2).add_(damping.to(self._dtype)[:, None] * metric)
        matrix = torch.empty(k, p, k, p, dtype=self._dtype, device=metric.device)
        matrix.permute(0, 2, 1, 3)[rows, columns] = blocks
        return matrix.view(k * p, k * p)

    def _transformed(self, inputs: Tensor) -> Tensor:
        """The inputs (m, p), whitened where this is in use, features first: (p, m)."""
        return (inputs.T if self._whiten is None else self._whiten @ inputs.T).to(self._dtype).contiguous()

    def _solve(self, right: Tensor) -> Tensor:
        whitened = right if self._whiten is None else right @ self._whiten.T
        columns = whitened.reshape(len(right), -1).T.to(self._dtype).contiguous()
        solved = cholesky.solve(self._factor, columns).T.double().reshape(right.shape)
        return solved if self._whiten is None else solved @ self._whiten

    def _apply(self, x: Tensor) -> Tensor:
        """(H_r + d (I - 11'/C) kron I) x for x (T, C - 1, p), in float64."""
        out = self.damping_ * (x - x.sum(1, keepdim=True) / self.n_classes)
        for batch in self._batches:
            p, scaled = (p[:, self._kept] for p in (batch.probabilities, batch.probabilities * batch.mass))
            z = batch.inputs @ x.mT
            out += (scaled * (z - (z * p).sum(-1, keepdim=True)) / self.n).mT @ batch.inputs
        return out


def factorised(
    streams: Sequence[Iterable[Examples]], absolute: float, relative: float, dtype: torch.dtype
) -> list[SoftmaxGGN]:
    """A model each: in float32 where the data are, where it pays and where it is accurate; in float64 otherwise.

    The device is waited for a fixed number of times. Raises UserError for a matrix that is not positive definite.
    """
    first = next(iter(streams[0]))
    if (first.probabilities.shape[1] - 1) * first.inputs.shape[1] <= _SMALL:
        dtype = torch.float64
    ggns = [SoftmaxGGN(stream, absolute, relative, dtype) for stream in streams]
    if dtype != torch.float64:
        spectra = zip(*torch.linalg.eigh(torch.stack([ggn.moment for ggn in ggns])), strict=True)
        ggns = [ggn.whitened(*spectrum) for ggn, spectrum in zip(ggns, spectra, strict=True)]
        for s, fine in enumerate(torch.stack([ggn.sound for ggn in ggns]).tolist()):
            if not fine:
                ggns[s] = SoftmaxGGN(streams[s], absolute, relative)
    cholesky.refuse_indefinite([g.info for g in ggns], torch.stack([g.damping_ for g in ggns]), torch.float64)
    return ggns


def _add_blocks(blocks: Tensor, inputs: Tensor, weights: Tensor) -> None:
    """Add sum_i weights_qi inputs_.i inputs_.i' to each block q of (q, p, p); inputs are (p, m), weights (q, m)."""
    p, m = inputs.shape
    if len(weights) <= _FEW_PAIRS:
        for block, weight in zip(blocks, weights, strict=True):
            block.addmm_(inputs * weight, inputs.T)
        return
    for i in range(0, p, _ROWS):
        products = (inputs[i : i + _ROWS, None] * inputs[None, i:]).view(-1, m)
        added = (weights @ products.T).view(len(weights), -1, p - i)
        blocks[:, i : i + _ROWS, i:] += added
        blocks[:, i + _ROWS :, i : i + _ROWS] += added[:, :, _ROWS:].mT
