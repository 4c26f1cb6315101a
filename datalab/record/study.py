"""What a record is of, handed in by the rooms above it: sections with their notebooks, and a ledger of statements.

The record knows neither the paper nor its experiments: another study with sections of its own could use it as it is.
"""

import functools
import importlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from datalab.errors import UserError, did_you_mean


@dataclass(frozen=True)
class SectionSpec:
    """One notebook: its section's number, its file's stem, the question it answers and the module that knows it.

    The module has ``Parameters`` (a :class:`~datalab.record.parameters.SectionParameters`), ``estimate(parameters)``
    and, where it reads other sections' results, ``READS``: their names, or ``("all",)``, all before it.
    """

    number: str
    stem: str
    title: str
    module: str

    def load(self) -> ModuleType:
        """Import the section's module."""
        return importlib.import_module(self.module)


@dataclass(frozen=True)
class Study:
    """The sections in the order they run, the ledger, and the folder of the notebooks' sources.

    The ledger has ``sha256()``, the hash of its bytes, and ``statements()``, one dict a statement, in order: its
    columns of ``claims.csv``, what a claim's trail needs (``paper_note``, ``test``, ``ceiling``), and the ``verdict``
    and ``why`` it has where no section measured it; ``by_construction``, if its outcome is fixed before any run, why.
    """

    sections: tuple[SectionSpec, ...]
    ledger: Any  # such a module or object
    notebooks: Path

    def find(self, name: str) -> SectionSpec:
        """The section called ``name``: a number (``0``, ``3.4``, ``3_4``), a notebook's stem or its file name.

        Raises :class:`UserError`, with a suggestion, for an unknown one.
        """
        stem = str(name).rsplit("/", 1)[-1].removesuffix(".ipynb")
        for section in self.sections:
            if stem in (section.number, section.number.replace(".", "_"), section.stem):
                return section
        known = [word for section in self.sections for word in (section.number, section.stem)]
        raise UserError(f"unknown notebook '{name}'{did_you_mean(stem, known)}")

    def reads_of(self, section: SectionSpec) -> tuple[str, ...]:
        """The stems of the sections whose results a section reads."""
        reads = tuple(getattr(section.load(), "READS", ()))
        if reads != ("all",):
            return tuple(self.find(name).stem for name in reads)
        return tuple(other.stem for other in itertools.takewhile(lambda other: other is not section, self.sections))

    @functools.cached_property
    def _statements(self) -> dict[str, dict[str, Any]]:
        return {row["id"]: row for row in self.ledger.statements()}

    def statement(self, claim_id: str) -> dict[str, Any]:
        """One statement of the ledger. Raises :class:`UserError`, with a suggestion, for an unknown id."""
        known = self._statements
        if claim_id not in known:
            raise UserError(f"unknown claim '{claim_id}'{did_you_mean(claim_id, list(known))}")
        return known[claim_id]
