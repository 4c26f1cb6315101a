"""Readiness for a GPU, shown without one: no inner loop reads a number from the device, or makes a tensor elsewhere.

On the ``meta`` device there are no numbers: reading one raises. Where values decide (whether a solve has converged,
whether a matrix is definite), reads are counted instead: as many for twice the batches.
"""

import copy

import pytest
import torch
from influence_oracle import problem
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from datalab.influence import (
    CG,
    EKFAC,
    KFAC,
    TRAK,
    Arnoldi,
    DataInf,
    ExactGGN,
    ExactHessian,
    GradCos,
    GradDot,
    LastLayerGGN,
    LiSSA,
    TracIn,
    last_layer,
    losses,
)
from datalab.influence.losses import BinaryCrossEntropy, CrossEntropy, SquaredError
from datalab.influence.sets import Held
from datalab.influence.softmax import Examples, SoftmaxGGN
from datalab.stack import Stack

pytestmark = pytest.mark.filterwarnings("ignore::datalab.influence.InfluenceWarning")
BATCH = 4
KINDS = {
    "ExactGGN": lambda m, **o: ExactGGN(m, 0.1, **o),
    "ExactHessian": lambda m, **o: ExactHessian(m, 5.0, **o),
    "LastLayerGGN": lambda m, **o: LastLayerGGN(m, 0.1, **o),
    "KFAC": lambda m, **o: KFAC(m, 0.1, **o),
    "EKFAC": lambda m, **o: EKFAC(m, 0.1, **o),
    "EKFAC, sampled": lambda m, **o: EKFAC(m, 0.1, fisher="sampled", **o),
    "DataInf": lambda m, **o: DataInf(m, 0.1, **o),
    "CG": lambda m, **o: CG(m, 0.1, iterations=20, tolerance=1e-300, **o),
    "LiSSA": lambda m, **o: LiSSA(m, 0.5, depth=20, **o),
    "Arnoldi": lambda m, **o: Arnoldi(m, 0.1, rank=10, **o),
    "GradDot": GradDot,
    "GradCos": GradCos,
    "TRAK": lambda m, **o: TRAK(m, 0.1, dimensions=8, **o),
    "TracIn": lambda m, **o: TracIn([m], [0.1], **o),
}
LOSSES = {
    "cross-entropy": (CrossEntropy(), lambda n: torch.arange(n) % 4),
    "class weights": (CrossEntropy(weight=(1, 2, 3, 4)), lambda n: torch.arange(n) % 4),
    "squared error": (SquaredError(), lambda n: torch.linspace(-1, 1, 4 * n).view(n, 4)),
    "many labels": (BinaryCrossEntropy(), lambda n: (torch.arange(4 * n).view(n, 4) % 3 > 1).float()),
}


class Reads(TorchDispatchMode):
    """Counts the numbers read from tensors, which on a GPU each wait for it."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


class Elsewhere(TorchDispatchMode):
    """Notes the operations that make a tensor of several numbers on another device than ``meta``."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.made += [
            str(function)
            for t in tree_leaves(result)
            if isinstance(t, Tensor) and t.device.type != "meta" and t.numel() > 1
        ]
        return result


def data(n):
    _, (x, y), (x_val, y_val) = problem(n=n)
    return (x, y), (x_val, y_val)


def reads(name, n):
    """Of fit and of every verb, for n examples."""
    model, _, _ = problem()
    train, val = data(n)
    counts = {}

    def counted(verb, run):
        with Reads() as mode:
            result = run()
        counts[verb] = mode.count
        return result

    estimator = counted("fit", lambda: KINDS[name](model, batch_size=BATCH).fit(*train))
    counted("self_influence", lambda: estimator.self_influence(*train))
    counted("influence_on", lambda: estimator.influence_on(*train, *val))
    counted("pairwise", lambda: estimator.pairwise(*train, *val))
    counted("top", lambda: estimator.top(*train, *val, k=2))
    if name not in ("GradDot", "GradCos", "TRAK", "TracIn"):
        counted("leave_one_out", lambda: estimator.leave_one_out(*train, *val))
    return counts


@pytest.mark.parametrize("name", KINDS)
def test_twice_the_batches_are_as_many_reads(name, monkeypatch):
    # The words of a warning read a number that depends on the data, once a fit, outside every loop.
    monkeypatch.setattr("datalab.influence.estimator._WORTH_A_WARNING", (float("inf"), float("inf")))
    few, many = reads(name, 3 * BATCH), reads(name, 6 * BATCH)
    if name == "CG":  # it looks once in ten iterations of each solve, of which self-influence has one a batch
        few["self_influence"] += 3 * 2
    print(f"{name}: reads an inner loop: 0; a call: {many}")
    assert many == few


def test_a_look_that_the_test_should_catch_is_caught(monkeypatch):
    """The counter counts: with one look a batch, twice the batches are more reads."""
    factors = EKFAC._factors
    monkeypatch.setattr(EKFAC, "_factors", lambda self, b: bool(torch.isfinite(b.x).all()) and factors(self, b))
    assert reads("EKFAC", 6 * BATCH) != reads("EKFAC", 3 * BATCH)


def test_many_models_last_layers_are_as_many_reads_as_one():
    def of(models):
        g = torch.Generator().manual_seed(0)
        features, logits = (torch.randn(models, 30, width, generator=g).double() for width in (80, 4))
        labels = torch.arange(30) % 4
        with Reads() as mode:
            last_layer.scores_many(
                features, logits, labels, 1e-3, targets=[last_layer.Target(features, logits, labels)]
            )
        return mode.count

    assert of(4) == of(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_last_layers_curvature_is_taken_and_solved_on_the_meta_device(dtype):
    batch = Examples(*(torch.empty(30, width, dtype=torch.float64, device="meta") for width in (9, 4, 4)))
    with Elsewhere() as mode:
        ggn = SoftmaxGGN([batch, batch], 1e-3, 1e-3, dtype)
        if dtype == torch.float32:
            ggn.whitened(*torch.linalg.eigh(ggn.moment))
        results = ggn.self_influence(batch.inputs, batch.gradient), ggn.direction(batch.gradient.T @ batch.inputs[None])
    assert all(r.device.type == "meta" for r in (*results, ggn.sound, ggn.damping_))
    assert mode.made == []


def on_meta(holder, seen):
    """Move every tensor that an object of ours reaches to the meta device, in place."""
    if id(holder) in seen:
        return seen[id(holder)][1]
    result = holder
    if isinstance(holder, nn.Module):
        before = list(holder.parameters())
        result = holder.to("meta")
        seen.update({id(old): (old, new) for old, new in zip(before, result.parameters(), strict=True)})
    elif isinstance(holder, Tensor):
        result = holder.to("meta")
    elif isinstance(holder, tuple):
        values = [on_meta(value, seen) for value in holder]
        result = type(holder)(*values) if hasattr(holder, "_fields") else tuple(values)
    seen[id(holder)] = holder, result
    if isinstance(holder, list):
        holder[:] = [on_meta(value, seen) for value in holder]
    elif isinstance(holder, dict):
        for key, value in holder.items():
            holder[key] = on_meta(value, seen)
    elif type(holder).__module__.startswith("datalab.") and not isinstance(holder, losses.Loss | tuple):
        for key, value in vars(holder).items():
            setattr(holder, key, on_meta(value, seen))
    return result


def models(kind):
    if kind == "one model":
        return problem()[0]
    if kind == "a CNN":
        return problem("a CNN of odd shapes")[0]
    stack = Stack(nn.Sequential(nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 4)), 2, dtype=torch.float64)
    for value in stack.parameters.values():
        value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(1)) / 2)
    return stack


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("build", ["one model", "a CNN", "a stack"])
@pytest.mark.parametrize(
    "name", ["ExactGGN", "LastLayerGGN", "KFAC", "EKFAC", "DataInf", "Arnoldi", "GradDot", "GradCos", "TRAK"]
)
def test_every_verbs_inner_loop_runs_on_the_meta_device(name, build, loss):
    if name == "TRAK" and (loss != "cross-entropy" or build == "a stack"):
        return  # takes neither
    (x, _), (x_val, _) = data(3 * BATCH)
    the_loss, labels = LOSSES[loss]
    estimator = KINDS[name](models(build), batch_size=BATCH, **({} if name == "TRAK" else {"loss": the_loss}))
    estimator.fit(x, labels(len(x)))
    estimator = copy.deepcopy(estimator)
    if name == "TRAK":
        (estimator,) = estimator._members
    on_meta(estimator, {})
    estimator._network.like = estimator._network.like.to("meta")
    n_models = estimator._network.models

    def held(x):
        y = labels(len(x)).to(x.dtype) if labels(1).is_floating_point() else labels(len(x))
        on = Held("x, y", x.to("meta"), y.expand(n_models, *y.shape).to("meta"))
        on.by_model = on.finite = True
        return on

    train, val = held(x), held(x_val)
    with Elsewhere() as mode:
        if name == "TRAK":
            phi, _ = estimator.all_features(train)
            results = [phi]
        else:
            own = estimator._own(train)
            on = estimator._product(train, estimator._solve(estimator._mean_gradient(val)))
            rows = [block for _, row in estimator._rows(train, val) for block in row]
            results = [own, on, *rows]
            if name not in ("GradDot", "GradCos", "ExactGGN"):  # ExactGGN's factorises first, and looks whether it may
                results.append(estimator._leave_one_out(train, val))
    assert all(r.device.type == "meta" for r in results)
    assert mode.made == []
