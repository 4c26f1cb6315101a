"""Section 4.4: does DATA-LAB's gain depend on the training size? What is run, and its cost."""

from typing import Annotated, Literal

import pydantic

from datalab import models
from datalab.record.parameters import Estimate, SectionParameters
from datalab.sections.parameters import Datasets, pooled
from datalab.sections.scaling_cell import recipe_at
from datalab.sweep import Task

CELL = "datalab.sections.scaling_cell:run_cell"
VALIDATION = 400  # rows that no arm uses: nothing is tuned here
_MODELS = 15  # at each size: two references, five folds, eight models to compare
_SECONDS_A_STEP = 0.005  # of all methods together, on one core

Size = Annotated[int, pydantic.Field(ge=50, le=10_000_000, strict=True)]


class Parameters(SectionParameters):
    """What section 4.4 takes; ``None`` is the profile's value."""

    scaling_datasets: Datasets
    scaling_sizes: tuple[Size, ...] = pydantic.Field(min_length=2)
    scaling_architectures: tuple[Literal[tuple(models.ALL)], ...] = pydantic.Field(min_length=1)
    scaling_seeds: Annotated[int, pydantic.Field(ge=1, le=1000, strict=True)]
    scaling_test: Annotated[int, pydantic.Field(ge=50, strict=True)]
    encoder: Literal["fast", "pretrained"]

    @pydantic.field_validator("scaling_sizes")
    @classmethod
    def _rising(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(sizes)))

    @property
    def needs(self) -> tuple[str, ...]:
        """The data sets that must be on disk."""
        return self.scaling_datasets


def cells(p: Parameters) -> list[Task]:
    """One cell a data set, architecture and seed, with all sizes and methods."""
    common = {"root_seed": p.root_seed, "sizes": list(p.scaling_sizes), "test": p.scaling_test}
    trained = _MODELS * len(p.scaling_sizes)
    common |= {"validation": VALIDATION, "encoder": p.encoder, "device": p.chosen_device}
    return [
        Task(CELL, {"dataset": dataset, "architecture": name, "seed": seed} | common, _cost(p, name), trained)
        for dataset in p.scaling_datasets
        for name in dict.fromkeys(p.scaling_architectures)
        for seed in range(p.scaling_seeds)
    ]


def _cost(p: Parameters, architecture: str) -> float:
    """Seconds of one cell on one core: training, and scoring in proportion to the size."""
    large = 1.0 if architecture in models.REFERENCES else 25.0
    return sum(large * _SECONDS_A_STEP * recipe_at(size).steps + 1e-5 * size for size in p.scaling_sizes) + 1


def estimate(p: Parameters) -> Estimate:
    """The expected time, from what a step took when it was measured, and the peak memory."""
    largest = max(p.scaling_sizes)
    what = f"{len(p.scaling_datasets)} data sets, up to {largest:,} rows"
    return pooled(p, cells(p), what, memory=1e9 + 2000 * largest)
