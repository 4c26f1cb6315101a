"""Influence with EK-FAC (George et al. 2018; Grosse et al. 2023): exact values in a Kronecker eigenbasis."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from datalab.errors import UserError
from datalab.influence import features
from datalab.influence.estimator import Estimator
from datalab.influence.features import Factors, Tape
from datalab.influence.fisher import MAX_EXACT_CLASSES, exact_cotangents, sampled_cotangents


class EKFAC(Estimator):
    """H is block-diagonal over the layers; in each, the Fisher's diagonal in the eigenbasis of its Kronecker factors.

    With Q_A the eigenvectors of the mean of sum_t a a' and Q_G those of the mean Fisher's sum_t g g', the eigenvalues
    are L_jk = mean of (Q_G' grad Q_A)_jk^2. Self-influence is sum_jk (Q_G' g)_j^2 (Q_A' a)_k^2 / (L_jk + d): two
    rotations and one bilinear form, and no per-example gradient where weights are not shared over positions.

    The Fisher is exact over up to 20 classes; above, ``samples`` classes are drawn from the model's probabilities with
    ``seed``, by each example's place in the training set. Other parameters:
    :class:`~datalab.influence.estimator.Estimator`. ``eigenvalues_`` is a list of (out, in), one a layer.
    """

    def __init__(
        self,
        model: nn.Module,
        damping: float | Literal["auto"] = "auto",
        *,
        l2: float = 0.0,
        batch_size: int = 512,
        samples: int = 1,
        seed: int = 0,
    ):
        super().__init__(model, damping, l2=l2, batch_size=batch_size)
        if samples < 1:
            raise UserError(f"samples: must be at least 1, got {samples}")
        self.samples, self.seed = samples, seed

    def _fit(self, x: Tensor, y: Tensor) -> None:
        self._layers = features.layers(self.model)
        shapes = [features.shape(layer) for layer in self._layers.values()]
        moments = [(x.new_zeros(n_in, n_in), x.new_zeros(out, out)) for out, n_in in shapes]
        for first, pseudo in self._pseudo_gradients(x):
            for (of_inputs, of_gradients), f in zip(moments, pseudo, strict=True):
                a, g = f.inputs.flatten(0, 1), f.gradients.flatten(0, 1)
                of_gradients.addmm_(g.T, g)
                if first:
                    of_inputs.addmm_(a.T, a)
        self._bases = [(_eigenvectors(a), _eigenvectors(g)) for a, g in moments]
        self.eigenvalues_ = [x.new_zeros(shape) for shape in shapes]
        for _, pseudo in self._pseudo_gradients(x):
            for values, f in zip(self.eigenvalues_, self._rotated(pseudo), strict=True):
                values += _sum_of_squares(f)
        for values in self.eigenvalues_:
            values /= len(x)
        total, size = sum(float(v.sum()) for v in self.eigenvalues_), sum(v.numel() for v in self.eigenvalues_)
        self.damping_ = self._auto(total / size)
        if not min(float(v.min()) for v in self.eigenvalues_) + self.damping_ > 0:
            raise UserError("damping: an eigenvalue of the curvature is 0; a damping above 0 is needed")

    def _pseudo_gradients(self, x: Tensor) -> Iterator[tuple[bool, list[Factors]]]:
        """Factors whose squares add up to the Fisher, and whether they are the first of their batch."""
        uniforms = torch.rand(
            len(x), self.samples, generator=torch.Generator().manual_seed(self.seed), dtype=torch.float64
        )
        for batch, u in features.batches(x, uniforms.to(x.device), self.batch_size):
            tape = Tape(self.model, self._layers, batch)
            exact = tape.logits.shape[1] <= MAX_EXACT_CLASSES
            cotangents = exact_cotangents(tape.logits) if exact else sampled_cotangents(tape.logits, u)
            for i, cotangent in enumerate(cotangents):
                yield i == 0, tape.factors(cotangent)

    def _factors(self, x: Tensor, y: Tensor) -> list[Factors]:
        tape = Tape(self.model, self._layers, x)
        return tape.factors(features.loss_cotangent(tape.logits, y))

    def _rotated(self, factors: list[Factors]) -> list[Factors]:
        return [Factors(f.inputs @ q_a, f.gradients @ q_g) for f, (q_a, q_g) in zip(factors, self._bases, strict=True)]

    def _self_influence(self, factors: list[Factors]) -> Tensor:
        scores = factors[0].inputs.new_zeros(len(factors[0].inputs))
        for f, values in zip(self._rotated(factors), self.eigenvalues_, strict=True):
            weight = 1 / (values + self.damping_)
            if f.inputs.shape[1] == 1:
                scores += ((f.gradients[:, 0].square() @ weight) * f.inputs[:, 0].square()).sum(1)
            else:
                scores += features.per_example(f).square().flatten(1) @ weight.flatten()
        return scores

    def _solve(self, gradients: list[Tensor]) -> list[Tensor]:
        return [
            q_g @ ((q_g.T @ g @ q_a) / (values + self.damping_)) @ q_a.T
            for g, values, (q_a, q_g) in zip(gradients, self.eigenvalues_, self._bases, strict=True)
        ]


def _eigenvectors(moment: Tensor) -> Tensor:
    """Of a symmetric matrix; in float64, whatever its dtype."""
    return torch.linalg.eigh(moment.double())[1].to(moment)


def _sum_of_squares(factors: Factors) -> Tensor:
    """sum_i (grad_i)^2, element by element, (out, in)."""
    if factors.inputs.shape[1] == 1:
        return factors.gradients[:, 0].square().T @ factors.inputs[:, 0].square()
    return features.per_example(factors).square().sum(0)
