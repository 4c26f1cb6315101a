"""Settings as estimators and losses take them: of the right type, and plain, so that a file may hold them."""

import inspect
import math
from collections.abc import Callable, Iterable
from numbers import Integral, Real

from torch import Tensor, nn

from datalab.errors import UserError


def names(kind: type) -> set[str]:
    """Of all that the constructors of a class and of its bases take, without ``self``."""
    inits = [vars(base)["__init__"] for base in kind.__mro__[:-1] if "__init__" in vars(base)]
    parameters = [p for init in inits for p in inspect.signature(init).parameters.values()]
    return {p.name for p in parameters if p.kind != p.VAR_KEYWORD} - {"self"}


def count(name: str, value: object, least: int | None = 1) -> int:
    """A whole number; raises UserError for anything else, as all here do."""
    if not isinstance(value, Integral) or isinstance(value, bool) or (least is not None and value < least):
        above = "" if least is None else f" of at least {least}"
        raise UserError(f"{name}: must be a whole number{above}, got {_line(value)}")
    return int(value)


def number(
    name: str, value: object, need: str = "a number of at least 0", fits: Callable[[float], bool] = lambda v: v >= 0
) -> float:
    """A finite number, or one in a tensor, that fits."""
    plain = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if not isinstance(plain, Real) or isinstance(plain, bool) or not (math.isfinite(plain) and fits(plain)):
        raise UserError(f"{name}: must be {need}, got {_line(value)}")
    return int(plain) if isinstance(plain, Integral) else float(plain)


def numbers(name: str, values: object, *need: object) -> list[float]:
    """A list of such numbers; ``need``, ``fits``: those of :func:`number`."""
    return [float(number(name, value, *need)) for value in several(name, values, "numbers")]


def damping(value: object) -> float | str:
    """``"auto"``, or a number of at least 0."""
    auto = isinstance(value, str) and value == "auto"
    return value if auto else number("damping", value, "'auto' or a number of at least 0")


def several(name: str, values: object, of: str) -> list:
    """A list of what is called ``of``."""
    if isinstance(values, str | nn.Module) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        got = f"{values!r}; [{values!r}] is one" if isinstance(values, str) else f"a {type(values).__name__}"
        raise UserError(f"{name}: must be a list of {of}, got {got}")
    return list(values)


def _line(value: object) -> str:
    return " ".join(repr(value).split())[:80]
