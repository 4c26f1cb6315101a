"""The functions of the package that made a notebook's tables and verdicts: read off its code, which is not run."""

import ast
import inspect
import pydoc
import re
from collections.abc import Sequence
from typing import NamedTuple

VERDICTS = "verdicts"
_SAVES = {"section.table": slice(1, 2), "section.verdicts": slice(0)}  # and which argument is the name it is saved as
_LAYOUT = ("paper_shape", "readable", "wide")  # functions that only arrange what another computed


class Origin(NamedTuple):
    """A function of the package, and the line at which it begins."""

    module: str
    function: str
    line: int


def origins(cells: Sequence[str]) -> dict[str, Origin]:
    """By a table's short name, and by :data:`VERDICTS`, the function that a notebook's code cells take it from.

    That is the first call of the package in what is saved, or in what a name that is saved was assigned.
    """
    imported, assigned, made = {}, {}, {}
    for node in (node for cell in cells for statement in _statements(cell) for node in ast.walk(statement)):
        if isinstance(node, ast.ImportFrom):
            imported |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Assign) and (source := _source(node.value, imported, assigned)):
            targets = [name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)]
            assigned |= dict.fromkeys(targets, source)
        elif isinstance(node, ast.Call) and node.args and (saves := _SAVES.get(ast.unparse(node.func))):
            name = next((arg.value for arg in node.args[saves] if isinstance(arg, ast.Constant)), VERDICTS)
            made[name] = _found(_source(node.args[0], imported, assigned))
    return {name: origin for name, origin in made.items() if origin}


def _statements(cell: str) -> list[ast.stmt]:
    try:
        return ast.parse(cell).body
    except SyntaxError:  # a line of IPython's
        return []


def _source(value: ast.expr, imported: dict[str, str], assigned: dict[str, str]) -> str:
    """The dotted name of the first function of the package in an expression, calls before names; empty for none."""
    nodes = list(ast.walk(value))
    calls = [ast.unparse(node.func).partition(".") for node in nodes if isinstance(node, ast.Call)]
    of_package = [f"{imported[name]}{dot}{rest}" for name, dot, rest in calls if name in imported]
    names = [assigned[node.id] for node in nodes if isinstance(node, ast.Name) and node.id in assigned]
    own = [name for name in of_package if re.fullmatch(r"datalab(\.[A-Za-z]\w*)+", name) and not name.endswith(_LAYOUT)]
    return next(iter(own + names), "")


def _found(dotted: str) -> Origin | None:
    """Where a function is defined; None where the code has moved on and has none of this name."""
    function = inspect.unwrap(pydoc.locate(dotted)) if dotted else None
    if not inspect.isfunction(function) or not function.__module__.startswith("datalab."):
        return None
    return Origin(function.__module__, function.__qualname__, inspect.getsourcelines(function)[1])
