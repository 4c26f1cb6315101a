"""Should I prune *my* data? One question about a file of one's own, and an answer with an interval.

``datalab.advise(X, y)`` is this room called as a function. ``pilot`` knows what is trained, judged and scored,
``verdict`` what follows from it, ``advice`` the whole way, ``page`` what is written.
"""

import sys
import types

from datalab.advise.advice import Advice, advise
from datalab.advise.page import check, write

__all__ = ["Advice", "advise", "check", "write"]


class _Callable(types.ModuleType):
    """A room that is its one verb: ``datalab.advise`` names the module, once it is loaded, wherever it is imported."""

    __call__ = staticmethod(advise)


sys.modules[__name__].__class__ = _Callable
