"""A notebook's parameters are what its parameters cell assigns, on a fresh kernel and on a warm one."""

from typing import Any

import pytest
import record_fakes
from IPython.core.interactiveshell import InteractiveShell

from datalab.errors import UserError
from datalab.record.parameters import SectionParameters, assigned, assigned_literals, given_in, resolve

CELL = """profile = "smoke"  # str
seeds = None  # int
count = 4
"""
START = "from datalab.sections import start"
INJECTED = """# Parameters
profile = "quick"
count = 7
"""


@pytest.fixture
def run() -> Any:
    """Run cells one after another in an IPython shell, as a kernel does, and return its namespace."""
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    shell.history_manager.enabled = False

    def run_cells(*sources: str) -> dict[str, Any]:
        for source in sources:
            shell.run_cell(source, store_history=True).raise_error()
        return shell.user_ns

    yield run_cells
    InteractiveShell.clear_instance()


def given(namespace: dict[str, Any]) -> dict[str, Any]:
    return given_in(namespace, record_fakes.Parameters.model_fields)


def resolved(namespace: dict[str, Any]) -> SectionParameters:
    return resolve(record_fakes.Parameters, given(namespace), "notebook 0_alpha")


def test_the_parameters_are_the_names_that_the_parameters_cell_assigns(run: Any) -> None:
    namespace = run("import math", CELL, "x = 1", "f'{x}'")
    assert given(namespace) == {"profile": "smoke", "seeds": None, "count": 4}


def test_a_misspelt_name_is_refused_with_the_right_one(run: Any) -> None:
    with pytest.raises(UserError, match="notebook 0_alpha: unknown parameter 'sedes'; did you mean 'seeds'"):
        resolved(run(CELL.replace("seeds", "sedes")))


def test_on_a_warm_kernel_a_name_of_an_earlier_version_of_the_cell_does_not_count(run: Any) -> None:
    namespace = run(CELL.replace("seeds", "sedes"), START, CELL)
    assert namespace["sedes"] is None
    assert resolved(namespace).count == 4


def test_on_a_warm_kernel_a_misspelt_name_is_refused_though_the_right_one_is_left_over(run: Any) -> None:
    with pytest.raises(UserError, match="did you mean 'count'"):
        resolved(run(CELL, START, CELL.replace("count", "cuont")))


def test_what_papermill_injects_after_the_cell_replaces_and_adds_to_what_it_assigns(run: Any) -> None:
    namespace = run(CELL, INJECTED, START)
    assert given(namespace) == {"profile": "quick", "count": 7, "seeds": None}
    namespace = run(CELL, INJECTED + "sedes = 3\n", START)
    with pytest.raises(UserError, match="'sedes'"):
        resolved(namespace)


def test_a_list_that_papermill_hands_over_as_text_is_told_to_be_given_by_its_other_option() -> None:
    with pytest.raises(UserError, match=r"papermill takes it as: -y 'noise_rates: \[0\.1\]'"):
        resolved({"profile": "smoke", "noise_rates": "[0.1]"})


def test_the_start_cell_run_again_reads_the_same_parameters(run: Any) -> None:
    first = given(run(CELL, INJECTED, START))
    assert given(run("rows = [1, 2]", "rows", START)) == first


def test_literals_assigned_in_a_scratch_cell_between_are_not_parameters(run: Any) -> None:
    namespace = run(CELL, "colour = 'red'\nwidth = 3", START)
    assert given(namespace) == {"profile": "smoke", "seeds": None, "count": 4}


def test_a_parameter_of_its_own_cell_counts_and_one_that_is_computed_does(run: Any) -> None:
    """Before: a cell that did more than assign literals was passed over, and every parameter was its default."""
    assert given(run(CELL, "count = 9", START))["count"] == 9
    computing = f"import os\n{CELL}count = 2 * 3\n"
    assert given(run(computing, START)) == {"profile": "smoke", "seeds": None, "count": 6}
    with pytest.raises(UserError, match="did you mean 'count'"):
        resolved(run(computing.replace("count", "cuont"), START))


def test_where_no_cell_of_parameters_was_run_none_is_made_up(run: Any) -> None:
    with pytest.raises(UserError, match="no cell that sets `profile` was run"):
        given(run("count = 3", START))


def test_the_cell_edited_and_run_again_is_read_as_it_stands_now(run: Any) -> None:
    run(CELL, START)
    assert resolved(run(CELL.replace("count = 4", "count = 9"), START)).count == 9


def test_a_mapping_that_is_no_notebooks_holds_the_parameters_itself() -> None:
    assert given({"profile": "smoke", "count": 2}) == {"profile": "smoke", "count": 2}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ('a = 1\nb: float = 2.0\nc = d = [1, "x"]  # both', ["a", "b", "c", "d"]),
        ("a = 1\nb = a + 1", []),
        ("a = f(1)", []),
        ("import os\na = 1", []),
        ("a = {[]: 1}", []),
        ("a = (", []),
        ("%matplotlib inline", []),
        ("", []),
    ],
)
def test_a_cell_assigns_literals_only_if_that_is_all_it_does(source: str, names: list[str]) -> None:
    assert assigned_literals(source) == names


@pytest.mark.parametrize(
    ("source", "names"),
    [("import os\na = f(1)\nfor b in c:\n    d = 1\ne: int = 2", ["a", "e"]), ("a = (", []), ("f(a=1)", []), ("", [])],
)
def test_what_a_cell_assigns_is_assigned_at_its_top(source: str, names: list[str]) -> None:
    assert assigned(source) == names
