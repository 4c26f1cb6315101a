"""One cell of section 4.4: five methods at rising training sizes, a data set, architecture and seed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datalab import correction, framework, metrics, pruning
from datalab.influence import LastLayerGGN
from datalab.influence.estimator import quiet
from datalab.protocol import protocol
from datalab.sections.trial import DATALAB, Trial, transitions
from datalab.sweep.cost import peak_memory, timed
from datalab.training import Recipe, fit_many, protocol_recipe

METHODS = ("vanilla", "influence", "random", "label_noise", *DATALAB.values())


def run_cell(
    dataset: str,
    architecture: str,
    seed: int,
    root_seed: int,
    sizes: Sequence[int],
    test: int,
    validation: int,
    encoder: str,
    device: str,
) -> list[dict[str, Any]]:
    """A row per size and method (and draw of a random subset): macro-F1 and accuracy on the clean test set.

    ``n`` is the size reached, which is less than ``size`` where the data set has no more. Nothing is tuned; the number
    of steps grows with the size (:func:`recipe_at`). The rows of ``influence`` have the ``seconds`` that scoring the
    training set took and, at the first seed, the most bytes that its tensors held, ``memory``.
    """
    rows = []
    for size in sizes:
        caps = {"train": size, "validation": validation, "test": test}
        study = Trial(
            dataset, architecture, seed, root_seed, (protocol().framework["verdict_rate"],), caps, encoder, device
        )
        common = {"dataset": dataset, "architecture": architecture, "seed": seed, "size": size, "n": len(study.x)}
        rows += [common | row for row in _methods(study, recipe_at(size))]
    return rows


def recipe_at(size: int) -> Recipe:
    """The recipe with as many steps as the protocol gives a training set of this size; from 1,000 rows on, more."""
    recipe = protocol_recipe()
    growth = max(size / 1000, 1) ** protocol().scaling["steps_exponent"]
    return recipe._replace(steps=round(recipe.steps * growth))


def _methods(study: Trial, recipe: Recipe) -> list[dict[str, Any]]:
    observed, keep = study.observed[0], protocol().primary_cell["keep_fraction"]
    model_seed, default = study.model_seed("model"), protocol().framework["default"]
    drawn = [study.model_seed("reference", i) for i in range(protocol().reference["models"])]
    stack = fit_many(study.classifier(), study.x, observed, None, drawn, recipe)

    def scoring() -> NDArray[np.float64]:
        return _scores(stack, study.x, observed, recipe.l2)

    seconds, scores = timed(scoring)
    # Of one seed: it does not vary, and the profiler takes its time.
    cost = {"seconds": seconds, "memory": peak_memory(scoring) if study.seed == 0 else np.nan}
    about, kept = [{"method": "vanilla"}], [np.ones(len(observed), dtype=bool)]
    about.append({"method": "influence"} | cost)
    kept.append(pruning.keep(scores, observed, keep))
    for draw in range(protocol().random_subsets):
        about.append({"method": "random", "draw": draw})
        kept.append(pruning.random_subset(observed, keep, rng=study.rng("random", draw)))
    labels, same = np.tile(observed, (len(kept), 1)), [model_seed] * len(kept)
    predicted = [*fit_many(study.classifier(), study.x, labels, np.array(kept), same, recipe).predict(study.x_test)]
    settings = {"transition": study.tensor(transitions(study, recipe).astype(np.float32))}
    corrected = correction.ForwardCorrected(study.classifier())
    fitted = fit_many(corrected, study.x, observed, None, [model_seed], recipe, settings=settings)
    about.append({"method": "label_noise"})
    predicted.append(fitted.predict(study.x_test)[0])
    for variant, method in DATALAB.items():
        tau = protocol().framework["tau"]
        module = study.datalab(variant=variant)
        fitted = framework.fit_datalab(module, study.x, observed, [model_seed], recipe, **default, tau=tau)
        about.append({"method": method})
        predicted.append(fitted.predict(study.x_test)[0])
    y, n_classes = study.prepared.y_test, study.prepared.n_classes
    found = np.stack([one.cpu().numpy() for one in predicted])
    f1, accuracy = metrics.macro_f1(y, found, n_classes), metrics.accuracy(y, found)
    return [row | {"macro_f1": f1[i], "accuracy": accuracy[i]} for i, row in enumerate(about)]


def _scores(stack: Any, x: torch.Tensor, observed: NDArray, l2: float) -> NDArray[np.float64]:
    """The title's score, streamed over the training set: the reference models' mean."""
    y = torch.as_tensor(observed, device=x.device)
    with quiet():
        estimator = LastLayerGGN(stack, l2=l2).fit(x, y)
    return estimator.self_influence(x, y).double().mean(0).cpu().numpy()
