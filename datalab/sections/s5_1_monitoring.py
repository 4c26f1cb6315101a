"""Section 5.1 and the abstract: can failures of influence pruning be foreseen, and shifts be seen? What is run."""

from typing import Annotated

import pydantic

from datalab.record.parameters import Estimate
from datalab.sections import s3_1_problem_formulation as problem_formulation
from datalab.sections import s4_1_main_results as main_results
from datalab.sections.monitor_cell import kind_of
from datalab.sections.parameters import Datasets, pooled
from datalab.sweep import Task

CELLS = "datalab.sections.monitor_cell"
_STREAM, _EXISTING = 1.5, 0.7  # seconds of a cell on one core


class Parameters(main_results.Parameters):
    """What section 5.1 takes; ``None`` is the profile's value. It reads the cells of sections 4.1 and 3.1 as well."""

    monitor_datasets: Annotated[Datasets, pydantic.Field(min_length=1)]

    @pydantic.field_validator("monitor_datasets")
    @classmethod
    def _has_a_stream(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if kind_of(name) is None:
                raise ValueError(f"monitor_datasets: {name!r} has no stream; use flights-origin, smartwatch or images")
        return names

    @property
    def needs(self) -> tuple[str, ...]:
        """The data sets that must be on disk."""
        return tuple(dict.fromkeys((*self.datasets, *self.monitor_datasets)))


def stream_cells(p: Parameters) -> list[Task]:
    """A cell a stream and seed."""
    common = {"root_seed": p.root_seed, "device": p.chosen_device}
    return [
        Task(f"{CELLS}:stream_cell", {"dataset": dataset, "seed": seed} | common, cost=_STREAM, models=1)
        for dataset in p.monitor_datasets
        for seed in range(p.seeds)
    ]


def existing_cells(p: Parameters) -> list[Task]:
    """A cell a data set and seed: DATA-LAB's weights on top of published pruning."""
    common = {"root_seed": p.root_seed, "caps": dict(p.caps), "encoder": p.encoder, "device": p.chosen_device}
    return [
        Task(f"{CELLS}:existing_cell", {"dataset": dataset, "seed": seed} | common, cost=_EXISTING, models=8)
        for dataset in p.datasets
        for seed in range(p.seeds)
    ]


def estimate(p: Parameters) -> Estimate:
    """The expected time where sections 3.1 and 4.1 have run in the same record; their cells are reused."""
    shared = len(main_results.tasks(p)) + len(problem_formulation.cells(p))
    what = f"{len(p.monitor_datasets)} streams and {len(p.datasets)} data sets (and {shared} of sections 3.1 and 4.1)"
    return pooled(p, stream_cells(p) + existing_cells(p), what, memory=9e8, start=12)
