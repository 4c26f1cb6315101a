"""A task's key moves with the code its function can reach, and with no other."""

from collections.abc import Callable
from pathlib import Path

import pytest

from datalab.sweep import reach

# A package like ours. What the task can reach says `1`, what it cannot `-1`; an edit replaces the digit.
FILES = {
    "training.py": "STEPS = 1",
    "pruning.py": "def keep():\n    return 1\n\n\ndef shown():\n    return -1\n",
    "influence/__init__.py": '''
from datalab.influence import losses
from datalab.influence.kronecker import EKFAC
from datalab.influence.last_layer import LastLayerGGN

ALL = (-1, EKFAC)
''',
    "influence/estimator.py": "class Estimator:\n    batch = 1\n",
    "influence/losses.py": "def of_a_chain():\n    return 1\n",
    "influence/kronecker.py": "class EKFAC:\n    wide = -1\n",
    "influence/last_layer.py": '''
from datalab.influence.estimator import Estimator


class LastLayerGGN(Estimator):
    damping = 1
''',
    "cli/__init__.py": "X = -1",
    "ledger/claim.py": "X = -1",
    "record/tables.py": "X = -1",
    "report/site.py": "X = -1",
    "audit/counts.py": "X = -1",
    "sweep/pool.py": "X = -1",
    "sections/s4_1_main.py": '''
from functools import cache

from datalab import influence, pruning, stats
from datalab.record import Statement
from datalab.sections import shared, whole
from datalab.sections.trial import Trial, unused_by_the_task

RATE = 1
GRID = {"a": 0}
GRID["b"] = 1
GRID.update(c=1)
COLUMNS = ["x", -1]


def wrap(function):
    return 1, function


class Base:
    weight = 1


class Model(Base):
    """One class, whole."""

    def used(self):
        return 1

    def also_counts(self):
        return 1


class Shown:
    width = -1


@wrap
def step():
    return RATE


def run_task(seed: int):
    """What the sweep calls."""
    from datalab.sections.late import inside

    step(), Model().used(), Trial(seed).references(), shared.folds(), stats.t_test([1, 1])
    influence.LastLayerGGN, influence.losses.of_a_chain(), pruning.keep()
    return [inside(g) for g in GRID], list(map(repr, [whole]))


def table(rows):
    """Drawn from the rows."""
    return Statement(-1), Shown(), COLUMNS, unused_by_the_task, shared.caption, stats.holm(rows)
''',
    "sections/trial.py": '''
CAP = 1


class Trial:
    def references(self):
        return helper(CAP)


def helper(cap):
    return 1


def unused_by_the_task():
    return -1
''',
    "sections/shared.py": '''
def folds():
    return 1


def caption():
    return -1
''',
    "sections/whole.py": "def any_of_it():\n    return 1\n",
    "sections/late.py": '''
def inside(g):
    return 1


def outside():
    return -1
''',
    "sections/s5_other.py": "def run_task():\n    return -1\n",
    "stats/__init__.py": '''
from datalab.stats.paired import holm, t_test

VERSION = -1
''',
    "stats/paired.py": '''
def t_test(d):
    return _moments(d)


def _moments(d):
    return 1


def holm(p):
    return -1
''',
}  # fmt: skip
TASK = "datalab.sections.s4_1_main:run_task"
Hash = Callable[[], str]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / "datalab" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "datalab" / name).write_text(text)
    monkeypatch.setattr(reach, "ROOT", tmp_path / "datalab")
    yield tmp_path / "datalab"
    forget()


def forget() -> None:
    for cached in filter(lambda made: hasattr(made, "cache_clear"), vars(reach).values()):
        cached.cache_clear()


def hash_now(task: str = TASK) -> str:
    forget()
    return reach.code_hash(task)


def edits(digit: str) -> list[tuple[str, int]]:
    """Where each line with this digit stands: its file and line."""
    return [
        (name, number)
        for name, text in FILES.items()
        for number, line in enumerate(text.splitlines())
        if (digit in line and "-1" not in line) or (digit == "-1" and digit in line)
    ]


def edit(package: Path, name: str, number: int) -> None:
    lines = FILES[name].splitlines()
    lines[number] = lines[number].replace("1", "2")
    (package / name).write_text("\n".join(lines))


def test_the_edits_are_many_and_of_every_kind() -> None:
    assert len(edits("1")) == 19
    assert len(edits("-1")) == 18


@pytest.mark.parametrize(("name", "number"), edits("1"), ids=lambda part: str(part))
def test_a_change_in_a_definition_that_the_task_reaches_changes_its_key(package: Path, name: str, number: int) -> None:
    before = hash_now()
    edit(package, name, number)
    assert hash_now() != before


@pytest.mark.parametrize(("name", "number"), edits("-1"), ids=lambda part: str(part))
def test_a_change_in_a_definition_that_it_does_not_reach_changes_no_key(package: Path, name: str, number: int) -> None:
    before = hash_now()
    edit(package, name, number)
    assert hash_now() == before


def test_what_is_changed_after_it_was_made_counts_with_all_its_statements(package: Path) -> None:
    assert reach.reached(TASK)["datalab.sections.s4_1_main:GRID"].count("GRID") == 3


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("sections/s4_1_main.py", "import Trial, unused", "import Study as Trial, unused"),
        ("sections/s4_1_main.py", "import shared, whole", "import late as shared, whole"),
        ("stats/__init__.py", "import holm, t_test", "import holm, holm as t_test"),
        ("sections/s4_1_main.py", "class Model(Base)", "class Model"),
        ("sections/s4_1_main.py", "@wrap\n", ""),
    ],
)
def test_a_name_that_stands_for_something_else_changes_the_key(package: Path, name: str, old: str, new: str) -> None:
    before = hash_now()
    assert old in FILES[name]
    (package / name).write_text(FILES[name].replace(old, new))
    assert hash_now() != before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("sections/s4_1_main.py", "RATE = 1", "RATE = 1  # per cent"),
        ("sections/s4_1_main.py", "\n\n\nclass Shown", "\n\n\n# a remark\n\n\nclass Shown"),
        ("sections/s4_1_main.py", "import Trial, unused_by_the_task", "import Trial, caption, unused_by_the_task"),
        ("sections/trial.py", "CAP = 1", "def added():\n    return 5\n\n\nCAP = 1"),
    ],
)
def test_comments_layout_and_what_is_added_beside_do_not_count(package: Path, name: str, old: str, new: str) -> None:
    before = hash_now()
    assert old in FILES[name]
    (package / name).write_text(FILES[name].replace(old, new))
    assert hash_now() == before


def test_two_tasks_of_one_file_have_keys_of_their_own(package: Path) -> None:
    before = hash_now("datalab.sections.s4_1_main:table")
    edit(package, "sections/trial.py", FILES["sections/trial.py"].splitlines().index("    return 1"))
    assert hash_now("datalab.sections.s4_1_main:table") == before


def test_a_task_of_no_room_reached_by_name_depends_on_the_rooms_below_alone(package: Path) -> None:
    assert reach.reached("sweep_fakes:square") == {}
    before = hash_now("sweep_fakes:square")
    edit(package, "sections/trial.py", 1)
    assert hash_now("sweep_fakes:square") == before
    edit(package, "training.py", 0)
    assert hash_now("sweep_fakes:square") != before
