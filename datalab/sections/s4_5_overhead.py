"""Section 4.5: the computational overhead of each component. What is run, and its cost."""

from typing import Annotated, Literal

import pydantic

from datalab.record.parameters import Estimate, SectionParameters
from datalab.sections.parameters import Caps, Datasets, pooled
from datalab.sweep import Task

CELL = "datalab.sections.overhead_cell:run_cell"
_SECONDS = 1.3  # of one repetition on one core
_MODELS = 15  # trained in one repetition


class Parameters(SectionParameters):
    """What section 4.5 takes; ``None`` is the profile's value."""

    framework_datasets: Datasets
    overhead_repetitions: Annotated[int, pydantic.Field(ge=3, le=1000, strict=True)]
    caps: Caps
    encoder: Literal["fast", "pretrained"]

    @property
    def needs(self) -> tuple[str, ...]:
        """The data sets that must be on disk."""
        return self.framework_datasets


def cells(p: Parameters) -> list[Task]:
    """One cell a data set, with all configurations and repetitions."""
    common = {"repetitions": p.overhead_repetitions, "root_seed": p.root_seed, "caps": dict(p.caps)}
    common |= {"encoder": p.encoder, "device": p.chosen_device}
    cost, trained = _SECONDS * (p.overhead_repetitions + 1), _MODELS * (p.overhead_repetitions + 1) + 2
    return [Task(CELL, {"dataset": dataset} | common, cost, trained) for dataset in p.framework_datasets]


def estimate(p: Parameters) -> Estimate:
    """The expected time, from what a repetition took when it was measured, and the peak memory."""
    what = f"{len(p.framework_datasets)} data sets, {p.overhead_repetitions} repetitions"
    return pooled(p, cells(p), what, memory=8e8)
