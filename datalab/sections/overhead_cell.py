"""One cell of section 4.5: what each of DATA-LAB's components costs, measured, on one data set."""

from collections.abc import Callable
from typing import Any

import torch

from datalab import framework
from datalab.mapped import MappedStack
from datalab.protocol import protocol
from datalab.sections.trial import Trial, references, self_influence
from datalab.sweep.cost import peak_memory, timed
from datalab.training import AnyStack, Recipe, fit_many, protocol_recipe

# Which components are on: (projection, weighting, regularisation).
CONFIGURATIONS = {
    "baseline": (False, False, False),
    "Feature Extraction": (True, False, False),
    "Adaptive Weighting": (False, True, False),
    "Regularization": (False, True, True),
    "Total": (True, True, True),
}
SCORING = "influence scoring"  # what the paper's table leaves out: the reference models and their scores
_INFERENCES = 20  # passes over the test set a measurement
_TIMED_STEPS, _PROFILED_STEPS = 50, 3  # all steps cost the same, and hold the same memory


def run_cell(
    dataset: str, repetitions: int, root_seed: int, caps: dict[str, int], encoder: str, device: str
) -> list[dict[str, Any]]:
    """A row per repetition, variant and configuration: seconds to train and to predict, and peak bytes of tensors.

    One model at a time, all by the same code, in turn within each repetition, so that whatever else the machine does
    falls on all of them. ``Regularization`` is measured with weighting on, since its KL term is about the weights; its
    base is ``Adaptive Weighting``. Training is 50 steps of the recipe. ``influence scoring`` is a plain training in
    full, batched by hand as the reference models are, followed by theirs and the scoring; its ``base`` is the plain
    training alone. Prediction is the test set 20 times. Memory is counted by torch's profiler over a few steps of
    training, parameters, gradients and Adam's moments included; it does not vary, and is counted once.
    """
    study = Trial(dataset, "mlp", 0, root_seed, (protocol().framework["verdict_rate"],), caps, encoder, device)
    arms = [(variant, name) for variant in framework.VARIANTS for name in CONFIGURATIONS]
    memory = {arm: peak_memory(_training(study, *arm, _PROFILED_STEPS)) for arm in arms}
    rows = []
    for repetition in range(-1, repetitions):  # the first round warms up
        for arm in arms:
            train, stack = timed(_training(study, *arm, _TIMED_STEPS))
            infer = _inference(stack.model(0), study.x_test)
            rows.append(
                {"dataset": dataset, "repetition": repetition, "variant": arm[0], "configuration": arm[1]}
                | {"train": train, "infer": infer, "memory": memory[arm]}
            )
        seconds, _ = timed(lambda: self_influence(study, *references(study)))
        plain, _ = timed(lambda: _plain(study))
        rows.append(
            {"dataset": dataset, "repetition": repetition, "variant": "both", "configuration": SCORING}
            | {"train": plain + seconds, "base": plain}
        )
    return [row for row in rows if row["repetition"] >= 0]


def _plain(study: Trial) -> AnyStack:
    return fit_many(study.classifier(), study.x, study.observed, None, [study.model_seed("model")], protocol_recipe())


def _training(study: Trial, variant: str, name: str, steps: int) -> Callable[[], MappedStack]:
    projection, weighting, regularisation = CONFIGURATIONS[name]
    module = study.datalab(variant=variant, projection=projection, weighting=weighting)
    recipe = protocol_recipe()._replace(steps=steps)
    return lambda: _trained(study, module, regularisation, recipe)


def _trained(study: Trial, module: framework.DataLab, regularisation: bool, recipe: Recipe) -> MappedStack:
    default = protocol().framework["default"]
    lambdas = {name: value if regularisation else 0.0 for name, value in default.items()}
    drawn, tau = [study.model_seed("model")], protocol().framework["tau"]
    return framework.fit_datalab(module, study.x, study.observed, drawn, recipe, **lambdas, tau=tau)


def _inference(model: framework.DataLab, x: torch.Tensor) -> float:
    """Seconds of the deployed model, an ordinary module without what training alone needs, on x (n, d)."""
    deployed = torch.nn.Sequential(model.project, model.classifier).eval()
    with torch.inference_mode():
        return timed(lambda: [deployed(x) for _ in range(_INFERENCES)])[0]
