"""Section 3.3: DATA-LAB's three components, trained and inspected. What is run, and its cost."""

from typing import Annotated, Literal

import pydantic

from datalab.protocol import protocol
from datalab.record.parameters import Estimate, SectionParameters
from datalab.sections.parameters import Caps, Datasets, pooled
from datalab.sweep import Task

CELL = "datalab.sections.inspection_cell:run_cell"
_SECONDS = 0.05  # of one training on one core

Setting = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]
Above0 = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]


class Parameters(SectionParameters):
    """What section 3.3 takes; ``None`` is the profile's value."""

    framework_datasets: Datasets
    seeds: Annotated[int, pydantic.Field(ge=1, le=1000, strict=True)]
    lambda2_sweep: tuple[Setting, ...] = pydantic.Field(min_length=2)
    tau_sweep: tuple[Above0, ...] = pydantic.Field(min_length=1)
    picture_dataset: Literal["mnist5k", "optdigits", "digits"]
    caps: Caps
    encoder: Literal["fast", "pretrained"]

    @pydantic.field_validator("lambda2_sweep", "tau_sweep")
    @classmethod
    def _distinct(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(values)))

    @property
    def needs(self) -> tuple[str, ...]:
        """The data sets that must be on disk."""
        return tuple(dict.fromkeys((*self.framework_datasets, self.picture_dataset)))

    @property
    def picture_lambda2(self) -> float:
        """The setting whose weights are pictured: the one nearest to the default."""
        default = protocol().framework["default"]["lambda2"]
        return min(self.lambda2_sweep, key=lambda value: abs(value - default))


def cells(p: Parameters) -> list[Task]:
    """One cell a data set and seed, with both variants and all settings."""
    common = {"root_seed": p.root_seed, "lambda2s": list(p.lambda2_sweep), "taus": list(p.tau_sweep)}
    common |= {"caps": dict(p.caps), "encoder": p.encoder, "device": p.chosen_device}
    trainings = 2 * (len(p.lambda2_sweep) + len(p.tau_sweep))
    return [
        Task(CELL, {"dataset": dataset, "seed": seed} | common, cost=_SECONDS * trainings, models=trainings)
        for dataset in p.framework_datasets
        for seed in range(p.seeds)
    ]


def picture_cells(p: Parameters) -> list[Task]:
    """The cell of the section's look at single images."""
    given = {"dataset": p.picture_dataset, "lambda2": p.picture_lambda2, "root_seed": p.root_seed}
    given |= {"caps": dict(p.caps), "encoder": p.encoder, "device": p.chosen_device}
    return [Task("datalab.sections.inspection_pictures:picture_cell", given, cost=1.0, models=2)]


def estimate(p: Parameters) -> Estimate:
    """The expected time, from what a training took when it was measured, and the peak memory."""
    return pooled(p, cells(p) + picture_cells(p), f"{len(p.framework_datasets)} data sets, {p.seeds} seeds", memory=8e8)
