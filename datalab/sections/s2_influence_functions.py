"""Section 2.2: are our influence scores right? What is run, and what it will cost.

The cells are in :mod:`datalab.sections.influence_cells`, their tables in ``influence_tables``.
"""

from typing import Annotated, Literal

import pydantic

from datalab.protocol import protocol
from datalab.record.parameters import Estimate, SectionParameters
from datalab.sections.parameters import Caps, Datasets, Rate, pooled
from datalab.sweep import Task

CELLS = "datalab.sections.influence_cells"


class Parameters(SectionParameters):
    """What section 2.2 takes; ``None`` is the profile's value."""

    datasets: Datasets
    repeats: Annotated[int, pydantic.Field(ge=1, le=1000, strict=True)]
    refits: Annotated[int, pydantic.Field(ge=3, le=10_000, strict=True)]
    halves: Annotated[int, pydantic.Field(ge=10, le=10_000, strict=True)]
    retrain_seeds: Annotated[int, pydantic.Field(ge=2, le=100, strict=True)]
    lds_tests: Annotated[int, pydantic.Field(ge=10, le=100_000, strict=True)]
    mislabel_rates: Annotated[tuple[Rate, ...], pydantic.Field(min_length=1)]
    picture_dataset: Literal["mnist5k", "optdigits", "digits"]
    caps: Caps
    encoder: Literal["fast", "pretrained"]

    @pydantic.field_validator("mislabel_rates")
    @classmethod
    def _above_0(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if min(rates) <= 0:
            raise ValueError("mislabel_rates must be above 0: with no wrong label there is none to find")
        return tuple(sorted(set(rates)))

    @property
    def needs(self) -> tuple[str, ...]:
        """The data sets that must be on disk."""
        return tuple(dict.fromkeys((*self.datasets, self.picture_dataset)))

    @property
    def agreement_rate(self) -> float:
        """The rate at which estimators are compared with each other: the one nearest to 20 %."""
        return min(self.mislabel_rates, key=lambda rate: abs(rate - 0.2))


def cells(p: Parameters) -> list[Task]:
    """Three kinds of cells a data set: refits, random halves, and wrong labels with a cell a seed."""
    common = {"root_seed": p.root_seed, "caps": dict(p.caps), "encoder": p.encoder, "device": p.chosen_device}
    rates = {"rates": list(p.mislabel_rates), "agreement_rate": p.agreement_rate}
    scale, references = p.caps["train"] / 1000, protocol().reference["models"]
    found = []
    for name in p.datasets:
        given = {"dataset": name, "refits": p.refits, "model_seeds": p.retrain_seeds} | common
        cost = p.refits * (0.03 * scale + 0.008 * p.retrain_seeds)
        found.append(Task(f"{CELLS}:refit_cell", given, cost, (p.refits + 2) * p.retrain_seeds))
        given = {"dataset": name, "halves": p.halves, "model_seeds": p.retrain_seeds, "tests": p.lds_tests} | common
        cost = 0.015 * p.halves * p.retrain_seeds + 2.5 * scale
        found.append(Task(f"{CELLS}:subsets_cell", given, cost, (p.halves + 1) * p.retrain_seeds))
        for seed in range(p.repeats):
            given = {"dataset": name, "seed": seed} | rates | common
            rates_ = len(p.mislabel_rates)
            found.append(Task(f"{CELLS}:mislabel_cell", given, 0.5 * scale * rates_, rates_ * references))
    return found


def picture_cells(p: Parameters) -> list[Task]:
    """The cell of the section's look at single examples."""
    given = {"dataset": p.picture_dataset, "rate": p.agreement_rate, "root_seed": p.root_seed}
    given |= {"caps": dict(p.caps), "encoder": p.encoder, "device": p.chosen_device}
    return [Task("datalab.sections.influence_pictures:picture_cell", given, cost=2.0, models=1)]


def estimate(p: Parameters) -> Estimate:
    """The expected time, from what each kind of cell took when it was measured, and the peak memory."""
    what = f"{len(p.datasets)} data sets, {p.repeats} repeats"
    return pooled(p, cells(p) + picture_cells(p), what, memory=1.2e9, start=12)
