"""Section 2.2's cells: influence scores against refits, retraining and known wrong labels, one data set a cell.

Every function returns rows with a ``kind``; :mod:`datalab.sections.influence_tables` makes tables of them.
"""

import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score
from torch import Tensor

from datalab import data, models, noise, pruning, seeds
from datalab.influence import (
    EKFAC,
    KFAC,
    TRAK,
    Arnoldi,
    DataInf,
    ExactGGN,
    GradDot,
    LastLayerGGN,
    TracIn,
    retraining,
)
from datalab.influence.datainf import AUTO_SHARE
from datalab.influence.estimator import quiet
from datalab.protocol import protocol
from datalab.stack import Stack
from datalab.training import Recipe, cosine, fit_many, protocol_recipe

SOFTMAX_PARAMETERS = 1500  # a refit to convergence takes up to a second below
EXACT_PARAMETERS = 5000  # the full matrix of an MLP takes seconds below
REFIT_L2 = 0.01  # refits are of a strictly convex objective, so that they have one answer
RELATIVE_DAMPINGS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # times the mean diagonal of H, on top of l2
CHECKPOINTS = 4
HEAVIER = "EKFAC, damping 1 x mean diagonal"  # instead of a thousandth
VALIDATION = "EKFAC on validation loss"
FREE = ("loss", "EL2N", "gradient norm")  # scores that need no curvature

Rows = list[dict[str, Any]]


def mlp(p: data.Prepared) -> torch.nn.Sequential:
    """The study's MLP for a data set."""
    return models.build("mlp", p.grid, p.n_classes, protocol().training["hidden"])


def _tensors(p: data.Prepared, device: str) -> tuple[Tensor, ...]:
    parts = (p.x_train, p.y_train, p.x_val, p.y_val, p.x_test, p.y_test)
    return tuple(torch.as_tensor(part, device=device) for part in parts)


def refit_cell(
    dataset: str, root_seed: int, caps: dict[str, int], encoder: str, refits: int, model_seeds: int, device: str
) -> Rows:
    """Leave-one-out: predictions in nats against refits of softmax regression and retraining of the MLP.

    The examples lie evenly over the ranks of the prediction. Rows of ``kind`` "refit": ``estimator``, ``example``,
    ``predicted`` and ``actual`` (nats of the mean validation loss). Rows of ``kind`` "retrained": the same for the MLP,
    the prediction the mean over its seeds, with ``half_a`` and ``half_b``, the actual change by either half of the
    seeds.
    """
    p = data.prepare(dataset, 0, root_seed, caps, encoder)
    names = {"dataset": dataset, "n": len(p.y_train)}
    found: Rows = []
    if (p.x_train.shape[1] + 1) * p.n_classes <= SOFTMAX_PARAMETERS:
        x, y, x_val, y_val, *_ = (t.double() if t.is_floating_point() else t for t in _tensors(p, "cpu"))
        model = retraining.fit_softmax(x, y, p.n_classes, REFIT_L2)
        kinds = {"ExactGGN": ExactGGN, "LastLayerGGN": LastLayerGGN, "EKFAC": EKFAC, "KFAC": KFAC}
        predicted = {
            name: kind(model, REFIT_L2, l2=REFIT_L2).fit(x, y).leave_one_out(x, y, x_val, y_val).numpy()
            for name, kind in kinds.items()
        }
        which = _evenly(predicted["ExactGGN"], refits)
        actual = retraining.refitted_without(model, x, y, x_val, y_val, which, REFIT_L2)
        for name, values in predicted.items():
            for i, truth in zip(which, actual, strict=True):
                found.append(names | _row("refit", name, example=int(i), predicted=values[i], actual=truth))
    return found + [names | row for row in _retrained(p, root_seed, refits, model_seeds, device)]


def _retrained(p: data.Prepared, root_seed: int, refits: int, model_seeds: int, device: str) -> Rows:
    x, y, x_val, y_val, *_ = _tensors(p, device)
    module = mlp(p)
    drawn = [seeds.integer(root_seed, p.name, "leave one out", i) for i in range(model_seeds)]
    stack = fit_many(module, x, p.y_train, None, drawn, protocol_recipe())
    with quiet():
        estimator = EKFAC(stack, l2=protocol_recipe().l2).fit(x, y)
    heavier = estimator.redamped(protocol_recipe().l2 + _mean_diagonal(estimator))
    predicted = {
        name: each.leave_one_out(x, y, x_val, y_val).double().mean(0).cpu().numpy()
        for name, each in (("EKFAC", estimator), (HEAVIER, heavier))
    }
    which = _evenly(predicted["EKFAC"], refits)
    changes = retraining.retrained_without(module, x, p.y_train, x_val, p.y_val, which, drawn, protocol_recipe())
    half = max(model_seeds // 2, 1)
    return [
        _row("retrained", name, example=int(i), predicted=values[i], actual=c.mean())
        | {"half_a": c[:half].mean(), "half_b": c[half:].mean()}
        for name, values in predicted.items()
        for i, c in zip(which, changes.T, strict=True)
    ]


def _evenly(values: NDArray, count: int) -> NDArray[np.int64]:
    """The indices of ``count`` values, evenly over their ranks, the extremes among them."""
    order = np.argsort(values, kind="stable")
    return order[np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))]


def subsets_cell(
    dataset: str,
    root_seed: int,
    caps: dict[str, int],
    encoder: str,
    halves: int,
    model_seeds: int,
    tests: int,
    device: str,
) -> Rows:
    """LDS of every estimator over its dampings, for the MLP: rows of ``kind`` "lds".

    ``estimator``, ``relative_damping`` (times the mean diagonal of H; NaN: not moved), ``automatic`` (whether it is the
    default's), ``lds`` (mean over test examples; scores are means over the reference models) and ``each`` (mean over
    the models, each by itself).
    """
    p = data.prepare(dataset, 0, root_seed, caps, encoder)
    x, y, _, _, x_test, y_test = _tensors(p, device)
    x_test, y_test = x_test[:tests], y_test[:tests]
    module = mlp(p)
    drawn = [seeds.integer(root_seed, dataset, "halves", i) for i in range(model_seeds)]
    rng = seeds.generator(root_seed, dataset, "subsets")
    subsets = retraining.retrained_on_halves(
        module, x, p.y_train, x_test, p.y_test[:tests], halves, drawn, rng, protocol_recipe()
    )
    references = [seeds.integer(root_seed, dataset, "lds reference", i) for i in range(protocol().reference["models"])]
    stack = fit_many(module, x, p.y_train, None, references, protocol_recipe())
    found: Rows = []

    def score(name: str, relative: float, automatic: bool, together: Tensor, pairwise: Tensor) -> None:
        together = retraining.lds(together, subsets).mean()
        each = np.mean([retraining.lds(one, subsets).mean() for one in pairwise])
        row = {"dataset": dataset, "n": len(x), "relative_damping": relative, "automatic": automatic}
        found.append(row | _row("lds", name, lds=together, each=each))

    l2, data_ = protocol_recipe().l2, (x, y, x_test, y_test)
    for name, kind in _damped(module).items():
        with quiet():
            estimator = kind(stack, l2=l2).fit(x, y)
        unit = _mean_diagonal(estimator)
        for relative in RELATIVE_DAMPINGS:
            automatic = relative == RELATIVE_DAMPINGS[0] and name != "DataInf"
            moved = estimator if automatic else estimator.redamped(l2 + relative * unit)
            pairwise = moved.pairwise(*data_)
            score(name, relative, automatic, pairwise.mean(0), pairwise)
        if name == "DataInf":  # whose own rule is another one
            pairwise = estimator.pairwise(*data_)
            score(name, np.nan, True, pairwise.mean(0), pairwise)
    pairwise = GradDot(stack).fit(x, y).pairwise(*data_)
    score("GradDot", np.nan, True, pairwise.mean(0), pairwise)
    together = TRAK(list(stack), l2=l2).fit(x, y)
    alone = [TRAK(model, l2=l2).fit(x, y) for model in stack]
    for relative in RELATIVE_DAMPINGS:
        # The curvature of TRAK is not weighted by p (1 - p): its unit is its own.
        damping = l2 + relative * float(np.mean(together.damping_) - l2) / RELATIVE_DAMPINGS[0]
        each = torch.stack([one.redamped(damping).pairwise(*data_) for one in alone])
        score("TRAK", relative, relative == RELATIVE_DAMPINGS[0], together.redamped(damping).pairwise(*data_), each)
    return found


def _mean_diagonal(estimator) -> float:
    """H's, as the automatic damping tells it; DataInf's, that of the gradients' second moment."""
    automatic = float(torch.as_tensor(estimator.damping_, dtype=torch.float64).mean()) - protocol_recipe().l2
    return automatic / (AUTO_SHARE if isinstance(estimator, DataInf) else RELATIVE_DAMPINGS[0])


def _damped(module: torch.nn.Module) -> dict[str, Callable]:
    """The estimators whose damping is moved; the full matrix where it takes seconds."""
    small = sum(w.numel() for w in module.parameters()) <= EXACT_PARAMETERS
    every = {"EKFAC": EKFAC, "KFAC": KFAC, "LastLayerGGN": LastLayerGGN, "DataInf": DataInf}
    return ({"ExactGGN": ExactGGN} if small else {}) | every


def mislabel_cell(
    dataset: str,
    seed: int,
    root_seed: int,
    rates: list[float],
    agreement_rate: float,
    caps: dict[str, int],
    encoder: str,
    device: str,
) -> Rows:
    """Finding flipped labels: AUROC of every score at every rate, as rows of ``kind`` "auroc".

    Labels are flipped symmetrically; scores are means over the protocol's number of reference models, trained by the
    recipe on the flipped labels; those that take one model at a time (Arnoldi, TRAK, ExactGGN) only at
    ``agreement_rate``. There also rows of ``kind`` "agreement" (``other``: a second estimator, ``spearman`` of the two
    scores); and rows of ``kind`` "cost" (``seconds`` to fit and score the training set, a model).
    """
    p = data.prepare(dataset, seed, root_seed, caps, encoder)
    module, per_rate = mlp(p), protocol().reference["models"]
    x, x_val = (torch.as_tensor(part, device=device) for part in (p.x_train, p.x_val))
    rng = [seeds.generator(root_seed, dataset, seed, "mislabelled", rate) for rate in rates]
    both = [
        [noise.corrupt(y, "symmetric", rate, p.n_classes, g) for y in (p.y_train, p.y_val)]
        for rate, g in zip(rates, rng, strict=True)
    ]
    observed, y_val = zip(*both, strict=True)
    labels = np.repeat(np.array(observed), per_rate, axis=0)
    drawn = [seeds.integer(root_seed, dataset, seed, "mislabelled", i) for _ in rates for i in range(per_rate)]
    path = _Path(protocol_recipe())
    stack = fit_many(module, x, labels, None, drawn, protocol_recipe(), on_step=path)
    y = torch.as_tensor(labels, device=device)
    names = {"dataset": dataset, "seed": seed, "n": len(x)}
    scored: dict[str, NDArray] = {}
    found: Rows = []
    target = x_val, torch.as_tensor(np.repeat(y_val, per_rate, axis=0), device=device)
    for name, seconds, values in _scores(stack, path, x, y, target):
        scored[name] = values.astype(np.float64).reshape(len(rates), per_rate, -1).mean(1)
        found.append(names | _row("cost", name, seconds=seconds / len(stack)))
    chosen = slice(rates.index(agreement_rate) * per_rate, (rates.index(agreement_rate) + 1) * per_rate)
    alike = {name: values[rates.index(agreement_rate)] for name, values in scored.items()}
    for name, seconds, values in _slow_scores([stack.model(s) for s in range(len(stack))[chosen]], x, y[chosen]):
        alike[name] = values.astype(np.float64).mean(0)
        found.append(names | _row("cost", name, seconds=seconds / per_rate))
    for at, rate in enumerate(rates):
        here = alike if rate == agreement_rate else {name: values[at] for name, values in scored.items()}
        for name, values in here.items():
            auroc = roc_auc_score(observed[at] != p.y_train, values)
            found.append(names | _row("auroc", name, rate=rate, auroc=auroc))
    for name, values in alike.items():
        for other, others in alike.items():
            found.append(names | _row("agreement", name, other=other, spearman=_spearman(values, others)))
    return found


class _Path:
    """Checkpoints of a training, evenly spaced, the last at its end; ``rates`` are the sums of the learning rates of
    the steps that led to each.
    """

    def __init__(self, recipe: Recipe):
        ends = [round(recipe.steps * (k + 1) / CHECKPOINTS) for k in range(CHECKPOINTS)]
        rates = [cosine(recipe.learning_rate, step, recipe.steps) for step in range(recipe.steps)]
        self._at = set(ends)
        self.rates = [sum(rates[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
        self.stacks: list[Stack] = []

    def __call__(self, step: int, stack: Stack) -> None:
        if step in self._at:
            self.stacks.append(copy.deepcopy(stack))


def _scores(
    stack: Stack, path: _Path, x: Tensor, y: Tensor, target: tuple[Tensor, Tensor]
) -> Iterator[tuple[str, float, NDArray]]:
    """(name, seconds, (S, n) scores) of every score that takes a stack at once; high = likely mislabelled."""
    l2 = protocol_recipe().l2

    def own(estimator) -> Tensor:
        return estimator.fit(x, y).self_influence(x, y)

    yield from _timed(
        {
            "LastLayerGGN": lambda: own(LastLayerGGN(stack, l2=l2)),
            "EKFAC": lambda: own(EKFAC(stack, l2=l2)),
            "KFAC": lambda: own(KFAC(stack, l2=l2)),
            "DataInf": lambda: own(DataInf(stack, l2=l2)),
            "TracIn": lambda: own(TracIn(path.stacks, path.rates)),
            VALIDATION: lambda: EKFAC(stack, l2=l2).fit(x, y).influence_on(x, y, *target),
            "gradient norm": lambda: own(GradDot(stack)).sqrt(),
            "loss": lambda: _free(pruning.loss, stack, x, y),
            "EL2N": lambda: _free(pruning.el2n, stack, x, y),
        }
    )


def _slow_scores(references: list[torch.nn.Module], x: Tensor, y: Tensor) -> Iterator[tuple[str, float, NDArray]]:
    """The same for what takes one model at a time, and up to a second for it."""
    l2 = protocol_recipe().l2

    def each(build: Callable) -> Tensor:
        pairs = zip(references, y, strict=True)
        return torch.stack([build(model).fit(x, labels).self_influence(x, labels) for model, labels in pairs])

    kinds = {
        "Arnoldi": lambda: each(lambda model: Arnoldi(model, l2=l2, rank=50)),
        "TRAK": lambda: each(lambda model: TRAK(model, l2=l2)),
    }
    if sum(w.numel() for w in references[0].parameters()) <= EXACT_PARAMETERS:
        kinds["ExactGGN"] = lambda: each(lambda model: ExactGGN(model, l2=l2))
    yield from _timed(kinds)


def _timed(kinds: dict[str, Callable[[], Tensor]]) -> Iterator[tuple[str, float, NDArray]]:
    for name, compute in kinds.items():
        start = time.perf_counter()
        with quiet():
            values = compute().cpu().numpy()
        yield name, time.perf_counter() - start, values


def _free(score: Callable, stack: Stack, x: Tensor, y: Tensor) -> Tensor:
    return torch.as_tensor(score(torch.softmax(stack(x), -1).cpu().numpy(), y.cpu().numpy()))


def _spearman(a: NDArray, b: NDArray) -> float:
    return float(scipy_stats.spearmanr(a, b).statistic)


def _row(kind: str, estimator: str, **values: Any) -> dict[str, Any]:
    return {"kind": kind, "estimator": estimator} | {
        k: v.item() if hasattr(v, "item") else v for k, v in values.items()
    }
