"""Typed, bounded notebook parameters: papermill checks neither names nor types, so every section checks its own."""

import ast
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import pydantic

from datalab.errors import UserError, did_you_mean
from datalab.protocol import PROFILES, protocol
from datalab.sweep import Task


@dataclass(frozen=True)
class Estimate:
    """What a section is expected to cost on this machine: wall-clock ``seconds`` and peak ``memory`` in bytes.

    ``tasks`` are what it would compute, their costs in seconds of a core here.
    """

    seconds: float
    memory: float
    what: str
    tasks: tuple[Task, ...] = ()


OF_THE_MACHINE = ("record", "workers", "device")  # parameters that say where and on what, and not what
OUTSIDE = "path"  # names a file of the user's, which the tasks read; where a record names it, it is not opened
MOST_VALUES = 200  # in one list: a record's parameters may be a stranger's, and each value is a task or more


class SectionParameters(pydantic.BaseModel):
    """What every section takes. ``None`` stands for the profile's value and is filled in by :func:`resolve`."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", validate_default=True)

    profile: Literal["smoke", "quick", "study", "paper"] = "smoke"
    root_seed: Annotated[int, pydantic.Field(ge=0, lt=2**32, strict=True)] = 2024
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: Annotated[int, pydantic.Field(ge=1, le=1024, strict=True)] | None = None
    record: str | None = None

    @property
    def chosen_device(self) -> str:
        """Where models are trained and scored: ``"cpu"`` or ``"cuda"``."""
        if self.device != "auto":
            return self.device
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def processes(self) -> int | None:
        """How many processes run the tasks: ``workers``, else one a GPU where these train; None: one a core."""
        if self.workers or self.device == "cpu":  # neither needs torch, which takes over a second to import
            return self.workers
        import torch

        return torch.cuda.device_count() if self.chosen_device == "cuda" else None

    @property
    def needs(self) -> tuple[str, ...]:
        """The data sets that must be on disk: those named, unless a section says otherwise."""
        return tuple(getattr(self, "datasets", ()))

    @property
    def unfit(self) -> str:
        """Why a section cannot run with these, though each is in its range; empty where it can."""
        return ""

    @classmethod
    def of_profile(cls, profile: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the profile has for what is not ``given``: as it stands, unless a section fits it to that."""
        return profile

    @pydantic.model_validator(mode="before")
    @classmethod
    def _fill_from_profile(cls, raw: dict[str, Any]) -> dict[str, Any]:
        profile = protocol().profiles.get(str(raw.get("profile") or "smoke"), {})
        given = {name: value for name, value in raw.items() if value is not None}
        for name, value in given.items():
            if isinstance(value, list | tuple):
                if len(value) > MOST_VALUES:
                    raise ValueError(f"parameter '{name}': more than {MOST_VALUES:,} values")
                # What is named twice counts once: two of the same data set are no more data.
                given[name] = [part for position, part in enumerate(value) if part not in value[:position]]
            annotation = cls.model_fields[name].annotation if name in cls.model_fields else bool
            if annotation is not bool and any(isinstance(part, bool) for part in _parts(value)):
                raise ValueError(f"parameter '{name}': true and false are no numbers; got {value!r}")
        profile = cls.of_profile(profile, given)
        return {name: profile[name] for name in cls.model_fields if name in profile} | given


def _parts(value: Any) -> Iterable[Any]:
    """The values in a parameter, whatever holds them."""
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else (value,)


Model = TypeVar("Model", bound=SectionParameters)


def parse_value(text: str) -> Any:
    """A ``-p name value`` from the command line: JSON where it parses, a plain string otherwise."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
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
        wrong = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:  # of the parameters as a whole, which it names
            raise UserError(f"{where}: {wrong}") from None
        name, given = ".".join(str(part) for part in first["loc"]), first["input"]
        # papermill's -p hands over a list as the text that it is.
        text = isinstance(given, str) and isinstance(parse_value(given), list | dict)
        hint = f"; papermill takes it as: -y '{name}: {given}'" if text else ""
        if first["type"] == "tuple_type" and not text:
            wrong, hint = "should be a list", f", such as {json.dumps([given], default=str)[:200]}"
        raise UserError(f"{where}: parameter '{name}': {wrong}; got {repr(given)[:200]}{hint}") from None
    if parameters.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError(f"{where}: parameter 'device': no CUDA device is visible here; use 'cpu' or 'auto'")
    return parameters


def departures(model: type[SectionParameters], given: Mapping[str, Any]) -> list[str]:
    """The names of the parameters ``given`` to a section that are not its profile's, but for the machine's own."""
    asked = resolve(model, {"profile": given.get("profile")}, where="profile").model_dump(mode="json")
    return [name for name in asked if name not in OF_THE_MACHINE and given.get(name) != asked[name]]


def missing_datasets(asked: Iterable[SectionParameters]) -> list[str]:
    """The data sets that these parameters need and that are not on this disk."""
    wanted = list(dict.fromkeys(name for parameters in asked for name in parameters.needs))
    if not wanted:
        return []
    from datalab import data  # a second to import: only where a notebook needs one

    return data.missing(wanted)


INJECTED = "# Parameters"  # how the cell begins in which papermill hands over what it was given


def given_in(namespace: Mapping[str, Any], fields: Collection[str]) -> dict[str, Any]:
    """What a notebook's parameters cell sets, as it stands in ``namespace`` (the notebook's ``globals()``).

    The parameters cell is the last one run that assigns ``profile``, whatever else it does. Papermill's own cell
    ("# Parameters") adds to it, and so does a cell run after it that assigns literals to some of ``fields``, the names
    of the section's parameters. Names left over from an earlier version of the cell do not count. A mapping that is no
    notebook's (it has no ``In``) holds the parameters itself. Raises :class:`UserError` where no such cell was run.
    """
    if "In" not in namespace:
        return dict(namespace)
    names: list[str] = []
    for source in reversed(namespace["In"]):
        if source.startswith(INJECTED):
            names += assigned_literals(source)
        elif "profile" in (own := assigned(source)):
            return {name: namespace[name] for name in [*names, *own] if name in namespace}
        else:
            names += [name for name in assigned_literals(source) if name in fields]
    raise UserError("no cell that sets `profile` was run: run the cell of parameters, the second, first")


def assigned(source: str) -> list[str]:
    """The names that a cell assigns, outside of its functions, loops and branches; none of what is no Python."""
    try:
        return _targets(ast.parse(source).body)
    except (SyntaxError, ValueError):
        return []


def assigned_literals(source: str) -> list[str]:
    """The names that a cell assigns, if assigning literals is all it does; else none."""
    try:
        body = ast.parse(source).body
        for statement in body:
            ast.literal_eval(getattr(statement, "value", statement))
    except (SyntaxError, ValueError, TypeError):
        return []
    return _targets(body)


def _targets(body: Iterable[ast.stmt]) -> list[str]:
    lines = [line for line in body if isinstance(line, ast.Assign | ast.AnnAssign)]
    targets = [target for line in lines for target in getattr(line, "targets", None) or [line.target]]
    return [target.id for target in targets if isinstance(target, ast.Name)]
