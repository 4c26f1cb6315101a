"""Section 5.3: what the paper says did not work, each beside its own control. What is run, and its cost."""

from typing import Annotated, Literal

import pydantic

from datalab.protocol import protocol
from datalab.record.parameters import Estimate, SectionParameters
from datalab.sections.parameters import Caps, Datasets, MainRates, pooled
from datalab.sweep import Task

CELL = "datalab.sections.negative_cell:run_cell"
_SECONDS = 1.0  # of one cell on one core, and this much a rate
_A_RATE = 0.4


class Parameters(SectionParameters):
    """What section 5.3 takes; ``None`` is the profile's value."""

    datasets: Datasets
    seeds: Annotated[int, pydantic.Field(ge=1, le=1000, strict=True)]
    main_rates: MainRates
    caps: Caps
    encoder: Literal["fast", "pretrained"]


def cells(p: Parameters) -> list[Task]:
    """One cell a data set and seed, with all rates and methods."""
    common = {"root_seed": p.root_seed, "rates": list(p.main_rates), "caps": dict(p.caps), "encoder": p.encoder}
    common |= {"device": p.chosen_device}
    cost = _SECONDS + _A_RATE * len(p.main_rates)
    shares = len(protocol().negative_results["dropped"])
    # References, filtering with its controls and three orders at each rate; four members twice, two of DATA-LAB.
    trained = len(p.main_rates) * (2 + 1 + shares * (2 + protocol().random_subsets) + 3) + 10
    return [
        Task(CELL, {"dataset": dataset, "seed": seed} | common, cost, trained)
        for dataset in p.datasets
        for seed in range(p.seeds)
    ]


def estimate(p: Parameters) -> Estimate:
    """The expected time, from what a cell took when it was measured, and the peak memory."""
    return pooled(p, cells(p), f"{len(p.datasets)} data sets, {p.seeds} seeds", memory=9e8)
