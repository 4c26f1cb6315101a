"""A record as static pages: from any figure of the paper to its evidence in two clicks, offline, without Python.

``index.html`` (the board of all statements) lies beside the manifest, the other pages in ``report/``. They are made
from the record alone: equal records give equal pages.
"""

from datalab.report.site import write

__all__ = ["write"]
