"""One file per section of the paper, named as its notebook: parameters, tasks, tables and verdicts, top to bottom.

Beside them stands only what several share: ``trial`` (data, noise, references, folds), ``compare`` (a difference over
data sets), ``plots``, ``sentences`` and ``parameters``.
"""

from collections.abc import Mapping
from typing import Any

from datalab import ledger
from datalab.record import Section, SectionSpec, Study, open_section, provenance


def _spec(number: str, stem: str, title: str) -> SectionSpec:
    return SectionSpec(number, stem, title, f"{__name__}.s{stem}")


# In the order they run: the title first, so that its answer is there first; the verdicts read the rest; what goes
# beyond the paper comes last.
SECTIONS = (
    _spec("0", "0_title_noise_threshold", "At what noise rate does influence pruning start to beat random?"),
    _spec("1", "1_paper_audit", "Does the paper agree with itself?"),
    _spec("2", "2_influence_functions", "Are our influence scores right?"),
    _spec("3.1", "3_1_problem_formulation", "Does a stratified metric rank methods otherwise?"),
    _spec("3.2", "3_2_experimental_framework", "Data sets, models, seeds and recipe"),
    _spec("3.3", "3_3_framework", "What do DATA-LAB's three components do?"),
    _spec("3.4", "3_4_statistics", "Do the tests hold their level and the intervals their coverage?"),
    _spec("4.1", "4_1_main_results", "Does DATA-LAB beat plain training, and what else does?"),
    _spec("4.2", "4_2_influence_level", "Does performance fall as influence rises?"),
    _spec("4.3", "4_3_ablation", "Which of DATA-LAB's components earns its keep?"),
    _spec("4.4", "4_4_scaling", "Does DATA-LAB's gain depend on the training size?"),
    _spec("4.5", "4_5_overhead", "What does each component cost?"),
    _spec("5.1", "5_1_monitoring", "Can failures be foreseen, and shifts be seen?"),
    _spec("5.3", "5_3_negative_results", "Do the negative results hold beside their controls?"),
    _spec("6", "6_verdicts", "Every statement's verdict"),
    _spec("7", "7_when_to_prune", "When does pruning pay, and what foretells it?"),
    _spec("7.1", "7_your_data", "Should I prune my own data?"),
)
STUDY = Study(SECTIONS, ledger, provenance.notebooks())


def start(name: str, namespace: Mapping[str, Any]) -> Section:
    """Open a notebook's section of the record: ``section = start("4_1_main_results", globals())``.

    The parameters are what the notebook's parameters cell sets; each is checked, and a name that is misspelt or left
    over is refused. See :func:`datalab.record.open_section`.
    """
    return open_section(STUDY, name, namespace)
