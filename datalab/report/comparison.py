"""The comparison of two records as one page that needs no other file."""

from pathlib import Path

from datalab import atomic
from datalab.errors import UserError
from datalab.record import provenance
from datalab.record.checks.compare import Comparison
from datalab.report import pages


def write(comparison: Comparison, path: Path) -> None:
    """Write the page to ``path``: the verdicts that changed first, then the claims, the tables, the environment.

    Raises :class:`UserError` where that cannot be.
    """
    template = pages.environment().get_template("comparison.html.j2")
    try:
        atomic.write(path, template.render(c=comparison.as_dict(), style=pages.asset("style.css")))
    except OSError as error:
        raise UserError(f"page '{provenance.shown(path)}': cannot be written ({error.strerror})") from None
