"""The arms of sections 4.1 and 4.3: what is trained at every noise rate, and how it is tuned.

Every arm may try the same number of configurations, and the noisy validation labels choose; no test label is read.
"""

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from datalab import correction, framework, metrics, pruning
from datalab.protocol import protocol
from datalab.sections.trials.trial import (
    DATALAB,
    Train,
    Trial,
    chosen,
    fit,
    fit_datalab,
    probabilities,
    seen_in_weights,
)

COMPONENTS = ("projection", "weighting", "regularisation")


class Decision(NamedTuple):
    """One trained model: its rate, part, method and what was chosen for it; its test ``probabilities`` (n_test, C)."""

    row: dict[str, Any]
    probabilities: NDArray[np.float32]


def scores(trial: Trial, p: NDArray[np.float32]) -> dict[str, float]:
    """Of probabilities (n_test, C) on the clean test set: precision, recall and F1 (macro), accuracy and ECE."""
    y, n_classes, predicted = trial.prepared.y_test, trial.prepared.n_classes, p.argmax(1)
    return {
        "precision": metrics.macro_precision(y, predicted, n_classes),
        "recall": metrics.macro_recall(y, predicted, n_classes),
        "macro_f1": metrics.macro_f1(y, predicted, n_classes),
        "accuracy": metrics.accuracy(y, predicted),
        "ece": metrics.ece(y, p),
    }


def penalties(configurations: int) -> NDArray[np.float64]:
    """The search of an arm that has lambda1 alone: the default, then a logarithmic grid over the protocol's range."""
    rule = protocol().framework
    return np.r_[rule["default"]["lambda1"], np.geomspace(*rule["lambda1"], configurations - 1)][:configurations]


def lambda_pairs(configurations: int) -> NDArray[np.float64]:
    """DATA-LAB's search, (configurations, 2) of lambda1 and lambda2: the default, then a Halton sequence of logarithms.

    Quasi-random points (Bergstra & Bengio 2012) since the paper's 163 is a prime: no grid of two axes has as many.
    """
    rule = protocol().framework
    low, high = (np.log([rule[name][at] for name in ("lambda1", "lambda2")]) for at in (0, 1))
    points = qmc.Halton(2, scramble=False).random(configurations)[1:]  # the first is the corner (0, 0)
    return np.vstack([[rule["default"]["lambda1"], rule["default"]["lambda2"]], np.exp(low + points * (high - low))])


def penalised(
    trial: Trial,
    method: str,
    grid: NDArray,
    labels: NDArray,
    validation: NDArray,
    kept: NDArray | None = None,
    transition: NDArray | None = None,
) -> list[Decision]:
    """An arm whose one hyperparameter is the penalty, at every rate: trained at each of ``grid`` (q,), the best taken.

    ``labels`` (rates, n) and ``kept`` (rates, n; None: everything) are what it is trained on, ``validation``
    (rates, n_val) what chooses. ``transition`` (rates, C, C) corrects the loss forward (Patrini et al. 2017).
    """
    q, how = len(grid), {}
    if transition is not None:
        how["module"] = correction.ForwardCorrected(trial.classifier())
        how["settings"] = {"transition": trial.tensor(np.repeat(transition, q, 0).astype(np.float32))}
    masks = None if kept is None else np.repeat(kept, q, 0)
    stack = fit(trial, np.repeat(labels, q, 0), masks, l2=2 * np.tile(grid, len(labels)), **how)
    best = chosen(trial, stack, validation, q)
    decisions = []
    for i, p in enumerate(probabilities(stack, trial.x_test, best)):
        row = {"rate": trial.rates[i], "part": "main", "method": method, "lambda1": grid[best[i] % q]}
        if kept is not None:
            row["n_kept"] = int(kept[i].sum())
        if transition is not None:
            row["estimated_noise"] = 1 - float(np.diag(transition[i]).mean())
        decisions.append(Decision(row, p))
    return decisions


def random_subsets(trial: Trial, grid: NDArray) -> list[Decision]:
    """Random subsets of the same size and quota as ``influence``; the first draw's choice serves the others."""
    keep = protocol().primary_cell["keep_fraction"]

    def drawn(draw: int) -> NDArray[np.bool_]:
        pairs = zip(trial.rates, trial.observed, strict=True)
        return np.stack([pruning.random_subset(y, keep, rng=trial.rng("random", rate, draw)) for rate, y in pairs])

    first = penalised(trial, "random", grid, trial.observed, trial.observed_validation, drawn(0))
    others = range(1, protocol().random_subsets)
    labels, kept = np.tile(trial.observed, (len(others), 1)), np.concatenate([drawn(i) for i in others])
    lambda1 = np.tile([decision.row["lambda1"] for decision in first], len(others))
    p = iter(probabilities(fit(trial, labels, kept, l2=2 * lambda1), trial.x_test))
    return first + [Decision(decision.row | {"draw": i}, next(p)) for i in others for decision in first]


def tuned_datalab(trial: Trial, variant: str, grid: NDArray) -> tuple[list[Decision], NDArray[np.float64]]:
    """One variant at every rate, and the lambdas (rates, 2) that validation chose for it from ``grid`` (q, 2)."""
    q = len(grid)
    labels, pairs = np.repeat(trial.observed, q, 0), np.tile(grid, (len(trial.rates), 1))
    stack = fit_datalab(trial, trial.datalab(variant=variant), labels, pairs)
    best = chosen(trial, stack, trial.observed_validation, q)
    stack = stack.take(best)  # of the many only the chosen are looked at further
    w = framework.weights(stack, trial.x, trial.observed)
    lambdas, decisions = grid[np.array(best) % q], []
    for i, p in enumerate(probabilities(stack, trial.x_test)):
        row = {"rate": trial.rates[i], "part": "main", "method": DATALAB[variant], "variant": variant}
        row |= {"lambda1": lambdas[i, 0], "lambda2": lambdas[i, 1]} | seen_in_weights(w[i], trial, i)
        whole = row | {"part": "ablation"} | dict.fromkeys(COMPONENTS, True)
        decisions += [Decision(row, p), Decision(whole, p)]
    return decisions, lambdas


def ablations(trial: Trial, lambdas: dict[str, NDArray]) -> Iterator[tuple[list[dict[str, Any]], Train]]:
    """Every set of components but the whole, at the lambdas (rates, 2) of each variant's whole.

    Rows, and what trains their models by a recipe.
    """
    for projection in (True, False):
        # Without weights the variants are one model, at each one's lambda1.
        for weighting, variants in ((True, ("paper",)), (True, ("label-aware",)), (False, framework.VARIANTS)):
            module = trial.datalab(variant=variants[0], projection=projection, weighting=weighting)
            shares = [0.0] if projection and weighting else [1.0, 0.0]  # of the lambdas: 0 leaves component 3 out
            arms = list(itertools.product(variants, shares, range(len(trial.rates))))
            pairs = np.array([share * lambdas[variant][i] for variant, share, i in arms])
            rows = []
            for (variant, share, i), (lambda1, lambda2) in zip(arms, pairs, strict=True):
                row = {"rate": trial.rates[i], "method": DATALAB[variant], "variant": variant}
                row |= {"lambda1": lambda1, "lambda2": lambda2}
                rows.append(row | dict(zip(COMPONENTS, (projection, weighting, share > 0), strict=True)))
            yield rows, partial(fit_datalab, trial, module, trial.observed[[i for *_, i in arms]], pairs)
