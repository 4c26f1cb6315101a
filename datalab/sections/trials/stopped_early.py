"""The methods of sections 4.1 and 4.3 with the training length that each one's own noisy validation labels choose.

Down-weighting examples may do what stopping early does. A task is a data set and seed: every method of table 4.1 and
every ablation, with the recipe's penalty and the framework's default lambdas, trained for every length.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from datalab import correction, framework, metrics, pruning
from datalab.protocol import protocol
from datalab.sections import compare
from datalab.sections.parameters import Count, Lengths, TrialParameters, per_set_and_seed
from datalab.sections.readings import STOPPED, early_stopped
from datalab.sections.trials.arms import COMPONENTS, ablations
from datalab.sections.trials.trial import (
    DATALAB,
    Trial,
    default_lambdas,
    fit,
    fit_datalab,
    influence_kept,
    scores_on_test_set,
    transitions,
)
from datalab.sweep import Task
from datalab.training import AnyStack, Recipe, protocol_recipe

CASE = ["dataset", "seed", "rate"]
ABLATION = "ablation, stopped early"
MODEL = ["part", *CASE, "method", *COMPONENTS]


class StoppedParameters(TrialParameters):
    """What a section takes that lets every arm choose its length; ``None`` is the profile's value."""

    lengths: Lengths
    length_seeds: Count


def tasks(p: Any) -> list[Task]:
    """A task a data set and seed, with all rates, methods and lengths; ``p`` is section 4.1's parameters."""
    cost = (len(p.main_rates) * 0.0007 + 0.002) * sum(p.lengths)  # seconds on one core
    given = {"rates": list(p.main_rates), "lengths": list(p.lengths)}
    models = (len(p.main_rates) * 7 + 14) * len(p.lengths)
    made = per_set_and_seed(p, f"{__name__}:run_task", cost, models, **given)
    return [task for task in made if task.parameters["seed"] < p.length_seeds]


def run_task(rates: Sequence[float], lengths: Sequence[int], **of: Any) -> list[dict[str, Any]]:
    """A row per rate, method and length: ``macro_f1`` and ``accuracy`` on the clean test set, ``validation_f1``.

    ``part`` is ``STOPPED`` for table 4.1's methods; at the verdicts' rate ``ABLATION`` for the sets of components that
    are on, the whole among them. ``of`` names the :class:`~datalab.sections.trials.trial.Trial`, whose architecture is
    the primary cell's.
    """
    trial = Trial(rates=tuple(rates), architecture=protocol().primary_cell["architecture"], **of)
    judged = dataclasses.replace(trial, rates=(protocol().framework["verdict_rate"],))
    rows, of_task = [], {"dataset": trial.dataset, "seed": trial.seed}
    lambdas = dict.fromkeys(framework.VARIANTS, default_lambdas(1))
    for steps, recipe in zip(lengths, map(protocol_recipe, lengths), strict=True):
        for of_models, stack in itertools.chain(_methods(trial, recipe), ablations(judged, lambdas, recipe)):
            predicted = stack.predict(trial.x_val).cpu().numpy()
            scored = zip(of_models, predicted, scores_on_test_set(trial, stack), strict=True)
            for row, guesses, scores in scored:
                noisy = trial.observed_validation[rates.index(row["rate"])]
                validation = metrics.macro_f1(noisy, guesses, trial.prepared.n_classes)
                row = of_task | {"part": ABLATION} | row | {"steps": steps, "validation_f1": validation} | scores
                rows.append(row)
                if row["part"] == STOPPED and "variant" in row and row["rate"] in judged.rates:
                    rows.append(row | {"part": ABLATION} | dict.fromkeys(COMPONENTS, True))
    return rows


def _methods(trial: Trial, recipe: Recipe) -> Iterator[tuple[list[dict[str, Any]], AnyStack]]:
    """The models of every method of table 4.1, one a rate, after what their rows say."""
    labels, keep = trial.observed, protocol().primary_cell["keep_fraction"]
    rngs = [trial.rng("random", rate, keep, 0) for rate in trial.rates]
    drawn = np.stack([pruning.random_subset(y, keep, rng=rng) for y, rng in zip(labels, rngs, strict=True)])
    forward = {"module": correction.ForwardCorrected(trial.classifier())}
    forward["settings"] = {"transition": trial.tensor(transitions(trial).astype(np.float32))}
    made = {
        "vanilla": fit(trial, labels, recipe=recipe),
        "influence": fit(trial, labels, influence_kept(trial), recipe=recipe),
        "random": fit(trial, labels, drawn, recipe=recipe),
        "label_noise": fit(trial, labels, recipe=recipe, **forward),
        "clean": fit(trial, np.tile(trial.prepared.y_train, (len(labels), 1)), recipe=recipe),
    }
    for variant in framework.VARIANTS:
        lambdas = default_lambdas(len(labels))
        made[DATALAB[variant]] = fit_datalab(trial, trial.datalab(variant=variant), labels, lambdas, recipe=recipe)
    variants = {DATALAB[variant]: {"variant": variant} for variant in framework.VARIANTS}
    for method, stack in made.items():
        row = {"part": STOPPED, "method": method} | variants.get(method, {})
        yield [{"rate": rate} | row for rate in trial.rates], stack


def by_training(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows, one a model, by how training ended: at the recipe's length, if it was run, and stopped early."""
    usual = protocol().training["steps"]
    parts = {f"{usual} steps": rows[rows.steps == usual]} if usual in set(rows.steps) else {}
    return parts | {STOPPED: early_stopped(rows, MODEL)}


def gains(rows: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """F1 of every method less vanilla's, all at the recipe's length and all stopped early, by noise rate.

    ``names`` are the methods' names in the table. Paired by data set; means with 95 % t-intervals, Wilcoxon's p.
    """
    frame = pd.concat(by_training(rows[rows.part == STOPPED]), names=["trained", None])
    frame = frame.reset_index("trained").reset_index(drop=True)
    base = frame[frame.method == "vanilla"].set_index(["trained", *CASE]).macro_f1.rename("base")
    frame = frame[frame.method != "vanilla"].join(base, on=["trained", *CASE])
    frame = frame.assign(d=frame.macro_f1 - frame.base, method=frame.method.map(names))
    by = ["trained", "noise rate (%)", "method"]
    frame["noise rate (%)"] = 100 * frame.rate

    def measure(part: pd.DataFrame) -> dict[str, Any]:
        d = compare.by_set(part, "d")
        level = compare.mean_with_interval(compare.by_set(part, "macro_f1"), "F1", bounds=compare.SHARE)
        return level | compare.difference(d, "less vanilla") | {"sets": len(d)}

    return compare.with_correction(compare.table(compare.together(frame, by), by, measure))
