"""Section 3.1: the stratified, importance-weighted metric beside plain accuracy. What is run, and its cost."""

from typing import Annotated, Literal

import pydantic

from datalab.record.parameters import Estimate, SectionParameters
from datalab.sections.parameters import Caps, Datasets, pooled
from datalab.sweep import Task

CELL = "datalab.sections.metric_cell:run_cell"
_SECONDS = 0.35  # of one cell on one core
_MODELS = 15  # three architectures, each with two references and three models to compare


class Parameters(SectionParameters):
    """What section 3.1 takes; ``None`` is the profile's value."""

    datasets: Datasets
    seeds: Annotated[int, pydantic.Field(ge=1, le=1000, strict=True)]
    caps: Caps
    encoder: Literal["fast", "pretrained"]


def cells(p: Parameters) -> list[Task]:
    """One cell a data set and seed, with nine systems and both kinds of strata."""
    common = {"root_seed": p.root_seed, "caps": dict(p.caps), "encoder": p.encoder, "device": p.chosen_device}
    return [
        Task(CELL, {"dataset": dataset, "seed": seed} | common, cost=_SECONDS, models=_MODELS)
        for dataset in p.datasets
        for seed in range(p.seeds)
    ]


def estimate(p: Parameters) -> Estimate:
    """The expected time, from what a cell took when it was measured, and the peak memory."""
    return pooled(p, cells(p), f"{len(p.datasets)} data sets, {p.seeds} seeds", memory=8e8)
