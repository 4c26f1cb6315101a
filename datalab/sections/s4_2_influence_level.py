"""Section 4.2: does performance fall as the influence of the training set rises? What is run, and its cost."""

from typing import Annotated, Literal

import pydantic

from datalab import models
from datalab.protocol import protocol
from datalab.record.parameters import Estimate, SectionParameters
from datalab.sections.parameters import Caps, Datasets, pooled
from datalab.sweep import Task

CELL = "datalab.sections.level_cell:run_cell"
_SECONDS = 1.1  # of one cell with the MLP on one core


class Parameters(SectionParameters):
    """What section 4.2 takes; ``None`` is the profile's value."""

    datasets: Datasets
    seeds: Annotated[int, pydantic.Field(ge=1, le=1000, strict=True)]
    main_architectures: tuple[Literal[tuple(models.ALL)], ...] = pydantic.Field(min_length=1)
    caps: Caps
    encoder: Literal["fast", "pretrained"]


def cells(p: Parameters) -> list[Task]:
    """One cell a data set, architecture and seed, with all levels, draws and methods."""
    common = {"root_seed": p.root_seed, "caps": dict(p.caps), "encoder": p.encoder, "device": p.chosen_device}
    levels = protocol().influence_levels["tilts"]
    trained = 3 * 3 * len(levels) + protocol().reference["models"]  # three draws, three methods
    return [
        Task(
            CELL,
            {"dataset": dataset, "architecture": name, "seed": seed} | common,
            cost=_SECONDS * (1.0 if name in models.REFERENCES else 25.0),
            models=trained,
        )
        for dataset in p.datasets
        for name in dict.fromkeys(p.main_architectures)
        for seed in range(p.seeds)
    ]


def estimate(p: Parameters) -> Estimate:
    """The expected time, from what a cell took when it was measured, and the peak memory."""
    return pooled(p, cells(p), f"{len(p.datasets)} data sets, {p.seeds} seeds", memory=1e9)
