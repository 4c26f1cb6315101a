"""Section 4.5: what does each of DATA-LAB's components add to training time, inference time and memory?

Measured in turn on one machine: an overhead is a ratio within a repetition, less 1; a data set counts by its median
over repetitions, and intervals are over data sets.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import pandas as pd
import pydantic
import torch

from datalab import framework, ledger, stats
from datalab.protocol import protocol
from datalab.record import Statement
from datalab.sections import compare, sentences
from datalab.sections.parameters import Datasets, TrialParameters, estimated
from datalab.sections.trials import trial
from datalab.sections.trials.trial import Trial
from datalab.sweep import Task
from datalab.sweep.cost import peak_memory, timed
from datalab.training import AnyStack, protocol_recipe

# Which components are on: (projection, weighting, regularisation).
CONFIGURATIONS = {
    "baseline": (False, False, False),
    "Feature Extraction": (True, False, False),
    "Adaptive Weighting": (False, True, False),
    "Regularization": (False, True, True),
    "Total": (True, True, True),
}
SCORING = "influence scoring"  # what the paper's table leaves out: the reference models and their scores
# The rows of table 4.5: what each is measured against, and its name in the ledger's ids.
COMPONENTS = {
    "Feature Extraction": ("baseline", "fe"),
    "Adaptive Weighting": ("baseline", "aw"),
    "Regularization": ("Adaptive Weighting", "reg"),
    "Total": ("baseline", "total"),
}
# Its columns: what is measured, its title and its name in the ledger's ids.
COLUMNS = {
    "train": ("Training Time Overhead (%)", "train"),
    "infer": ("Inference Time Overhead (%)", "infer"),
    "memory": ("Memory Overhead (%)", "mem"),
}
_INFERENCES = 20  # passes over the test set a measurement


class Parameters(TrialParameters):
    framework_datasets: Datasets
    overhead_repetitions: Annotated[int, pydantic.Field(ge=3, le=1000, strict=True)]


def tasks(p: Parameters) -> list[Task]:
    """One task a data set, with all configurations and repetitions."""
    rounds, function = p.overhead_repetitions + 1, f"{__name__}:run_task"  # one more warms up
    given = {"repetitions": p.overhead_repetitions} | p.of_trial
    return [Task(function, {"dataset": name} | given, 1.3 * rounds, 15 * rounds + 2) for name in p.framework_datasets]


estimate = estimated(tasks, memory=8e8)


def run_task(repetitions: int, **given: Any) -> list[dict[str, Any]]:
    """A row per repetition, variant and configuration: seconds to train and to predict, and peak bytes of tensors.

    One model at a time, all by the same code, in turn within each repetition, so that whatever else the machine does
    falls on all of them. ``train`` is 50 steps of the recipe, ``infer`` the test set 20 times; ``memory`` is counted by
    torch's profiler over a few steps, parameters, gradients and Adam's moments included, and once, as it does not vary.
    ``influence scoring`` is a plain training in full, batched by hand as the reference models are, followed by theirs
    and the scoring; its ``base`` is the plain training alone. ``given`` is as for :class:`Trial`.
    """
    study = Trial(architecture="mlp", seed=0, rates=(protocol().framework["verdict_rate"],), **given)
    arms = [(variant, name) for variant in framework.VARIANTS for name in CONFIGURATIONS]
    memory = {arm: peak_memory(training(study, *arm, steps=3)) for arm in arms}
    rows = []
    for repetition in range(-1, repetitions):  # the first round warms up
        common = {"dataset": study.dataset, "repetition": repetition}
        for variant, name in arms:
            train, stack = timed(training(study, variant, name, steps=50))
            infer = inference_seconds(stack.model(0), study.x_test)
            costs = {"train": train, "infer": infer, "memory": memory[variant, name]}
            rows.append(common | {"variant": variant, "configuration": name} | costs)
        scoring, _ = timed(lambda: trial.self_influence(study, *trial.references(study)))
        plain, _ = timed(lambda: trial.fit(study, study.observed))
        costs = {"train": plain + scoring, "base": plain}
        rows.append(common | {"variant": "both", "configuration": SCORING} | costs)
    return [row for row in rows if row["repetition"] >= 0]


def training(study: Trial, variant: str, name: str, steps: int) -> Callable[[], AnyStack]:
    """What trains one model of a configuration, at the default lambdas."""
    projection, weighting, regularisation = CONFIGURATIONS[name]
    module = study.datalab(variant=variant, projection=projection, weighting=weighting)
    lambdas, recipe = regularisation * trial.default_lambdas(1), protocol_recipe()._replace(steps=steps)
    return lambda: trial.fit_datalab(study, module, study.observed, lambdas, recipe=recipe)


def inference_seconds(model: framework.DataLab, x: torch.Tensor) -> float:
    """Seconds of the deployed model on x (n, d)."""
    used = deployed(model)
    with torch.inference_mode():
        return timed(lambda: [used(x) for _ in range(_INFERENCES)])[0]


def claim_id(configuration: str, measure: str) -> str:
    """The ledger's id of one cell of table 4.5."""
    return f"T5.{COMPONENTS[configuration][1]}.{COLUMNS[measure][1]}"


def overhead(rows: pd.DataFrame, variant: str, configuration: str, measure: str) -> pd.Series:
    """The overhead, a ratio less 1, one value a data set: the median over repetitions of ratios within each."""
    rows = rows[rows.variant.isin([variant, "both"])].set_index(["dataset", "repetition"])
    of = {name: part[measure] for name, part in rows.groupby("configuration")}
    base = rows.base.dropna() if configuration == SCORING else of[COMPONENTS[configuration][0]]
    return (of[configuration] / base).groupby(level="dataset", sort=False).median() - 1


def cells(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per variant, component and measure: the paper's overhead and ours, in %."""
    printed = ledger.printed()

    def row(variant: str, component: str, measure: str) -> dict[str, Any]:
        values = 100 * overhead(rows, variant, component, measure)
        against = "baseline" if component == SCORING else COMPONENTS[component][0]
        key = {"variant": variant, "component": component, "against": against, "measure": COLUMNS[measure][0]}
        paper = {} if component == SCORING else {"paper": printed[claim_id(component, measure)]}
        return key | paper | compare.mean_with_interval(values, "ours") | {"sets": len(values)}

    keys = [*itertools.product(framework.VARIANTS, COMPONENTS, COLUMNS), ("both", SCORING, "train")]
    return pd.DataFrame([row(*key) for key in keys])


def times(rows: pd.DataFrame) -> pd.DataFrame:
    """The medians behind the ratios: milliseconds for 50 steps of training and for one pass over the test set, KiB."""
    scale = {"train": 1000, "infer": 1000 / _INFERENCES, "memory": 1 / 1024}
    of_arm = rows[rows.configuration != SCORING].groupby(["variant", "configuration"], sort=False)
    medians = of_arm[list(scale)].median() * scale
    return medians.set_axis(["50 training steps (ms)", "a test set (ms)", "KiB"], axis=1).reset_index()


def deployed(model: framework.DataLab) -> torch.nn.Module:
    """What is used after training: an ordinary module, without what training alone needs."""
    return torch.nn.Sequential(model.project, model.classifier).eval()


def architecture_change() -> Statement:
    """Whether DATA-LAB changes the training objective alone: the parameters of its deployed model beside plain ones'.

    A count, of 64 features and 10 classes: nothing is sampled, and any number but 0 says no.
    """
    full, plain = (deployed(framework.DataLab((1, 1, 64), 10, projection=on, weighting=on)) for on in (True, False))
    added = [name for name, _ in full.named_parameters() if name not in dict(plain.named_parameters())]
    made = ledger.read("S5.1.no_arch_change", len(added), table="cells", row="paper, Total", raw={"variant": "paper"})
    why = f"counted: the deployed model has {len(added)} parameter tensors more, the projection's {', '.join(added)}"
    return replace(made, verdict=ledger.OPPOSITE if added else ledger.DIRECTION, why=why)


def verdicts(rows: pd.DataFrame) -> list[Statement]:
    """The section's statements, on the variant ``paper``."""
    limit = protocol().overhead["modest"]

    def raw(name: str) -> dict[str, Any]:
        return {"variant": "paper", "configuration": [name, COMPONENTS[name][0]]}

    def judged(claim: str, name: str, measure: str) -> Statement:
        how = {"side": "greater", "metric": "relative_overhead"}
        where = {"table": "cells", "row": f"paper, {name}, {COLUMNS[measure][0]}", "raw": raw(name)}
        return ledger.judge(claim, overhead(rows, "paper", name, measure), scale=100, **how, **where)

    own = overhead(rows, "paper", "Total", "train")
    total = own + overhead(rows, "paper", SCORING, "train")
    where = {"table": "cells", "row": "paper, Total, Training Time Overhead (%); influence scoring"}
    where["raw"] = [raw("Total"), {"configuration": SCORING}]
    how = {"side": "less", "metric": None, "alpha": 0.05, "scale": 100, "unit": "%"}
    modest = stats.Measurement(total.to_numpy(), against=limit)
    alone = sentences.with_limits(compare.mean_with_interval(100 * own, "of"), "of", 1, sign="")
    beside = f"against {limit:.0%}; without influence scoring, which the paper's table omits, {alone} %"
    return [
        *(judged(claim_id(*cell), *cell) for cell in itertools.product(COMPONENTS, COLUMNS)),
        judged("S4.5.total_train", "Total", "train"),
        judged("S4.5.total_infer", "Total", "infer"),
        ledger.judge("S4.5.modest", modest, **how, beside=beside, **where),
        architecture_change(),
    ]
