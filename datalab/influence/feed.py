"""Sets as a network takes them: checked, looked at, and in batches on its device and in its dtype."""

import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from datalab.errors import UserError
from datalab.influence import losses, sets
from datalab.influence.factors import Factors
from datalab.influence.losses import Loss
from datalab.influence.network import Network, close
from datalab.influence.sets import Batch, Held, Inputs, Streamed, Targets, over, rows, tensors, x_of
from datalab.influence.tape import LayerTape, ModuleTape
from datalab.seeds import generator

_BATCH, _DEVICE_BATCH = 512, 8192  # examples per pass: what stays in a CPU's caches, and what fills a GPU
_HELD = 1 << 21  # numbers of factors that a pass may hold on a CPU, where it takes more examples at no cost in cache
_DEVICE_SHARE = 8  # of a GPU's free memory, a batch's factors may take one part in so many
_READ_ALONE = 8  # examples of a streamed set that are also read alone
_PATIENCE = 2.0  # seconds before a bar is shown
_passes = 0  # under way: one within another shows no bar
_LOOKED_AT = 16, 32  # examples of a set on which the model is tried, of up to 512 and from 1,024 on


class Feed:
    """Gives sets to a network, whose loss this is, ``size`` examples at a time; ``title`` is a progress bar's.

    Where no size is given, it is chosen once a set is there.
    """

    def __init__(self, network: Network, loss: Loss, size: int | None, title: str):
        self.network, self.loss, self._title = network, loss, title
        self.size, self._given, self._probed = size, size is not None, False

    def checked(self, names: Sequence[str], given: Sequence[object]) -> list[Held | Streamed]:
        """The sets; of those held the labels are (S, n, ...) on the model's device, and x stays where it is.

        The network looks at the first example that there is.
        """
        all_sets = sets.labelled(names, given)
        for data in all_sets:
            x, y = (data.x, data.y) if isinstance(data, Held) else next(data.parts(1))[:2]
            if any(v.is_meta for v in (*tensors(x), *tensors(y), self.network.like)):
                raise UserError(f"{data.name}: these, or the model, are on the meta device, which holds no numbers")
            wrong = [of for of in tensors(y) if len(x) not in of.shape[: 1 + self.network.is_stack]]
            if not len(x) or wrong:
                got = ", ".join(str(tuple(v.shape)) for v in tensors(x))
                first = tuple((wrong or tensors(y))[0].shape)
                raise UserError(f"{data.name}: need x (n, ...) and y (n,) with n > 0, got {got} and {first}")
            first = self.placed(Batch(rows(x, 0, 1), y, 0, x_of(data.name)))
            outputs = self._outputs_of(data.name, first)
            if not bool(torch.isfinite(outputs).all()):
                self._refuse_not_finite(data)
            self.outputs = outputs.shape[2:]
            if isinstance(data, Held):
                data.y, data.by_model = self._targets(data.name, len(data), data.y), True
            else:
                data.targets = partial(self._targets, data.name, None)
            if not self._probed:
                self._probe(first)
        return all_sets

    def _probe(self, first: Inputs) -> None:
        """Let the network look at how an example passes through it, and choose how many a pass takes."""
        self.network.probe(first)
        self._probed, like = True, self.network.like
        if self.size is None and like.is_cuda:
            free = torch.cuda.mem_get_info(like.device)[0] // _DEVICE_SHARE // like.element_size()
            self.size = max(1, min(_DEVICE_BATCH, free // self._numbers(first)))
        self.size = self.size or _BATCH

    def _numbers(self, example: Inputs) -> int:
        """Of an example's factors."""
        tape = self.network.tape(example)
        parts = [part for f in tape.factors(torch.ones_like(tape.logits)) for part, _ in f.parts]
        return sum(part.inputs.numel() + part.gradients.numel() for part in parts)

    def _targets(self, name: str, n: int | None, y: Targets) -> Targets:
        """As the loss takes them, (S, m, ...), on the model's device and, numbers, in its dtype.

        Of n examples a stack's models may have targets of their own, (S, n, ...).
        """
        models = self.network.models
        if isinstance(y, tuple) and not isinstance(self.loss, losses.Custom | losses.Weighted):
            what = f"{type(self.loss).__name__} takes x and y alone; with example weights give losses.Weighted"
            raise UserError(f"{name}: an example holds {1 + len(y)} things, and {what}")
        first = tensors(y)[0]
        per_model = self.network.is_stack and first.shape[:2] == (models, n)
        if per_model:  # unless it is as many examples or outputs as models
            numbers = first.is_floating_point()
            per_model = first.shape != (n, *self.outputs) if numbers else first.dim() > len(self.outputs)
        checked = self.loss.checked(name, over(y, lambda v: v.flatten(0, 1)) if per_model else y, self.outputs)
        if per_model:
            return over(checked, lambda v: self.moved(v).unflatten(0, (models, -1)))
        return over(checked, lambda v: self.moved(v).expand(models, *v.shape))

    def _outputs_of(self, name: str, first: Inputs) -> Tensor:
        """Of one example, (S, 1, C) or (S, 1, T, C)."""
        try:
            outputs = self.network.logits(over(first, Tensor.clone))
        except UserError:
            raise
        except Exception as error:  # the model is the caller's: whatever it raises says what it does not take
            shape = "; ".join(f"{tuple(v.shape[1:])}, {str(v.dtype)[6:]}" for v in tensors(first))
            why = f"does not take an example of shape {shape}: {sets.line(error)}"
            raise UserError(f"{name}: the model {why}") from error
        if outputs.dim() not in (3, 4) or outputs.shape[1] != 1 or not outputs.shape[-1]:
            got = tuple(outputs.shape[1:])
            raise UserError(f"model: must return logits (n, C) or (n, T, C), got {got} for one example")
        return outputs

    def look(self, data: Held | Streamed) -> Inputs:
        """Let the network check itself on examples drawn from across the set, in another order than the set's."""
        n = len(data)
        size = min(n, max(_LOOKED_AT[0], min(_LOOKED_AT[1], n // 32)))
        rng = generator(n, "look")
        places = rng.permutation(((np.arange(size) + rng.random(size)) * n / size).astype(np.int64))
        self.network.given = x_of(data.name), places
        batch = data.at(places)
        if isinstance(data, Streamed) and not sets.alike(batch.x, data.at(places).x):
            raise UserError(f"{data.name}: an example is another at each reading; let the data set draw nothing")
        sample = over(batch.x, self.moved)
        f = self.network.check(sample)
        if isinstance(data, Streamed) and self.size > 1:
            self._look_at_collation(data, places[:_READ_ALONE], batch, f)
        if not self.loss.by_example:
            self._look_at_loss(f, batch.y)
        return sample

    def copies_tokens(self, data: Held | Streamed) -> bool:
        """Whether each token's target is that token, as in transformers' ``labels=input_ids``, and no loss shifts it.

        Looked at are the first examples; a constant, such as a mask, is no token.
        """
        if not isinstance(self.loss, losses.CrossEntropy) or self.loss.next_token:
            return False
        batch = next(data.parts(_LOOKED_AT[0]))
        y = batch.y[0]
        if y.dim() != 2 or y.is_floating_point() or y.shape[1] < 2:
            return False
        counted = y != self.loss.ignore_index
        tokens = [self.moved(v) for v in tensors(batch.x) if v.shape == y.shape and not v.is_floating_point()]
        varied = bool(counted.any()) and bool((y[counted] != y[counted][0]).any())
        return varied and any(bool((v[counted] == y[counted]).all()) for v in tokens)

    def _look_at_collation(self, data: Streamed, places: np.ndarray, sample: Batch, f: Tensor) -> None:
        """Raise UserError where an example read by itself has another loss than in a sample, whose logits are f, such
        as from padding that is not masked. At those that are the same in both the network has looked.
        """
        logits, totals = [], []  # alone, and in the sample; and of their gradients, where texts or labels are others
        for i, alone in enumerate(data.parts(1, places)):
            x, y = rows(sample.x, i, 1), rows(sample.y, i, 1, axis=1)
            if sets.alike(alone.x, x) and sets.alike(alone.y, y):
                continue
            try:
                pair = self.network.logits(over(alone.x, self.moved)), f[:, i : i + 1]
            except Exception:  # of a convolution some take no short text: nothing is said
                continue
            same_shape = pair[0].shape == pair[1].shape
            logits += [pair] * same_shape
            if not (same_shape and all(map(torch.equal, tensors(alone.y), tensors(y)))):
                sides = zip(pair, (alone.y, y), strict=True)
                gradients = (losses.over_models(self.loss.gradient, *side) for side in sides)
                totals.append([g.flatten(2, -2).sum(2) if g.dim() > 3 else g for g in gradients])  # over positions
        for compared in filter(None, (logits, totals)):
            if not close(*(torch.cat([v.flatten() for v in side]) for side in zip(*compared, strict=True))):
                why = "depends on the others that it is collated with (padding without a mask?)"
                raise UserError(f"{data.name}: an example {why}; batch_size=1 takes each by itself")

    def _look_at_loss(self, f: Tensor, y: Targets) -> None:
        """Raise UserError where a loss at logits f (S, m, ...) is not that of each example by itself."""
        parts = [(f[:, i : i + 1], rows(y, i, 1, axis=1)) for i in range(f.shape[1])]
        alone = [losses.over_models(self.loss.value, *part) for part in parts]
        if not close(torch.cat(alone, 1), losses.over_models(self.loss.value, f, y)):
            raise UserError("loss: an example's loss depends on the others of its batch (a mean over it?)")

    def batches(self, data: Held | Streamed, at_most: int | None = None) -> Iterator[Batch]:
        """Consecutive slices of ``size`` examples, or of ``at_most`` where that is less, on the model's device and in
        its dtype.

        Refuses values that are not finite, once all were seen, so as not to wait for each; a set is looked at once.
        """
        return self._slices(data, self.size if at_most is None else min(at_most, self.size))

    def large_batches(self, data: Held | Streamed) -> Iterator[Batch]:
        """As ``batches``, for products that are taken a few examples at a time anyhow: of more examples where no size
        was given and the factors of as many stay small.
        """
        size = self.size
        # Of a data set the first example does not tell: later texts may be longer.
        if not (self._given or self.network.like.is_cuda or isinstance(data, Streamed)):
            fit = _HELD // self._numbers(self.placed(next(data.parts(1))))
            size = 2 * _BATCH if fit >= 2 * _BATCH else _BATCH
        return self._slices(data, size)

    def _slices(self, data: Held | Streamed, size: int) -> Iterator[Batch]:
        suspect = torch.zeros((), dtype=torch.bool, device=self.network.like.device)
        for batch in watched(data.parts(size), len(data), self._title):
            x = self.placed(batch)
            if not data.finite:
                for part in tensors(x):
                    if part.is_floating_point():
                        suspect |= ~torch.isfinite(part.sum())  # a tenth of the cost of looking at every number
            if data.watch:
                data.watch(batch.start, x)
            yield batch._replace(x=x)
        if not data.finite:
            if suspect | self.network.infinite:
                self._refuse_not_finite(data)
            data.finite = True

    def factors(self, batch: Batch) -> list[Factors]:
        """The loss gradients of a batch, site by site."""
        tape = self.network.tape(batch.x)
        return tape.factors(losses.over_models(self.loss.gradient, tape.logits, batch.y))

    def curved(self, batch: Batch) -> tuple[ModuleTape | LayerTape, Iterator[Tensor]]:
        """A batch's tape, and the cotangents whose squares add up to the loss's Hessian in the logits."""
        tape = self.network.tape(batch.x)
        flat = self.loss.curvature(tape.logits.flatten(0, 1), over(batch.y, lambda v: v.flatten(0, 1)))
        return tape, (cotangent.view(tape.logits.shape) for cotangent in flat)

    def placed(self, batch: Batch) -> Inputs:
        """A batch's inputs where and as the model takes them."""
        return over(self.told(batch).x, self.moved)

    def told(self, batch: Batch) -> Batch:
        """The batch, once the network knows what it is given next, for its refusals."""
        self.network.given = batch.name, range(batch.start, batch.start + len(batch.x))
        return batch

    def moved(self, values: Tensor) -> Tensor:
        """On the model's device, floating-point numbers in its dtype; from pinned memory nothing waits for the copy."""
        like = self.network.like
        values = values.pin_memory() if like.is_cuda and not values.is_cuda else values
        values = values.to(like.device, like.dtype if values.is_floating_point() else values.dtype, non_blocking=True)
        return values.clone() if values.is_inference() else values

    def _refuse_not_finite(self, data: Held | Streamed) -> None:
        """Raise UserError where inputs, or else logits, of a set are not finite, naming the first example."""
        network, bad, bad_logits = self.network, [], []
        for batch in data.parts(self.size or _BATCH):
            x = self.placed(batch)
            bad.append(torch.stack([~torch.isfinite(part).reshape(len(part), -1).all(1) for part in tensors(x)]).any(0))
            if not bool(bad[-1].any()):
                bad_logits.append((~torch.isfinite(network.logits(x))).transpose(0, 1).flatten(1).any(1))
        dtype = str(network.like.dtype)[6:]
        refuse(data, bad, f"{data.name}: x must be finite in {dtype}, got NaN or infinity", "")
        why = "; has its training diverged, or does an input overflow?"
        refuse(data, bad_logits, "model: its logits are not finite", why)


def refuse(data: Held | Streamed, bad: Sequence[Tensor], what: str, why: str) -> None:
    """Raise UserError where an example of a set, in batches ``bad`` (m,), is bad."""
    places = torch.cat([*bad, torch.zeros(0, dtype=torch.bool, device=bad[0].device)]).nonzero() if bad else []
    if len(places):
        first = f"{x_of(data.name)}[{int(places[0])}]"
        raise UserError(f"{what} for {len(places)} of {len(data)} examples, first for {first}{why}")


def watched(batches: Iterator[Batch], n: int, title: str) -> Iterator[Batch]:
    """The batches of n examples: with a bar at a terminal, where someone looks, after two seconds; silent in pipes."""
    global _passes
    if _passes or not sys.stderr.isatty():
        yield from batches
        return
    from rich.console import Console
    from rich.progress import Progress

    started, bar = time.monotonic(), Progress(console=Console(file=sys.stderr), transient=True)
    task = bar.add_task(title, total=n)
    _passes += 1
    try:
        for batch in batches:
            if time.monotonic() - started > _PATIENCE:
                bar.start()  # once: a bar that runs stays as it is
            bar.update(task, completed=batch.start)
            yield batch
    finally:
        _passes -= 1
        bar.stop()
