"""The arms of the title: what scores the training examples, what each arm keeps of them, and what is trained on it.

One convention, as in :mod:`datalab.pruning`: a high score is dropped first. A score is the mean of what a rate's
reference models say.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datalab import pruning
from datalab.influence import last_layer
from datalab.protocol import protocol
from datalab.sections.trials.trial import (
    Looks,
    Trial,
    features,
    fit,
    mean_of_references,
    out_of_sample,
    references,
    scores_on_test_set,
    self_influence,
)
from datalab.training import chunk_size, protocol_recipe

CHECK_EVERY = 10  # steps between two looks at the training set, for forgetting and the area under the margin
Scores = dict[str, NDArray[np.float64]]
Mask = NDArray[np.bool_]


def scores_by_rate(trial: Trial, arm_rates: Sequence[float]) -> list[Scores]:
    """For every rate of the trial its scores (n,), by method: ``influence``, and at ``arm_rates`` every rival."""
    at_arms = [i for i, rate in enumerate(trial.rates) if rate in arm_rates]
    # The arms' rates apart, so that only their models' training histories are kept.
    others = [i for i in range(len(trial.rates)) if i not in at_arms]
    scores: list[Scores] = [{} for _ in trial.rates]
    if others:
        for i, values in zip(others, self_influence(trial, *references(trial, trial.observed[others])), strict=True):
            scores[i]["influence"] = values
    if at_arms:
        for method, values in all_scores(trial, trial.observed[at_arms], trial.observed_validation[at_arms]).items():
            for i, of_rate in zip(at_arms, values, strict=True):
                scores[i][method] = of_rate
    return scores


def all_scores(trial: Trial, observed: NDArray, observed_validation: NDArray) -> dict[str, NDArray[np.float64]]:
    """Every method's score (rates, n) of the training examples, whose labels are ``observed`` (rates, n).

    ``harm_noisy`` and ``harm_clean`` are the influence on the loss of the validation set with ``observed_validation``
    (rates, n_val) and with clean labels, ``influence`` is the self-influence; the others are those of
    :mod:`datalab.pruning`.
    """
    looks = Looks(trial, observed, CHECK_EVERY)
    stack, labels = references(trial, observed, on_step=looks)
    logits = stack(trial.x)
    validation = (features(stack, trial.x_val), stack(trial.x_val))
    noisy = trial.tensor(np.repeat(observed_validation, protocol().reference["models"], axis=0))
    influence = last_layer.scores_many(
        features(stack, trial.x),
        logits,
        trial.tensor(labels),
        l2=protocol_recipe().l2,
        targets=[last_layer.Target(*validation, y) for y in (noisy, trial.tensor(trial.prepared.y_val))],
    )
    p = torch.softmax(logits, -1).cpu().numpy()
    scores = dict(zip(("harm_noisy", "harm_clean"), influence.influence_on, strict=True))
    scores |= {"el2n": pruning.el2n(p, labels), "loss": pruning.loss(p, labels), "margin": pruning.margin(p, labels)}
    scores["forgetting"] = np.stack([pruning.forgetting(of_model) for of_model in np.stack(looks.right, axis=1)])
    scores |= {"influence": influence.self_influence, "area_under_margin": np.mean(looks.margins, axis=0)}
    means = {name: mean_of_references(values) for name, values in scores.items()}
    means["keep_hardest"] = pruning.keep_hardest(means["influence"])
    unseen = out_of_sample(trial, observed)
    pairs = zip(unseen, observed, strict=True)
    means["confident_learning"] = np.stack([pruning.confident_learning(p, y) for p, y in pairs])
    means["cross_validated_loss"] = pruning.loss(unseen, observed).astype(np.float64)
    return means


def arms(
    trial: Trial, rate: float, observed: NDArray, scores: Scores, keep_fractions: Sequence[float]
) -> list[tuple[dict[str, Any], Mask]]:
    """One rate's models to train: what its row says of it, and the mask (n,) of the examples it keeps."""
    primary = protocol().primary_cell["keep_fraction"]
    made: list[tuple[dict[str, Any], Mask]] = []

    def arm(method: str, keep: float, mask: Mask, draw: int = 0) -> None:
        made.append(({"method": method, "draw": draw, "keep_fraction": keep}, mask))

    def random(method: str, keep: float, quota: str) -> None:
        for draw in range(protocol().random_subsets):
            rng = trial.rng("random", rate, keep, draw)
            arm(method, keep, pruning.random_subset(observed, keep, quota, rng=rng), draw)

    own, truth = scores["influence"], pruning.oracle(observed, trial.prepared.y_train)
    arm("full", 1.0, np.ones_like(truth))
    arm("oracle", truth.mean(), truth)
    for keep in keep_fractions:
        arm("influence", keep, pruning.keep(own, observed, keep))
        random("random", keep, "per_class")
    for method, values in scores.items():
        if method != "influence":
            arm(method, primary, pruning.keep(values, observed, primary))
    if len(scores) > 1:
        arm("influence_global", primary, pruning.keep(own, observed, primary, "global"))
        random("random_global", primary, "global")
    return made


def train_and_test(trial: Trial, labels: Sequence[NDArray], kept: Sequence[Mask]) -> list[dict[str, float]]:
    """The test scores of one model per labels and kept, all from one seed, as many at a time as fit the cache."""
    chunk, scored = chunk_size(trial.classifier(), protocol_recipe(), trial.x.shape[1], trial.device), []
    for start in range(0, len(labels), chunk):
        part = slice(start, start + chunk)
        scored += scores_on_test_set(trial, fit(trial, np.array(labels[part]), np.array(kept[part])))
    return scored
