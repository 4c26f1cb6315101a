"""Influence with EK-FAC (George et al. 2018; Grosse et al. 2023): exact values in a Kronecker eigenbasis."""

import torch
from torch import Tensor

from datalab.influence.kronecker import Kronecker, Moments


class EKFAC(Kronecker):
    """In each site's Kronecker eigenbasis, the Fisher's own diagonal: L_jk = mean of (Q_G' grad Q_A)_jk^2.

    Self-influence is sum_jk (Q_G' g)_j^2 (Q_A' a)_k^2 / (L_jk + d): two rotations and one bilinear form, and no
    per-example gradient where weights are not shared over positions. ``"auto"`` damping is that of the exact
    Gauss-Newton matrix, since a rotation keeps the mean diagonal. Parameters:
    :class:`~datalab.influence.kronecker.Kronecker`.
    """

    def _eigenvalues(self, x: Tensor, y: Tensor, moments: list[Moments]) -> list[Tensor]:
        groups = [max(len(m.inputs), len(m.gradients)) for m in moments]
        sums = [
            m.gradients.new_zeros(b, m.gradients.shape[-1], m.inputs.shape[-1])
            for b, m in zip(groups, moments, strict=True)
        ]
        for tape, cotangents in self._tapes(x, y):
            rotated = []
            squares: dict[int, Tensor] = {}
            for cotangent in cotangents:
                factors = tape.factors(cotangent)
                if not rotated:  # the inputs are the same for every class
                    rotated = [f.rotate_inputs(q_a) for f, (q_a, _) in zip(factors, self._bases, strict=True)]
                for i, (f, (_, q_g)) in enumerate(zip(factors, self._bases, strict=True)):
                    g = f.rotate_gradients(q_g).gradients
                    if f.rank_one:  # the classes' squares first, then one product with the inputs'
                        squares[i] = g.square_() if i not in squares else torch.addcmul(squares[i], g, g)
                    else:
                        sums[i] += rotated[i]._replace(gradients=g).square_sum()
            for i, each in squares.items():
                sums[i] += rotated[i].squares_of(each)
        return [s / len(x) for s in sums]
