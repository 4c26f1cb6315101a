"""The package's own reference: one static page a room, made from the docstrings of its public names."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import datalab
from datalab import atomic
from datalab.report import pages


def write(folder: Path) -> list[Path]:
    """Write ``<room>.html`` for each room of the package, and an ``index.html``, into ``folder``; return their paths.

    A room is a module or a folder of modules directly under ``datalab``. Every room is imported.
    """
    rooms = {
        module.name: importlib.import_module(f"datalab.{module.name}")
        for module in pkgutil.iter_modules(datalab.__path__)
        if not module.name.startswith("_")
    }
    template, style = pages.environment().get_template("api.html.j2"), pages.asset("style.css")
    contents = {name: list(_modules(room)) for name, room in rooms.items()}
    summaries = {name: inspect.getdoc(room) or "" for name, room in rooms.items()}
    written = []
    for name, modules in {"index": [], **contents}.items():
        path = folder / f"{name}.html"
        atomic.write(path, template.render(name=name, modules=modules, rooms=summaries, style=style))
        written.append(path)
    return written


def _modules(room: ModuleType) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """A room's modules: name, docstring, and its public definitions."""
    inner = pkgutil.walk_packages(getattr(room, "__path__", ()), f"{room.__name__}.")
    for module in [room, *(importlib.import_module(entry.name) for entry in inner)]:
        yield module.__name__, inspect.getdoc(module) or "", list(_definitions(module, module.__name__))


def _definitions(owner: Any, module: str, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The public functions and classes defined in a module, and the methods of these: signature and docstring."""
    for name, thing in vars(owner).items():
        thing = thing.__func__ if isinstance(thing, classmethod | staticmethod) else thing
        thing = thing.fget if isinstance(thing, property) else thing
        if name.startswith("_") or getattr(thing, "__module__", None) != module or not callable(thing):
            continue
        try:
            signature = str(inspect.signature(thing))
        except (TypeError, ValueError):
            signature = ""
        yield f"{prefix}{name}{signature}", inspect.getdoc(thing) or ""
        if inspect.isclass(thing):
            yield from _definitions(thing, module, f"{name}.")
