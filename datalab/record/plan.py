"""What a call asks for, checked before anything runs or is written: notebooks, parameters and what they will cost."""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datalab.errors import UserError, did_you_mean
from datalab.protocol import PROFILES
from datalab.record import provenance
from datalab.record.parameters import Estimate, SectionParameters, resolve
from datalab.record.study import SectionSpec, Study


@dataclass(frozen=True)
class Job:
    """One notebook to run: its section, its file, the parameters as given and as checked, and the expected cost."""

    section: SectionSpec
    notebook: Path
    given: dict[str, Any]
    parameters: SectionParameters
    estimate: Estimate
    reads: tuple[str, ...]  # stems of the sections whose results it reads

    @property
    def datasets(self) -> list[str]:
        """The data sets the notebook needs on disk."""
        return list(self.parameters.needs)


def jobs(study: Study, names: Sequence[str], profile: str, given: Mapping[str, Any]) -> list[Job]:
    """The jobs of one call, in the registry's order; no names means every section.

    ``given`` are the explicit parameters: each goes to the sections that have it.
    Raises :class:`UserError` for an unknown notebook, profile or parameter, or a value out of range.
    """
    if profile not in PROFILES:
        raise UserError(f"unknown profile '{profile}'{did_you_mean(profile, PROFILES)}")
    folder = study.notebooks
    chosen = {study.find(name).stem for name in names}
    sections = [section for section in study.sections if not names or section.stem in chosen]
    modules = {section.stem: section.load() for section in sections}
    _check_names(given, modules.values())
    planned = []
    for section in sections:
        module = modules[section.stem]
        own = {name: value for name, value in given.items() if name in module.Parameters.model_fields}
        parameters = resolve(module.Parameters, {**own, "profile": profile}, where=section.stem)
        notebook = folder / f"{section.stem}.ipynb"
        if not notebook.is_file():
            raise UserError(f"notebook '{notebook.name}' is not in '{provenance.shown(folder)}'")
        _check_notebook(notebook, own)
        reads = study.reads_of(section)
        planned.append(Job(section, notebook, own, parameters, module.estimate(parameters), reads))
    return planned


def missing_datasets(planned: Sequence[Job]) -> list[str]:
    """The data sets the jobs need that are not on this disk."""
    wanted = list(dict.fromkeys(name for job in planned for name in job.datasets))
    if not wanted:
        return []
    from datalab import data

    return data.missing(wanted)


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
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    tagged = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    targets: set[str] = set()
    for statement in ast.parse(tagged[0] if tagged else "").body:
        nodes = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        targets |= {node.id for node in nodes if isinstance(node, ast.Name)}
    for name in given:
        if name not in targets:
            raise UserError(f"{notebook.stem}: the notebook's parameters cell does not name '{name}'")
