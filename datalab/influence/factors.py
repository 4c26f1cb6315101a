"""Factors: what a layer's per-example gradients are made of, and every product with them that needs no gradient formed.

Convention: a layer's parameters are B matrices (B, out, in), the bias being the last of the ``in`` columns. B is 1 for
a plain layer of one model, the groups of a grouped convolution, the channels of a normalisation, times the S models of
a stack. On m examples and t positions (1, or as many as share the weights) the inputs are (B, m, t, in) and the output
gradients, of the *sum* of the losses, (B, m, t, out). The gradient of example i is sum_t g_it a_it', (out, in).
Directions, which gradients are multiplied with, are (B, k, out, in).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

# Numbers of per-example gradients formed at a time: to be squared they should stay in the cache, rotated ones with the
# factors; as one side of a matrix product they should be many. And examples at a time where none is formed.
_SQUARED, _ROTATED, _MULTIPLIED, _ON_A_GPU = 1 << 20, 1 << 18, 1 << 22, 1 << 26
_EXAMPLES = 512  # or a multiple


class Factors:
    """Of the per-example gradients of one set of matrices: the sum of ``parts``, each with whether it is of the
    matrix's transpose. ``rank_one``: whether each example's gradient is a single outer product.
    """

    parts: "tuple[tuple[Product, bool], ...]"
    rank_one = False

    def products(self, other: Self) -> Tensor:
        """The inner product (B, k, m) of each of another batch's k gradients with each of this one's m."""
        return self.dot(other.per_example())

    def square_norms(self) -> Tensor:
        """The squared norm (B, m) of each example's gradient."""
        return torch.cat([_squares(part.per_example()) for part in self.chunks()], 1)

    def square_sum(self) -> Tensor:
        """sum_i of each example's squared gradient, element by element, (B, out, in), for rotated factors."""
        return sum(part.per_example().square().sum(1) for part in self.chunks())

    def weighted_squares(self, inputs: Tensor | None, gradients: Tensor, weight: Tensor) -> Tensor:
        """sum_jk weight_jk (Q_G' grad Q_A)_jk^2 of each example, (B, m), for bases and a weight (B, out, in)."""
        flat = weight.flatten(1)[..., None]
        rotated = (part.rotate(inputs, gradients).per_example() for part in self.chunks(_ROTATED))
        return torch.cat([(g.square_().flatten(2) @ flat)[..., 0] for g in rotated], 1)

    def chunks(self, numbers: int = _SQUARED) -> list[Self]:
        """Of so few examples each that their gradients are at most so many numbers."""
        first, _ = self.parts[0]
        return self.split(max(_formed(numbers, first.gradients) // (first.gradients[:, 0, 0].numel() * first.width), 1))

    def split(self, size: int) -> list[Self]:
        """Of ``size`` examples each, or those that are left."""
        return [self.part(start, size) for start in range(0, self.parts[0][0].gradients.shape[1], size)]


@dataclass(eq=False)
class Product(Factors):
    """Output gradients times inputs; ``width`` is ``in``, with the bias."""

    inputs: Tensor
    gradients: Tensor
    width: int

    @property
    def parts(self) -> "tuple[tuple[Product, bool], ...]":
        return ((self, False),)

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """With ``function`` of what is multiplied."""
        return replace(self, inputs=function(self.inputs), gradients=function(self.gradients))

    def part(self, start: int, size: int) -> Self:
        """The factors of ``size`` examples from ``start``."""
        return self.map(lambda v: v[:, start : start + size])

    def rotate_gradients(self, basis: Tensor) -> Self:
        """Output gradients Q_G' g, for a basis (B, out, out)."""
        g = torch.bmm(self.gradients.flatten(1, 2), basis).unflatten(1, self.gradients.shape[1:3])
        return replace(self, gradients=g)

    def rotate(self, inputs: Tensor | None, gradients: Tensor) -> Self:
        """Factors whose gradients are Q_G' grad Q_A."""
        return self.rotate_inputs(inputs).rotate_gradients(gradients)

    def total(self) -> Tensor:
        """The sum (B, out, in) of the examples' gradients."""
        return self.back(self.gradients[:, :, :, None])[:, 0]

    def dot(self, directions: Tensor) -> Tensor:
        """The product (B, k, m) of each direction with each example's gradient."""
        return torch.einsum("bmtko,bmto->bkm", self.project(directions), self.gradients)

    def weighted_total(self, weights: Tensor) -> Tensor:
        """k weighted sums (B, k, out, in) of the examples' gradients, for weights (B, k, m)."""
        size = max(_formed(_MULTIPLIED, weights) // (weights.shape[1] * self.gradients[:, 0].numel()), 1)
        pairs = zip(weights.split(size, 2), self.split(size), strict=True)
        return sum(f.back(torch.einsum("bkm,bmto->bmtko", w, f.gradients)) for w, f in pairs)


class Dense(Product):
    """A Linear layer or a convolution's patches: ``inputs`` are (B or 1, m, t, in without the bias).

    Where ``width`` is one more, a last input of 1 is understood, and never stored.
    """

    @property
    def bias(self) -> bool:
        return self.width > self.inputs.shape[-1]

    @property
    def rank_one(self) -> bool:
        return self.inputs.shape[2] == 1

    def per_example(self) -> Tensor:
        """The gradient (B, m, out, in) of each example."""
        gradient = self.gradients.mT @ self.inputs
        return torch.cat([gradient, self.gradients.sum(2)[..., None]], 3) if self.bias else gradient

    def project(self, directions: Tensor) -> Tensor:
        """Each position's input times each direction's transpose, (B, m, t, k, out)."""
        b, k, out, n_in = directions.shape
        return self._affine(directions.reshape(b, k * out, n_in).mT).view(b, *self.inputs.shape[1:3], k, out)

    def back(self, gradients: Tensor) -> Tensor:
        """sum_it u_itk a_it' for k output gradients u (B, m, t, k, out) at once, (B, k, out, in)."""
        u = gradients.flatten(1, 2).flatten(2).mT
        product = torch.bmm(u, self.inputs.flatten(1, 2).expand(len(u), -1, -1))
        if self.bias:
            product = torch.cat([product, u.sum(2, keepdim=True)], 2)
        return product.unflatten(1, gradients.shape[-2:])

    def dot(self, directions: Tensor) -> Tensor:
        _, k, _, n_in = directions.shape
        t = self.inputs.shape[2]
        if k * t > n_in if t == 1 else k > 2:  # where forming gradients is cheaper than projecting every position
            flat = directions.flatten(2)
            return torch.cat([flat @ part.per_example().flatten(2).mT for part in self.chunks(_MULTIPLIED)], 2)
        return super().dot(directions)

    def weighted_total(self, weights: Tensor) -> Tensor:
        if self.rank_one:
            return super().weighted_total(weights)
        parts = self.chunks(_MULTIPLIED)
        pairs = zip(weights.split(parts[0].inputs.shape[1], 2), parts, strict=True)
        return sum(w @ f.per_example().flatten(2) for w, f in pairs).unflatten(2, (self.gradients.shape[-1], -1))

    def products(self, other: Self) -> Tensor:
        if not (self.rank_one and other.rank_one):  # texts of one token beside longer ones
            return super().products(other)
        of_inputs = other.inputs[:, :, 0] @ self.inputs[:, :, 0].mT + self.bias
        return of_inputs * (other.gradients[:, :, 0] @ self.gradients[:, :, 0].mT)

    def square_norms(self) -> Tensor:
        """From Gram matrices over positions where that is less."""
        t, n_in, out = *self.inputs.shape[2:], self.gradients.shape[-1]
        if t == 1:
            return (_squares(self.inputs) + self.bias) * _squares(self.gradients)
        if t * (n_in + out) < n_in * out:
            gram = self.inputs @ self.inputs.mT + self.bias
            return (gram * (self.gradients @ self.gradients.mT)).sum((2, 3))
        return super().square_norms()

    def input_moment(self, counted: Tensor) -> Tensor:
        """sum_it a a' (B or 1, in, in), over the positions that are 1 in ``counted`` (m, t), and not 0."""
        a = (self.inputs * counted[..., None]).flatten(1, 2)
        moment = a.mT @ a
        if not self.bias:
            return moment
        row = torch.cat([a.sum(1), counted.sum().expand(len(a), 1)], 1)[:, :, None]
        return torch.cat([torch.cat([moment, row[:, :-1].mT], 1), row], 2)

    def rotate_inputs(self, basis: Tensor) -> Self:
        """Inputs Q_A' a, the bias among them, for a basis (B or 1, in, in): the gradients become grad Q_A."""
        a = self._affine(basis).unflatten(1, self.inputs.shape[1:3])
        return Dense(a, self.gradients, a.shape[-1])

    def square_sum(self) -> Tensor:
        return self.squares_of(self.gradients.square()) if self.rank_one else super().square_sum()

    def squares_of(self, squares: Tensor) -> Tensor:
        """As ``square_sum``, at one position, from squared output gradients (B, m, 1, out), or sums of them."""
        return squares[:, :, 0].mT @ self.inputs[:, :, 0].square()

    def weighted_squares(self, inputs: Tensor | None, gradients: Tensor, weight: Tensor) -> Tensor:
        """At one position a bilinear form of squares, where no gradient is formed.

        Examples come last, a few at a time: rows are aligned and stay in the cache, worth a quarter of the time.
        """
        if not self.rank_one:
            return super().weighted_squares(inputs, gradients, weight)
        of_inputs, of_bias = inputs.mT.split([self.inputs.shape[3], int(self.bias)], 2)
        size = _EXAMPLES * max(1, _ROTATED // sum(weight.shape[1:]) // _EXAMPLES)
        sums = []
        for part in self.split(_formed(size, self.gradients)):
            a, g = of_inputs @ part.inputs[:, :, 0].mT, gradients.mT @ part.gradients[:, :, 0].mT
            if self.bias:
                a += of_bias
            wide, narrow, by = (a, g, weight) if a.shape[1] > g.shape[1] else (g, a, weight.mT)
            sums.append((by @ wide.square_()).mul_(narrow.square_()).sum(1))
        return torch.cat(sums, 1)

    def _affine(self, matrix: Tensor) -> Tensor:
        """[a, 1] matrix, for a matrix (B or 1, in, k), without forming [a, 1]: (B, m * t, k)."""
        a = self.inputs.flatten(1, 2)
        b = max(len(a), len(matrix))
        a, matrix = a.expand(b, -1, -1), matrix.expand(b, -1, -1)
        return torch.baddbmm(matrix[:, -1:], a, matrix[:, :-1]) if self.bias else torch.bmm(a, matrix)


class Lookup(Product):
    """An Embedding: the inputs are one-hot, so ``inputs`` are tokens (1, m, t) of ``width`` rows; B is 1."""

    def merged(self) -> Self:
        """Equal tokens of an example as one, their gradients added: then all its positions differ."""
        tokens, order = self.inputs[0].sort(1)
        new = torch.ones_like(tokens, dtype=torch.bool)
        new[:, 1:] = tokens[:, 1:] != tokens[:, :-1]
        place = new.cumsum(1) - 1
        g = self.gradients[0].gather(1, order[..., None].expand_as(self.gradients[0]))
        gradients = torch.zeros_like(g).scatter_add_(1, place[..., None].expand_as(g), g)
        return Lookup(torch.zeros_like(tokens).scatter_(1, place, tokens)[None], gradients[None], self.width)

    def per_example(self) -> Tensor:
        (tokens,), (g,) = self.inputs, self.gradients
        m = len(tokens)
        dense = g.new_zeros(m * self.width, g.shape[-1])
        rows = tokens + self.width * torch.arange(m, device=g.device)[:, None]
        return dense.index_add_(0, rows.flatten(), g.flatten(0, 1)).view(1, m, self.width, -1).mT

    def project(self, directions: Tensor) -> Tensor:
        _, k, out, _ = directions.shape
        columns = directions[0].permute(2, 0, 1).reshape(self.width, k * out)
        return columns[self.inputs].unflatten(3, (k, out))

    def back(self, gradients: Tensor) -> Tensor:
        u = gradients[0].flatten(0, 1).flatten(1)
        summed = u.new_zeros(self.width, u.shape[1]).index_add_(0, self.inputs.flatten(), u)
        return summed.T.reshape(1, *gradients.shape[-2:], self.width)

    def square_norms(self) -> Tensor:
        return _squares(self.merged().gradients)

    def input_moment(self, counted: Tensor) -> Tensor:
        """How often each row is looked up, (1, width): the diagonal of sum_it a a', which is diagonal."""
        return torch.bincount(self.inputs.flatten(), counted.flatten(), self.width)[None].to(self.gradients)

    def rotate_inputs(self, basis: Tensor | None) -> Product:
        """One-hot inputs are their own eigenbasis; under another their rows become dense."""
        return self if basis is None else Dense(basis[0][self.inputs], self.gradients, self.width)

    def square_sum(self) -> Tensor:
        merged = self.merged()
        return merged.back(merged.gradients.square()[:, :, :, None])[:, 0]

    def weighted_squares(self, inputs: Tensor | None, gradients: Tensor, weight: Tensor) -> Tensor:
        if inputs is not None:
            return super().weighted_squares(inputs, gradients, weight)
        merged = self.rotate_gradients(gradients).merged()
        return (merged.project(weight[:, None])[..., 0, :] * merged.gradients.square()).sum((2, 3))


@dataclass(eq=False)
class Shared(Factors):
    """Parameters of several products, whose gradients add up, such as an Embedding tied to a Linear layer; B is 1."""

    parts: tuple[tuple[Product, bool], ...]

    def part(self, start: int, size: int) -> Self:
        return Shared(tuple((f.part(start, size), flip) for f, flip in self.parts))

    def per_example(self) -> Tensor:
        return sum(turned(f.per_example(), flip) for f, flip in self.parts)

    def total(self) -> Tensor:
        return sum(turned(f.total(), flip) for f, flip in self.parts)

    def dot(self, directions: Tensor) -> Tensor:
        return sum(f.dot(turned(directions, flip)) for f, flip in self.parts)

    def weighted_total(self, weights: Tensor) -> Tensor:
        return sum(turned(f.weighted_total(weights), flip) for f, flip in self.parts)

    def rotate(self, inputs: Tensor, gradients: Tensor) -> Self:
        bases = ((gradients, inputs) if flip else (inputs, gradients) for _, flip in self.parts)
        return Shared(tuple((f.rotate(*pair), flip) for (f, flip), pair in zip(self.parts, bases, strict=True)))


def _formed(numbers: int, like: Tensor) -> int:
    """How many numbers of gradients to form at a time: ``numbers`` on a CPU; on a GPU many more, or it would idle."""
    return numbers if like.device.type == "cpu" else _ON_A_GPU


def turned(values: Tensor, flip: bool) -> Tensor:
    """Matrices, or their transposes."""
    return values.mT if flip else values


def together(uses: list[tuple[Product, bool]]) -> Factors:
    """The factors of all uses of a matrix: positions side by side, where they can be."""
    groups: dict[tuple[type, bool], list[Product]] = {}
    for f, flip in uses:
        groups.setdefault((type(f), flip), []).append(f)
    parts = []
    for (kind, flip), (f, *more) in groups.items():
        if more:
            inputs, gradients = [u.inputs for u in (f, *more)], [u.gradients for u in (f, *more)]
            f = kind(torch.cat(inputs, 2), torch.cat(gradients, 2), f.width)
        parts.append((f, flip))
    return parts[0][0] if len(parts) == 1 and not parts[0][1] else Shared(tuple(parts))


def _squares(values: Tensor) -> Tensor:
    return torch.linalg.vector_norm(values, dim=(2, 3)).square_()
