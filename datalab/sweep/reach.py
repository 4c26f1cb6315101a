"""The code that a task's rows can depend on, as a hash.

Rows depend on the rooms below the sweep, whole, and above them on what the task's function can reach: definitions in
its own module and in those it imports from. A table drawn from the rows beside them can change without their renewal.
"""

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # the package
# The rooms that a task reaches by name only, not whole: how it is run, shown and judged does not change its rows.
_BY_NAME = ("sections", "stats")
_NEVER = ("cli.py", "__main__.py", "ledger", "sweep", "record", "report", "advise", "audit", "protocol.yaml")
_KINDS = {".py", ".txt", ".yaml"}


@functools.cache
def code_hash(function: str) -> str:
    """The hash of the source that ``function`` ("package.module:name") depends on."""
    digest = hashlib.sha256(_rooms_below().encode())
    module, _, name = function.partition(":")
    for place, source in sorted(_reached(module, name)):
        digest.update(f"{place}\0{source}\0".encode())
    return digest.hexdigest()


@functools.cache
def _rooms_below() -> str:
    digest = hashlib.sha256()
    for path in sorted(ROOT.rglob("*")):
        place = path.relative_to(ROOT)
        if path.suffix in _KINDS and place.parts[0] not in (*_BY_NAME, *_NEVER):
            digest.update(place.as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _reached(module: str, name: str) -> set[tuple[str, str]]:
    """The definitions that ``module:name`` can reach: (``module:name``, source) each."""
    found: dict[tuple[str, str], str] = {}
    waiting = [(module, name)]
    while waiting:
        at = waiting.pop()
        definitions = _definitions(at[0])
        if at in found or at[1] not in definitions:
            continue
        node, source = definitions[at[1]]
        found[at] = source
        waiting += _named(at[0], node)
    return {(f"{module}:{name}", source) for (module, name), source in found.items()}


def _named(module: str, node: ast.AST) -> Iterator[tuple[str, str]]:
    """Every name that a definition may mean: of its own module, or of one that it takes it from."""
    if isinstance(node, ast.ImportFrom):
        for alias in node.names:
            if _file(f"{node.module}.{alias.name}"):  # a module as a whole: what is used of it is not known
                yield from (
                    (f"{node.module}.{alias.name}", name) for name in _definitions(f"{node.module}.{alias.name}")
                )
            else:
                yield str(node.module), alias.name
        return
    modules = {}  # what the names of imported modules stand for
    for name, (definition, _) in _definitions(module).items():
        if isinstance(definition, ast.ImportFrom) and _file(f"{definition.module}.{_taken(definition, name)}"):
            modules[name] = f"{definition.module}.{_taken(definition, name)}"
    through = set()  # `trial` in `trial.references`: only that is meant
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id in modules:
            through.add(id(part.value))
            yield modules[part.value.id], part.attr
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and id(part) not in through:
            yield module, part.id


def _taken(node: ast.ImportFrom, name: str) -> str:
    """The name in its own module of what a module imports as ``name``."""
    return next(alias.name for alias in node.names if (alias.asname or alias.name) == name)


@functools.cache
def _definitions(module: str) -> dict[str, tuple[ast.AST, str]]:
    """A module's top-level names with definition and source; none of a module that is not reached by name."""
    path = _file(module)
    if path is None:
        return {}
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    found: dict[str, tuple[ast.AST, str]] = {}
    for node in ast.parse(text).body:
        first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
        source = "\n".join(lines[first - 1 : node.end_lineno])
        for name in _bound(node):
            found[name] = (node, found[name][1] + source if name in found else source)
    return found


def _bound(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
    return [part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]


def _file(module: str) -> Path | None:
    """The file of a module that is reached by name; None of any other."""
    path = ROOT.parent.joinpath(*module.split("."))
    room = path.relative_to(ROOT).parts[:1] if path.is_relative_to(ROOT) else ()
    if not room or room[0] not in _BY_NAME:
        return None
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
