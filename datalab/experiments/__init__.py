"""One file per section's experiment: which cells it needs, and how their rows become its tables.

A section's module defines ``Parameters`` (a :class:`~datalab.experiments.parameters.SectionParameters`) and
``estimate(parameters) -> Estimate``: what running the notebook will cost, before anything runs.
"""

import importlib
from dataclasses import dataclass
from types import ModuleType

from datalab.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Section:
    """One notebook: its paper section number, its file's stem and the module that knows its experiment."""

    number: str
    stem: str
    module: str
    title: str

    def load(self) -> ModuleType:
        """Import the section's experiment module."""
        return importlib.import_module(f"datalab.experiments.{self.module}")


# In the order they run: the title first, so that its answer is there first; the verdicts read the rest, so last.
SECTIONS = (
    Section("0", "0_title_noise_threshold", "title", "At what noise rate does influence pruning start to beat random?"),
    Section("1", "1_paper_audit", "paper_audit", "Does the paper agree with itself?"),
    Section("2", "2_influence_functions", "influence_functions", "Are our influence scores right?"),
    Section(
        "3.1", "3_1_problem_formulation", "problem_formulation", "Does a stratified metric rank methods otherwise?"
    ),
    Section("3.2", "3_2_experimental_framework", "experimental_framework", "Data sets, models, seeds and recipe"),
    Section("3.3", "3_3_framework", "framework_components", "What do DATA-LAB's three components do?"),
    Section("3.4", "3_4_statistics", "statistics", "Do the tests hold their level and the intervals their coverage?"),
    Section("4.1", "4_1_main_results", "main_results", "Does DATA-LAB beat plain training, and what else does?"),
    Section("4.2", "4_2_influence_level", "influence_level", "Does performance fall as influence rises?"),
    Section("4.3", "4_3_ablation", "ablation", "Which of DATA-LAB's components earns its keep?"),
    Section("4.4", "4_4_scaling", "scaling", "Does DATA-LAB's gain depend on the training size?"),
    Section("4.5", "4_5_overhead", "overhead", "What does each component cost?"),
    Section("5.1", "5_1_monitoring", "monitoring", "Can failures be foreseen, and shifts be seen?"),
    Section("5.3", "5_3_negative_results", "negative_results", "Do the negative results hold beside their controls?"),
    Section("6", "6_verdicts", "verdicts", "Every statement's verdict"),
)


def find(name: str) -> Section:
    """The section called ``name``: a number (``0``, ``3.4``, ``3_4``), a notebook's stem or its file name."""
    stem = str(name).rsplit("/", 1)[-1].removesuffix(".ipynb")
    for section in SECTIONS:
        if stem in (section.number, section.number.replace(".", "_"), section.stem):
            return section
    known = [word for section in SECTIONS for word in (section.number, section.stem)]
    raise UserError(f"unknown notebook '{name}'{did_you_mean(stem, known)}")
