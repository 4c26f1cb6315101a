"""Section 4.1: does DATA-LAB beat plain training, and what else does? Its tasks serve sections 4.3 and 5.1 too.

A task is a data set, architecture and seed, with all noise rates, methods and ablations. Every arm may try the same
number of configurations, chosen by macro-F1 on a validation set as noisy as the training set. :func:`decide` does all
of that and sees no test label; :func:`run_task` scores what it decided.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
import torch
from numpy.typing import NDArray
from scipy.stats import qmc

from datalab import correction, framework, metrics, models, pruning
from datalab.protocol import protocol
from datalab.record.parameters import Estimate, SectionParameters
from datalab.sections.parameters import Caps, Datasets, MainRates, pooled
from datalab.sections.trial import (
    DATALAB,
    Trial,
    chosen,
    fit_datalab,
    influence_kept,
    probabilities,
    seen_in_weights,
    transitions,
)
from datalab.sweep import Task
from datalab.training import AnyStack, fit_many, protocol_recipe

CLEAN = "clean"
ECE_BINS = 15
# Seconds of one training of 200 steps on one core, stacked: by hand (MLP) and mapped (DATA-LAB, loss correction).
_BY_HAND, _MAPPED = 0.009, 0.03
_FREE_MODELS = 7  # reference models and folds, at every rate


class Parameters(SectionParameters):
    """What sections 4.1 and 4.3 take; ``None`` is the profile's value."""

    datasets: Datasets
    seeds: Annotated[int, pydantic.Field(ge=1, le=1000, strict=True)]
    main_rates: MainRates
    main_architectures: tuple[Literal[tuple(models.ALL)], ...] = pydantic.Field(min_length=1)
    configurations: Annotated[int, pydantic.Field(ge=2, le=10_000, strict=True)]
    caps: Caps
    encoder: Literal["fast", "pretrained"]

    @pydantic.field_validator("main_architectures")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(names))


# --- what is run ------------------------------------------------------------------------------------------------------


def tasks(p: Parameters) -> list[Task]:
    """One task a data set, architecture and seed, with its cost in seconds on one core."""
    q, random = p.configurations, protocol().random_subsets
    by_hand = 4 * q + random - 1 + _FREE_MODELS
    mapped = q + len(framework.VARIANTS) * (q + 7)
    common = {"root_seed": p.root_seed, "rates": list(p.main_rates), "caps": dict(p.caps), "encoder": p.encoder}
    common |= {"device": p.chosen_device, "configurations": p.configurations}
    grid = []
    for dataset in p.datasets:
        for name in p.main_architectures:
            large = 1.0 if name in models.REFERENCES else 25.0
            seconds = large * len(p.main_rates) * (by_hand * _BY_HAND + mapped * _MAPPED) + 0.3
            cost = {"cost": seconds, "models": len(p.main_rates) * (by_hand + mapped)}
            for seed in range(p.seeds):
                given = {"dataset": dataset, "architecture": name, "seed": seed} | common
                grid.append(Task(f"{__name__}:run_task", given, **cost))
    return grid


def estimate(p: Parameters) -> Estimate:
    """The expected time, from what trainings took when they were measured, and the peak memory."""
    memory = 0.8e9 + 400 * p.configurations * (p.caps["train"] + p.caps["test"])
    return pooled(p, tasks(p), f"{len(p.datasets)} data sets, {p.seeds} seeds", memory)


def run_task(
    dataset: str,
    architecture: str,
    seed: int,
    root_seed: int,
    rates: Sequence[float],
    caps: dict[str, int],
    encoder: str,
    device: str,
    configurations: int,
) -> list[dict[str, Any]]:
    """The rows of one task: ``precision``, ``recall``, ``macro_f1``, ``accuracy`` and ``ece`` on the clean test set.

    ``part`` is "main" (a row per rate, method and draw of a random subset) or "ablation" (per rate, variant and set of
    components that are on). A row of DATA-LAB carries its weights' effective sample size as a share of n, ``ess``, and
    ``weights_auroc``, the chance that a clean example outweighs a flipped one.
    """
    trial = Trial(dataset, architecture, seed, root_seed, tuple(rates), caps, encoder, device)
    y, n_classes = trial.prepared.y_test, trial.prepared.n_classes
    rows = []
    for decision in decide(trial, configurations):
        p = decision.test_probabilities
        predicted = p.argmax(1)
        row = {"dataset": dataset, "architecture": architecture, "seed": seed}
        row |= {"rate": decision.rate, "part": decision.part, "method": decision.method} | decision.settings
        row["precision"] = metrics.macro_precision(y, predicted, n_classes)
        row["recall"] = metrics.macro_recall(y, predicted, n_classes)
        row["macro_f1"] = metrics.macro_f1(y, predicted, n_classes)
        row["accuracy"] = metrics.accuracy(y, predicted)
        row["ece"] = metrics.ece(y, p, ECE_BINS)
        rows.append(row)
    return rows


@dataclass(frozen=True)
class Decision:
    """One trained model: what was chosen for it, and what it says of the test examples, (n_test, C)."""

    rate: float
    part: str
    method: str
    settings: dict[str, Any]
    test_probabilities: NDArray[np.float32] = field(repr=False)


def decide(trial: Trial, configurations: int) -> list[Decision]:
    """Train and tune every arm at every rate, and ablate DATA-LAB. Reads no test label."""
    grid = penalties(configurations)
    kept = influence_kept(trial)
    everything = np.ones_like(kept)
    labels, validation = trial.observed, trial.observed_validation
    # The upper bound knows every clean label, of the validation set too.
    rates = len(trial.rates)
    clean, clean_validation = (np.tile(y, (rates, 1)) for y in (trial.prepared.y_train, trial.prepared.y_val))
    decisions = [
        *penalised(trial, "vanilla", grid, labels, validation, everything),
        *penalised(trial, "influence", grid, labels, validation, kept),
        *random_subsets(trial, grid),
        *penalised(trial, "label_noise", grid, labels, validation, transition=transitions(trial)),
        *penalised(trial, CLEAN, grid, clean, clean_validation, everything),
    ]
    lambdas = {}
    for variant in framework.VARIANTS:
        tuned, lambdas[variant] = tuned_datalab(trial, variant, lambda_pairs(configurations))
        decisions += tuned
    return decisions + ablations(trial, lambdas)


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
    """An arm whose one hyperparameter is the penalty, at every rate: trained at each of ``grid`` (q,), the best kept.

    ``labels`` (rates, n) and ``kept`` (rates, n; None: everything) are what it is trained on, ``validation``
    (rates, n_val) what chooses. ``transition`` (rates, C, C) corrects the loss forward (Patrini et al. 2017).
    """
    q, module, settings = len(grid), trial.classifier(), None
    if transition is not None:
        module = correction.ForwardCorrected(module)
        settings = {"transition": trial.tensor(np.repeat(transition, q, 0).astype(np.float32))}
    masks = None if kept is None else np.repeat(kept, q, 0)
    stack = _fit(trial, module, np.repeat(labels, q, 0), masks, np.tile(grid, len(labels)), settings)
    best = chosen(trial, stack, validation, q)
    decisions = []
    for i, (model, p) in enumerate(zip(best, probabilities(stack, trial.x_test, best), strict=True)):
        picked = {"lambda1": grid[model % q]}
        if kept is not None:
            picked["n_kept"] = int(kept[i].sum())
        if transition is not None:
            picked["estimated_noise"] = 1 - float(np.diag(transition[i]).mean())
        decisions.append(Decision(trial.rates[i], "main", method, picked, p))
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
    lambda1 = np.tile([decision.settings["lambda1"] for decision in first], len(others))
    p = iter(probabilities(_fit(trial, trial.classifier(), labels, kept, lambda1), trial.x_test))
    return first + [
        replace(decision, settings=decision.settings | {"draw": draw}, test_probabilities=next(p))
        for draw in others
        for decision in first
    ]


def _fit(
    trial: Trial,
    module: torch.nn.Module,
    labels: NDArray,
    kept: NDArray | None,
    lambda1: NDArray,
    settings: dict[str, torch.Tensor] | None = None,
) -> AnyStack:
    drawn = [trial.model_seed("model")] * len(labels)
    return fit_many(module, trial.x, labels, kept, drawn, protocol_recipe(), l2=2 * lambda1, settings=settings)


def tuned_datalab(trial: Trial, variant: str, grid: NDArray) -> tuple[list[Decision], NDArray[np.float64]]:
    """One variant at every rate, and the lambdas (rates, 2) that validation chose for it from ``grid`` (q, 2)."""
    q = len(grid)
    labels, every = np.repeat(trial.observed, q, 0), np.tile(grid, (len(trial.rates), 1))
    stack = fit_datalab(trial, trial.datalab(variant=variant), labels, every)
    best = chosen(trial, stack, trial.observed_validation, q)
    stack = stack.take(best)  # of the many only the chosen are looked at further
    w = framework.weights(stack, trial.x, trial.observed)
    lambdas, decisions = grid[np.array(best) % q], []
    for i, p in enumerate(probabilities(stack, trial.x_test)):
        picked = {"variant": variant, "lambda1": lambdas[i, 0], "lambda2": lambdas[i, 1]}
        picked |= seen_in_weights(w[i], trial, i)
        main = Decision(trial.rates[i], "main", DATALAB[variant], picked, p)
        decisions += [main, replace(main, part="ablation", settings=picked | _on(True, True, True))]
    return decisions, lambdas


def ablations(trial: Trial, lambdas: dict[str, NDArray]) -> list[Decision]:
    """Every set of components but the whole, at the lambdas (rates, 2) chosen for each variant's whole."""
    decisions = []
    for projection in (True, False):
        # Without weights the variants are one model, at each one's lambda1.
        for weighting, variants in ((True, ("paper",)), (True, ("label-aware",)), (False, framework.VARIANTS)):
            module = trial.datalab(variant=variants[0], projection=projection, weighting=weighting)
            shares = [0.0] if projection and weighting else [1.0, 0.0]  # of the lambdas: 0 leaves component 3 out
            arms = [(name, share, i) for name in variants for share in shares for i in range(len(trial.rates))]
            pairs = np.array([share * lambdas[name][i] for name, share, i in arms])
            stack = fit_datalab(trial, module, trial.observed[[i for *_, i in arms]], pairs)
            p = probabilities(stack, trial.x_test)
            for j, (name, share, i) in enumerate(arms):
                settings = {"variant": name, "lambda1": pairs[j, 0], "lambda2": pairs[j, 1]}
                settings |= _on(projection, weighting, share > 0)
                decisions.append(Decision(trial.rates[i], "ablation", DATALAB[name], settings, p[j]))
    return decisions


def _on(projection: bool, weighting: bool, regularisation: bool) -> dict[str, bool]:
    return {"projection": projection, "weighting": weighting, "regularisation": regularisation}
