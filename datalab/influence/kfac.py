"""Influence with K-FAC (Martens & Grosse 2015; for convolutions Grosse & Martens 2016)."""

from torch import Tensor

from datalab.influence.kronecker import Kronecker, Moments


class KFAC(Kronecker):
    """The Fisher's block at each site is the Kronecker product of its two moments, A (x) G.

    A is the mean of sum_t a a' and G the mean Fisher's sum_t g g' divided by the t positions, as if inputs and output
    gradients were independent and positions uncorrelated; the eigenvalues are products of theirs. Parameters:
    :class:`~datalab.influence.kronecker.Kronecker`.
    """

    def _eigenvalues(self, x: Tensor, y: Tensor, moments: list[Moments]) -> list[Tensor]:
        found = []
        for m, (q_a, q_g) in zip(moments, self._bases, strict=True):
            of_inputs = m.inputs if q_a is None else _diagonal(q_a, m.inputs)
            found.append(_diagonal(q_g, m.gradients)[:, :, None] * of_inputs[:, None] / m.positions)
        return found


def _diagonal(q: Tensor, moment: Tensor) -> Tensor:
    """diag(Q' M Q) of each of B matrices, (B, d): eigenvalues, so at least 0 whatever was rounded."""
    return (q * (moment @ q)).sum(1).clamp(min=0)
