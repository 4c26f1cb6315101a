"""Typed, bounded notebook parameters: papermill checks neither names nor types, so every section checks its own."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import pydantic

from datalab import data
from datalab.errors import UserError, did_you_mean
from datalab.experiments.calibration import pace
from datalab.protocol import PROFILES, protocol
from datalab.sweep import Cell, available_cores

Fraction = Annotated[float, pydantic.Field(gt=0, le=1)]
Rate = Annotated[float, pydantic.Field(ge=0, lt=0.9)]
Caps = Mapping[Literal["train", "validation", "test"], Annotated[int, pydantic.Field(ge=20, strict=True)]]


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    data.check_names(names)
    return tuple(dict.fromkeys(names))


def _with_verdict_rate(rates: tuple[float, ...]) -> tuple[float, ...]:
    needed = protocol().framework["verdict_rate"]
    if needed not in rates:
        raise ValueError(f"must include {needed:g}, where the paper's figures are compared")
    return tuple(sorted(set(rates)))


MainRates = Annotated[tuple[Rate, ...], pydantic.Field(min_length=1), pydantic.AfterValidator(_with_verdict_rate)]
Datasets = Annotated[tuple[str, ...], pydantic.Field(min_length=1), pydantic.AfterValidator(_known)]


@dataclass(frozen=True)
class Estimate:
    """What a section is expected to cost on this machine: wall-clock ``seconds`` and peak ``memory`` in bytes.

    ``cells`` are what it would compute, their costs in seconds of a core here.
    """

    seconds: float
    memory: float
    what: str
    cells: tuple[Cell, ...] = ()


def pooled(p: "SectionParameters", grid: Sequence[Cell], what: str, memory: float, start: float = 9.0) -> Estimate:
    """The estimate of a grid whose costs are seconds on a core of the machine where they were measured.

    ``memory`` is a process's in bytes, ``start`` the rest of the notebook's time.
    """
    workers = max(min(p.workers or available_cores(), len(grid)), 1)
    here = tuple(dataclasses.replace(cell, cost=cell.cost * pace()) for cell in grid)
    seconds = sum(cell.cost for cell in here) / workers + start * pace()
    return Estimate(seconds, workers * memory, f"{len(grid)} cells on {what}, {workers} processes", here)


class SectionParameters(pydantic.BaseModel):
    """What every section takes. ``None`` stands for the profile's value and is filled in by :func:`resolve`."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", validate_default=True)

    profile: Literal["smoke", "quick", "paper"] = "smoke"
    root_seed: Annotated[int, pydantic.Field(ge=0, lt=2**32, strict=True)] = 2024
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: Annotated[int, pydantic.Field(ge=1, le=1024, strict=True)] | None = None
    record: str | None = None

    @property
    def chosen_device(self) -> str:
        """Where models are trained and scored: ``"cpu"`` or ``"cuda"``."""
        import torch

        return ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device

    @property
    def needs(self) -> tuple[str, ...]:
        """The data sets that must be on disk: those named, unless a section says otherwise."""
        return tuple(getattr(self, "datasets", ()))

    @pydantic.model_validator(mode="before")
    @classmethod
    def _fill_from_profile(cls, raw: dict[str, Any]) -> dict[str, Any]:
        profile = protocol().profiles.get(str(raw.get("profile") or "smoke"), {})
        given = {name: value for name, value in raw.items() if value is not None}
        return {name: profile[name] for name in cls.model_fields if name in profile} | given


Model = TypeVar("Model", bound=SectionParameters)


def parse_value(text: str) -> Any:
    """A ``-p name value`` from the command line: JSON where it parses, a plain string otherwise."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def resolve(model: type[Model], raw: dict[str, Any], where: str) -> Model:
    """Check ``raw`` against ``model`` and fill ``None`` from the profile.

    Raises :class:`UserError`, one line, naming the parameter, what is wrong and what would be right.
    """
    for name in raw:
        if name not in model.model_fields:
            raise UserError(f"{where}: unknown parameter '{name}'{did_you_mean(name, sorted(model.model_fields))}")
    profile = raw.get("profile") or "smoke"
    if profile not in PROFILES:
        raise UserError(f"{where}: unknown profile '{profile}'{did_you_mean(str(profile), PROFILES)}")
    try:
        parameters = model.model_validate(raw)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "parameters"
        raise UserError(f"{where}: parameter '{name}': {first['msg']}; got {first['input']!r}") from None
    if parameters.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError(f"{where}: parameter 'device': no CUDA device is visible here; use 'cpu' or 'auto'")
    return parameters
