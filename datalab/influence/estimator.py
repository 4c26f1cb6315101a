"""The one interface of all estimators, and what they share: checking, batching, damping, the three verbs.

Signs and units (design: Koh & Liang 2017, eq. 2): for the per-example loss l without a regulariser, and H the mean
curvature over the training set, ``influence_on`` and ``pairwise`` are -grad L' (H + d I)^-1 grad l_i, the derivative
of the target loss (nats) with respect to example i's weight in a mean loss that otherwise stays as it is. Positive:
more weight on i raises the target's loss. The diagonal of ``pairwise`` on the training set is minus the
self-influence. ``leave_one_out`` is in nats of the target's mean loss.

Shapes are for one model. On a :class:`~datalab.stack.Stack` of S models every result has S rows first, and labels may
be (S, n), as each model was trained on its own.
"""

import contextlib
import copy
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from datalab.errors import UserError
from datalab.influence import fisher
from datalab.influence.factors import Factors
from datalab.influence.tape import Inputs, Network, Rows, tensors
from datalab.seeds import generator
from datalab.stack import Stack

AUTO_RELATIVE = 1e-3
_DIRECTIONS = 1 << 24  # numbers held in directions (gradients of targets, or of examples) at a time
_LOOKED_AT = 16, 32  # examples of a set on which the model is tried, of up to 512 and from 1,024 on
_WORTH_A_WARNING = 0.1, 0.01  # a Newton step's gain, relative to the loss and in nats, above which fit warns

Directions = list[Tensor]


class InfluenceWarning(UserWarning):
    """A score is defined and computed, but does not mean what a reader would take it for; the message says why."""


def warn(message: str) -> None:
    """Warn of what a reader would misread, at the line that called the verb."""
    warnings.warn(message, InfluenceWarning, stacklevel=4)


class Batch(NamedTuple):
    """A slice of a labelled set: x (m, ...), y (S, m), and its first example's place."""

    x: Inputs
    y: Tensor
    start: int


class Estimator(ABC):
    """Influence on one model, or on every model of a stack, from any of its curvatures.

    Parameters
    ----------
    model
        Maps x (n, ...) to logits (n, C), or a :class:`~datalab.stack.Stack`; its device is that of all results. It is
        not changed. Influence is over its trainable parameters: those with ``requires_grad=False`` are left out.
    damping
        d, at least 0, or ``"auto"``: d = l2 + 1e-3 * mean diagonal of H over the parameters that the estimator covers
        (each model of a stack has its own).
    l2
        The penalty of training, l2/2 |theta|^2; ``"auto"`` adds it, since it is curvature. A damping given in numbers
        is used as it is.
    batch_size
        Examples per pass; bounds the memory and changes no result.
    leave_out
        Names of modules or parameters whose influence is not asked for, such as a layer that is not taken.
    dtype
        Compute in this precision, on a copy of the model; None: in the model's.
    include_frozen
        Take parameters with ``requires_grad=False`` too, as if they had been trained.

    After ``fit``, ``damping_`` is d, ``n_`` the size of the training set, and ``newton_gain_`` by how many nats a
    damped Newton step would lower the penalised training loss: 0 at a converged model. ``fit`` warns
    (:class:`InfluenceWarning`) where that is above a tenth of the loss and 0.01 nats: the model is then no optimum, and
    influence describes the tangent there, not a retrained model.
    """

    _takes: type[Network] = Network

    def __init__(
        self,
        model: nn.Module | Stack,
        damping: float | Literal["auto"] = "auto",
        *,
        l2: float = 0.0,
        batch_size: int = 512,
        leave_out: Sequence[str] = (),
        dtype: torch.dtype | None = None,
        include_frozen: bool = False,
    ):
        _check_damping(damping)
        if not _at_least_0(l2):
            raise UserError(f"l2: must be a number of at least 0, got {l2!r}")
        if not (isinstance(batch_size, Integral) and batch_size >= 1):
            raise UserError(f"batch_size: must be a whole number of at least 1, got {batch_size!r}")
        if isinstance(leave_out, str):
            raise UserError(f"leave_out: must be a list of names, got {leave_out!r}; [{leave_out!r}] is one")
        if dtype not in (None, torch.float32, torch.float64):
            raise UserError(f"dtype: must be torch.float32, torch.float64 or None, got {dtype}")
        self.model, self.damping, self.l2, self.batch_size = model, damping, l2, batch_size
        self.leave_out, self.dtype, self.include_frozen = tuple(leave_out), dtype, include_frozen

    def fit(self, x: Tensor, y: Tensor) -> Self:
        """Take the curvature on the training set x (n, ...), y (n,) int64."""
        if hasattr(self, "n_"):
            del self.n_  # a fit that fails leaves nothing to score with
        self._network = self._takes(self.model, self.leave_out, self.dtype, self.include_frozen)
        x, y = self._checked("x, y", x, y)
        with computing():
            self._network.probe(self._here(x[:1]))
            self._look(x)
            self.n_ = len(x)
            try:
                self._fit(x, y)
                self._warn_where_not_converged(x, y)
            except BaseException as error:
                del self.n_
                if isinstance(error, torch.linalg.LinAlgError) or str(error).startswith("damping"):
                    self._refuse_infinite(x, y)
                raise
        return self

    def redamped(self, damping: float | Literal["auto"]) -> Self:
        """A copy with the same curvature under another damping: nothing is taken anew, and memory is shared."""
        if not hasattr(self, "n_"):
            raise UserError(f"{type(self).__name__}: call fit(x_train, y_train) first")
        _check_damping(damping)
        other = copy.copy(self)
        other.damping = damping
        with computing():
            other._damp()
        return other

    def self_influence(self, x: Tensor, y: Tensor) -> Tensor:
        """g_i' (H + d I)^-1 g_i of each example, (n,), at least 0; high = the model bends itself to fit it."""
        x, y = self._fitted("x, y", x, y)
        with computing():
            return self._result(torch.cat([self._self_influence(batch) for batch in self._batches(x, y)], 1))

    def influence_on(self, x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor) -> Tensor:
        """Influence of each example of x (n, ...), y (n,) on the mean loss of the target set, (n,): one solve."""
        x, y = self._fitted("x, y", x, y)
        x_val, y_val = self._fitted("x_val, y_val", x_val, y_val)
        with computing():
            return self._result(-self._product(x, y, self._solve(self._mean_gradient(x_val, y_val)))[:, 0])

    def pairwise(self, x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> Tensor:
        """Influence of each example of x (n, ...), y (n,) on the loss of each test example, (n_test, n)."""
        x, y = self._fitted("x, y", x, y)
        x_test, y_test = self._fitted("x_test, y_test", x_test, y_test)
        with computing():
            return self._result(-self._pairs(x, y, x_test, y_test))

    def leave_one_out(self, x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor) -> Tensor:
        """The predicted change (n,), in nats, of the target's mean loss if example i is removed and the model refitted.

        With n examples it is v' (grad l_i + l2 theta) / n for v = (H + d I)^-1 grad L: removing one example also
        re-weights the penalty of a mean over n - 1. x, y must be training examples of ``fit``; for a refit with the
        penalty l2, give ``damping=l2``.
        """
        x, y = self._fitted("x, y", x, y)
        x_val, y_val = self._fitted("x_val, y_val", x_val, y_val)
        with computing():
            return self._result(self._leave_one_out(x, y, x_val, y_val))

    @abstractmethod
    def _fit(self, x: Tensor, y: Tensor) -> None:
        """Take the curvature, and call ``_damp``."""

    @abstractmethod
    def _damp(self) -> None:
        """Set ``damping_`` from ``damping`` and prepare the solver for it."""

    @abstractmethod
    def _solve(self, directions: Directions) -> Directions:
        """(H + d I)^-1 of k directions, each site's (S * G, k, out, in)."""

    def _self_influence(self, batch: Batch) -> Tensor:
        """Of one batch, (S, m): a solve for every example, a few at a time."""
        parts = []
        for part in self._parts(batch):
            gradients = self._per_example(part)
            solved = self._solve(gradients)
            products = [(g * v).sum((2, 3)) for g, v in zip(gradients, solved, strict=True)]
            parts.append(self._over_sites(products))
        return torch.cat(parts, 1)

    def _leave_one_out(self, x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor) -> Tensor:
        solved = self._solve(self._mean_gradient(x_val, y_val))
        products = ((v[:, 0] * w).sum((1, 2)) for v, w in zip(solved, self._network.values(), strict=True))
        penalty = self._over_sites(products)
        return (self._product(x, y, solved)[:, 0] + self.l2 * penalty[:, None]) / self.n_

    def _pairs(self, x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> Tensor:
        """Each test example's solved gradient times each example's gradient, (S, n_test, n)."""
        tests = self._batches(x_test, y_test, self._gradients_at_once())
        return torch.cat([self._against(x, y, batch) for batch in tests], 1)

    def _against(self, x: Tensor, y: Tensor, tests: Batch) -> Tensor:
        """The rows of ``_pairs`` of one batch of tests."""
        return self._product(x, y, self._solve(self._per_example(tests)))

    def _factors(self, batch: Batch) -> list[Factors]:
        """The loss gradients of one batch, site by site."""
        tape = self._network.tape(batch.x)
        return tape.factors(fisher.loss_cotangent(tape.logits, batch.y))

    def _per_example(self, batch: Batch) -> Directions:
        return [f.per_example() for f in self._factors(batch)]

    def _mean_gradient(self, x: Tensor, y: Tensor) -> Directions:
        """The gradient of the mean loss, as one direction: each site's (S * G, 1, out, in)."""
        sums = None
        for batch in self._batches(x, y):
            totals = [f.total() for f in self._factors(batch)]
            sums = totals if sums is None else [a.add_(b) for a, b in zip(sums, totals, strict=True)]
        return [total[:, None] / len(x) for total in sums]

    def _product(self, x: Tensor, y: Tensor, directions: Directions) -> Tensor:
        """Each of k directions times each example's gradient, (S, k, n)."""
        return self._columns(
            x, y, lambda batch: (f.dot(v) for f, v in zip(self._factors(batch), directions, strict=True))
        )

    def _columns(self, x: Tensor, y: Tensor, products: Callable[[Batch], Iterable[Tensor]]) -> Tensor:
        """What ``products`` gives of each batch, a site's (S * G, k, m): summed over sites, side by side, (S, k, n)."""
        return torch.cat([self._over_sites(products(batch)) for batch in self._batches(x, y)], 2)

    def _over_sites(self, values: Iterable[Tensor]) -> Tensor:
        """The sum (S, ...) of each site's (S * G, ...)."""
        return sum(self._network.over_groups(of_site) for of_site in values)

    def _gradients_at_once(self) -> int:
        """How many per-example gradients may be held."""
        numbers = self._network.n_parameters * self._network.models
        return max(1, min(self.batch_size, _DIRECTIONS // numbers))

    def _parts(self, batch: Batch, size: int | None = None) -> Iterator[Batch]:
        """Slices of a batch, of as many examples as gradients may be held of."""
        size = size or self._gradients_at_once()
        for start in range(0, len(batch.x), size):
            self._network.places = range(batch.start + start, batch.start + len(batch.x))
            yield Batch(batch.x[start : start + size], batch.y[:, start : start + size], batch.start + start)

    def _batches(self, x: Tensor, y: Tensor, size: int | None = None) -> Iterator[Batch]:
        """Consecutive slices; refuses values that are not finite, once all were seen, so as not to wait for each."""
        like, size = self._network.like, min(size or self.batch_size, self.batch_size)
        suspect = torch.zeros((), dtype=torch.bool, device=like.device)
        for start in range(0, len(x), size):
            part = self._here(x[start : start + size])
            for v in tensors(part):
                if v.is_floating_point():
                    suspect |= ~torch.isfinite(v.sum())  # a tenth of the cost of looking at every number
            self._network.places = range(start, start + len(part))
            yield Batch(part, y[:, start : start + size], start)
        if suspect | self._network.infinite:
            self._refuse_not_finite(x, size)

    def _here(self, x: Inputs) -> Inputs:
        """On the model's device, numbers in its dtype."""
        like = self._network.like

        def moved(v: Tensor) -> Tensor:
            v = v.to(like.device, like.dtype if v.is_floating_point() else None)
            return v.clone() if v.is_inference() else v

        return x.map(moved) if isinstance(x, Rows) else moved(x)

    def _refuse_not_finite(self, x: Inputs, size: int) -> None:
        """Raise UserError where inputs or logits are not finite, naming the first example."""
        bad: list[int] = []
        for start in range(0, len(x), size):
            part = self._here(x[start : start + size])
            if not all(bool(torch.isfinite(v).all()) for v in tensors(part)):
                raise UserError(f"x: must be finite in {str(self._network.like.dtype)[6:]}, got NaN or infinity")
            finite = torch.isfinite(self._network.logits(part)).transpose(0, 1).flatten(1).all(1)
            bad += [start + i for i, fine in enumerate(finite.tolist()) if not fine]
        if bad:
            self._network.infinite = Network.infinite
            raise UserError(
                f"model: its logits are not finite for {len(bad)} of {len(x)} examples, first for x[{bad[0]}]; "
                "has its training diverged, or does an input overflow?"
            )

    def _refuse_infinite(self, x: Inputs, y: Tensor) -> None:
        """Raise UserError where a gradient of the loss is not finite, naming the first example."""
        norms = [self._over_sites(f.square_norms() for f in self._factors(batch)) for batch in self._batches(x, y)]
        bad = (~torch.isfinite(torch.cat(norms, 1))).any(0).nonzero()[:, 0]
        if len(bad):
            raise UserError(
                f"model: the gradient is not finite for {len(bad)} of {len(x)} examples, first for x[{int(bad[0])}], "
                "though the logits are (the root of 0, or 0 * infinity inside it?)"
            )

    def _look(self, x: Inputs) -> None:
        """Let the network check itself on examples drawn from across the set, in another order than the set's."""
        n = len(x)
        size = min(n, max(_LOOKED_AT[0], min(_LOOKED_AT[1], n // 32)))
        rng = generator(n, "look")
        places = ((np.arange(size) + rng.random(size)) * n / size).astype(np.int64)
        self._network.places = rng.permutation(places)
        self._network.check(self._here(x[torch.from_numpy(self._network.places)]))

    def _automatic(self, mean_diagonal: Tensor) -> Tensor:
        """d of each model, (S,), from the mean diagonal of its H, (S,); sets ``damping_``."""
        if self.damping == "auto":
            d = self.l2 + AUTO_RELATIVE * mean_diagonal
        else:
            d = torch.full_like(mean_diagonal, float(self.damping))
        self.damping_ = d if self._network.is_stack else float(d[0])
        return d

    def _warn_where_not_converged(self, x: Tensor, y: Tensor) -> None:
        pairs = zip(self._mean_gradient(x, y), self._network.values(), strict=True)
        residual = [g + self.l2 * w[:, None] for g, w in pairs]
        solved = self._solve(residual)
        products = ((r * v).sum((1, 2, 3)) for r, v in zip(residual, solved, strict=True))
        gain = self._over_sites(products) / 2
        total = torch.zeros_like(gain)
        for batch in self._batches(x, y):
            logits = self._network.logits(batch.x)
            total -= torch.log_softmax(logits, -1).gather(2, batch.y[..., None]).sum((1, 2))
        loss = total / len(x)
        self.newton_gain_ = self._result(gain[:, None])[..., 0]
        relative, absolute = _WORTH_A_WARNING
        if bool((high := (gain > relative * loss) & (gain > absolute)).any()):
            worst = int(torch.where(high, gain, -torch.inf).argmax())
            warn(
                f"model: not converged: a damped Newton step would lower its training loss of {float(loss[worst]):.3g} "
                f"nats by {float(gain[worst]):.2g}, so influence describes the tangent here, not a retrained model"
            )

    def _result(self, values: Tensor) -> Tensor:
        if not bool(torch.isfinite(values.sum())) and not bool(torch.isfinite(values).all()):
            raise UserError(
                "model: influence is not finite: a gradient of finite logits is not (the root of 0, or 0 * infinity?)"
            )
        return values if self._network.is_stack else values[0]

    def _fitted(self, name: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if not hasattr(self, "n_"):
            raise UserError(f"{type(self).__name__}: call fit(x_train, y_train) first")
        x, y = self._checked(name, x, y)
        with computing():
            self._look(x)
        return x, y

    def _checked(self, name: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x (n, ...), where it is, and the labels (S, n), on the model's device."""
        like, models = self._network.like, self._network.models
        with torch.inference_mode(False):
            x, y = _inputs(name, x), _tensor(name, "y", y).to(like.device)
            y = y.clone() if y.is_inference() else y
        per_model = self._network.is_stack and y.dim() == 2 and len(y) == models
        shapes = [tuple(v.shape) for v in tensors(x)]
        if not (y.dim() == 1 or per_model) or min(map(len, shapes)) < 2 or len(x) != y.shape[-1] or not len(x):
            got = ", ".join(map(str, shapes))
            raise UserError(f"{name}: need x (n, ...) and y (n,) with n > 0, got {got} and {tuple(y.shape)}")
        if y.is_floating_point() or y.dtype == torch.bool:
            raise UserError(f"{name}: y must be integer class labels, got {y.dtype}")
        with computing():
            first = self._here(x[:1])
            if not all(bool(torch.isfinite(v).all()) for v in tensors(first)):
                raise UserError(f"{name}: x must be finite in {str(like.dtype)[6:]}, got NaN or infinity")
            logits = self._logits(name, first)
            if not bool(torch.isfinite(logits).all()):
                self._refuse_not_finite(x, self.batch_size)
        n_classes = logits.shape[-1]
        low, high = (int(v) for v in torch.aminmax(y))
        if low < 0 or high >= n_classes:
            raise UserError(f"{name}: labels must lie in 0..{n_classes - 1}, got {low}..{high}")
        return x, y.long().expand(models, -1)

    def _logits(self, name: str, first: Inputs) -> Tensor:
        """Of one example, (S, 1, C)."""
        shape = "; ".join(f"{tuple(v.shape[1:])}, {str(v.dtype)[6:]}" for v in tensors(first))
        try:
            logits = self._network.logits(first.map(Tensor.clone) if isinstance(first, Rows) else first.clone())
        except UserError:
            raise
        except Exception as error:  # the model is the caller's: whatever it raises says what it does not take
            raise UserError(f"{name}: the model does not take an example of shape {shape}: {_line(error)}") from error
        if logits.dim() != 3 or logits.shape[1] != 1 or logits.shape[2] < 2:
            got = tuple(logits.shape[1:])
            raise UserError(f"model: must return logits (n, C) with C at least 2, got {got} for one example")
        return logits


def _inputs(name: str, x: object) -> Inputs:
    if isinstance(x, Mapping):
        return Rows({key: _tensor(name, f"x['{key}']", value) for key, value in x.items()})
    return _tensor(name, "x", x)


def _tensor(name: str, which: str, values: object) -> Tensor:
    try:
        return torch.as_tensor(values if isinstance(values, Tensor) else np.ascontiguousarray(values))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{name}: {which} must be a tensor or an array of numbers: {_line(error)}") from None


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _at_least_0(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _check_damping(damping: object) -> None:
    if not (isinstance(damping, str) and damping == "auto") and not _at_least_0(damping):
        raise UserError(f"damping: must be 'auto' or a number of at least 0, got {damping!r}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without :class:`InfluenceWarning`, for code that reports ``newton_gain_`` itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InfluenceWarning)
        yield


@contextlib.contextmanager
def computing() -> Iterator[None]:
    """Within, gradients can be had whatever the caller has switched off or on, and float32 is float32.

    On recent GPUs torch may round the factors of a product or convolution to 10 bits (TF32), which influence does not
    survive; neither does it autocast.
    """
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        with torch.inference_mode(False), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value
