"""Templates to pages: one environment, and the small filters the templates share."""

import base64
import functools
import hashlib
import math
import posixpath
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from jinja2.filters import do_filesizeformat
from markupsafe import Markup, escape

from datalab import atomic, ledger
from datalab.errors import UserError
from datalab.protocol import protocol
from datalab.record import claims_table, provenance
from datalab.record.checks.compare import Comparison
from datalab.record.folder import Strange
from datalab.record.manifest import Manifest
from datalab.record.progress import span
from datalab.record.tables import exact
from datalab.report import notebookpages

# A badge's class by verdict, else "plain"; the word itself is always in it, so that colour only helps.
TONE = dict.fromkeys((ledger.REPRODUCED, ledger.DIRECTION, "consistent"), "good") | {ledger.INCONCLUSIVE: "open"}
TONE |= dict.fromkeys((ledger.NULL, ledger.OPPOSITE, ledger.DIFFERENCE, "contradicted"), "bad")

# A table cell's statement ends in its column; these columns it names as the ledger's ids do.
_COLUMNS = {"f1": "F1", "p": "p-value"}
# What of a page stays as it is: code, tags; and the spaces of "15 %" and "< 0", of which a line may not end.
_KEPT = r'<(code|pre|script|style)\b.*?</\1>|<(?:[^<>"]|"[^"]*")*>'
_JOINED = r"(?:(?<=\d)|(?<=\d</strong>)) (?=(?:<small>)?%)|(?<=&[lg]t;) (?=\d)"
_SPACES = re.compile(f"{_KEPT}|{_JOINED}", re.DOTALL)
_MINUS = re.compile(r"(?<![\w.)\]-])-(?=\d)")


@functools.cache
def environment() -> jinja2.Environment:
    """The templates of this folder, escaping all text."""
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("datalab.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    env.filters |= {use.__name__: use for use in (figure, measured, parts, judged, badge, unit, titled, dotted, minus)}
    env.filters |= {"markdown": notebookpages.markdown, "ticked": notebookpages.ticked}
    env.filters["duration"] = lambda seconds: "–" if seconds is None else span(seconds)
    env.filters["size"] = lambda count: "–" if count is None else do_filesizeformat(count, binary=True)
    env.globals["policy"] = policy
    return env


def policy(script: str = "") -> str:
    """A page's Content-Security-Policy: it loads pictures and styles of the folder, and runs this script or none."""
    allowed = "'none'"
    if script:
        allowed = f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'self' file: 'unsafe-inline'; "
        "img-src 'self' file: data:; base-uri 'none'; form-action 'none'"
    )


def render(template: str, path: str, manifest: Manifest, **context: Any) -> str:
    """One page, for the place ``path`` in the record; its links are made relative by ``to``."""

    def to(target: str) -> str:
        if target.endswith(".svg"):  # opened by itself, a stranger's drawing may run
            raise Strange(f"{path} would lead to {target}, and no page leads to a drawing")
        return posixpath.relpath(target, posixpath.dirname(path) or ".")

    given = {"to": to, "manifest": manifest, "here": path, "script": ""} | context
    return unbroken(environment().get_template(template).render(**given))


def unbroken(page: str) -> str:
    """A page in whose text no line ends between a figure and its "%" or "<"; code and tags stay as they are."""
    return _SPACES.sub(lambda found: "\N{NO-BREAK SPACE}" if found[0] == " " else found[0], page)


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write one page that needs no other file: the verdicts that changed, the claims, the tables, the environment.

    Raises :class:`UserError` where that cannot be.
    """
    template = environment().get_template("comparison.html.j2")
    try:
        atomic.write(path, unbroken(template.render(c=comparison.as_dict(), style=asset("style.css"))))
    except OSError as error:
        raise UserError(f"page '{provenance.shown(path)}': cannot be written ({error.strerror})") from None


def asset(name: str) -> Markup:
    """A file of ``static/``, as it is."""
    return Markup(files("datalab.report").joinpath("static", name).read_text(encoding="utf-8"))


def figure(value: Any, decimals: int | None = None) -> str:
    """One number for people: ``decimals`` of them, else four digits, with a true minus; a text as it is.

    Infinite are only the limits of a noise rate from which a difference is positive: at all the study's rates, or none.
    """
    if value in ("inf", "-inf", math.inf, -math.inf):
        return f">{100 * max(protocol().noise['rates']):g}" if float(value) > 0 else "<0"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return exact(value)
    if isinstance(value, int) and decimals is None:
        return f"{value:,}".replace("-", "−")
    text = f"{value:.4g}" if decimals is None else f"{value:.{decimals}f}"
    return text if "e" in text else text.replace("-", "−")


_JUDGED = re.compile(r"(difference [-+.\d]+ \[[-+.\d, ]+\])(?:, d_z [-+.\d]+)?(; the paper's [-+.\d]+)?")


def judged(row: Mapping[str, Any]) -> str:
    """What a level is judged by, off the reason of its verdict: its difference to the base row, and the paper's."""
    match = _JUDGED.search(str(row["why"]))
    return "".join(filter(None, match.groups())) if match else ""


def parts(row: Mapping[str, Any]) -> tuple[str, str]:
    """A claim's figure and its interval, to three digits of the interval's width: ``("0.713", "[0.608, 0.817]")``.

    An empty text stands for what there is not.
    """
    if row["measured"] in (None, ""):
        return "", ""
    if row["low"] in (None, "") or row["high"] in (None, ""):
        return figure(row["measured"]), ""
    ends = [value for value in (float(row["low"]), float(row["high"])) if math.isfinite(value)]
    width = ends[1] - ends[0] if len(ends) == 2 else max((abs(end - float(row["measured"])) for end in ends), default=0)
    decimals = min(6, max(0, 2 - math.floor(math.log10(width)))) if math.isfinite(width) and width > 0 else None
    low, high = (figure(row[end], decimals) for end in ("low", "high"))
    return figure(row["measured"], decimals), f"[{low}, {high}]"


def measured(row: Mapping[str, Any]) -> str:
    """A claim's figure with its unit and its interval: ``0.713 F1 [0.608, 0.817]``; a dash where there is none."""
    value, interval = parts(row)
    return " ".join(part for part in (value, unit(row), interval) if part) or "–"


def unit(row: Mapping[str, Any]) -> str:
    """The unit of a claim's measured figure; empty where it has none or is a ratio, or a text that names it."""
    return claims_table.shown(row["measured_unit"]).lstrip() if isinstance(row["measured"], int | float) else ""


def titled(row: Mapping[str, Any]) -> str:
    """A statement as a heading: without a last full stop, a table's cell as "Table 4.1, Ours (full), F1"."""
    text = row["text"].removesuffix(".")
    name, colon, column = text.rpartition(": ")
    if not colon or ledger.find(row["id"]).kind != "table_cell":
        return row["text"] if ". " in text else text
    return f"{name}, {_COLUMNS.get(column, column)}"


def dotted(name: str) -> Markup:
    """An id that a narrow column breaks after its dots and underscores alone."""
    return Markup(re.sub(r"(?<=[._])", "<wbr>", str(escape(name))))


def minus(text: str) -> str:
    """A text, or HTML, with a true minus before its figures."""
    return type(text)(_MINUS.sub("−", text))


def strip(row: Mapping[str, Any], printed: float | None) -> dict[str, float] | None:
    """Where on a line of 0 to 100 a claim's ``measured``, ``low``, ``high``, what is ``printed`` and ``zero`` lie.

    None where there is no interval. Left out is what lies beyond, and what is printed in another unit.
    """
    if not isinstance(row["measured"], int | float) or row["low"] in (None, "") or row["high"] in (None, ""):
        return None
    values = {name: float(row[name]) for name in ("measured", "low", "high")}
    if printed is not None and row["measured_unit"] == row["unit"]:
        values["printed"] = printed
    finite = [value for value in values.values() if math.isfinite(value)] or [0.0]
    margin = (max(finite) - min(finite) or 1.0) / 12
    first, last = min(finite) - margin, max(finite) + margin
    values |= {"zero": 0.0} if first <= 0 <= last else {}
    return {name: round(100 * (min(max(at, first), last) - first) / (last - first), 2) for name, at in values.items()}


def badge(verdict: str) -> Markup:
    """A verdict as a coloured word."""
    tone = TONE.get(verdict.partition(" (")[0], "plain")
    return Markup('<span class="badge {}">{}</span>').format(tone, verdict)
