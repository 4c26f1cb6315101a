"""The types that sections' parameters share, and what a grid of tasks costs."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import pydantic

from datalab import data
from datalab.protocol import protocol
from datalab.record.parameters import Estimate, SectionParameters
from datalab.sweep import Task, available_cores
from datalab.sweep.machine_speed import pace

Fraction = Annotated[float, pydantic.Field(gt=0, le=1)]
Rate = Annotated[float, pydantic.Field(ge=0, lt=0.9)]
Caps = Mapping[Literal["train", "validation", "test"], Annotated[int, pydantic.Field(ge=20, strict=True)]]


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


def _above_0(rates: tuple[float, ...]) -> tuple[float, ...]:
    if min(rates) <= 0:
        raise ValueError("must be above 0: with no wrong label there is none to find")
    return _rising(rates)


Rates = Annotated[tuple[Rate, ...], pydantic.AfterValidator(_rising)]
Fractions = Annotated[tuple[Fraction, ...], pydantic.AfterValidator(_rising)]
MainRates = Annotated[tuple[Rate, ...], pydantic.Field(min_length=1), pydantic.AfterValidator(_with_verdict_rate)]
RatesAbove0 = Annotated[tuple[Rate, ...], pydantic.Field(min_length=1), pydantic.AfterValidator(_above_0)]
Datasets = Annotated[tuple[str, ...], pydantic.Field(min_length=1), pydantic.AfterValidator(_known)]


class TrainingParameters(SectionParameters):
    """What a section takes that trains on the profile's data sets; ``None`` is the profile's value."""

    datasets: Datasets
    seeds: Annotated[int, pydantic.Field(ge=1, le=1000, strict=True)]
    caps: Caps
    encoder: Literal["fast", "pretrained"]


def per_set_and_seed(p: TrainingParameters, function: str, cost: float, models: int, **more: Any) -> list[Task]:
    """A task a data set and seed: ``function`` called with these, ``more``, and what all tasks of a section share."""
    shared = {"root_seed": p.root_seed, "caps": dict(p.caps), "encoder": p.encoder, "device": p.chosen_device}
    return [
        Task(function, {"dataset": dataset, "seed": seed} | shared | more, cost, models)
        for dataset in p.datasets
        for seed in range(p.seeds)
    ]


def pooled(p: SectionParameters, grid: Sequence[Task], what: str, memory: float, start: float = 9.0) -> Estimate:
    """The estimate of a grid whose costs are seconds on a core of the machine where they were measured.

    ``memory`` is a process's in bytes, ``start`` the rest of the notebook's time.
    """
    workers = max(min(p.workers or available_cores(), len(grid)), 1)
    here = tuple(dataclasses.replace(task, cost=task.cost * pace()) for task in grid)
    seconds = sum(task.cost for task in here) / workers + start * pace()
    return Estimate(seconds, workers * memory, f"{len(grid)} tasks on {what}, {workers} processes", here)
