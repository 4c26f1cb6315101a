"""What the tests of sections share."""

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
