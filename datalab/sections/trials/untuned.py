"""The methods of sections 4.1 and 4.3 with nothing tuned but, where lengths are named, how long each is trained.

Down-weighting examples may do what stopping early does: stopped early is the primary training of these sections. A
task is a data set, architecture and seed: every method of table 4.1 and every ablation, with the recipe's penalty and
the framework's default lambdas.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from datalab import correction, framework, pruning
from datalab.protocol import protocol
from datalab.sections.parameters import per_set_and_seed
from datalab.sections.trials import arms
from datalab.sections.trials import trial as trials
from datalab.sections.trials.trial import DATALAB, Train, Trial
from datalab.sweep import Task
from datalab.training import AnyStack


def tasks(p: Any) -> list[Task]:
    """A task a data set, architecture and seed of section 4.1, with all rates and methods, for the recipe's length."""
    cost = 0.55 * len(p.main_rates) + 0.4  # seconds on one core
    models = len(p.main_rates) * 15 + 14  # references, folds and methods are fifteen; the ablations
    given = {"architectures": p.main_architectures, "rates": list(p.main_rates)}
    return per_set_and_seed(p, f"{__name__}:run_task", cost, models, **given)


def run_task(rates: Sequence[float], lengths: Sequence[int] = (), **of: Any) -> list[dict[str, Any]]:
    """A row per rate and method, or set of components, with :func:`~datalab.sections.trials.arms.scores`.

    ``part`` is "main" for table 4.1's methods; at the verdicts' rate "ablation" for the sets of components that are on,
    the whole among them. ``lengths`` are those that validation chooses from, none for the recipe's. ``of`` names the
    :class:`~datalab.sections.trials.trial.Trial`.
    """
    trial = Trial(rates=tuple(rates), **of)
    judged = dataclasses.replace(trial, rates=(protocol().framework["verdict_rate"],))
    lambdas = dict.fromkeys(framework.VARIANTS, trials.default_lambdas(1))
    rows, of_task = [], {"dataset": trial.dataset, "architecture": trial.architecture, "seed": trial.seed}

    def probabilities(stack: AnyStack) -> np.ndarray:
        return trials.probabilities(stack, trial.x_test)

    for of_models, train in itertools.chain(_methods(trial), arms.ablations(judged, lambdas)):
        validation = trial.observed_validation[[rates.index(row["rate"]) for row in of_models]]
        if of_models[0]["method"] == "clean":  # the upper bound knows every clean label
            validation = trial.prepared.y_val
        for row, p in zip(of_models, trials.read_off(trial, train, lengths, validation, probabilities), strict=True):
            row = of_task | {"part": "ablation"} | row | arms.scores(trial, p)
            rows.append(row)
            if row["part"] == "main" and "variant" in row and row["rate"] in judged.rates:
                rows.append(row | {"part": "ablation"} | dict.fromkeys(arms.COMPONENTS, True))
    return rows


def _methods(trial: Trial) -> Iterator[tuple[list[dict[str, Any]], Train]]:
    """What the rows of table 4.1's methods say, one a rate, and how their models are trained."""
    labels, keep = trial.observed, protocol().primary_cell["keep_fraction"]
    transition = trials.transitions(trial)
    corrected = {"module": correction.ForwardCorrected(trial.classifier())}
    corrected["settings"] = {"transition": trial.tensor(transition.astype(np.float32))}
    made = [
        ({"method": "vanilla"}, labels, {}),
        ({"method": "influence"}, labels, {"kept": trials.influence_kept(trial)}),
        ({"method": "label_noise"}, labels, corrected),
        ({"method": "clean"}, np.tile(trial.prepared.y_train, (len(labels), 1)), {}),
    ]
    for draw in range(protocol().protocol_2["random_subsets"]):
        rngs = [trial.rng("random", rate, keep, draw) for rate in trial.rates]
        drawn = [pruning.random_subset(y, keep, rng=rng) for y, rng in zip(labels, rngs, strict=True)]
        made.append(({"method": "random", "draw": draw}, labels, {"kept": np.stack(drawn)}))
    noise = 1 - np.diagonal(transition, axis1=1, axis2=2).mean(1)
    for of_method, seen, how in made:
        rows = [{"rate": rate, "part": "main"} | of_method for rate in trial.rates]
        if how is corrected:
            rows = [row | {"estimated_noise": float(rate)} for row, rate in zip(rows, noise, strict=True)]
        yield rows, partial(trials.fit, trial, seen, **how)
    lambdas = trials.default_lambdas(len(labels))
    for variant, method in DATALAB.items():
        rows = [{"rate": rate, "part": "main", "method": method, "variant": variant} for rate in trial.rates]
        yield rows, partial(trials.fit_datalab, trial, trial.datalab(variant=variant), labels, lambdas)
