"""An executed notebook as HTML: prose with its formulas as MathML, code, and outputs; an anchor at each code cell.

Rendered cell by cell with nbconvert's own filters, and then cleaned (nh3): a notebook may be a stranger's, so that only
the elements and attributes named here are left, and no script is. Pictures are not embedded: they are the record's
figures.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from typing import Any

import nh3
from markupsafe import Markup, escape

from datalab.record.executed import Display, Notebook, Stream
from datalab.record.folder import Strange

Link = Callable[[str], str | None]
_MATH = re.compile(r"(```.*?```|`[^`\n]*`)|\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.DOTALL)
_HEADING_ANCHOR = re.compile(r'<a class="anchor-link"[^>]*>.*?</a>')
_HEADING = re.compile(r'<h2 id="([^"]+)">(.*?)</h2>', re.DOTALL)
_CAPTION = re.compile(r"<caption\b(?:(?!<caption\b).)*?</caption>", re.DOTALL)  # each letter is looked at once
_TICKED = re.compile(r"`([^`<>]+)`")
_EMPTY_HEAD = re.compile(r"<th\b[^<>]*>\s*</th>")
_BOX = '<div class="wide" tabindex="0" role="group" aria-label="Table">'
MOST_LETTERS = 100_000  # of one cell's prose
MOST_HTML = 500_000  # letters of one cell's HTML: cleaning takes as the square of a tag's attributes
MOST_ENTITIES = 100_000  # of one cell's HTML: cleaning takes as their square, where no alarm stops it
MOST_ELEMENTS = 2_000_000  # of one cell's HTML: its tags times how many are open at once
_VOID = {"br", "col", "hr", "img", "input", "wbr", "mspace"}
_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
MOST_PIXELS = 2**26  # of a picture: a small file can unpack to any number of them in whoever opens it
_TEXT = {"a", "b", "blockquote", "br", "caption", "code", "dd", "del", "div", "dl", "dt", "em", "h1", "h2", "h3", "h4"}
_TEXT |= {"h5", "h6", "hr", "i", "li", "ol", "p", "pre", "s", "small", "span", "strong", "sub", "sup", "table", "tbody"}
_TEXT |= {"td", "tfoot", "th", "thead", "tr", "ul"}
_FORMULA = {"math", "mfrac", "mi", "mn", "mo", "mover", "mrow", "mspace", "msqrt", "mroot", "mstyle", "msub", "msubsup"}
_FORMULA |= {"msup", "mtable", "mtd", "mtext", "mtr", "munder", "munderover", "mpadded", "mphantom"}
_ATTRIBUTES = {"*": {"class", "style"}, "a": {"href"}, "div": {"tabindex", "role", "aria-label"}}
_ATTRIBUTES |= {f"h{n}": {"id"} for n in range(1, 5)}
_ATTRIBUTES |= {"td": {"colspan", "rowspan"}, "th": {"colspan", "rowspan", "scope"}}
_ATTRIBUTES |= {"math": {"xmlns", "display", "tabindex"}}
_ATTRIBUTES |= {"mo": {"stretchy", "fence", "form", "lspace", "rspace", "minsize", "maxsize", "separator"}}
_ATTRIBUTES["mo"] |= {"movablelimits"}
_ATTRIBUTES |= {"mi": {"mathvariant"}, "mstyle": {"displaystyle", "scriptlevel", "mathvariant"}}
_ATTRIBUTES |= {"mtable": {"rowspacing", "columnspacing", "columnalign", "displaystyle"}, "mtd": {"columnalign"}}
_ATTRIBUTES |= {"mspace": {"width", "linebreak"}, "mfrac": {"linethickness"}}
_STYLES = {"text-align", "font-weight"}
_CLASSES = {
    "wide",
    "exported",
    "dataframe",
    "highlight",
}  # and pygments', of one or two letters: none of the pages' own
_PROSE = "prose-"  # how anchors of prose begin: none is one of the pages' own


def cells(notebook: Notebook, figures: Mapping[str, str], link: Link) -> list[dict[str, Any]]:
    """The notebook's cells, each ``{"kind", "html"}`` and, where it is code, its ``number`` and ``outputs``.

    ``figures`` maps a picture's SHA-256 to where the page finds it; ``link`` maps a relative link's target to where it
    is seen from the page, ``None`` for one that leads nowhere from there (its text stays).
    """
    shown = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            shown.append({"kind": "markdown", "html": markdown(cell.source, link)})
        elif cell.is_code:
            outputs = [_output(output, figures, link) for output in cell.outputs]
            page = {"kind": "code", "number": cell.execution_count, "html": code(cell.source), "outputs": outputs}
            shown.append(page)
    return shown


def markdown(text: str, link: Link = lambda _: None) -> Markup:
    """Markdown as HTML, formulas as MathML; ``link`` as for :func:`cells`, by default none leads anywhere."""
    from nbconvert.filters.markdown_mistune import markdown2html_mistune

    if len(text) > MOST_LETTERS:
        raise Strange(f"a cell's prose has more than {MOST_LETTERS:,} letters")
    page = markdown2html_mistune(_MATH.sub(_formula, text))
    return cleaned(_HEADING_ANCHOR.sub("", page), link)


class _Open(HTMLParser):
    """The most elements of a page that are open at once.

    Formats that are left open are opened again in each block that follows: 17 kB become 19 MB, and 170 kB 1.9 GB. An
    end that is not of the last one opened does not count: a parser may take it for none.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.most = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in _VOID:
            self.open.append(tag)
            self.most = max(self.most, len(self.open))

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()


def contents(cells: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The headings of second order in the prose of :func:`cells`: (anchor, text)."""
    prose = "".join(cell["html"] for cell in cells if cell["kind"] == "markdown")
    return [(name, Markup(words).striptags()) for name, words in _HEADING.findall(prose)]


def cleaned(page: str, link: Link = lambda _: None) -> Markup:
    """A stranger's HTML without anything that could run, load or lead anywhere but on the web and to ``link``'s.

    Each table is in a box that scrolls, by keyboard too, and its caption may have code. An empty head of a column is no
    head.
    """

    def attribute(element: str, name: str, value: str) -> str | None:
        if name == "class":
            return " ".join(word for word in value.split() if word in _CLASSES or len(word) < 3) or None
        if name == "id":
            return f"{_PROSE}{value}"
        if name == "href" and value.startswith("#"):
            return f"#{_PROSE}{value[1:]}"
        if (element, name) != ("a", "href") or value.startswith(("https://", "http://", "mailto:")):
            return value
        return None if ":" in value.split("/")[0] else link(value)

    if len(page) > MOST_HTML:
        raise Strange(f"a cell's HTML has more than {MOST_HTML:,} letters")
    if (tags := page.count("<")) > MOST_ELEMENTS**0.5 and _Open(page).most * tags > MOST_ELEMENTS:
        raise Strange("a cell's HTML leaves so many elements open that it has no end of them")
    if page.count("&") > MOST_ENTITIES:
        raise Strange(f"a cell's HTML has more than {MOST_ENTITIES:,} entities")
    page = _CAPTION.sub(lambda found: ticked(Markup(found[0])), page)
    page = _EMPTY_HEAD.sub("<td></td>", page).replace("<table", f"{_BOX}<table").replace("</table>", "</table></div>")
    clean = nh3.clean(
        page,
        tags=_TEXT | _FORMULA,
        attributes=_ATTRIBUTES,
        attribute_filter=attribute,
        url_schemes={"http", "https", "mailto"},
        filter_style_properties=_STYLES,
        link_rel=None,
    )
    return Markup(clean)


def ticked(text: str) -> Markup:
    """A text, or HTML, in which what stands between backticks is code."""
    return Markup(_TICKED.sub(r"<code>\1</code>", str(escape(text))))


def code(source: str, anchors: str = "") -> Markup:
    """Python as highlighted HTML; with ``anchors`` each line has one, this and its number: ``L-12``."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    how = HtmlFormatter(cssclass="highlight", wrapcode=True, linespans=anchors)
    return Markup(highlight(source, PythonLexer(), how))


def code_style(selector: str, style: str) -> str:
    """The CSS of highlighted code."""
    from pygments.formatters import HtmlFormatter

    return HtmlFormatter(style=style).get_style_defs(selector)


def _formula(match: re.Match[str]) -> str:
    from latex2mathml.converter import convert

    literal, block, inline = match.groups()
    if literal is not None:
        return literal
    # What the converter leaves of "<" is no element; the page is cleaned in any case.
    formula = convert(block or inline, display="block" if block else "inline").replace("\n", " ")
    return formula.replace("<math ", '<math tabindex="0" ', 1) if block else formula  # it scrolls, by keyboard too


def _output(output: Any, figures: Mapping[str, str], link: Link) -> Markup:
    if isinstance(output, Stream):
        return Markup("<pre>{}</pre>").format(output.text)
    if not isinstance(output, Display):
        return Markup("<pre>{}: {}</pre>").format(output.ename, output.evalue)
    data = {kind: value for kind, value in output.data.items() if isinstance(value, str)}
    if "image/png" in data:
        return _picture(data["image/png"], data.get("text/plain", ""), figures)
    if "text/html" in data:
        return cleaned(data["text/html"], link)
    if "text/markdown" in data:
        return markdown(data["text/markdown"], link)
    return Markup("<pre>{}</pre>").format(data.get("text/plain", ""))


def is_png(start: bytes) -> bool:
    """Whether a file that begins so is a PNG, of no more than :data:`MOST_PIXELS`."""
    width, height = (int.from_bytes(start[at : at + 4]) for at in (len(_PNG), len(_PNG) + 4))
    return start.startswith(_PNG) and width * height <= MOST_PIXELS


def _picture(text: str, words: str, figures: Mapping[str, str]) -> Markup:
    """A PNG: the record's figure of these bytes where there is one, else the bytes themselves."""
    try:
        picture = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        picture = b""
    if not is_png(picture):
        return Markup("<p>(a picture that is none)</p>")
    source = figures.get(hashlib.sha256(picture).hexdigest())
    source = source or f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    return Markup('<img loading="lazy" src="{}" alt="{}">').format(source, words)
