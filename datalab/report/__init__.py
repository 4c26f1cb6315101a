"""A record as static pages: from any figure of the paper to its evidence in two clicks, offline, without Python.

``index.html`` (the board of all statements) lies beside the manifest, the other pages in ``report/``. They are made
from the record, and from the ledger, the protocol and the data cards of the code that made it: where these have moved
on since, every page says so.
"""

from datalab.report.site import differing, write

__all__ = ["differing", "write"]
