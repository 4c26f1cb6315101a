"""What two records were made with, where it differs: sources, commit, packages, machine, parameters, seeds."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from datalab.record.manifest import Manifest, SectionRecord

SOURCES = ("code", "protocol", "ledger", "lock")
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
    whole = [(what, one, other) for what, one, other in _pairs(_of_record(a), _of_record(b)) if one != other]
    where: dict[tuple[str, str | None, str | None], list[str]] = {}
    for stem in a.sections:
        if stem in b.sections:
            one, other = a.sections[stem], b.sections[stem]
            for pair in _pairs(_of_section(one), _of_section(other)):
                # A section made by the sources that the whole record names is not worth a line of its own.
                if pair[1] != pair[2] and pair not in whole:
                    where.setdefault(pair, []).append(one.number)
    return (*(Setting(*found) for found in whole), *(Setting(*found, tuple(on)) for found, on in where.items()))


def _of_record(manifest: Manifest) -> dict[str, Any]:
    found: dict[str, Any] = {"profile": manifest.profile}
    found |= {name: manifest.sources.get(name) for name in SOURCES}
    found |= {
        "git commit": manifest.git.get("commit"),
        "git tree clean": manifest.git.get("clean"),
        "datalab": manifest.datalab,
    }
    found |= {f"machine: {name}": value for name, value in manifest.machine.items()}
    return found | {f"package {name}": version for name, version in manifest.packages.items()}


def _of_section(entry: SectionRecord) -> dict[str, Any]:
    found: dict[str, Any] = {name: entry.key.get(name) for name in (*SOURCES, "notebook")}
    found |= {"runner": entry.runner, "device": entry.device}
    found |= {f"determinism: {name}": value for name, value in entry.determinism.items()}
    given = {name: value for name, value in entry.parameters.items() if name not in _NOT_COMPARED}
    return found | {f"parameter {name}": value for name, value in given.items()}


def _pairs(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[str, str | None, str | None]]:
    for what in dict.fromkeys([*a, *b]):
        yield what, _text(a.get(what)), _text(b.get(what))


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
