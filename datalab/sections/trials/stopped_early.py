"""The methods of sections 4.1 and 4.3 with nothing tuned but, where lengths are named, how long each is trained.

Down-weighting examples may do what stopping early does. A task is a data set and seed: every method of table 4.1 and
every ablation, with the recipe's penalty and the framework's default lambdas.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from datalab import correction, framework, pruning
from datalab.protocol import protocol
from datalab.sections import compare
from datalab.sections.parameters import per_set_and_seed, stopped_early
from datalab.sections.trials import trial as trials
from datalab.sections.trials.arms import COMPONENTS, ablations
from datalab.sections.trials.trial import DATALAB, Trial
from datalab.sweep import Task
from datalab.training import AnyStack, Recipe

Train = Callable[[Recipe], AnyStack]
CASE = ["dataset", "seed", "rate"]
METHODS, ABLATION = "methods", "ablation"


def tasks(p: Any) -> tuple[list[Task], list[Task]]:
    """A task a data set and seed, with all rates and methods: for the recipe's length, and stopped early.

    ``p`` is section 4.1's parameters, of :class:`~datalab.sections.parameters.StoppedParameters`.
    """
    cost = 0.14 * len(p.main_rates) + 0.4  # seconds on one core
    models = len(p.main_rates) * 7 + 14
    made = per_set_and_seed(p, f"{__name__}:run_task", cost, models, rates=list(p.main_rates))
    stopped = stopped_early(made, p)
    same = {(task.parameters["dataset"], task.parameters["seed"]) for task in stopped}
    return [task for task in made if (task.parameters["dataset"], task.parameters["seed"]) in same], stopped


def run_task(rates: Sequence[float], lengths: Sequence[int] = (), **of: Any) -> list[dict[str, Any]]:
    """A row per rate and method: ``macro_f1`` and ``accuracy`` on the clean test set.

    ``part`` is ``METHODS`` for table 4.1's methods; at the verdicts' rate ``ABLATION`` for the sets of components that
    are on, the whole among them. ``lengths`` are those that validation chooses from, none for the recipe's. ``of``
    names the :class:`~datalab.sections.trials.trial.Trial`, whose architecture is the primary cell's.
    """
    trial = Trial(rates=tuple(rates), architecture=protocol().primary_cell["architecture"], **of)
    judged = dataclasses.replace(trial, rates=(protocol().framework["verdict_rate"],))
    lambdas = dict.fromkeys(framework.VARIANTS, trials.default_lambdas(1))
    rows, of_task = [], {"dataset": trial.dataset, "seed": trial.seed}
    for of_models, train in itertools.chain(_methods(trial), ablations(judged, lambdas)):
        at = [rates.index(row["rate"]) for row in of_models]
        predicted = trials.read_off(trial, train, lengths, at)
        for row, scores in zip(of_models, trials.scores_on_test_set(trial, predicted), strict=True):
            row = of_task | {"part": ABLATION} | row | scores
            rows.append(row)
            if row["part"] == METHODS and "variant" in row and row["rate"] in judged.rates:
                rows.append(row | {"part": ABLATION} | dict.fromkeys(COMPONENTS, True))
    return rows


def _methods(trial: Trial) -> Iterator[tuple[list[dict[str, Any]], Train]]:
    """What the rows of table 4.1's methods say, one a rate, and how their models are trained."""
    labels, keep = trial.observed, protocol().primary_cell["keep_fraction"]
    rngs = [trial.rng("random", rate, keep, 0) for rate in trial.rates]
    drawn = np.stack([pruning.random_subset(y, keep, rng=rng) for y, rng in zip(labels, rngs, strict=True)])
    corrected = correction.ForwardCorrected(trial.classifier())
    settings = {"transition": trial.tensor(trials.transitions(trial).astype(np.float32))}
    made = {
        "vanilla": (labels, {}),
        "influence": (labels, {"kept": trials.influence_kept(trial)}),
        "random": (labels, {"kept": drawn}),
        "label_noise": (labels, {"module": corrected, "settings": settings}),
        "clean": (np.tile(trial.prepared.y_train, (len(labels), 1)), {}),
    }
    for method, (seen, how) in made.items():
        rows = [{"rate": rate, "part": METHODS, "method": method} for rate in trial.rates]
        yield rows, lambda recipe, seen=seen, how=how: trials.fit(trial, seen, recipe=recipe, **how)
    lambdas = trials.default_lambdas(len(labels))
    for variant, method in DATALAB.items():
        rows = [{"rate": rate, "part": METHODS, "method": method, "variant": variant} for rate in trial.rates]
        module = trial.datalab(variant=variant)
        yield rows, lambda recipe, module=module: trials.fit_datalab(trial, module, labels, lambdas, recipe=recipe)


def gains(rows: pd.DataFrame, stopped: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """F1 of every method less vanilla's, all at the recipe's length and all stopped early, by noise rate.

    ``names`` are the methods' names in the table. Paired by data set; means with 95 % t-intervals, Wilcoxon's p, Holm
    over the table.
    """

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        d = compare.by_set(part, "d")
        level = compare.mean_with_interval(compare.by_set(part, "macro_f1"), "F1", bounds=compare.SHARE)
        return level | compare.difference(d, "less vanilla") | {"sets": len(d)}

    def of_training(rows: pd.DataFrame) -> pd.DataFrame:
        own = rows[rows.part == METHODS]
        base = own[own.method == "vanilla"].set_index(CASE).macro_f1.rename("base")
        own = own[own.method != "vanilla"].join(base, on=CASE)
        own = own.assign(d=own.macro_f1 - own.base, method=own.method.map(names))
        by = ["noise rate (%)", "method"]
        return compare.table(compare.together(own.assign(**{by[0]: 100 * own.rate}), by), by, measure)

    return compare.with_correction(compare.by_training(rows, stopped, of_training))
