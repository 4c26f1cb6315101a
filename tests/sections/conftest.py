"""What the tests of sections share."""

import ast
import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from datalab import data
from datalab.protocol import frozen, protocol

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


@contextlib.contextmanager
def a_fifth_of_the_steps() -> Iterator[None]:
    """Models train for a fifth of the recipe's steps: what is tested here does not depend on how well they fit."""
    rules = protocol()
    tree = rules._tree
    training, reference = ({**tree[name], "steps": 40} for name in ("training", "reference"))
    rules._tree = frozen({**tree, "training": training, "reference": reference})
    yield
    rules._tree = tree


@pytest.fixture(scope="module", autouse=True)
def _as_in_a_kernel(_text_is_stored_as_pandas_would: None) -> None:
    from datalab.record import tables

    tables.style()


@pytest.fixture(scope="module", autouse=True)
def brief() -> Iterator[None]:
    """All that a file's tests train."""
    with a_fifth_of_the_steps():
        yield


@pytest.fixture
def shown() -> Callable[..., dict[str, Any]]:
    """What a cell of a notebook computes: ``shown(stem, cell_id, rows=rows)`` gives all names back.

    The notebook's imports are run before it, and nothing else of it; ``display`` shows nothing.
    """

    def run(stem: str, cell_id: str, **names: Any) -> dict[str, Any]:
        notebook = json.loads((NOTEBOOKS / f"{stem}.ipynb").read_text(encoding="utf-8"))
        code = {cell["id"]: "".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"}
        for source in code.values():
            imports = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
            exec(compile(ast.Module(imports, []), stem, "exec"), names)
        names["display"] = lambda *what: None
        exec(compile(code[cell_id], f"{stem}, cell {cell_id}", "exec"), names)
        return names

    return run


@pytest.fixture
def scrambled(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A switch that makes every prepared data set's test labels random."""
    prepare = data.prepare

    def scrambling(*args: Any, **named: Any) -> data.Prepared:
        p = prepare(*args, **named)
        return dataclasses.replace(p, y_test=np.random.default_rng(0).integers(0, p.n_classes, len(p.y_test)))

    return lambda: monkeypatch.setattr(data, "prepare", scrambling)


@pytest.fixture
def only_scores_change(scrambled: Callable[[], None]) -> Callable[[Callable[[], list[dict[str, Any]]]], None]:
    """Assert that random test labels change the test scores in a task's rows, and no other column of them."""

    def check(run: Callable[[], list[dict[str, Any]]]) -> None:
        before = pd.DataFrame(run())
        scrambled()
        after = pd.DataFrame(run())
        scored = [name for name in ("precision", "recall", "macro_f1", "accuracy", "ece") if name in before]
        pd.testing.assert_frame_equal(before.drop(columns=scored), after.drop(columns=scored))
        assert not before[scored].equals(after[scored])

    return check


@pytest.fixture(scope="session")
def main_rows(made_once: Callable[[str, Callable[[Path], object]], Path]) -> pd.DataFrame:
    """Rows of section 4.1's tasks (4.3 and 5.1 read them too): three small data sets, two seeds, two noise rates."""
    from datalab.sections import s4_1_main_results as s4_1

    given = {"root_seed": 7, "rates": [0.0, 0.2], "encoder": "fast", "device": "cpu", "configurations": 3}
    given |= {"architecture": "mlp", "caps": {"train": 120, "validation": 60, "test": 120}}

    def make(folder: Path) -> None:
        with a_fifth_of_the_steps():  # a session's fixture may be made before a file's
            parts = [
                pd.DataFrame(s4_1.run_task(dataset=name, seed=seed, **given))
                for name in ("digits", "wine", "breast_cancer")
                for seed in (0, 1)
            ]
        folder.mkdir()
        pd.concat(parts, ignore_index=True).to_pickle(folder / "rows.pickle")

    with pd.option_context("mode.string_storage", "python"):  # as in a kernel: made before the file's own fixtures
        return pd.read_pickle(made_once("main-rows", make) / "rows.pickle")


@pytest.fixture
def configurations() -> Callable[..., pd.DataFrame]:
    """A maker of configurations (three noise rates on each of ``sets``) whose failures follow from the noise."""

    def make(sets: int = 6, seed: int = 0) -> pd.DataFrame:
        rng, rows = np.random.default_rng(seed), []
        for i in range(sets):
            for rate in (0.0, 0.2, 0.4):
                row = {"dataset": f"set {i}", "rate": rate, "estimated noise": rate + rng.normal(0, 0.03)}
                row |= {"log classes": rng.normal(), "fails": rate + rng.normal(0, 0.05) < 0.1}
                rows.append(row)
        return pd.DataFrame(rows)

    return make
