"""The one interface of all estimators, and what they share: checking, batching, damping, the verbs.

Signs and units (Koh & Liang 2017, eq. 2): for the per-example loss l without a regulariser, and H the mean curvature
over the training set, ``influence_on`` and ``pairwise`` are -grad L' (H + d I)^-1 grad l_i, the derivative of the
target loss (nats) in example i's weight in a mean loss. Positive: more weight on i raises the target's loss. The
diagonal of ``pairwise`` on the training set is minus the self-influence.

A set is given as x (n, ...) and y, tensors or arrays, or as one Dataset or DataLoader (:mod:`~datalab.influence.sets`):
``fit(loader)``, ``pairwise(train_set, test_set)``; y is what the loss takes, class labels (n,) for the default. Shapes
are for one model: on a :class:`~datalab.stack.Stack` of S every result has S rows first, and labels may be (S, n).
"""

import contextlib
import copy
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from datalab.errors import UserError, did_you_mean
from datalab.influence import layers, losses, saved, settings
from datalab.influence.as_fitted import Answer, AsFitted, Marks, State
from datalab.influence.factors import Factors
from datalab.influence.feed import Feed, refuse
from datalab.influence.losses import CrossEntropy, Loss
from datalab.influence.network import Network
from datalab.influence.sets import Batch, Held, Streamed, over, rows, tensors
from datalab.stack import Stack

AUTO_RELATIVE = 1e-3
MAX_PARAMETERS = 15_000  # rows of a full curvature matrix that is formed and factorised
FLAT = "damping: 'auto' is 0, for the curvature is 0 everywhere; give a number above 0"
_DIRECTIONS = 1 << 24  # numbers held in directions (gradients of targets, or of examples) at a time, on a CPU
_WORTH_A_WARNING = 0.1, 0.01  # a Newton step's gain, relative to the loss and in nats, above which fit warns

Damping = float | Literal["auto"]
Directions = list[Tensor]
_COMPUTING = threading.RLock()


class InfluenceWarning(UserWarning):
    """A score is defined and computed, but does not mean what a reader would take it for; the message says why."""


def warn(message: str, depth: int = 4) -> None:
    """Warn of what a reader would misread, at the line that called the verb, ``depth`` calls up."""
    warnings.warn(message, InfluenceWarning, stacklevel=depth)


class Top(NamedTuple):
    """Of each test example the k training examples of the largest influence, which harm it most, and of the least,
    which help it most: places ``harmful`` and ``helpful`` (n_test, k), and their influence, strongest first.
    """

    harmful: Tensor
    harm: Tensor
    helpful: Tensor
    help: Tensor


class Estimator(ABC):
    """Influence on one model, or on every model of a stack, from any of its curvatures.

    Parameters
    ----------
    model
        Maps x (n, ...), or keyword arguments where x is a dict, to outputs (n, C) or (n, T, C); or a
        :class:`~datalab.stack.Stack`. It is not changed; its device is that of all results. Once it is trained further,
        or ``train()`` is called, a fitted estimator refuses to score, unless ``dtype`` made it a copy of its own.
    damping
        d, at least 0, or ``"auto"``: l2 + 1e-3 * mean diagonal of H, of each model of a stack.
    l2
        The penalty of training, l2/2 |theta|^2, which ``"auto"`` damping adds; one given in numbers is used as it is.
    batch_size
        Examples per pass; bounds the memory and changes no result. None: 512, on a GPU up to 8,192, as memory allows.
    leave_out
        Names of modules or parameters whose influence is not asked for, such as a layer that is not taken.
    dtype
        Compute in this precision, on a copy of the model; None: in the model's.
    include_frozen
        Take parameters with ``requires_grad=False`` too, as if they had been trained; else they are left out.
    loss
        What the model was trained on (:mod:`~datalab.influence.losses`); None: cross-entropy.

    After ``fit``, ``damping_`` is d, ``n_`` the size of the training set, and ``newton_gain_`` by how many nats a
    damped Newton step would lower the penalised training loss: 0 at a converged model. ``fit`` warns
    (:class:`InfluenceWarning`) where that is above a tenth of the loss and 0.01 nats.
    """

    _takes: type[Network] = Network
    _state: tuple[str, ...] | None = None  # what ``fit`` took, all that ``_damp`` needs; None: the training set
    _by_layer, _of_an_optimum = False, True

    def __init__(
        self,
        model: nn.Module | Stack,
        damping: Damping = "auto",
        *,
        l2: float = 0.0,
        batch_size: int | None = None,
        leave_out: Sequence[str] = (),
        dtype: torch.dtype | None = None,
        include_frozen: bool = False,
        loss: Loss | None = None,
        **unknown: object,
    ):
        for name in unknown:
            known = sorted(settings.names(type(self)) - {"model"})
            raise UserError(f"{name}: is no option of this estimator{did_you_mean(name, known)}")
        names = settings.several("leave_out", leave_out, "names")
        if wrong := [name for name in names if not isinstance(name, str)]:
            raise UserError(f"leave_out: must be a list of names, got {wrong[0]!r} in it")
        if dtype not in (None, torch.float32, torch.float64):
            raise UserError(f"dtype: must be torch.float32, torch.float64 or None, got {dtype}")
        if not isinstance(loss, Loss | None):
            raise UserError(f"loss: must be one of datalab.influence.losses, got {loss!r}; Custom takes a function")
        self.model, self.damping, self.l2 = model, settings.damping(damping), settings.number("l2", l2)
        self.batch_size = batch_size if batch_size is None else settings.count("batch_size", batch_size)
        self.leave_out, self.dtype, self.include_frozen = tuple(names), dtype, bool(include_frozen)
        self.loss = loss or CrossEntropy()

    def fit(self, x, y=None) -> Self:
        """Take the curvature on the training set x (n, ...), y (n,) int64."""
        with computing():
            vars(self).pop("n_", None)  # a fit that fails leaves nothing to score with
            self._connect()
            (data,) = self._feed.checked(["x, y"], (x, y))
            before = State.of(self._network)
            sample = rows(self._feed.look(data), 0, 2)
            if self._feed.copies_tokens(data):
                warn("y: each token's target is that token itself; of a language model the loss is next_token=True's")
            self.n_, marks = len(data), Marks.of(data)
            try:
                self._fit(data)
                self._damp()
                if self._of_an_optimum:
                    self._warn_where_not_converged(data)
                read_again = data if self._state is None and isinstance(data, Held) else None
                state, answer = before.common(State.of(self._network)), Answer.of(self._network, sample)
                self._as_fitted = AsFitted(state, answer, marks, read_again)
            except BaseException as error:
                del self.n_
                if isinstance(error, torch.linalg.LinAlgError) or str(error).startswith("damping"):
                    self._refuse_infinite(data)
                raise
        return self

    def _connect(self) -> None:
        """Take the model apart."""
        self._network = self._takes(self.model, self.leave_out, self.dtype, self.include_frozen)
        self._feed = Feed(self._network, self.loss, self.batch_size, type(self).__name__)
        self._forget()

    def _forget(self) -> None:
        """What was noted: it is of one verb."""
        self._noted: dict[str, Tensor] = {}
        self._network.infinite = Network.infinite  # none is written into: another's verb may be under way

    def _note(self, name: str, values: Tensor) -> None:
        """Keep the largest that a verb has had so far under a name; nothing waits for the device."""
        largest = values.max()
        self._noted[name] = torch.maximum(self._noted.get(name, largest), largest)

    def redamped(self, damping: Damping) -> Self:
        """A copy with the same curvature under another damping: nothing is taken anew, and memory is shared."""
        with computing():
            self._refuse_unless_fitted()
            other = copy.copy(self)
            other.damping = settings.damping(damping)
            other._damp()
        return other

    def self_influence(self, x, y=None, *, by_layer: bool = False) -> Tensor | dict[str, Tensor]:
        """g_i' (H + d I)^-1 g_i of each example, (n,), at least 0; high = the model bends itself to fit it.

        ``by_layer``: a dict of each layer's part (n,), which add up to it; so for ``influence_on`` and ``pairwise``.
        """
        return self._scored(self._own, (x, y), by_layer=by_layer)

    def influence_on(self, x, y=None, x_val=None, y_val=None, *, by_layer: bool = False) -> Tensor | dict[str, Tensor]:
        """Influence of each example of x (n, ...), y (n,) on the mean loss of the target set, (n,): one solve."""
        given = (x, y, x_val, y_val), "x_val, y_val", by_layer
        return self._scored(lambda data, on: -self._product(data, self._solve(self._mean_gradient(on)))[:, 0], *given)

    def pairwise(self, x, y=None, x_test=None, y_test=None, *, by_layer: bool = False) -> Tensor | dict[str, Tensor]:
        """Influence of each example of x (n, ...), y (n,) on the loss of each test example, (n_test, n)."""
        given = (x, y, x_test, y_test), "x_test, y_test", by_layer
        return self._scored(lambda data, on: whole(self._rows(data, on), len(data), len(on)), *given)

    def top(self, x, y=None, x_test=None, y_test=None, *, k: int = 10) -> Top:
        """The k most harmful and helpful examples of x for each test example, without all of ``pairwise`` in memory."""
        given = (x, y, x_test, y_test), "x_test, y_test"
        return Top(*self._scored(lambda data, on: strongest(self._rows(data, on), k, len(data)), *given))

    def leave_one_out(self, x, y=None, x_val=None, y_val=None) -> Tensor:
        """The predicted change (n,), in nats, of the target's mean loss if example i is removed and the model refitted.

        It is v' (grad l_i + l2 theta) / n for v = (H + d I)^-1 grad L: the penalty is re-weighted, too. x, y must be
        training examples of ``fit``; for a refit with the penalty l2, give ``damping=l2``. Raises UserError for more
        examples than were fitted and, of those in tensors, for any whose x was not among them, as far as every (w //
        48)-th of its w numbers, in float32, tells: all of up to 95. Not seen are other labels, and after ``load``, or
        from a Dataset, other examples.
        """
        return self._scored(self._of_removals, (x, y, x_val, y_val), "x_val, y_val")

    def save(self, path: str | Path, *, examples: bool = True) -> None:
        """Write what ``fit`` took, without the model, to ``path``: :func:`~datalab.influence.load` reads it back.

        With two training examples, by whose logits ``load`` knows the model, unless ``examples`` is false. Raises
        UserError for an estimator that needs its training set again.
        """
        with computing():
            self._refuse_unless_fitted()
            saved.write(self, path, examples)

    @abstractmethod
    def _fit(self, data: Held | Streamed) -> None:
        """Take the curvature; ``_damp`` is called after it."""

    @abstractmethod
    def _damp(self) -> None:
        """Set ``damping_`` from ``damping`` and prepare the solver for it."""

    def _solve(self, directions: Directions) -> Directions:
        """(H + d I)^-1 of k directions, each site's (S * G, k, out, in): site by site, or else by ``_solve_flat``."""
        return self._network.unflatten(self._solve_flat(self._network.flatten(directions)))

    def _solve_flat(self, vectors: Tensor) -> Tensor:
        """The same of all parameters as one vector: (S, k, P)."""
        raise NotImplementedError

    def _self_influence(self, batch: Batch) -> Tensor:
        """Of one batch, (S, m): a solve for every example, a few at a time."""
        parts = []
        for part in self._parts(batch):
            gradients = [f.per_example() for f in self._factors(part)]
            parts.append(self._along(gradients, self._solve(gradients)))
        return torch.cat(parts, 1)

    def _own(self, data: Held | Streamed) -> Tensor:
        """The self-influence (S, n) of a set."""
        return gathered(map(self._self_influence, self._feed.batches(data)), 1, len(data))

    def _of_removals(self, data: Held | Streamed, target: Held | Streamed) -> Tensor:
        """``_leave_one_out``, of examples that were fitted."""
        marks = Marks.of(data)
        changes = self._leave_one_out(data, target)
        self._as_fitted.refuse_unseen(marks)
        return changes

    def _leave_one_out(self, data: Held | Streamed, target: Held | Streamed) -> Tensor:
        solved = self._solve(self._mean_gradient(target))
        return (self._product(data, solved)[:, 0] + self.l2 * self._along(solved, self._network.values())) / self.n_

    def _rows(self, data: Held | Streamed, tests: Held | Streamed) -> Iterator[tuple[int, Iterator[Tensor]]]:
        """``pairwise`` in batches of tests: the first one's place, and the rows (S, k, n) in batches of columns."""
        for batch in self._feed.batches(tests, self._gradients_at_once()):
            yield batch.start, (-columns for columns in self._against(data, batch))

    def _against(self, data: Held | Streamed, tests: Batch) -> Iterator[Tensor]:
        """Each of a batch of tests' solved gradient times each example's gradient, (S, k, m) a batch of examples."""
        return self._products(data, self._solve([f.per_example() for f in self._factors(tests)]))

    def _factors(self, batch: Batch) -> list[Factors]:
        """The loss gradients of one batch, site by site."""
        return self._feed.factors(batch)

    def _mean_gradient(self, data: Held | Streamed) -> Directions:
        """The gradient of the mean loss, as one direction: each site's (S * G, 1, out, in)."""
        return self._mean_loss(data)[1]

    def _mean_loss(self, data: Held | Streamed) -> tuple[Tensor, Directions]:
        """The mean loss (S,), and its gradient."""
        sums, loss = None, 0
        for batch in self._feed.batches(data):
            gradient = partial(losses.over_models, self.loss.gradient, y=batch.y)
            logits, totals = self._network.total(batch.x, gradient)
            loss = loss + losses.over_models(self.loss.value, logits, batch.y).sum(1)
            sums = totals if sums is None else [a.add_(b) for a, b in zip(sums, totals, strict=True)]
        return loss / len(data), [total[:, None] / len(data) for total in sums]

    def _product(self, data: Held | Streamed, directions: Directions) -> Tensor:
        """Each of k directions times each example's gradient, (S, k, n)."""
        return gathered(self._products(data, directions), 2, len(data))

    def _products(
        self, data: Held | Streamed, others: Sequence, product: Callable = lambda f, v: f.dot(v)
    ) -> Iterator[Tensor]:
        """``product`` of each batch's factors with each site's k of ``others``, summed over sites: (S, k, m)."""
        for batch in self._feed.batches(data):
            yield self._multiplied(self._factors(batch), others, product)

    def _multiplied(self, factors: list[Factors], others: Sequence, product: Callable) -> Tensor:
        return self._over_sites(product(f, v) for f, v in zip(factors, others, strict=True))

    def _along(self, directions: Directions, others: Directions) -> Tensor:
        """Each of k directions times the one in its place among others, (S, k)."""
        return self._over_sites((v * w).sum((2, 3)) for v, w in zip(directions, others, strict=True))

    def _over_sites(self, values: Iterable[Tensor]) -> Tensor:
        """The sum (S, ...) of each site's (S * G, ...); where layers are asked for they stay apart, (S, ..., sites)."""
        by_site = [self._network.over_groups(of_site) for of_site in values]
        return torch.stack(by_site, -1) if self._by_layer else sum(by_site)

    def _gradients_at_once(self) -> int:
        """How many per-example gradients may be held."""
        numbers = self._network.n_parameters * self._network.models
        return max(1, min(self._feed.size, at_once(self._network.like.device, _DIRECTIONS) // numbers))

    def _parts(self, batch: Batch, size: int | None = None) -> Iterator[Batch]:
        """Slices of a batch, of as many examples as gradients may be held of."""
        size = size or self._gradients_at_once()
        for start in range(0, len(batch.x), size):
            x, y = rows(batch.x, start, size), rows(batch.y, start, size, axis=1)
            yield self._feed.told(Batch(x, y, batch.start + start, batch.name))

    def _refuse_infinite(self, data: Held | Streamed) -> None:
        """Raise UserError where a gradient of the loss is not finite, naming the first example."""
        norms = [self._over_sites(f.square_norms() for f in self._factors(batch)) for batch in self._feed.batches(data)]
        bad = [(~torch.isfinite(of_batch.reshape(*of_batch.shape[:2], -1))).any(2).any(0) for of_batch in norms]
        why = ", though the logits are (the root of 0, or 0 * infinity inside it?)"
        refuse(data, bad, "model: the gradient is not finite", why)

    def _automatic(self, mean_diagonal: Tensor) -> Tensor:
        """d of each model, (S,), from the mean diagonal of its H, (S,); sets ``damping_``."""
        if self.damping == "auto":
            d = self.l2 + AUTO_RELATIVE * mean_diagonal
            if bool((d == 0).any()):
                raise UserError(FLAT)
        else:
            d = torch.full_like(mean_diagonal, float(self.damping))
        self.damping_ = d if self._network.is_stack else float(d[0])
        return d

    def _warn_where_not_converged(self, data: Held | Streamed) -> None:
        loss, gradient = self._mean_loss(data)
        residual = [g + self.l2 * w for g, w in zip(gradient, self._network.values(), strict=True)]
        gain = self._along(residual, self._solve(residual)) / 2
        self.newton_gain_ = self._result(lambda: gain, [data])[..., 0]
        gain = gain[:, 0]
        relative, absolute = _WORTH_A_WARNING
        if bool((high := (gain > relative * loss) & (gain > absolute)).any()):
            worst = int(torch.where(high, gain, -torch.inf).argmax())
            nats = f"{float(gain[worst]):.2g}" if gain[worst] < loss[worst] else "more than it has"
            step = f"lower its training loss of {float(loss[worst]):.3g} nats by {nats}"
            what = "influence describes the tangent here, not a retrained model"
            cure = "" if self.l2 else " (trained with weight decay? it is to be given as l2)"
            warn(f"model: not converged: a damped Newton step would {step}, so {what}{cure}")

    def _scored(self, values: Callable, given: Sequence, target: str = "", by_layer: bool = False):
        """A verb: ``values`` of the set given, and of that of the name ``target`` where there is one."""
        with computing():
            sets = self._fitted(["x, y", target] if target else ["x, y"], given)
            return self._result(lambda: values(*sets), sets, by_layer)

    def _result(self, values: Callable, sets: Sequence[Held | Streamed], by_layer: bool = False):
        """Of one model without the models' axis; with ``by_layer`` by the layers' names, the last axis being theirs."""
        self._by_layer = by_layer
        try:
            result = values()
        finally:
            self._by_layer = False
        self._judge(tensors(result), sets)
        result = result if self._network.is_stack else over(result, lambda v: v[0])
        return dict(zip(self._network.names, result.unbind(-1), strict=True)) if by_layer else result

    def _judge(self, results: list[Tensor], sets: Sequence[Held | Streamed]) -> None:
        """Warn of, or refuse, what went wrong in a verb on these sets."""
        if not all(bool(torch.isfinite(part.sum())) or bool(torch.isfinite(part).all()) for part in results):
            for data in sets:
                self._refuse_infinite(data)
            raise UserError("model: influence is not finite, though every gradient is")

    def _refuse_unless_fitted(self) -> None:
        """Raise UserError where there was no ``fit``, or the model is no longer as it was then."""
        if not hasattr(self, "n_"):
            raise UserError(f"{type(self).__name__}: call fit(x_train, y_train) first")
        layers.refuse_train_mode(self._network.module)
        self._as_fitted.refuse_changed(self._network, type(self).__name__)

    def _fitted(self, names: Sequence[str], given: Sequence[object]) -> list[Held | Streamed]:
        self._refuse_unless_fitted()
        self._forget()
        sets = self._feed.checked(names, given)
        for data in sets:
            self._feed.look(data)
        return sets


def whole(tests: Iterator[tuple[int, Iterator[Tensor]]], n: int, n_tests: int) -> Tensor:
    """(S, n_test, n), from ``pairwise`` in batches."""
    return gathered((gathered(row, 2, n) for _, row in tests), 1, n_tests)


def strongest(tests: Iterator[tuple[int, Iterator[Tensor]]], k: int, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``Top``'s fields, with the models first, from ``pairwise`` in batches."""
    if not (isinstance(k, Integral) and not isinstance(k, bool) and 1 <= k <= n):
        raise UserError(f"k: must lie in 1..{n}, the number of examples, got {k!r}")
    by_tests = []
    for _, columns in tests:
        values, places, start = [], [], 0  # the first k of both signs, of the columns so far
        for block in columns:
            at = torch.arange(start, start + block.shape[2], device=block.device).expand(2, *block.shape)
            start += block.shape[2]
            signed = torch.cat([*values, torch.stack([block, -block])], 3)
            chosen = signed.topk(min(k, signed.shape[3]))
            values, places = [chosen.values], [torch.cat([*places, at], 3).gather(3, chosen.indices)]
        by_tests.append([places[0][0], values[0][0], places[0][1], -values[0][1]])
    return tuple(torch.cat(parts, 1) for parts in zip(*by_tests, strict=True))


def gathered(parts: Iterable[Tensor], axis: int, length: int) -> Tensor:
    """The parts side by side along ``axis``, where they are ``length`` in all.

    In one block from the first on: small parts kept between the large blocks of each batch would hold on to these.
    """
    whole, start = None, 0
    for part in parts:
        if whole is None:
            whole = part.new_empty(*part.shape[:axis], length, *part.shape[axis + 1 :])
        whole.narrow(axis, start, part.shape[axis]).copy_(part)
        start += part.shape[axis]
    return whole


def at_once(device: torch.device, numbers: int) -> int:
    """How many numbers may be held at a time, where ``numbers`` may on a CPU."""
    return numbers if device.type == "cpu" else numbers << 4


def quiet() -> contextlib.AbstractContextManager[None]:
    """Without :class:`InfluenceWarning`, for code that reports ``newton_gain_`` itself."""
    return warnings.catch_warnings(action="ignore", category=InfluenceWarning)


@contextlib.contextmanager
def computing() -> Iterator[None]:
    """Within, gradients can be had whatever the caller has switched off or on, and float32 is float32, not TF32.

    One thread at a time: those switches, a model's hooks and what an estimator notes of a verb are shared by all.
    """
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    with _COMPUTING, contextlib.ExitStack() as stack:
        for switch in switches:
            stack.callback(setattr, switch, "fp32_precision", switch.fp32_precision)
            switch.fp32_precision = "ieee"
        with torch.inference_mode(False), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
