"""The title's question: at what noise rate does influence pruning start to beat random subsampling?

Cells and their cost here; how their rows become tables in :mod:`datalab.sections.title_tables`.
"""

import dataclasses
from typing import Annotated, Literal

import pandas as pd
import pydantic

from datalab import sweep
from datalab.protocol import protocol
from datalab.record.parameters import Estimate, SectionParameters
from datalab.sections.parameters import Caps, Datasets, Fraction, Rate
from datalab.sections.pruning_cell import FOLDS, HUMAN
from datalab.sweep import Task, machine_speed

CELL = "datalab.sections.pruning_cell:run_cell"
HUMAN_DATASET = "vader-tweets"


class Parameters(SectionParameters):
    """What the title's section takes; ``None`` is the profile's value."""

    datasets: Datasets
    seeds: Annotated[int, pydantic.Field(ge=1, le=1000, strict=True)]
    architectures: tuple[Literal["softmax", "mlp"], ...]
    noise_kinds: tuple[Literal["symmetric", "pair", "instance"], ...] = pydantic.Field(min_length=1)
    noise_rates: tuple[Rate, ...] = pydantic.Field(min_length=2)
    keep_fractions: tuple[Fraction, ...] = pydantic.Field(min_length=1)
    arm_noise_rates: tuple[Rate, ...]
    cnn_keep_fractions: tuple[Fraction, ...]
    human_noise: bool
    caps: Caps
    encoder: Literal["fast", "pretrained"]

    @pydantic.field_validator("noise_rates", "keep_fractions", "arm_noise_rates", "cnn_keep_fractions")
    @classmethod
    def _distinct(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(values)))

    @pydantic.model_validator(mode="after")
    def _primary_cell_is_run(self) -> "Parameters":
        primary = protocol().primary_cell
        for name, values, needed in (
            ("architectures", self.architectures, primary["architecture"]),
            ("noise_kinds", self.noise_kinds, primary["noise"]),
            ("keep_fractions", self.keep_fractions, primary["keep_fraction"]),
        ):
            if needed not in values:
                raise ValueError(f"{name} must include {needed!r}, where the title's verdict is read")
        return self

    @property
    def needs(self) -> tuple[str, ...]:
        """The data sets that must be on disk."""
        return tuple(dict.fromkeys((*self.datasets, *((HUMAN_DATASET,) if self.human_noise else ()))))


def cells(p: Parameters) -> list[Task]:
    """Every cell of the section, data set by data set, so that prepared data is reused while it is at hand.

    Noise kinds agree at rate 0, where nothing is flipped: only the symmetric cells run it.
    """
    found = []
    for dataset in p.datasets:
        for seed in range(p.seeds):
            for architecture in p.architectures:
                for kind in p.noise_kinds:
                    found += _cell(p, dataset, architecture, kind, seed)
            found += _cnn(p, dataset, seed)
    if p.human_noise:
        primary = protocol().primary_cell["architecture"]
        for seed in range(p.seeds):
            found.append(_make(p, HUMAN_DATASET, primary, HUMAN, seed, [None], p.keep_fractions))
    return found


def _cell(p: Parameters, dataset: str, architecture: str, kind: str, seed: int) -> list[Task]:
    primary = protocol().primary_cell
    at_primary = architecture == primary["architecture"] and kind == primary["noise"]
    if kind == primary["noise"]:
        arms = [rate for rate in p.arm_noise_rates if rate in p.noise_rates] if at_primary else []
        steps = protocol().reference["sensitivity_steps"] if arms else ()
        return [_make(p, dataset, architecture, kind, seed, p.noise_rates, p.keep_fractions, arms, steps)]
    if kind == "instance" and architecture != primary["architecture"]:
        return []
    keep = (primary["keep_fraction"],) if kind == "instance" else p.keep_fractions
    rates = [rate for rate in (p.arm_noise_rates if kind == "instance" else p.noise_rates) if rate > 0]
    return [_make(p, dataset, architecture, kind, seed, rates, keep)] if rates else []


def _cnn(p: Parameters, dataset: str, seed: int) -> list[Task]:
    if not p.arm_noise_rates or not p.cnn_keep_fractions:
        return []
    noise = protocol().primary_cell["noise"]
    return [_make(p, dataset, "cnn", noise, seed, p.arm_noise_rates, p.cnn_keep_fractions)]


def _make(p, dataset, architecture, kind, seed, rates, keep, arm_rates=(), reference_steps=()) -> Task:
    parameters = {
        "dataset": dataset,
        "architecture": architecture,
        "noise_kind": kind,
        "seed": seed,
        "root_seed": p.root_seed,
        "rates": list(rates),
        "keep_fractions": list(keep),
        "caps": dict(p.caps),
        "encoder": p.encoder,
        "device": p.chosen_device,
        "arm_rates": list(arm_rates),
        "reference_steps": list(reference_steps),
    }
    cost, trained = _cost(architecture, len(rates), len(keep), len(arm_rates), reference_steps)
    return Task(CELL, parameters, cost, trained)


# Cost of one training step of one model, in units of the MLP's (64 features, 10 classes), measured side by side.
_STEP = {"softmax": 0.35, "mlp": 1.0, "cnn": 1.7}
_TEST_SHARE = 1.15  # predicting the test set and scoring, on top of training


def _cost(
    architecture: str, rates: int, keep: int, arm_rates: int, reference_steps: tuple[int, ...]
) -> tuple[float, int]:
    """The cell's expected cost in training steps of an MLP, and how many models it trains."""
    rule, steps = protocol(), protocol().training["steps"]
    references = rule.reference["models"]
    models_ = rates * (2 + keep * (1 + rule.random_subsets) + references)
    arms = len(rule.methods["primary_cell_only"]) + rule.random_subsets - 1 + FOLDS + len(reference_steps)
    extra = arm_rates * (arms * steps + references * sum(reference_steps))
    trained = models_ + arm_rates * (arms + references * len(reference_steps))
    return (models_ * steps + extra) * _STEP[architecture] * _TEST_SHARE, trained


def estimate(p: Parameters) -> Estimate:
    """The section's expected time on this machine, from a short measured training, and its peak memory."""
    scale = max(1.0, p.caps["train"] / 1000) ** 0.1 * machine_speed.seconds_per_step()
    grid = tuple(dataclasses.replace(cell, cost=cell.cost * scale) for cell in cells(p))
    workers = min(p.workers or sweep.available_cores(), len(grid))
    seconds = sum(cell.cost for cell in grid) / workers + 20
    memory = workers * (0.6e9 + 40 * 4 * (p.caps["train"] + p.caps["test"]) * 1000)
    what = f"{len(grid)} cells on {len(p.datasets)} data sets, {p.seeds} seeds, {workers} processes"
    return Estimate(seconds, memory, what, grid)


def complete(rows: pd.DataFrame) -> pd.DataFrame:
    """Add to every noise kind its rate 0, which only the symmetric cells ran: there the kinds do not differ."""
    symmetric = protocol().primary_cell["noise"]
    zero = rows[(rows.noise == symmetric) & (rows.rate == 0)]
    parts = [rows]
    for kind in rows.noise.unique():
        if kind in (symmetric, HUMAN):
            continue
        own = rows[rows.noise == kind]
        # `oracle` at rate 0 keeps everything, at a fraction of 1, like `full`; the others at the kind's own fractions.
        fits = zero.architecture.isin(own.architecture.unique()) & zero.method.isin(own.method.unique())
        fits &= zero.keep_fraction.isin([*own.keep_fraction[own.method == "random"].unique(), 1.0])
        fits &= zero.reference_steps.isin([0, protocol().reference["steps"]])
        parts.append(zero[fits].assign(noise=kind))
    return pd.concat(parts, ignore_index=True)
