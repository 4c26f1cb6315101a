"""The package's own reference: one static page a room, made from the docstrings of its public names."""

import importlib
import inspect
import os
import pkgutil
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import datalab
from datalab import atomic
from datalab.report import pages

_ROLE = re.compile(r":[a-z:]+:`[~!]?([^`]+)`")  # :class:`Estimator`, as Sphinx has it


def write(folder: Path) -> list[Path]:
    """Write ``<room>.html`` for each room of the package, and an ``index.html``, into ``folder``; return their paths.

    A room is a module or a folder of modules directly under ``datalab``. Every room is imported.
    """
    names = [module.name for module in pkgutil.iter_modules(datalab.__path__) if module.name != "__main__"]
    rooms = {name: importlib.import_module(f"datalab.{name}") for name in names}
    template, style = pages.environment().get_template("api.html.j2"), pages.asset("style.css")
    contents = {"index": []} | {name: list(_modules(room)) for name, room in rooms.items()}
    for name, modules in contents.items():
        page = template.render(name=name, modules=modules, rooms=rooms, style=style, prose=prose)
        atomic.write(folder / f"{name}.html", page)
    return [folder / f"{name}.html" for name in contents]


def prose(doc: str | None) -> str:
    """A docstring as Markdown: its roles are code."""
    return _ROLE.sub(r"`\1`", inspect.cleandoc(doc or ""))


def _modules(room: ModuleType) -> Iterator[tuple[ModuleType, list[tuple[str, str]]]]:
    """A room's modules, each with its public definitions."""
    inner = pkgutil.walk_packages(getattr(room, "__path__", ()), f"{room.__name__}.")
    for module in [room, *(importlib.import_module(entry.name) for entry in inner)]:
        yield module, list(_definitions(module, module.__name__))


def _definitions(owner: Any, module: str, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The public functions and classes defined in a module, and the methods of these: signature and docstring."""
    for name, thing in vars(owner).items():
        thing = thing.func if isinstance(thing, cached_property) else thing
        thing = getattr(thing, "__func__", getattr(thing, "fget", thing))  # of a static method, of a property
        if name.startswith("_") or getattr(thing, "__module__", None) != module or not callable(thing):
            continue
        yield f"{prefix}{name}{_signature(thing)}", inspect.getdoc(thing) or ""
        if inspect.isclass(thing):
            yield from _definitions(thing, module, f"{name}.")


def _signature(thing: Any) -> str:
    """How it is called; of a default that is an object or an absolute path its type: it may name this machine."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    plain = (str, int, float, tuple, type(None), type)
    parameters = signature.parameters.values()
    shown = (
        p if isinstance(p.default, plain) and not os.path.isabs(str(p.default)) else p.replace(default=type(p.default))
        for p in parameters
    )
    return str(signature.replace(parameters=list(shown)))
