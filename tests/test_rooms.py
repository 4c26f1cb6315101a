"""The rooms' order: arrows (imports, and strings that name modules) only point down, and none runs in a circle."""

import ast
import graphlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from datalab.sweep import reach

PACKAGE = Path(__file__).resolve().parents[1] / "datalab"
# From the top down; the rooms of one line may use each other, as long as no circle of their files comes of it.
ROOMS = (
    ("__main__",),
    ("cli",),
    ("report",),
    ("sections",),
    ("advise",),
    ("intake",),
    ("audit",),
    ("ledger",),
    ("record",),
    ("sweep",),
    ("pruning", "noise", "correction", "metrics"),
    ("framework",),
    ("retraining",),
    ("influence",),
    ("training", "stack", "mapped", "models"),
    ("data",),
    ("stats",),
    ("protocol", "seeds", "labels", "errors", "atomic"),
    ("__init__",),
)
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
Modules = Mapping[str, str]  # a module's dotted name, and its source


def modules() -> dict[str, str]:
    names = {path: ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in PACKAGE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path.read_text() for path, name in sorted(names.items())}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def arrows(module: str, within: Modules) -> Iterator[str]:
    """The modules that a module imports, anywhere in it, or names in a string."""
    for node in ast.walk(ast.parse(within[module])):
        if isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            named = (whole & set(within)) | ({node.module} if whole - set(within) else set())
        elif isinstance(node, ast.Import):
            named = {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = re.match(r"datalab[.\w]*", node.value) if not re.search(r"\s", node.value) else None
            named = {words.group().strip(".")} if words else set()
            named = {name for name in named if not module.startswith(f"{name}.")}  # its own package's data
        else:
            continue
        for name in named:
            while name not in within and "." in name:  # a package's data, or a name in a module
                name = name.rpartition(".")[0]
            if name in within and name != module:
                yield name


def upward(within: Modules) -> list[str]:
    """The arrows that point up."""
    pairs = [(module, target) for module in within for target in arrows(module, within)]
    return [f"{module} -> {target}" for module, target in pairs if LEVEL[room(target)] < LEVEL[room(module)]]


def circle(within: Modules) -> list[str]:
    """A circle of modules, if there is one."""
    graph = {module: set(arrows(module, within)) for module in within}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_every_arrow_points_down_the_rooms() -> None:
    assert upward(modules()) == []


def test_no_arrows_run_in_a_circle() -> None:
    assert circle(modules()) == []


def test_a_room_that_a_task_depends_on_whole_imports_none_that_it_reaches_by_name() -> None:
    """Else a change there would pass a task's key by."""
    by_name = {Path(place).stem for place in reach.BY_NAME}
    whole = set(LEVEL) - by_name - {Path(place).stem for place in reach.NEVER} - {"__init__"}
    assert {"data", "training", "seeds"} <= whole
    within = modules()
    assert not {
        (module, target)
        for module in within
        for target in arrows(module, within)
        if room(module) in whole and room(target) in by_name
    }


def test_every_room_has_its_place_in_the_order() -> None:
    assert {room(module) for module in modules()} <= set(LEVEL)


PLANTED = {
    "datalab": "__version__ = '1'",
    "datalab.cli": "from datalab import noise",
    "datalab.sections": "",
    "datalab.sections.s4_1": "from datalab.noise import flip",
    "datalab.noise": "def flip(): ...",
    "datalab.stack": "import numpy",
    "datalab.mapped": "from datalab.stack import Stack",
}


@pytest.mark.parametrize(
    "line",
    [
        "from datalab.sections import s4_1",
        "def late():\n    from datalab.cli import main",
        "import datalab.sections.s4_1",
        'TASK = "datalab.sections.s4_1:run_task"',
        'TASK = f"datalab.sections.{1}:run_task"',
        'def task():\n    return "datalab.cli"',
    ],
)
def test_a_planted_arrow_upward_is_seen_as_import_or_string(line: str) -> None:
    assert upward(PLANTED) == []
    assert len(upward(PLANTED | {"datalab.noise": line})) == 1


def test_a_string_that_names_no_module_of_the_package_is_no_arrow() -> None:
    text = 'KEY = "datalab.cell"\nTEXT = "datalab.cli and others"\nHOME = "https://datalab.cli"\n"""See datalab.cli."""'
    assert list(arrows("datalab.noise", PLANTED | {"datalab.noise": text})) == ["datalab"]


@pytest.mark.parametrize("line", ["from datalab.mapped import Mapped", 'NAME = "datalab.mapped:Mapped"'])
def test_a_planted_circle_is_seen_on_one_level(line: str) -> None:
    planted = PLANTED | {"datalab.stack": line}
    assert upward(planted) == []
    assert set(circle(planted)) == {"datalab.stack", "datalab.mapped"}
