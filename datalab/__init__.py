"""DATA-LAB: the package behind the notebooks. It holds the influence code, the models, the protocol and the record."""

import importlib
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``datalab.advise(X, y)`` after ``import datalab`` alone: loaded when it is asked for, since it takes torch."""
    if name == "advise":
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
