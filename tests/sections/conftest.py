"""What the tests of sections share."""

import ast
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from datalab import data

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


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
