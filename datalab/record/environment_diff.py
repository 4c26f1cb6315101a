"""What two records were made with, where it differs: sources, commit, packages, machine, parameters, seeds."""

import json
from dataclasses import dataclass
from typing import Any

from datalab.record.manifest import Manifest, SectionRecord
from datalab.record.verify import SOURCES

_NOT_COMPARED = ("record", "profile")  # the folder's name, and what the record says of itself as a whole


@dataclass(frozen=True)
class Setting:
    """One thing that differs; ``sections`` are those it is true of (empty: the whole record). ``None``: not there."""

    what: str
    a: str | None
    b: str | None
    sections: tuple[str, ...] = ()


def differing(a: Manifest, b: Manifest) -> tuple[Setting, ...]:
    """What differs between the two records' provenance and between the parameters of the sections they share."""
    whole = _unequal(_of_record(a), _of_record(b))
    sections: dict[Setting, list[str]] = {}
    for stem in a.sections:
        if stem in b.sections:
            for setting in _unequal(_of_section(a.sections[stem]), _of_section(b.sections[stem])):
                # A section made by the sources that the whole record names is not worth a line of its own.
                if setting not in whole:
                    sections.setdefault(setting, []).append(a.sections[stem].number)
    return (*whole, *(Setting(s.what, s.a, s.b, tuple(numbers)) for s, numbers in sections.items()))


def _of_record(manifest: Manifest) -> dict[str, Any]:
    settings = {"profile": manifest.profile} | {name: manifest.sources.get(name) for name in SOURCES}
    settings |= {"git commit": manifest.git.get("commit"), "git tree clean": manifest.git.get("clean")}
    settings |= {"datalab": manifest.datalab}
    settings |= {f"machine: {name}": value for name, value in manifest.machine.items()}
    return settings | {f"package {name}": version for name, version in manifest.packages.items()}


def _of_section(entry: SectionRecord) -> dict[str, Any]:
    settings = {name: entry.key.get(name) for name in (*SOURCES, "notebook")}
    settings |= {"runner": entry.runner, "device": entry.device}
    settings |= {f"determinism: {name}": value for name, value in entry.determinism.items()}
    return settings | {f"parameter {k}": value for k, value in entry.parameters.items() if k not in _NOT_COMPARED}


def _unequal(a: dict[str, Any], b: dict[str, Any]) -> list[Setting]:
    pairs = [Setting(what, _text(a.get(what)), _text(b.get(what))) for what in {**a, **b}]
    return [setting for setting in pairs if setting.a != setting.b]


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
