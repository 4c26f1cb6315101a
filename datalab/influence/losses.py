"""Losses: of each example's loss its value, its gradient in the model's outputs, and the Hessian there, as squares.

Outputs f are (n, C), or (n, T, C) at T positions; targets y have n rows. An example's loss is the sum over its
positions (and, where outputs are independent, over these), no mean. Its Hessian in f is the sum of the squares c c' of
the *cotangents* c, each shaped as f: what the Gauss-Newton matrix is made of, by one backward pass each. A loss is a
value: two of equal ``repr`` are the same.

For cross-entropy that matrix is the Fisher information: the Hessian is sum_c p_c (p - e_c) (p - e_c)', exact over the
classes, or over a few drawn from p. The *empirical* Fisher takes the observed class alone, with weight 1: it is no
curvature once the model fits its labels (Kunstner et al. 2019).
"""

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType

import torch
from torch import Tensor
from torch.nn import functional

from datalab.errors import UserError
from datalab.influence import settings
from datalab.influence.sets import Targets, over

MAX_CUSTOM_OUTPUTS = 100
_SUM_OF_PROBABILITIES = 1e-3
_INDEFINITE = 1e-6  # of the largest eigenvalue: a more negative one is not rounding


class Loss(ABC):
    """What influence needs of a loss."""

    by_example = False  # whether it is known to depend on this example alone; else a sample of every set is looked at

    @abstractmethod
    def value(self, f: Tensor, y: Targets) -> Tensor:
        """Each example's loss (n,), differentiable in f."""

    @abstractmethod
    def gradient(self, f: Tensor, y: Targets) -> Tensor:
        """Its gradient in f, shaped as f."""

    @abstractmethod
    def curvature(self, f: Tensor, y: Targets) -> Iterator[Tensor]:
        """As many cotangents as outputs, shaped as f, whose squares add up to the Hessian in f of each example."""

    @abstractmethod
    def sampled(self, f: Tensor, y: Targets, uniforms: Tensor) -> Tensor:
        """One cotangent, shaped as f, whose mean square over ``uniforms`` (n, draws) in [0, 1) is the Hessian."""

    @abstractmethod
    def checked(self, name: str, y: Targets, outputs: torch.Size) -> Targets:
        """The targets as the other methods take them; ``outputs`` is the shape of one example's.

        Raises UserError, beginning with ``name``, for any other values.
        """

    def draws(self, outputs: torch.Size) -> int:
        """How many uniform numbers of an example ``sampled`` takes."""
        return outputs.numel()


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Cross-entropy of a softmax over C classes, in nats, summed over positions: y (n,) or (n, T) class indices, or
    probabilities shaped as f. Equivalent to ``torch.nn.functional.cross_entropy`` with ``reduction="sum"`` an example.

    ``weight``, of each class, is C numbers of at least 0; ``label_smoothing``, in [0, 1), is how much of the target is
    spread evenly over the classes. Positions, or examples, labelled ``ignore_index`` count nothing. ``next_token``:
    position t is to predict the label of position t + 1, as transformers' causal language models are trained.
    """

    weight: Sequence[float] | None = None
    label_smoothing: float = 0.0
    ignore_index: int = -100
    next_token: bool = False
    by_example = True

    def __post_init__(self):
        _keep_weights(self, "weight")
        smoothing = settings.number("label_smoothing", self.label_smoothing, "a number in [0, 1)", lambda v: 0 <= v < 1)
        object.__setattr__(self, "label_smoothing", float(smoothing))  # numpy's is no other loss
        settings.count("ignore_index", self.ignore_index, None)

    def value(self, f: Tensor, y: Tensor) -> Tensor:
        _hold(f, y, soft=y.is_floating_point())
        y = y.movedim(-1, 1) if y.is_floating_point() else y
        weight = None if self.weight is None else self._weights(f)
        options = {"ignore_index": self.ignore_index, "label_smoothing": self.label_smoothing, "reduction": "none"}
        return functional.cross_entropy(f.movedim(-1, 1), y, weight, **options).reshape(len(f), -1).sum(1)

    def gradient(self, f: Tensor, y: Tensor) -> Tensor:
        _hold(f, y, soft=y.is_floating_point())
        p = torch.softmax(f.detach(), -1)
        if y.is_floating_point() or self.label_smoothing:
            q = self._target(p, y)
            return q.sum(-1, keepdim=True) * p - q
        return towards(p, self._classes(y)[..., None]) * self.mass(p, y)

    def curvature(self, f: Tensor, y: Tensor) -> Iterator[Tensor]:
        root, p = self.mass(f.detach(), y).sqrt(), torch.softmax(f.detach(), -1)
        for c in range(p.shape[-1]):  # whose squares add up to diag(p) - p p'
            cotangent = towards(p, torch.full_like(p[..., :1], c, dtype=torch.int64)) * p[..., c : c + 1].sqrt()
            yield from _apart(cotangent * root)

    def sampled(self, f: Tensor, y: Tensor, uniforms: Tensor) -> Tensor:
        p = torch.softmax(f.detach(), -1)
        edges = p.cumsum(-1)
        u = uniforms.view(*f.shape[:-1], 1).to(edges) * edges[..., -1:]
        drawn = torch.searchsorted(edges, u, right=True).clamp(max=p.shape[-1] - 1)
        return towards(p, drawn) * self.mass(f.detach(), y).sqrt()

    def draws(self, outputs: torch.Size) -> int:
        return outputs[:-1].numel()

    def checked(self, name: str, y: Tensor, outputs: torch.Size) -> Tensor:
        n_classes = outputs[-1]
        if n_classes < 2:
            raise UserError(f"model: must return logits (n, C) with C at least 2, got {(1, *outputs)} for one example")
        if self.weight is not None and len(self.weight) != n_classes:
            raise UserError(f"weight: need one a class, got {len(self.weight)} for {n_classes} classes")
        soft = y.dim() == 1 + len(outputs) and y.shape[-1] == n_classes and y.is_floating_point()
        if soft and not self.next_token:
            if not bool((y >= 0).all() and ((y.sum(-1) - 1).abs() < _SUM_OF_PROBABILITIES).all()):
                raise UserError(f"{name}: soft labels must be probabilities: at least 0, with rows that sum to 1")
            return y
        if y.is_floating_point() or y.dtype == torch.bool:
            raise UserError(f"{name}: y must be integer class labels, got {y.dtype}")
        if y.dim() != len(outputs):
            need = f"need y {_rows(outputs[:-1])} for a model that returns {_rows(outputs)}"
            raise UserError(f"{name}: {need}, got {tuple(y.shape)}")
        y = y.long()
        low, high = (int(v) for v in torch.aminmax(self._classes(y)))
        if low < 0 or high >= n_classes:
            raise UserError(f"{name}: labels must lie in 0..{n_classes - 1}, got {low}..{high}")
        return torch.cat([y[:, 1:], torch.full_like(y[:, :1], self.ignore_index)], 1) if self.next_token else y

    def _classes(self, y: Tensor) -> Tensor:
        return torch.where(y == self.ignore_index, 0, y)

    def _weights(self, like: Tensor) -> Tensor:
        return _on(self.weight or (1.0,), like.dtype, like.device)

    def _target(self, like: Tensor, y: Tensor) -> Tensor:
        """The weight of each class's -log p in the loss, shaped as the outputs."""
        hard = not y.is_floating_point()
        target = torch.zeros_like(like).scatter_(-1, self._classes(y)[..., None], 1.0) if hard else y.to(like)
        target = torch.lerp(target, torch.full_like(target, 1 / target.shape[-1]), self.label_smoothing)
        target = target * self._weights(like)
        return target * (y != self.ignore_index)[..., None] if hard else target

    def mass(self, like: Tensor, y: Tensor) -> Tensor:
        """What multiplies a position's diag(p) - p p' in the Hessian, (n, 1) or (n, T, 1)."""
        _hold(like, y, soft=y.is_floating_point())
        if y.is_floating_point() or self.label_smoothing:
            return self._target(like, y).sum(-1, keepdim=True)
        weight = 1.0 if self.weight is None else self._weights(like)[self._classes(y)]
        return ((y != self.ignore_index).to(like) * weight)[..., None]


class _Independent(Loss):
    """A sum over outputs, each with a loss of its own: its Hessian is ``_diagonal``, shaped as f, at least 0."""

    by_example = True

    def curvature(self, f: Tensor, y: Tensor) -> Iterator[Tensor]:
        root = self._diagonal(f.detach(), _hold(f, y)).sqrt()
        for c in range(root.shape[-1]):
            yield from _apart(torch.zeros_like(root).select_scatter(root[..., c], -1, c))

    def sampled(self, f: Tensor, y: Tensor, uniforms: Tensor) -> Tensor:
        return self._diagonal(f.detach(), _hold(f, y)).sqrt() * _signs(f, uniforms)

    def checked(self, name: str, y: Tensor, outputs: torch.Size) -> Tensor:
        y = y[:, None] if outputs == (1,) and y.dim() == 1 else y
        if y.dim() != 1 + len(outputs) or y.shape[-1] != outputs[-1]:  # other texts may have more positions
            raise UserError(f"{name}: y must be {_rows(outputs)}, as the outputs are, got {tuple(y.shape)}")
        if not bool(torch.isfinite(y).all()):
            raise UserError(f"{name}: y must be finite, got NaN or infinity")
        return y.byte() if y.dtype == torch.bool else y


@dataclass(frozen=True)
class SquaredError(_Independent):
    """The squared distance |f - y|^2, summed over the outputs: y as f, or (n,) for one output."""

    def value(self, f: Tensor, y: Tensor) -> Tensor:
        return (f - _hold(f, y)).square().flatten(1).sum(1)

    def gradient(self, f: Tensor, y: Tensor) -> Tensor:
        return 2 * (f.detach() - _hold(f, y))

    def _diagonal(self, f: Tensor, y: Tensor) -> Tensor:
        return torch.full_like(f, 2.0)


@dataclass(frozen=True)
class BinaryCrossEntropy(_Independent):
    """Binary cross-entropy of one or many logits, in nats, summed over these: y as f, or (n,) for one, in [0, 1].

    ``positive_weight`` multiplies the positives' part, one for each of the C logits. Equivalent to
    ``binary_cross_entropy_with_logits`` with ``reduction="sum"`` an example.
    """

    positive_weight: Sequence[float] | None = None

    def __post_init__(self):
        _keep_weights(self, "positive_weight")

    def value(self, f: Tensor, y: Tensor) -> Tensor:
        losses = self._positive(f, _hold(f, y)) * functional.softplus(-f) + (1 - y) * functional.softplus(f)
        return losses.flatten(1).sum(1)

    def gradient(self, f: Tensor, y: Tensor) -> Tensor:
        f, y = f.detach(), _hold(f, y)
        return (1 - y) * torch.sigmoid(f) - self._positive(f, y) * torch.sigmoid(-f)  # sigmoid(f) - 1 would cancel

    def _diagonal(self, f: Tensor, y: Tensor) -> Tensor:
        return (self._positive(f, y) + 1 - y) * torch.sigmoid(f) * torch.sigmoid(-f)

    def _positive(self, f: Tensor, y: Tensor) -> Tensor:
        return y if self.positive_weight is None else y * _on(self.positive_weight, f.dtype, f.device)

    def checked(self, name: str, y: Tensor, outputs: torch.Size) -> Tensor:
        if self.positive_weight is not None and len(self.positive_weight) != outputs[-1]:
            raise UserError(f"positive_weight: need one a logit, got {len(self.positive_weight)} for {outputs[-1]}")
        y = super().checked(name, y, outputs)
        if not bool(((y >= 0) & (y <= 1)).all()):
            raise UserError(f"{name}: targets must lie in [0, 1], got {float(y.min()):.3g}..{float(y.max()):.3g}")
        return y


@dataclass(frozen=True)
class Weighted(Loss):
    """``loss`` times a weight of each example: the targets are a pair (y, w), w (n,) numbers of at least 0."""

    loss: Loss

    def __post_init__(self):
        if not isinstance(self.loss, Loss):
            raise UserError(f"loss: Weighted takes one of datalab.influence.losses, got a {type(self.loss).__name__}")

    by_example = property(lambda self: self.loss.by_example)

    def value(self, f: Tensor, y: tuple[Tensor, Tensor]) -> Tensor:
        return self.loss.value(f, y[0]) * y[1]

    def gradient(self, f: Tensor, y: tuple[Tensor, Tensor]) -> Tensor:
        return self.loss.gradient(f, y[0]) * _like_rows(y[1], f)

    def curvature(self, f: Tensor, y: tuple[Tensor, Tensor]) -> Iterator[Tensor]:
        root = _like_rows(y[1], f).sqrt()
        return (cotangent * root for cotangent in self.loss.curvature(f, y[0]))

    def sampled(self, f: Tensor, y: tuple[Tensor, Tensor], uniforms: Tensor) -> Tensor:
        return self.loss.sampled(f, y[0], uniforms) * _like_rows(y[1], f).sqrt()

    def draws(self, outputs: torch.Size) -> int:
        return self.loss.draws(outputs)

    def checked(self, name: str, y: tuple[Tensor, Tensor], outputs: torch.Size) -> tuple[Tensor, Tensor]:
        if not isinstance(y, tuple) or len(y) != 2:
            raise UserError(f"{name}: Weighted takes a pair of targets and weights, y=(targets, weights)")
        labels, w = self.loss.checked(name, y[0], outputs), y[1]
        if w.shape != labels.shape[:1] or not bool(((w >= 0) & torch.isfinite(w)).all()):
            raise UserError(f"{name}: weights must be (n,) finite numbers of at least 0, got {tuple(w.shape)}")
        return labels, w


@dataclass(frozen=True)
class Custom(Loss):
    """Any ``function(f, y)`` that gives each example's loss (n,), differentiable twice and convex in f.

    Its derivatives are autograd's, on at most 100 outputs. ``fit`` raises UserError where the Hessian in f is not
    positive semidefinite, to see which it waits for every batch. A saved estimator is loaded with a function of a
    module of the same name and code; what it reads from elsewhere is not compared.
    """

    function: Callable[[Tensor, Targets], Tensor]

    def __post_init__(self):
        if not callable(self.function):
            raise UserError(f"loss: Custom takes a function of (f, y), got {self.function!r}")

    def __repr__(self) -> str:
        """Of a function of a module its name and code, the same in every process; of another its address."""
        made = self.function
        named = isinstance(made, FunctionType) and "<" not in made.__qualname__
        if not named or made.__closure__ or made.__defaults__ or made.__kwdefaults__:
            return f"Custom({made!r})"
        digest = hashlib.sha256(repr(_written(made.__code__)).encode()).hexdigest()[:16]
        return f"Custom({made.__module__}.{made.__qualname__}, code {digest})"

    def value(self, f: Tensor, y: Targets) -> Tensor:
        losses, n = self.function(f.clone(), over(y, Tensor.clone)), len(f)  # into which it may write
        if getattr(losses, "shape", None) != (n,):
            got = tuple(losses.shape) if isinstance(losses, Tensor) else f"a {type(losses).__name__}"
            raise UserError(f"loss: the function must give (n,) losses, got {got} for {n} examples")
        if torch.is_grad_enabled() and f.requires_grad and not losses.requires_grad:
            raise UserError("loss: the function has no gradient in f (argmax, a comparison or detach in it?)")
        return losses

    def gradient(self, f: Tensor, y: Targets) -> Tensor:
        with torch.enable_grad():
            leaf = f.detach().requires_grad_()
            return torch.autograd.grad(self.value(leaf, y).sum(), leaf)[0]

    def curvature(self, f: Tensor, y: Targets) -> Iterator[Tensor]:
        yield from self._root(f, y).unbind(1)

    def sampled(self, f: Tensor, y: Targets, uniforms: Tensor) -> Tensor:
        root = self._root(f, y)
        return torch.einsum("nc,nc...->n...", _signs(root[:, :, 0], uniforms), root.flatten(2)).view_as(f)

    def _root(self, f: Tensor, y: Targets) -> Tensor:
        """(n, outputs, *outputs): cotangents of each example."""
        with torch.enable_grad():
            leaf = f.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.value(leaf, y).sum(), leaf, create_graph=True)
            flat = gradient.flatten(1)
            if not flat.requires_grad:  # linear in f
                flat = flat + 0 * leaf.flatten(1)
            columns = flat.sum(0)
            rows = [torch.autograd.grad(c, leaf, retain_graph=True, materialize_grads=True)[0] for c in columns]
        hessian = torch.stack(rows, 1).flatten(2)
        values, vectors = torch.linalg.eigh(((hessian + hessian.mT) / 2).double())
        if bool((values < -_INDEFINITE * values.abs().amax()).any()):
            raise UserError("loss: not convex in the outputs, so its Gauss-Newton matrix is no curvature")
        return (vectors * values.clamp(min=0).sqrt()[:, None]).mT.to(f).unflatten(2, f.shape[1:])

    def checked(self, name: str, y: Targets, outputs: torch.Size) -> Targets:
        if (got := outputs.numel()) > MAX_CUSTOM_OUTPUTS:
            need = f"at most {MAX_CUSTOM_OUTPUTS} outputs an example, got {got}"
            raise UserError(f"loss: the Hessian of a Custom loss is formed for {need}")
        return y


def over_models(of_loss: Callable[..., Tensor], outputs: Tensor, y: Targets, *uniforms: Tensor) -> Tensor:
    """A loss's ``value`` or ``gradient`` for outputs (S, m, ...) and targets (S, m, ...) of S models.

    Or its ``sampled``, for ``uniforms`` (m, draws), the same for all models.
    """
    drawn = (u.expand(len(outputs), *u.shape).flatten(0, 1) for u in uniforms)
    flat = of_loss(outputs.flatten(0, 1), over(y, lambda v: v.flatten(0, 1)), *drawn)
    return flat.unflatten(0, outputs.shape[:2])


def _keep_weights(loss: Loss, field: str) -> None:
    """Make a tuple, which has a hash, of a field's numbers; None stays."""
    if (given := getattr(loss, field)) is not None:
        object.__setattr__(loss, field, tuple(settings.numbers(field, given, "numbers of at least 0")))


def _apart(cotangent: Tensor) -> Iterator[Tensor]:
    """Its T positions, if it has any, one at a time: their losses are independent."""
    if cotangent.dim() == 2:
        yield cotangent
        return
    for t in range(cotangent.shape[1]):
        yield torch.zeros_like(cotangent).select_scatter(cotangent[:, t], 1, t)


@functools.lru_cache(16)
def _on(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Copied once, not for every batch."""
    return torch.tensor(numbers, dtype=dtype, device=device)


def _signs(f: Tensor, uniforms: Tensor) -> Tensor:
    """-1 or 1, shaped as f: the mean of their squares is the identity."""
    return torch.where(uniforms.view_as(f) < 0.5, -1.0, 1.0).to(f)


def _hold(f: Tensor, y: Tensor, soft: bool = True) -> Tensor:
    """The targets, once they are shaped as these outputs, or all but the classes: torch would spread others out."""
    if y.shape != (wanted := f.shape if soft else f.shape[:-1]):
        raise UserError(f"y: need {_rows(wanted[1:])} for outputs {_rows(f.shape[1:])}, got {_rows(y.shape[1:])}")
    return y


def _like_rows(w: Tensor, f: Tensor) -> Tensor:
    return w.to(f).view(-1, *[1] * (f.dim() - 1))


def _rows(shape: Sequence[int]) -> str:
    return f"(n, {', '.join(str(d) for d in shape)})" if shape else "(n,)"


def towards(p: Tensor, classes: Tensor) -> Tensor:
    """p - e_c, without cancellation at c; classes is (..., 1)."""
    others = p.scatter(-1, classes, 0.0)
    return others.scatter(-1, classes, -others.sum(-1, keepdim=True))


def _written(code: CodeType) -> tuple[bytes, tuple, list]:
    """What a function's code says, wherever it stands: its steps, names and constants, functions within it too."""
    constants = [_written(part) if isinstance(part, CodeType) else part for part in code.co_consts]
    constants = [sorted(map(repr, part)) if isinstance(part, frozenset) else part for part in constants]
    return code.co_code, code.co_names, constants
