"""What a call asks for, checked before anything runs or is written: notebooks, parameters and what they will cost."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datalab.errors import UserError, did_you_mean
from datalab.record import provenance
from datalab.record.parameters import Estimate, SectionParameters, assigned_literals, missing_datasets, resolve
from datalab.record.study import SectionSpec, Study
from datalab.sweep import available_cores


@dataclass(frozen=True)
class Job:
    """One notebook to run: its section, its file, the parameters as given and as checked, and the expected cost."""

    section: SectionSpec
    notebook: Path
    given: dict[str, Any]
    parameters: SectionParameters
    estimate: Estimate
    reads: tuple[str, ...]  # stems of the sections whose results it reads


def jobs(study: Study, names: Sequence[str], profile: str, given: Mapping[str, Any]) -> list[Job]:
    """The jobs of one call, in the registry's order; no names means every section.

    ``given`` are the explicit parameters: each goes to the sections that have it.
    Raises :class:`UserError` for an unknown notebook, profile or parameter, or a value out of range.
    """
    chosen = {study.find(name) for name in names} or set(study.sections)
    sections = {section: section.load() for section in study.sections if section in chosen}
    _check_names(given, sections.values())
    planned = []
    for section, module in sections.items():
        own = {name: value for name, value in given.items() if name in module.Parameters.model_fields}
        parameters = resolve(module.Parameters, {**own, "profile": profile}, where=section.stem)
        own = parameters.model_dump(mode="json", include=own.keys())  # a path in full: a kernel starts elsewhere
        if parameters.unfit:
            raise UserError(f"{section.stem}: {parameters.unfit}")
        notebook = study.notebooks / f"{section.stem}.ipynb"
        _check_notebook(notebook, own)
        planned.append(Job(section, notebook, own, parameters, module.estimate(parameters), study.reads_of(section)))
    return planned


def seconds(planned: Sequence[Job]) -> float:
    """How long the jobs take one after another: a task that several sections read is run once."""
    total, known = 0.0, set()
    for job in planned:
        workers = min(job.parameters.workers or available_cores(), len(job.estimate.tasks)) or 1
        again = sum(task.cost for task in job.estimate.tasks if task.key in known)
        known |= {task.key for task in job.estimate.tasks}
        total += job.estimate.seconds - again / workers
    return total


def as_dict(planned: Sequence[Job]) -> dict[str, Any]:
    """The jobs and their costs, in seconds of this machine and of one core of it; all of it JSON can hold."""
    tasks = {task.key: task for job in planned for task in job.estimate.tasks}.values()
    return {
        "notebooks": [
            {
                "notebook": job.section.stem,
                "what": job.estimate.what,
                "parameters": job.parameters.model_dump(mode="json"),
                "models": sum(task.models for task in job.estimate.tasks),
                "seconds": round(job.estimate.seconds, 1),
                "memory_bytes": round(job.estimate.memory),
            }
            for job in planned
        ],
        "tasks": len(tasks),
        "models": sum(task.models for task in tasks),
        "seconds": round(seconds(planned), 1),
        "core_seconds": round(sum(task.cost for task in tasks), 1),
        "missing_datasets": missing_datasets(job.parameters for job in planned),
    }


def _check_names(given: Mapping[str, Any], modules: Any) -> None:
    known = sorted({name for module in modules for name in module.Parameters.model_fields})
    for name in given:
        if name not in known:
            raise UserError(f"unknown parameter '{name}'{did_you_mean(name, known)}")
        if name in ("record", "profile"):
            option = {"record": "--to", "profile": "--profile"}[name]
            raise UserError(f"parameter '{name}' is set by {option} here, not by -p")


def _check_notebook(notebook: Path, given: Mapping[str, Any]) -> None:
    """A parameter that the notebook's parameters cell does not name would be dropped in silence: refuse it."""
    if not notebook.is_file():
        raise UserError(f"notebook '{notebook.name}' is not in '{provenance.shown(notebook.parent)}'")
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    tagged = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    for name in given:
        if name not in assigned_literals(tagged[0] if tagged else ""):
            raise UserError(f"{notebook.stem}: the notebook's parameters cell does not name '{name}'")
