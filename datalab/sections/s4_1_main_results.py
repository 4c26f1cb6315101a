"""Section 4.1: five methods, DATA-LAB in both variants, at three noise rates. What is run; its cells serve 4.3 too."""

from typing import Annotated, Literal

import pydantic

from datalab import framework, models
from datalab.protocol import protocol
from datalab.record.parameters import Estimate, SectionParameters
from datalab.sections.parameters import Caps, Datasets, MainRates, pooled
from datalab.sweep import Task

CELL = "datalab.sections.trial:run_cell"
# Seconds of one training of 200 steps on one core, stacked: by hand (MLP) and mapped (DATA-LAB, loss correction).
_BY_HAND, _MAPPED = 0.009, 0.03
_FREE_MODELS = 7  # reference models and folds, at every rate


class Parameters(SectionParameters):
    """What sections 4.1 and 4.3 take; ``None`` is the profile's value."""

    datasets: Datasets
    seeds: Annotated[int, pydantic.Field(ge=1, le=1000, strict=True)]
    main_rates: MainRates
    main_architectures: tuple[Literal[tuple(models.ALL)], ...] = pydantic.Field(min_length=1)
    configurations: Annotated[int, pydantic.Field(ge=2, le=10_000, strict=True)]
    caps: Caps
    encoder: Literal["fast", "pretrained"]

    @pydantic.field_validator("main_architectures")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(names))


def cells(p: Parameters) -> list[Task]:
    """One cell a data set, architecture and seed, with all rates, methods and ablations."""
    common = {"root_seed": p.root_seed, "rates": list(p.main_rates), "caps": dict(p.caps), "encoder": p.encoder}
    common |= {"device": p.chosen_device, "configurations": p.configurations}
    return [
        Task(CELL, {"dataset": dataset, "architecture": name, "seed": seed} | common, **_cost(p, name))
        for dataset in p.datasets
        for name in p.main_architectures
        for seed in range(p.seeds)
    ]


def _cost(p: Parameters, architecture: str) -> dict[str, float]:
    """Seconds of one cell on one core, and how many models it trains."""
    q, random = p.configurations, protocol().random_subsets
    by_hand = 4 * q + random - 1 + _FREE_MODELS
    mapped = q + len(framework.VARIANTS) * (q + 7)
    large = 1.0 if architecture in models.REFERENCES else 25.0
    seconds = large * len(p.main_rates) * (by_hand * _BY_HAND + mapped * _MAPPED) + 0.3
    return {"cost": seconds, "models": len(p.main_rates) * (by_hand + mapped)}


def estimate(p: Parameters) -> Estimate:
    """The expected time, from what trainings took when they were measured, and the peak memory."""
    memory = 0.8e9 + 400 * p.configurations * (p.caps["train"] + p.caps["test"])
    return pooled(p, cells(p), f"{len(p.datasets)} data sets, {p.seeds} seeds", memory)
