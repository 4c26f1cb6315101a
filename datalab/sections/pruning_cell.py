"""One cell of the study: a data set, architecture, noise kind and seed, with all its rates, keep fractions and methods.

The cell corrupts the labels at every rate, trains the reference models, scores the training examples, trains one model
per (rate, method, keep fraction) in stacks, and returns a row for each: F1 and accuracy on the clean test set.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datalab import data, metrics, models, noise, pruning, seeds
from datalab.influence import last_layer
from datalab.protocol import protocol
from datalab.stack import Stack
from datalab.training import chunk_size, fit_many, protocol_recipe

Mask = NDArray[np.bool_]

FOLDS = 5
CHECK_EVERY = 10  # steps between two looks at the training set, for the forgetting score
HUMAN = "human"  # the noise kind of labels that single raters gave (vader-tweets); it has one rate, its own


def run_cell(
    dataset: str,
    architecture: str,
    noise_kind: str,
    seed: int,
    root_seed: int,
    rates: Sequence[float | None],
    keep_fractions: Sequence[float],
    caps: dict[str, int],
    encoder: str,
    device: str,
    arm_rates: Sequence[float],
    reference_steps: Sequence[int],
) -> list[dict[str, Any]]:
    """The rows of one cell.

    Parameters
    ----------
    rates, keep_fractions
        Crossed: at each, ``influence``, ``oracle``, ``full`` and the protocol's number of ``random`` subsets. A rate is
        None where the labels are as people gave them.
    arm_rates
        The rates at which to add, at the primary keep fraction, the protocol's ``methods.primary_cell_only``.
    reference_steps
        Reference models of these lengths prune as well, at the arms' rates and the primary keep fraction.

    Each row has the cell's names, ``rate`` (nominal) and ``realised_rate``, ``method``, ``draw`` (of a random subset),
    ``keep_fraction``, ``reference_steps``, ``n_kept``, ``flipped_kept`` (the share of flipped labels among the kept),
    ``macro_f1`` and ``accuracy``.
    """
    prepared = data.prepare(dataset, seed, root_seed, caps, encoder)
    names = (dataset, architecture, noise_kind, seed)
    module = models.build(architecture, prepared.grid, prepared.n_classes, protocol().training["hidden"])
    study = _Study(prepared, module, names, root_seed, torch.device(device))
    arms: list[_Arm] = []
    labels, kept = [], []
    for rate, scored in zip(rates, _score(study, rates, arm_rates, reference_steps), strict=True):
        for arm, mask in _arms(study, rate, scored, keep_fractions):
            arms.append(arm)
            labels.append(scored.labels)
            kept.append(mask)
    f1, accuracy = _train_and_test(study, np.array(labels), np.array(kept))
    common = dict(zip(("dataset", "architecture", "noise", "seed"), names, strict=True))
    clean = prepared.y_train
    return [
        common
        | {
            "rate": noise.realised_rate(clean, observed) if arm.rate is None else arm.rate,
            "realised_rate": noise.realised_rate(clean, observed),
            "method": arm.method,
            "draw": arm.draw,
            "keep_fraction": arm.keep_fraction,
            "reference_steps": arm.reference_steps,
            "n_kept": int(mask.sum()),
            "flipped_kept": float(np.mean(observed[mask] != clean[mask])),
            "macro_f1": f1[i],
            "accuracy": accuracy[i],
        }
        for i, (arm, observed, mask) in enumerate(zip(arms, labels, kept, strict=True))
    ]


@dataclass(frozen=True)
class _Study:
    """What the parts of a cell share."""

    prepared: data.Prepared
    module: torch.nn.Sequential
    names: tuple[str, str, str, int]
    root_seed: int
    device: torch.device

    def rng(self, *what: object) -> np.random.Generator:
        return seeds.generator(self.root_seed, *self.names, *what)

    def model_seed(self, *what: object) -> int:
        # Not a function of the noise: the models of all noise kinds and rates start alike and see the same batch order.
        dataset, architecture, _, seed = self.names
        return seeds.integer(self.root_seed, dataset, architecture, seed, *what)

    def tensor(self, x: NDArray) -> torch.Tensor:
        return torch.as_tensor(x, device=self.device)


@dataclass(frozen=True)
class _Arm:
    """One trained model's place in the tables."""

    rate: float | None
    method: str
    keep_fraction: float
    draw: int = 0
    reference_steps: int = 0


@dataclass
class _Scored:
    """One rate's observed labels and what the reference models say of every training example (high = drop first)."""

    labels: NDArray[np.int64]
    influence: dict[int, NDArray] = field(default_factory=dict)
    rivals: dict[str, NDArray] = field(default_factory=dict)


def _score(
    study: _Study, rates: Sequence[float | None], arm_rates: Sequence[float], extra_steps: Sequence[int]
) -> list[_Scored]:
    """Corrupt the labels at every rate, train the reference models, and score: the title's score at every rate, the

    others at the arms' rates.
    """
    steps = protocol().reference["steps"]
    observed = [_observed(study, rate) for rate in rates]
    scored = [_Scored(train) for train, _ in observed]
    arms = [at for at, rate in enumerate(rates) if rate in arm_rates]
    if not arms:
        _score_by_influence(study, scored, steps)
        return scored
    # The arms' rates apart, so that only their models' training histories are kept.
    _score_by_influence(study, [each for at, each in enumerate(scored) if at not in arms], steps)
    _score_by_rivals(study, [scored[at] for at in arms], [observed[at][1] for at in arms])
    for other in extra_steps:
        _score_by_influence(study, [scored[at] for at in arms], other)
    return scored


def _score_by_influence(study: _Study, scored: list[_Scored], steps: int) -> None:
    """Self-influence at every rate, by reference models trained for ``steps``."""
    if not scored:
        return
    stack, x, labels = _references(study, scored, steps)
    own = last_layer.scores_many(_features(stack, x), stack(x), labels, l2=protocol_recipe().l2).self_influence
    for each, values in zip(scored, _mean_over_models(own, len(scored)), strict=True):
        each.influence[steps] = values


def _score_by_rivals(study: _Study, scored: list[_Scored], noisy_validation: list[NDArray]) -> None:
    """Self-influence and every rival score, by reference models of the protocol's length."""
    history = _History()
    stack, x, labels = _references(study, scored, protocol().reference["steps"], history)
    logits = stack(x)
    targets = _harm_targets(study, stack, noisy_validation)
    found = last_layer.scores_many(
        _features(stack, x), logits, labels, l2=protocol_recipe().l2, targets=list(targets.values())
    )
    probabilities, observed = torch.softmax(logits, -1).cpu().numpy(), labels.cpu().numpy()
    scores = dict(zip(targets, found.influence_on, strict=True))
    scores |= {name: getattr(pruning, name)(probabilities, observed) for name in ("el2n", "loss", "margin")}
    scores["forgetting"] = np.stack([pruning.forgetting(one) for one in history.array()])
    scores["self_influence"] = found.self_influence
    for name, values in scores.items():
        for each, mean in zip(scored, _mean_over_models(values, len(scored)), strict=True):
            each.rivals[name] = mean
    out_of_sample = _out_of_sample(study, [each.labels for each in scored])
    for each, p in zip(scored, out_of_sample, strict=True):
        each.influence[protocol().reference["steps"]] = each.rivals.pop("self_influence")
        each.rivals["keep_hardest"] = pruning.keep_hardest(each.influence[protocol().reference["steps"]])
        each.rivals["confident_learning"] = pruning.confident_learning(p, each.labels)


def _references(
    study: _Study, scored: list[_Scored], steps: int, history: "_History | None" = None
) -> tuple[Stack, torch.Tensor, torch.Tensor]:
    """The reference models of every rate, trained as one stack, with the features and labels they were trained on."""
    per_rate = protocol().reference["models"]
    labels = np.repeat([each.labels for each in scored], per_rate, axis=0)
    model_seeds = [study.model_seed("reference", i) for _ in scored for i in range(per_rate)]
    x = study.tensor(study.prepared.x_train)
    if history is not None:
        history.watch(x, study.tensor(labels))
    stack = fit_many(study.module, x, labels, None, model_seeds, protocol_recipe(steps), on_step=history)
    return stack, x, study.tensor(labels)


def _observed(study: _Study, rate: float | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The training and validation labels as the study sees them; the validation set has the same noise."""
    p, kind = study.prepared, study.names[2]
    if kind == HUMAN:
        return p.human_labels_train, p.human_labels_val
    corrupt = noise.corrupt
    return (
        corrupt(p.y_train, kind, rate, p.n_classes, study.rng("noise", "train", rate), p.x_train),
        corrupt(p.y_val, kind, rate, p.n_classes, study.rng("noise", "validation", rate), p.x_val),
    )


def _features(stack: Stack, x: torch.Tensor) -> torch.Tensor:
    return stack.features(x).expand(len(stack), -1, -1)


def _harm_targets(study: _Study, stack: Stack, noisy: list[NDArray]) -> dict[str, last_layer.Target]:
    """The validation loss, with the labels as observed and, as a separate arm, with clean ones."""
    x = study.tensor(study.prepared.x_val)
    features, logits = _features(stack, x), stack(x)
    observed = study.tensor(np.repeat(noisy, len(stack) // len(noisy), axis=0))
    return {
        "harm_noisy": last_layer.Target(features, logits, observed),
        "harm_clean": last_layer.Target(features, logits, study.tensor(study.prepared.y_val)),
    }


class _History:
    """Which training examples each model gets right, looked at every few steps."""

    def watch(self, x: torch.Tensor, labels: torch.Tensor) -> None:
        self.x, self.labels, self.rows = x, labels, []

    def __call__(self, step: int, stack: Stack) -> None:
        if step % CHECK_EVERY == 0:
            self.rows.append((stack.predict(self.x) == self.labels).cpu().numpy())

    def array(self) -> NDArray[np.bool_]:
        """(S, T, n)."""
        return np.stack(self.rows, axis=1)


def _out_of_sample(study: _Study, labels: list[NDArray]) -> list[NDArray]:
    """Each rate's probabilities (n, C) from models that did not see the example, by k-fold cross-validation."""
    x = study.tensor(study.prepared.x_train)
    n = len(x)
    fold = study.rng("folds").permutation(n) % FOLDS
    kept = np.tile(np.stack([fold != k for k in range(FOLDS)]), (len(labels), 1))
    model_seeds = [study.model_seed("fold", k) for _ in labels for k in range(FOLDS)]
    stack = fit_many(study.module, x, np.repeat(labels, FOLDS, axis=0), kept, model_seeds, protocol_recipe())
    p = torch.softmax(stack(x), -1).cpu().numpy().reshape(len(labels), FOLDS, n, -1)
    return list(p[:, fold, np.arange(n)])


def _arms(
    study: _Study, rate: float | None, scored: _Scored, keep_fractions: Sequence[float]
) -> list[tuple[_Arm, Mask]]:
    """Every (arm, kept mask) of one rate."""
    labels, rule, primary = scored.labels, protocol(), protocol().primary_cell["keep_fraction"]
    steps = rule.reference["steps"]
    clean = study.prepared.y_train

    def random(keep: float, draw: int, quota: str) -> Mask:
        rng = study.rng("random", rate, keep, draw)
        return pruning.random_subset(labels, keep, quota, rng=rng)

    truth = pruning.oracle(labels, clean)
    arms = [(_Arm(rate, "full", 1.0), np.ones(len(labels), dtype=bool)), (_Arm(rate, "oracle", truth.mean()), truth)]
    for keep in keep_fractions:
        arms.append((_Arm(rate, "influence", keep, 0, steps), pruning.keep(scored.influence[steps], labels, keep)))
        for draw in range(rule.random_subsets):
            arms.append((_Arm(rate, "random", keep, draw), random(keep, draw, "per_class")))
    for length, values in scored.influence.items():
        if length != steps:
            arms.append((_Arm(rate, "influence", primary, 0, length), pruning.keep(values, labels, primary)))
    if scored.rivals:
        for name, values in scored.rivals.items():
            arms.append((_Arm(rate, name, primary), pruning.keep(values, labels, primary)))
        everywhere = pruning.keep(scored.influence[steps], labels, primary, "global")
        arms.append((_Arm(rate, "influence_global", primary, 0, steps), everywhere))
        for draw in range(rule.random_subsets):
            arms.append((_Arm(rate, "random_global", primary, draw), random(primary, draw, "global")))
    return arms


def _train_and_test(study: _Study, labels: NDArray, kept: Mask) -> tuple[NDArray, NDArray]:
    """Macro-F1 and accuracy on the clean test set of one model per row of labels and kept, all from one seed."""
    prepared = study.prepared
    x, x_test = study.tensor(prepared.x_train), study.tensor(prepared.x_test)
    chunk = chunk_size(study.module, protocol_recipe(), x.shape[1])
    predictions = []
    for start in range(0, len(labels), chunk):
        part = slice(start, start + chunk)
        model_seeds = [study.model_seed("model")] * len(labels[part])
        stack = fit_many(study.module, x, labels[part], kept[part], model_seeds, protocol_recipe())
        predictions.append(stack.predict(x_test).cpu().numpy())
    predicted = np.concatenate(predictions)
    y = prepared.y_test
    return metrics.macro_f1(y, predicted, prepared.n_classes), metrics.accuracy(y, predicted)


def _mean_over_models(values: torch.Tensor | NDArray, rates: int) -> NDArray[np.float64]:
    """(rates * models, n) -> (rates, n)."""
    values = values.double().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values, dtype=np.float64)
    return values.reshape(rates, -1, values.shape[-1]).mean(1)
