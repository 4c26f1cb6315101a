"""Train many models at once: one per (labels, kept subset, seed), stacked in one program of batched matrix products."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from datalab.mapped import MappedStack
from datalab.protocol import protocol
from datalab.stack import Stack

AnyStack = Stack | MappedStack


class Recipe(NamedTuple):
    """The one recipe of every arm: Adam, cosine to 0, l2/2 |theta|^2 with biases included (protocol.yaml, training)."""

    steps: int = 200
    batch_size: int = 64
    learning_rate: float = 3e-3
    l2: float = 1e-4


RECIPE = Recipe()


def protocol_recipe(steps: int | None = None) -> Recipe:
    """The protocol's recipe; with other ``steps`` where these are an arm of the study."""
    rule = protocol().training
    return Recipe(steps or rule["steps"], rule["batch_size"], rule["learning_rate"], rule["l2"])


def make_stack(
    module: nn.Module,
    size: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    settings: Mapping[str, Tensor] | None = None,
) -> AnyStack:
    """The fastest stack that takes the module: layers batched by hand where all of them can be, else mapped."""
    with contextlib.suppress(TypeError):  # a layer that has no batched form
        if not settings:
            return Stack(module, size, dtype, device)
    return MappedStack(module, size, dtype, device, settings)


def initialise(stack: AnyStack, seeds: Sequence[int]) -> None:
    """Draw each model's parameters from its own seed, uniform on +-1/sqrt(fan_in), as torch's Linear and Conv2d do.

    A norm, whose parameters are vectors only, starts at scale 1 and shift 0. Equal seeds give equal models, whatever
    their place in the stack and its dtype.
    """
    fan_in = {}
    for name, parameter in stack.module.named_parameters():
        if parameter.dim() > 1:
            fan_in[name.rpartition(".")[0]] = parameter[0].numel()
    for seed in sorted(set(seeds)):
        generator = torch.Generator().manual_seed(seed)
        same = torch.tensor([s == seed for s in seeds])
        for name, values in stack.parameters.items():
            module, _, kind = name.rpartition(".")
            if module not in fan_in:
                values[same] = float(kind == "weight")
                continue
            bound = 1 / math.sqrt(fan_in[module])
            draw = torch.rand(values.shape[1:], generator=generator, dtype=torch.float64).mul_(2 * bound).sub_(bound)
            values[same] = draw.to(values)


def batch_order(kept: np.ndarray, seeds: Sequence[int], length: int) -> np.ndarray:
    """The rows (S, length) each model visits: epochs of shuffles shared by equal seeds, skipping what is not kept.

    Models of one seed see their common rows in the same order, so that a pair differs by what was pruned alone.
    kept is (S, n) bool; raises ValueError when a model keeps nothing.
    """
    n = kept.shape[1]
    fewest = int(kept.sum(1).min())
    if fewest == 0:
        raise ValueError("every model must keep at least one training example")
    epochs = math.ceil(length / fewest)
    order = np.empty((len(seeds), length), dtype=np.int64)
    for seed in set(seeds):
        rng = np.random.default_rng(seed)
        stream = np.concatenate([rng.permutation(n) for _ in range(epochs)])
        for s in np.flatnonzero(np.asarray(seeds) == seed):
            order[s] = stream[np.flatnonzero(kept[s][stream])[:length]]
    return order


def fit_many(
    module: nn.Module,
    x: Tensor,
    labels: np.ndarray,
    kept: np.ndarray | None,
    seeds: Sequence[int],
    recipe: Recipe = RECIPE,
    *,
    l2: Sequence[float] | None = None,
    settings: Mapping[str, Tensor] | None = None,
    order: np.ndarray | None = None,
    on_step: Callable[[int, AnyStack], None] | None = None,
) -> AnyStack:
    """Train S models of one architecture, each on its own labels, kept subset, seed and penalty.

    Parameters
    ----------
    module
        The architecture, of which only the shapes are used. If it defines ``objective(x, labels, **settings)``, that is
        what is minimised (see :class:`~datalab.mapped.MappedStack`).
    x
        Training features (n, d); their dtype and device are the models'.
    labels
        (S, n) or (n,) integer labels, as each model sees them.
    kept
        (S, n) bool, which examples each model trains on; None for all.
    seeds
        S integers: a model's initialisation and batch order.
    l2
        S penalties l2/2 |theta|^2, in place of the recipe's.
    settings
        What the module's objective takes beside x and labels, each (S, ...).
    order
        The rows (S, steps * batch size) each model visits, in place of :func:`batch_order`'s; ``kept`` is then unused.
    on_step
        Called with (steps done, stack) after every step; must not change the stack.

    Returns the trained stack (see :func:`make_stack`). Raises ValueError when a model keeps nothing. Beyond the
    rounding of the BLAS, a model does not depend on which others it is stacked with.
    """
    size, n = len(seeds), x.shape[0]
    labels = np.broadcast_to(labels, (size, n))
    kept = np.ones((size, n), dtype=bool) if kept is None else kept
    stack = make_stack(module, size, x.dtype, x.device, settings)
    initialise(stack, seeds)
    if order is None:
        order = batch_order(kept, seeds, recipe.steps * recipe.batch_size)
    rows = order.reshape(size, recipe.steps, recipe.batch_size)
    rows = np.ascontiguousarray(rows.transpose(1, 0, 2))
    models = np.arange(size)[:, None]
    index = torch.as_tensor(rows, device=x.device)
    batch_labels = torch.as_tensor(labels[models, rows], device=x.device)

    flat = stack.flat.requires_grad_(False)
    flat.grad = stack.flat_gradient
    decay = 0.0 if l2 is not None else recipe.l2
    rate = torch.tensor(recipe.learning_rate, device=x.device) if x.is_cuda else recipe.learning_rate
    optimiser = torch.optim.Adam([flat], lr=rate, weight_decay=decay, fused=True, capturable=x.is_cuda)
    penalty = None if l2 is None else _of_each_model(stack, l2)
    batch_x = torch.empty(size * recipe.batch_size, x.shape[1], dtype=x.dtype, device=x.device)

    def move(rows: Tensor, labels: Tensor) -> None:
        torch.index_select(x, 0, rows.view(-1), out=batch_x)
        stack.backward(batch_x.view(size, recipe.batch_size, -1), labels)
        if penalty is not None:
            stack.flat_gradient.addcmul_(penalty, flat)
        optimiser.step()

    if x.is_cuda:
        move = _recorded(move, (index[0], batch_labels[0]), optimiser)
        rates = torch.tensor(
            [cosine(recipe.learning_rate, i, recipe.steps) for i in range(recipe.steps)], device=x.device
        )
    for step in range(recipe.steps):
        if x.is_cuda:
            rate.copy_(rates[step])
        else:
            optimiser.param_groups[0]["lr"] = cosine(recipe.learning_rate, step, recipe.steps)
        move(index[step], batch_labels[step])
        if on_step is not None:
            on_step(step + 1, stack)
    return stack


def _recorded(
    move: Callable[..., None], first: Sequence[Tensor], optimiser: torch.optim.Optimizer
) -> Callable[..., None]:
    """A training step as a CUDA graph, recorded once and replayed: small models wait for launches more than for sums.

    ``first`` are the inputs of one step; the graph reads its own copies, into which every call's are written. What the
    warm-up moved is put back.
    """
    inputs = [value.clone() for value in first]
    (flat,) = optimiser.param_groups[0]["params"]
    before, aside = flat.clone(), torch.cuda.Stream(flat.device)
    aside.wait_stream(torch.cuda.current_stream(flat.device))
    with torch.cuda.stream(aside):
        for _ in range(3):
            move(*inputs)
    torch.cuda.current_stream(flat.device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        move(*inputs)
    flat.copy_(before)
    for values in optimiser.state[flat].values():
        values.zero_()

    def replay(*given: Tensor) -> None:
        for own, value in zip(inputs, given, strict=True):
            own.copy_(value)
        graph.replay()

    return replay


def _of_each_model(stack: AnyStack, values: Sequence[float]) -> Tensor:
    """One number a model, at the place of every parameter of it in ``stack.flat``."""
    numbers = torch.as_tensor(values, dtype=stack.flat.dtype, device=stack.flat.device)
    return torch.cat([numbers.repeat_interleave(w[0].numel()) for w in stack.parameters.values()])


def cosine(learning_rate: float, step: int, steps: int) -> float:
    """The learning rate of ``step`` (from 0) on a cosine from ``learning_rate`` to 0 over ``steps``."""
    return learning_rate * (1 + math.cos(math.pi * step / steps)) / 2


def chunk_size(
    module: nn.Module, recipe: Recipe, n_features: int, device: torch.device | str = "cpu", budget: int = 8 << 20
) -> int:
    """How many models to train at a time so that a step's working set stays within ``budget`` bytes (a core's cache).

    Counted in float32: parameters, gradients and Adam's two moments; the batch, and each layer's output and gradient.
    On a GPU the budget is a quarter of its free memory, and the order of the batches counts too.
    """
    parameters = sum(p.numel() for p in module.parameters())
    widths = sum(layer.out_features for layer in module.modules() if isinstance(layer, nn.Linear))
    numbers = 4 * parameters + recipe.batch_size * (n_features + 3 * widths)
    if torch.device(device).type != "cuda":
        return max(8, min(128, budget // (4 * numbers)))
    free, _ = torch.cuda.mem_get_info(device)
    return max(8, min(4096, free // 4 // (4 * numbers + 16 * recipe.steps * recipe.batch_size)))
