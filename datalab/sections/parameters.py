"""The types that sections' parameters share, and what a grid of tasks costs."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import pydantic

from datalab import data
from datalab.models import ALL
from datalab.protocol import protocol
from datalab.record.parameters import Estimate, SectionParameters
from datalab.record.progress import some
from datalab.sweep import Task, available_cores
from datalab.sweep.machine_speed import pace

# CPU time of an architecture's training, of which softmax regression and the MLP take one.
LONGER = {"cnn": 5.0, "resnet": 25.0, "convnext": 25.0, "vit": 50.0, "coatnet": 50.0, "cct": 60.0}
LONGER |= {"ft_transformer": 100.0, "deep_transformer": 100.0}
Fraction = Annotated[float, pydantic.Field(gt=0, le=1)]
Rate = Annotated[float, pydantic.Field(ge=0, lt=0.9)]
Count = Annotated[int, pydantic.Field(ge=1, le=1000, strict=True)]
_Cap = Annotated[int, pydantic.Field(ge=20, strict=True)]
Caps = Annotated[Mapping[Literal["train", "validation", "test"], _Cap], pydantic.Field(min_length=3)]  # all three


def _rising(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sorted(set(values)))


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    data.check_names(names)
    return tuple(dict.fromkeys(names))


def _with_verdict_rate(rates: tuple[float, ...]) -> tuple[float, ...]:
    needed = protocol().framework["verdict_rate"]
    if needed not in rates:
        raise ValueError(f"must include {needed:g}, where the paper's figures are compared")
    return _rising(rates)


def _with_primary(names: tuple[str, ...]) -> tuple[str, ...]:
    if (needed := protocol().primary_cell["architecture"]) not in names:
        raise ValueError(f"must include '{needed}', the primary one")
    return names


RISING = pydantic.AfterValidator(_rising)
Rates = Annotated[tuple[Rate, ...], RISING]
Fractions = Annotated[tuple[Fraction, ...], RISING]
MainRates = Annotated[tuple[Rate, ...], pydantic.Field(min_length=1), pydantic.AfterValidator(_with_verdict_rate)]
RatesAbove0 = Annotated[tuple[Annotated[Rate, pydantic.Field(gt=0)], ...], pydantic.Field(min_length=1), RISING]
Datasets = Annotated[tuple[str, ...], pydantic.Field(min_length=1), pydantic.AfterValidator(_known)]
AnyDatasets = Annotated[tuple[str, ...], pydantic.AfterValidator(_known)]  # or none
_Length = Annotated[int, pydantic.Field(ge=1, strict=True)]
Lengths = Annotated[tuple[_Length, ...], pydantic.Field(min_length=1), RISING]
AnyArchitectures = tuple[Literal[tuple(ALL)], ...]  # or none
Architectures = Annotated[AnyArchitectures, pydantic.Field(min_length=1)]
WithPrimary = Annotated[AnyArchitectures, pydantic.AfterValidator(_with_primary)]


class TrialParameters(SectionParameters):
    """What a section takes whose tasks make a trial; ``None`` is the profile's value."""

    caps: Caps
    encoder: Literal["fast", "pretrained"]

    @property
    def needs(self) -> tuple[str, ...]:
        """The data sets that must be on disk: those in every parameter called ``...dataset`` or ``...datasets``."""
        named = {name: getattr(self, name) for name in type(self).model_fields}
        one = [value for name, value in named.items() if name.endswith("dataset")]
        many = [dataset for name, values in named.items() if name.endswith("datasets") for dataset in values]
        return tuple(dict.fromkeys(many + one))

    @property
    def of_trial(self) -> dict[str, Any]:
        """What every task of a section hands to its trial."""
        return {
            "root_seed": self.root_seed,
            "caps": dict(self.caps),
            "encoder": self.encoder,
            "device": self.chosen_device,
        }


class StoppedParameters(SectionParameters):
    stopped_lengths: Lengths


class ArchitectureParameters(TrialParameters):
    other_architectures: AnyArchitectures
    framework_datasets: Datasets


class TrainingParameters(TrialParameters):
    """What a section takes that trains on the profile's data sets; ``None`` is the profile's value."""

    datasets: Datasets
    seeds: Count

    @property
    def unfit(self) -> str:
        """One data set has no interval over data sets, which every table of such a section has."""
        alone = f"parameter 'datasets': '{self.datasets[0]}' alone cannot be compared; name two or more"
        return alone if len(self.datasets) == 1 else super().unfit


class StoppedTraining(TrainingParameters, StoppedParameters):
    """What a section takes that trains on the profile's data sets and stops early; ``None`` is the profile's value."""


def per_set_and_seed(
    p: TrialParameters,
    function: str,
    cost: float,
    models: int,
    *,
    datasets: Sequence[str] | None = None,
    architectures: Sequence[str] = (),
    **more: Any,
) -> list[Task]:
    """A task a data set (``p.datasets`` unless others are named), architecture, if any is named, and seed.

    ``function`` is called with these, ``more``, and what all tasks of a section share. ``cost`` is a task's time in
    seconds on a core where it was measured, with a reference architecture; :data:`LONGER` has the others.
    """
    tasks = []
    for dataset, name, seed in itertools.product(datasets or p.datasets, architectures or [None], range(p.seeds)):
        key = {"dataset": dataset} | ({"architecture": name} if name else {}) | {"seed": seed}
        tasks.append(Task(function, key | p.of_trial | more, LONGER.get(name, 1.0) * cost, models))
    return tasks


def stopped_early(tasks: Sequence[Task], p: StoppedParameters, once: int) -> list[Task]:
    """These tasks with each model read at the one of ``p.stopped_lengths`` that its validation labels choose.

    Their function takes ``lengths`` and hands them to :func:`datalab.sections.trials.trial.read_off`. ``once`` of a
    task's models, its references and folds, are trained for the recipe's length alone.
    """
    longer = sum(p.stopped_lengths) / protocol().training["steps"]
    return [
        dataclasses.replace(
            task,
            parameters=task.parameters | {"lengths": list(p.stopped_lengths)},
            cost=longer * task.cost,
            models=once + len(p.stopped_lengths) * (task.models - once),
        )
        for task in tasks
    ]


def stopped_once(tasks: Sequence[Task], p: StoppedParameters, once: int) -> list[Task]:
    """The same of the tasks of the first seed: what is dear is done once a data set."""
    return stopped_early([task for task in tasks if task.parameters["seed"] == 0], p, once)


def estimated(
    tasks: Callable[[Any], Sequence[Task]], memory: float | Callable[[Any], float], start: float = 9.0
) -> Callable[[Any], Estimate]:
    """A section's ``estimate(parameters)``, from its tasks and their costs on a core where they were measured.

    ``memory`` is a process's in bytes, or a function of the parameters that says it; ``start`` is the rest of the
    notebook's time in seconds.
    """

    def estimate(p: SectionParameters) -> Estimate:
        once = {json.dumps([task.function, task.parameters]): task for task in tasks(p)}  # as a sweep runs it
        here = tuple(dataclasses.replace(task, cost=task.cost * pace()) for task in once.values())
        workers = max(min(p.processes or available_cores(), len(here)), 1)
        seconds = sum(task.cost for task in here) / workers + start * pace()
        sets = {task.parameters["dataset"] for task in here if "dataset" in task.parameters}
        on = f" on {some(len(sets), 'data set')}" if sets else ""
        what = f"{some(len(here), 'task')}{on}, {workers} process{'es' * (workers > 1)}"
        return Estimate(seconds, workers * (memory(p) if callable(memory) else memory), what, here)

    return estimate
