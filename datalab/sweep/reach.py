"""The code that a task's rows can depend on, as a hash.

Rows depend on the rooms at the bottom, data and training, whole, and above them on what the task's function can reach
by name: definitions in its own module and in those it imports from (``from ... import``, at the top or in a function).
A table drawn from the rows, or an estimator that the task does not use, can change without their renewal.
"""

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # the package
# The rooms that a task reaches by name only, not whole. None of the others imports from them (tests/test_rooms.py).
BY_NAME = ("sections", "stats", "advise", "intake", "framework.py", "correction.py", "pruning.py", "noise.py",
           "retraining.py", "influence")  # fmt: skip
# How a task is run, shown and judged does not change its rows.
NEVER = ("cli", "__main__.py", "ledger", "sweep", "record", "report", "audit", "protocol.yaml")
_KINDS = {".py", ".txt", ".yaml"}


@functools.cache
def code_hash(function: str) -> str:
    """The hash of the source that ``function`` ("package.module:name") depends on; comments and layout do not count."""
    digest = hashlib.sha256(_rooms_below().encode())
    for place, source in sorted(reached(function).items()):
        digest.update(f"{place}\0{source}\0".encode())
    return digest.hexdigest()


@functools.cache
def _rooms_below() -> str:
    digest = hashlib.sha256()
    for path in sorted(ROOT.rglob("*")):
        place = path.relative_to(ROOT)
        if path.suffix in _KINDS and place.parts[0] not in (*BY_NAME, *NEVER):
            digest.update(place.as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def reached(function: str) -> dict[str, str]:
    """The definitions that ``function`` can reach in the rooms reached by name, itself included: their sources."""
    sources: dict[str, str] = {}
    waiting = [function]
    while waiting:
        source, meant = _definition(place := waiting.pop())
        if source and place not in sources:
            sources[place] = source
            waiting += meant
    return sources


@functools.cache
def _definition(place: str) -> tuple[str, list[str]]:
    """Of a definition, as ``module:name``, its source and all that it may mean; nothing for a name that is none."""
    module, _, name = place.partition(":")
    statements = _definitions(module).get(name, [])
    meant = dict.fromkeys(what for statement in statements for what in _meant(module, statement))
    return "\n".join(map(ast.unparse, statements)), list(meant)


def _meant(module: str, statement: ast.stmt) -> Iterator[str]:
    """Every name, as ``module:name``, that a statement of ``module`` may mean: its own, or one that it imports."""
    modules = _modules(module) | _imported_modules(ast.walk(statement))
    through = set()  # `trial` in `trial.references`: only that is meant
    for part in ast.walk(statement):
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id in modules:
            through.add(part.value)
            yield f"{modules[part.value.id]}:{part.attr}"
        elif isinstance(part, ast.ImportFrom):
            yield from (f"{part.module}:{alias.name}" for alias in part.names)
            for alias in part.names:  # `b` in `a.b.c`, where `b` is a module: what is used of it is not known
                whole = f"{part.module}.{alias.name}"
                yield from (f"{whole}:{name}" for name in _definitions(whole))
        elif isinstance(part, ast.Name) and part not in through:
            yield f"{module}:{part.id}"
            if whole := modules.get(part.id):  # what is used of it is not known
                yield from (f"{whole}:{name}" for name in _definitions(whole))


@functools.cache
def _modules(module: str) -> dict[str, str]:
    """What a module imports at its top."""
    return _imported_modules(part for statements in _definitions(module).values() for part in statements)


def _imported_modules(parts: Iterable[ast.AST]) -> dict[str, str]:
    """Names of imported modules, and what they stand for."""
    imports = [part for part in parts if isinstance(part, ast.ImportFrom)]
    aliases = [(alias, f"{part.module}.{alias.name}") for part in imports for alias in part.names]
    return {alias.asname or alias.name: module for alias, module in aliases if _file(module)}


@functools.cache
def _definitions(module: str) -> dict[str, list[ast.stmt]]:
    """The statements that make each top-level name of a module; none of a module that is not reached by name."""
    path = _file(module)
    statements: dict[str, list[ast.stmt]] = {}
    for statement in ast.parse(path.read_text(encoding="utf-8")).body if path else ():
        for name, part in _bound(statement):
            statements.setdefault(name, []).append(part)
    return statements


def _bound(statement: ast.stmt) -> Iterator[tuple[str, ast.stmt]]:
    """The names that a top-level statement makes or changes, each with the part of it that does."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name, statement
    elif isinstance(statement, ast.ImportFrom):
        for alias in statement.names:
            yield alias.asname or alias.name, ast.ImportFrom(statement.module, [alias], statement.level)
    else:
        changes = (ast.Attribute, ast.Subscript)  # TABLE["x"] = ...
        stored = [part for part in ast.walk(statement) if isinstance(getattr(part, "ctx", None), ast.Store)]
        stored = [part.value if isinstance(part, changes) else part for part in stored]
        if isinstance(statement, ast.Expr):  # TABLE.update(...)
            stored = [part for part in ast.walk(statement) if isinstance(part, ast.Name)]
        for name in dict.fromkeys(part.id for part in stored if isinstance(part, ast.Name)):
            yield name, statement


def _file(module: str) -> Path | None:
    """The file of a module that is reached by name; None of any other."""
    package, *rooms = module.split(".")
    if package != ROOT.name or not rooms or not {rooms[0], f"{rooms[0]}.py"} & {*BY_NAME}:
        return None
    path = ROOT.joinpath(*rooms)
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
