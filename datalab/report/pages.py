"""Templates to pages: one environment, and the small filters the templates share."""

import functools
import html
import posixpath
from typing import Any

import jinja2
from markupsafe import Markup

from datalab import claims
from datalab.record.manifest import Manifest
from datalab.record.tables import exact

# A badge's class by verdict; the word itself is always in it, so that colour only helps.
TONE = {
    claims.REPRODUCED: "good",
    claims.DIRECTION: "good",
    claims.NULL: "bad",
    claims.OPPOSITE: "bad",
    claims.INCONCLUSIVE: "open",
    claims.SHOWN: "plain",
    claims.UNTESTABLE: "plain",
    claims.NOT_RUN: "plain",
    "consistent": "good",
    "contradicted": "bad",
    "uncheckable": "plain",
}


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
    env.filters |= {"figure": figure, "measured": measured, "badge": badge, "duration": duration, "size": size}
    return env


def render(template: str, path: str, book: Manifest, **context: Any) -> str:
    """One page, for the place ``path`` in the record; its links are made relative by ``to``."""

    def to(target: str) -> str:
        return posixpath.relpath(target, posixpath.dirname(path) or ".")

    return environment().get_template(template).render(to=to, book=book, here=path, **context)


def asset(name: str) -> str:
    """A file of ``static/``, as text."""
    from importlib.resources import files

    return files("datalab.report").joinpath("static", name).read_text(encoding="utf-8")


def figure(value: Any) -> str:
    """One number for people: four digits, a true minus; a text as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return exact(value)
    text = f"{value:.4g}" if isinstance(value, float) else f"{value}"
    return text.replace("-", "−", 1) if text.startswith("-") else text


def measured(row: dict[str, Any]) -> str:
    """A claim's figure with its interval: ``0.7128 [0.6082, 0.8174]``; a dash where there is none."""
    if row["measured"] in (None, ""):
        return "–"
    limits = "" if row["low"] in (None, "") else f" [{figure(row['low'])}, {figure(row['high'])}]"
    return figure(row["measured"]) + limits


def badge(verdict: str) -> Markup:
    """A verdict as a coloured word."""
    tone = TONE.get(verdict.partition(" (")[0], "plain")
    return Markup(f'<span class="badge {tone}">{html.escape(verdict)}</span>')


def duration(seconds: float | None) -> str:
    """Seconds for people."""
    from datalab.record.progress import span

    return "–" if seconds is None else span(seconds)


def size(count: int | None) -> str:
    """Bytes for people, in binary units."""
    if count is None:
        return "–"
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
