"""An executed notebook as HTML: prose with its formulas as MathML, code, and outputs; an anchor at each code cell.

Rendered cell by cell with nbconvert's own filters. Pictures are not embedded: they are the record's figures.
"""

import base64
import hashlib
import html
import re
from collections.abc import Callable, Mapping
from typing import Any

_MATH = re.compile(r"(```.*?```|`[^`\n]*`)|\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.DOTALL)
_SRC = re.compile(r'(href|src)="([^"]+)"')
_HEADING_ANCHOR = re.compile(r'<a class="anchor-link"[^>]*>.*?</a>')


def cells(notebook: Mapping[str, Any], figures: Mapping[str, str], link: Callable[[str], str | None]) -> list[dict]:
    """The notebook's cells, each ``{"kind", "html"}`` and, where it is code, its ``number`` and ``outputs``.

    ``figures`` maps a picture's SHA-256 to where the page finds it; ``link`` maps a relative link's target to where it
    is seen from the page, ``None`` for one that leads nowhere from there (its text stays).
    """
    shown = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            shown.append({"kind": "markdown", "html": markdown(source, link)})
        elif cell["cell_type"] == "code" and source.strip():
            outputs = [_output(output, figures, link) for output in cell["outputs"]]
            number = cell.get("execution_count")
            shown.append({"kind": "code", "number": number, "html": code(source), "outputs": outputs})
    return shown


def markdown(text: str, link: Callable[[str], str | None] = lambda _: None) -> str:
    """Markdown as HTML, formulas as MathML; ``link`` as for :func:`cells`, by default none leads anywhere."""
    from nbconvert.filters.markdown_mistune import markdown2html_mistune

    page = markdown2html_mistune(_MATH.sub(_formula, text))
    return _relinked(_HEADING_ANCHOR.sub("", page), link)


def code(source: str) -> str:
    """Python as highlighted HTML."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    return highlight(source, PythonLexer(), HtmlFormatter(cssclass="highlight", wrapcode=True))


def code_style(selector: str, style: str) -> str:
    """The CSS of highlighted code."""
    from pygments.formatters import HtmlFormatter

    return HtmlFormatter(style=style).get_style_defs(selector)


def _formula(match: re.Match[str]) -> str:
    from latex2mathml.converter import convert

    literal, block, inline = match.groups()
    if literal is not None:
        return literal
    return convert(block or inline, display="block" if block else "inline").replace("\n", " ")


def _output(output: Mapping[str, Any], figures: Mapping[str, str], link: Callable[[str], str | None]) -> str:
    if output["output_type"] == "stream":
        return f"<pre>{html.escape(''.join(output['text']))}</pre>"
    data = {kind: "".join(value) for kind, value in output["data"].items()}
    if "image/png" in data:
        digest = hashlib.sha256(base64.b64decode(data["image/png"])).hexdigest()
        words = html.escape(data.get("text/plain", ""), quote=True)
        source = figures.get(digest) or f"data:image/png;base64,{data['image/png'].strip()}"
        return f'<img loading="lazy" src="{source}" alt="{words}">'
    if "text/html" in data:
        return f'<div class="wide">{_relinked(data["text/html"], link)}</div>'
    if "text/markdown" in data:
        return markdown(data["text/markdown"], link)
    return f"<pre>{html.escape(data.get('text/plain', ''))}</pre>"


def _relinked(page: str, link: Callable[[str], str | None]) -> str:
    """Relative links as seen from the page; one that leads nowhere loses its address."""

    def changed(match: re.Match[str]) -> str:
        name, target = match.groups()
        if ":" in target.split("/")[0] or target.startswith("#"):
            return match.group()
        seen = link(html.unescape(target))
        return f'{name}="{html.escape(seen, quote=True)}"' if seen else ""

    return _SRC.sub(changed, page)
