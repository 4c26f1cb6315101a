"""Ground truth: train again without what is in question, and look.

Leave-one-out differences (Koh & Liang 2017, sec. 4.1), on softmax regression and on retrained stacks of any model; and
the linear datamodeling score (LDS; Park et al. 2023, eq. 4): does the sum of the influences of a random half predict
what training on that half gives?
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import optimize
from scipy import stats as scipy_stats
from torch import Tensor, nn
from torch.nn import functional

from datalab import training
from datalab.errors import UserError
from datalab.influence import TRAK, DataInf, GradDot
from datalab.influence.datainf import AUTO_SHARE
from datalab.influence.estimator import AUTO_RELATIVE, Estimator, quiet
from datalab.stack import Stack

Floats = NDArray[np.float64]
Labelled = tuple[Tensor, Tensor]


def fit_softmax(
    x: Tensor, y: Tensor, n_classes: int, l2: float, kept: NDArray[np.bool_] | None = None, start: Tensor | None = None
) -> nn.Linear:
    """Softmax regression at the optimum of mean cross-entropy + l2/2 |theta|^2 (bias included), in float64.

    By L-BFGS from ``start`` (C, d + 1), or 0, until no gradient entry exceeds 1e-9; ``kept`` (n,) chooses the examples.
    Equivalent to scikit-learn's LogisticRegression with C = 1 / (l2 n), except that it does not penalise the bias.
    Raises UserError where it does not converge.
    """
    a = functional.pad(x.double(), (0, 1), value=1.0)
    if kept is not None:
        at = torch.as_tensor(kept, device=x.device)
        a, y = a[at], y[at]
    shape = (n_classes, a.shape[1])

    def objective(flat: Floats) -> tuple[float, Floats]:
        w = torch.from_numpy(flat).view(shape).to(a)
        logits = a @ w.T
        p = torch.softmax(logits, 1)
        loss = functional.cross_entropy(logits, y) + l2 / 2 * w.square().sum()
        p[torch.arange(len(y), device=y.device), y] -= 1
        return float(loss), (p.T @ a / len(a) + l2 * w).cpu().numpy().ravel()

    first = np.zeros(shape).ravel() if start is None else start.double().cpu().numpy().ravel().copy()
    options = {"maxiter": 10_000, "maxfun": 20_000, "ftol": 0, "gtol": 1e-9, "maxcor": 50}
    optimum = optimize.minimize(objective, first, jac=True, method="L-BFGS-B", options=options)
    if np.abs(optimum.jac).max() > 1e-6:
        raise UserError(f"l2: softmax regression did not converge ({optimum.message}); a larger l2 would")
    model = nn.Linear(x.shape[1], n_classes, dtype=torch.float64, device=x.device)
    weights = torch.from_numpy(optimum.x).view(shape).to(a)
    model.weight.data, model.bias.data = weights[:, :-1].clone(), weights[:, -1].clone()
    return model


def refitted_without(
    model: nn.Linear, x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor, which: Sequence[int], l2: float
) -> Floats:
    """The true change (len(which),), in nats, of softmax regression's mean target loss when each example is removed.

    ``model`` is :func:`fit_softmax`'s on all of x, y.
    """
    weights = torch.cat([model.weight.data, model.bias.data[:, None]], 1)
    refits = [fit_softmax(x, y, len(weights), l2, np.arange(len(x)) != i, weights) for i in which]
    with torch.no_grad():
        losses = [float(functional.cross_entropy(each(x_val.double()), y_val)) for each in (model, *refits)]
    return np.array(losses[1:]) - losses[0]


def removals(
    estimators: Mapping[str, Estimator], train: Labelled, target: Labelled, count: int, retrain: Callable[..., Floats]
) -> pd.DataFrame:
    """Leave-one-out, ``predicted`` against ``actual`` in nats: a row an estimator and removed ``example``.

    The ``count`` examples lie evenly over the ranks of the first estimator's prediction, the extremes among them.
    ``retrain`` takes their indices and gives the true changes, (count,) or a row a seed, such as
    :func:`refitted_without`. Both columns are means, over models and seeds; ``half_a`` and ``half_b`` are the true
    changes by either half of several seeds.
    """
    whole = {name: e.leave_one_out(*train, *target).double() for name, e in estimators.items()}
    predictions = {name: v.view(-1, len(train[0])).mean(0).cpu().numpy() for name, v in whole.items()}
    order = np.argsort(next(iter(predictions.values())), kind="stable")
    removed = order[np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))]
    changes = np.atleast_2d(retrain(removed))
    truth = {"actual": changes.mean(0)}
    if (half := len(changes) // 2) > 0:
        truth |= {"half_a": changes[:half].mean(0), "half_b": changes[half:].mean(0)}
    frames = [
        pd.DataFrame({"estimator": name, "example": removed, "predicted": values[removed]} | truth)
        for name, values in predictions.items()
    ]
    return pd.concat(frames, ignore_index=True)


class Subsets(NamedTuple):
    """Random subsets ``kept`` (M, n) and the ``losses`` (M, seeds, n_test), in nats, of the models trained on them."""

    kept: NDArray[np.bool_]
    losses: Floats


def retrained_on_halves(
    module: nn.Sequential,
    x: Tensor,
    y: NDArray[np.int64],
    x_test: Tensor,
    y_test: NDArray[np.int64],
    halves: int,
    model_seeds: Sequence[int],
    rng: np.random.Generator,
    recipe: training.Recipe = training.RECIPE,
) -> Subsets:
    """Train on ``halves`` random halves of x (n, d), y (n,), drawn with ``rng``, each once a model seed."""
    n = len(x)
    kept = np.zeros((halves, n), dtype=bool)
    for row in kept:
        row[rng.permutation(n)[: n // 2]] = True
    every_half, every_seed = kept.repeat(len(model_seeds), axis=0), [*model_seeds] * halves
    losses = _trained_losses(module, x, y, x_test, y_test, every_half, every_seed, recipe)
    return Subsets(kept, losses.reshape(halves, len(model_seeds), len(x_test)))


def lds(pairwise: Tensor | Floats, subsets: Subsets) -> Floats:
    """The linear datamodeling score (n_test,): Spearman's correlation, over the subsets, of predicted and true loss.

    ``pairwise`` (n_test, n) is any estimator's; a subset's prediction is the sum of its members' influence, and the
    truth the mean over seeds of the test example's loss. In [-1, 1], 1 = perfect. A test example whose predictions are
    all equal scores 0. Raises UserError for another shape.
    """
    scores = np.asarray(pairwise.detach().cpu() if isinstance(pairwise, Tensor) else pairwise, dtype=np.float64)
    m, n = subsets.kept.shape
    if scores.shape != (subsets.losses.shape[2], n):
        raise UserError(f"pairwise: need (n_test, n) = {(subsets.losses.shape[2], n)}, got {scores.shape}")
    predicted = scipy_stats.rankdata(subsets.kept @ scores.T, axis=0)
    actual = scipy_stats.rankdata(subsets.losses.mean(1), axis=0)
    predicted, actual = predicted - (m + 1) / 2, actual - (m + 1) / 2
    scale = np.sqrt((predicted**2).sum(0) * (actual**2).sum(0))
    return (predicted * actual).sum(0) / np.where(scale > 0, scale, np.inf)


def relative_damping(estimator: Estimator | TRAK, relative: float, l2: float) -> float:
    """d = ``l2`` + ``relative`` times the mean diagonal of H, from an estimator fitted with ``l2`` and "auto" damping.

    The diagonal is read off that damping, a mean over models and sites; DataInf's and TRAK's is that of the gradients'
    second moment.
    """
    automatic = float(torch.as_tensor(estimator.damping_, dtype=torch.float64).mean()) - l2
    return l2 + relative * (automatic / (AUTO_SHARE if isinstance(estimator, DataInf) else AUTO_RELATIVE))


def lds_path(
    kind: type, stack: Stack, relatives: Sequence[float], train: Labelled, test: Labelled, subsets: Subsets, l2: float
) -> list[dict[str, Any]]:
    """The linear datamodeling score of S models' influence by an estimator of a ``kind``, or TRAK: a row a damping.

    A damping is ``l2`` + ``relative_damping`` times the mean diagonal of H. ``lds`` is that of the mean of the models'
    scores, ``each`` the mean of theirs, both means over the test examples; ``automatic`` says whether the damping is
    the estimator's default. DataInf's is none of ``relatives``: a row more, with a ``relative_damping`` of NaN.
    GradDot, which has none, has that row alone.
    """

    def row(relative: float, automatic: bool, alone: Tensor, together: Tensor) -> dict[str, Any]:
        each = np.mean([lds(pairwise, subsets).mean() for pairwise in alone])
        score = lds(together, subsets).mean()
        return {"relative_damping": relative, "automatic": bool(automatic), "lds": score, "each": each}

    rows, sets = [], (*train, *test)
    if kind is TRAK:  # takes models, not a stack; all are given one damping
        together, models = TRAK(list(stack), l2=l2).fit(*train), [TRAK(model, l2=l2).fit(*train) for model in stack]
        for relative in relatives:
            d = relative_damping(together, relative, l2)
            alone = torch.stack([estimator.redamped(d).pairwise(*sets) for estimator in models])
            rows.append(row(relative, relative == AUTO_RELATIVE, alone, together.redamped(d).pairwise(*sets)))
        return rows
    with quiet():
        estimator = kind(stack, l2=l2).fit(*train)
    own_rule = kind in (DataInf, GradDot)
    for relative in [*(relatives if kind is not GradDot else ()), *([np.nan] if own_rule else ())]:
        automatic = np.isnan(relative) if own_rule else relative == AUTO_RELATIVE
        moved = estimator if automatic else estimator.redamped(relative_damping(estimator, relative, l2))
        alone = moved.pairwise(*sets)
        rows.append(row(relative, automatic, alone, alone.mean(0)))
    return rows


def retrained_without(
    module: nn.Sequential,
    x: Tensor,
    y: NDArray[np.int64],
    x_val: Tensor,
    y_val: NDArray[np.int64],
    which: Sequence[int],
    model_seeds: Sequence[int],
    recipe: training.Recipe = training.RECIPE,
) -> Floats:
    """The change (seeds, len(which)), in nats, of the mean target loss when each example is removed and each seed's
    model trained again: the same initialisation and batch order but for that example.
    """
    kept = np.ones((1 + len(which), len(x)), dtype=bool)
    kept[np.arange(1, len(kept)), list(which)] = False
    seeds = ([seed] * len(kept) for seed in model_seeds)
    losses = [_trained_losses(module, x, y, x_val, y_val, kept, of_seed, recipe).mean(1) for of_seed in seeds]
    return np.array([of_seed[1:] - of_seed[0] for of_seed in losses])


def _trained_losses(module, x, y, x_test, y_test, kept, model_seeds: Sequence[int], recipe: training.Recipe) -> Floats:
    """Cross-entropy (M, n_test), in nats, of M models, each trained on its row of ``kept`` (M, n) with its seed."""
    size = training.chunk_size(module, recipe, x.shape[1])
    labels = torch.as_tensor(y_test, device=x.device)
    losses = []
    for start in range(0, len(kept), size):
        part = slice(start, start + size)
        stack = training.fit_many(module, x, y, kept[part], model_seeds[part], recipe)
        log_p = torch.log_softmax(stack(x_test), -1)
        losses.append(-log_p.gather(2, labels.expand(len(stack), -1)[..., None])[..., 0].double().cpu().numpy())
    return np.concatenate(losses)
