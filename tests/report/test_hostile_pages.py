"""Pages of a stranger's record run no script and load nothing: cleaned, and under a Content-Security-Policy."""

import base64
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import browser
import pytest

from datalab import report
from datalab.errors import UserError
from datalab.record import Study, claims_table, crate, folder, rawrows
from datalab.record.manifest import Manifest, SectionRecord
from datalab.report import evidence, notebookpages, pages, site

STEM = "0_alpha"
RUN = "document.documentElement.dataset.ran='yes'"


def png_of(width: int, height: int) -> bytes:
    """What a PNG of this size begins with."""
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes(60)


# Each would run RUN, load something or lead somewhere in a page that takes it as it is.
MARKUP = [
    f"<script>{RUN}</script>",
    f"<img src=x onerror={RUN}>",
    f"<svg onload={RUN}></svg>",
    f'<svg><script href="data:,{RUN}"/></svg>',
    f'<a href="javascript:{RUN}">x</a>',
    f'<a href=" &#106;avascript:{RUN}">x</a>',
    f'<a href="data:text/html,<script>{RUN}</script>">x</a>',
    f'<iframe srcdoc="<script>parent.{RUN}</script>"></iframe>',
    f"<body onload={RUN}>",
    f"<details open ontoggle={RUN}>x</details>",
    f"<math><mtext><img src=x onerror={RUN}></mtext></math>",
    f"<math><mtext></p><style><!--</style><img title='--&gt;<img src=x onerror={RUN}>'></math>",
    f"<math href='javascript:{RUN}'><mi>x</mi></math>",
    f"<table background='javascript:{RUN}'><tr><td>x</table>",
    "<link rel=stylesheet href=http://192.0.2.1/x.css>",
    "<meta http-equiv=refresh content='0;url=http://192.0.2.1/'>",
    "<base href=http://192.0.2.1/>",
    "<form action=http://192.0.2.1/><input autofocus onfocus=alert(1)></form>",
    "<p style='background:url(http://192.0.2.1/x)'>x</p>",
    f'<p class="<table onmouseover={RUN} x=">x</p>',
    "<object data=x.svg></object><embed src=x.svg>",
    f"<noscript><p title='</noscript><img src=x onerror={RUN}>'>",
    f"<svg><style><img src=x onerror={RUN}></style></svg>",
    f"<template><script>{RUN}</script></template>",
]
MARKDOWN = [
    *MARKUP,
    f"[x](javascript:{RUN})",
    f"![x](x){{onerror={RUN}}}",
    f"[x](http://a \"' onmouseover={RUN} '\")",
    f"$\\text{{<img src=x onerror={RUN}>}}$",
    f"$$</math><script>{RUN}</script>$$",
    f"$x$<img src=x onerror={RUN}>",
    f"`</code><script>{RUN}</script>`",
    f"```\n</pre><script>{RUN}</script>\n```",
    f'<https://a/"onmouseover={RUN}>',
]
ALLOWED = {"script": 0, "iframe": 0, "object": 0, "embed": 0, "base": 0, "form": 0, "link": 0, "svg": 0, "style": 0}


class Seen(HTMLParser):
    """What a page's markup would do: elements, attributes that run, addresses."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.handlers, self.addresses = [], [], []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if name.startswith("on") or name in ("srcdoc", "background", "formaction"):
                self.handlers.append((tag, name))
            if name in ("href", "src"):
                self.addresses.append(value or "")


@pytest.mark.parametrize("text", MARKDOWN)
def test_what_markdown_and_html_become_runs_nothing(text: str) -> None:
    for page in (notebookpages.markdown(text), notebookpages.cleaned(text)):
        seen = Seen(str(page))
        assert not set(seen.tags) & ALLOWED.keys(), page
        assert not seen.handlers, page
        assert not re.search(r"url\(|javascript:", " ".join(seen.addresses + re.findall(r'style="([^"]*)"', page)))
        assert not any(address.startswith(("data:", "file:", "javascript:")) for address in seen.addresses)


def test_what_notebooks_need_is_left() -> None:
    table = '<table><thead><tr><th scope="col">a</th><th></th></tr></thead></table>'
    boxed = f"{notebookpages._BOX}{table}</div>".replace("<th></th>", "<td></td>")
    assert notebookpages.cleaned(table) == boxed
    styled = f'<div style="max-height:40em;overflow:auto">{table}</div>'
    assert notebookpages.cleaned(styled) == f'<div style="">{boxed}</div>'  # no box of its own height
    prose = notebookpages.markdown("**a** [b](https://c.d) $x_i^2 + \\frac{1}{2}$ `<d>`\n\n| e |\n| --- |\n| f |\n")
    for part in ("<strong>a</strong>", '<a href="https://c.d">b</a>', "<math", "<mfrac>", "&lt;d&gt;", "<td>f</td>"):
        assert part in prose
    assert (
        notebookpages.markdown("[t](../tables/x.csv)", lambda path: f"seen/{path}").count("seen/../tables/x.csv") == 1
    )
    assert "href" not in notebookpages.markdown("[t](../tables/x.csv)")


def test_no_anchor_and_no_class_of_prose_is_one_of_the_pages() -> None:
    page = notebookpages.cleaned('<h2 id="filter" class="badge good k exported">a</h2><a href="#cell-3">b</a>')
    assert page == '<h2 id="prose-filter" class="k exported">a</h2><a href="#prose-cell-3">b</a>'


def test_a_copy_whose_pages_cannot_be_made_is_removed(record: Path, study: Study, tmp_path: Path, monkeypatch) -> None:
    def failing(*_: object) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(site, "_write", failing)
    with pytest.raises(UserError, match="no space left"):
        report.write(record, tmp_path / "copy", study)
    assert not list((tmp_path / "copy").iterdir())
    assert Manifest.load(record).sections


@pytest.mark.parametrize("text", ['"><script>x</script>', "aGVsbG8=", "aGVs bG8", "", 'iVBORw0K" onerror="x'])
def test_a_picture_is_strict_base64_of_a_png_or_it_is_none(text: str) -> None:
    assert "<img" not in notebookpages._picture(text, "", {})
    png = base64.b64encode(png_of(1, 1)).decode()
    assert notebookpages._picture(png, '" onerror="x', {}).count('"') == 6


def hostile(record: Path) -> Path:
    """The record with all of it: in prose, in outputs of every kind, in its headlines and its captions."""
    path = record / f"notebooks/{STEM}.ipynb"
    notebook = json.loads(path.read_text())
    notebook["cells"][0]["source"] = "\n\n".join(MARKDOWN)
    outputs = notebook["cells"][-1]["outputs"]
    for text in MARKUP:
        outputs.append({"output_type": "display_data", "metadata": {}, "data": {"text/html": text}})
        outputs.append({"output_type": "stream", "name": "stdout", "text": text})
    for kind, text in (
        ("image/png", '"><script>'),
        ("text/markdown", "\n\n".join(MARKDOWN)),
        ("text/plain", MARKUP[0]),
        *((kind, MARKUP[0]) for kind in ("text/latex", "application/javascript", "image/svg+xml", "text/x-won")),
    ):
        outputs.append({"output_type": "display_data", "metadata": {}, "data": {kind: text}})
    outputs.append({"output_type": "error", "ename": MARKUP[1], "evalue": MARKUP[0], "traceback": []})
    path.write_text(json.dumps(notebook))
    manifest = Manifest.load(record)
    entry = manifest.sections[STEM]
    entry.headline += [{"text": text} for text in MARKDOWN]
    entry.headline += [{"caption": text, "columns": [text], "rows": [[text]]} for text in MARKUP]
    entry.claims[0] |= {"why": MARKUP[0], "row": MARKUP[1]}
    for figure in entry.figures.values():
        figure["caption"] = MARKUP[0]
    manifest.machine["processor"] = MARKUP[1]
    manifest.add_file(record, f"notebooks/{STEM}.ipynb", STEM, True)
    manifest.save(record)
    claims_table.write(record, manifest, record_study())
    crate.write(record, manifest)
    manifest.save(record)
    return record


def record_study() -> Study:
    import record_fakes

    from datalab import ledger

    return Study(record_fakes.SECTIONS, ledger, Path())


def test_every_page_of_a_hostile_record_has_a_policy_and_no_script_but_the_boards(record: Path, study: Study) -> None:
    written = report.write(hostile(record), study=study)
    for path in (path for path in written if path.endswith(".html")):
        page = (record / path).read_text().replace("&#39;", "'")
        seen = Seen(page)
        assert page.index("Content-Security-Policy") < page.index("<title>")
        assert "default-src 'none'" in page
        assert seen.tags.count("script") == (path == "index.html")
        assert ("script-src 'none'" in page) == (path != "index.html")
        assert not seen.handlers
        assert not set(seen.tags) & {"iframe", "object", "embed", "base", "style"}
        assert seen.tags.count("svg") <= path.startswith("report/claims/")  # a page's own drawing: no script, no link
        assert not any(re.match(r"\s*(javascript|http://192|file):", address) for address in seen.addresses)


def test_a_policy_allows_one_script_by_its_hash_or_none() -> None:
    assert "script-src 'none'" in pages.policy()
    assert re.search(r"script-src 'sha256-[\w+/=]{44}';", pages.policy("a"))
    assert pages.policy("a") != pages.policy("b")
    assert "unsafe-eval" not in pages.policy("a")


def test_no_template_marks_text_as_safe() -> None:
    for path in (Path(pages.__file__).parent / "templates").glob("*.j2"):
        assert not re.search(r"\|\s*safe", path.read_text()), path.name
        if path.name in ("base.html.j2", "api.html.j2", "comparison.html.j2"):
            assert "Content-Security-Policy" in path.read_text()


def test_no_page_shows_a_drawing_or_leads_to_one_which_opened_by_itself_may_run(record: Path, study: Study) -> None:
    path = record / f"notebooks/{STEM}.ipynb"
    notebook = json.loads(path.read_text())
    notebook["cells"][0]["source"] = "[a drawing](../figures/0_curve.svg), [a picture](../figures/0_curve.png)"
    path.write_text(json.dumps(notebook))
    in_section(record, lambda m, _: m.add_file(record, f"notebooks/{STEM}.ipynb", STEM, True))
    written = [path for path in report.write(record, study=study) if path.endswith(".html")]
    addresses = {of for path in written for of in Seen((record / path).read_text()).addresses}
    assert any(of.endswith("figures/0_curve.png") for of in addresses)
    assert not any(".svg" in of for of in addresses)
    in_section(record, lambda _, e: e.claims[0].update(table="figures/0_curve.svg"))
    with pytest.raises(UserError, match=r"would lead to figures/0_curve\.svg"):
        report.write(record, study=study)


def test_a_picture_that_unpacks_to_more_than_any_is_on_no_page(record: Path, study: Study) -> None:
    small, large = (png_of(side, side) for side in (2**10, 2**16))
    assert (notebookpages.is_png(small), notebookpages.is_png(large)) == (True, False)
    shown = [notebookpages._picture(base64.b64encode(picture).decode(), "", {}) for picture in (small, large)]
    assert ["<img" in page for page in shown] == [True, False]
    path = record / "figures/0_curve.png"
    path.write_bytes(large)
    manifest = Manifest.load(record)
    manifest.add_file(record, "figures/0_curve.png", STEM)
    manifest.save(record)
    with pytest.raises(UserError, match="too many pixels"):
        report.write(record, study=study)


def test_the_heads_of_columns_are_not_looked_for_to_the_end_of_a_page_from_each_that_has_none() -> None:
    assert notebookpages._EMPTY_HEAD.sub("", "<th <th></th>") == "<th "


def test_no_pattern_is_made_of_the_cells_that_a_statements_row_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(evidence.re, "search", lambda pattern, _: asked.append(pattern))
    assert evidence._letters(("mnist", "0.25", "wine"), "wine, rate 0.2") == 0
    assert len(asked) == 1


def in_section(record: Path, change: Callable[[Manifest, SectionRecord], object]) -> None:
    manifest = Manifest.load(record)
    change(manifest, manifest.sections[STEM])
    claims_table.write(record, manifest, record_study())
    crate.write(record, manifest)
    manifest.save(record)


def test_a_claims_page_shows_so_much_of_a_table_and_names_the_file(
    record: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "MOST_LINES", 3)
    report.write(record, study=study)
    page = (record / "report/claims/TITLE.threshold.html").read_text()
    assert "first 3 of 4 rows" in page
    assert page.count('href="../../tables/0_rows.csv"') == 2
    monkeypatch.setattr(evidence, "MOST_LETTERS", 1)
    assert evidence.table(record, "tables/0_rows.csv", "0").fit == 0


def test_raw_rows_that_unpack_to_any_memory_are_on_no_page(
    record: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_section(record, lambda m, e: e.claims[0].update(raw={"where": {"seed": 2024}, "rows": 4}))
    monkeypatch.setattr(rawrows, "MOST_BYTES", 10)
    with pytest.raises(UserError, match="unpacked they are more than"):
        report.write(record, study=study)


def test_prose_without_end_and_a_table_without_rows(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="more than 100,000 letters"):
        notebookpages.markdown("x" * 100_001)
    with pytest.raises(UserError, match="more than 100,000 entities"):
        notebookpages.cleaned("&lt;" * 100_001)
    with pytest.raises(UserError, match="more than 500,000 letters"):
        notebookpages.cleaned("<p " + " ".join(f"a{i}" for i in range(80_000)) + ">")
    with folder.bounded(10):  # each letter looked at once: it had taken a minute
        notebookpages.cleaned("<!--" + "<caption " * 50_000 + "-->")
    (tmp_path / "t.csv").write_text("a,b\n")
    assert evidence.table(tmp_path, "t.csv", "x").rows == []


def test_a_table_of_the_titles_rule_with_other_columns_says_nothing(record: Path) -> None:
    manifest = Manifest.load(record)
    (record / f"tables/{site.RULE}.csv").write_text("role,x\nrefutes,1\n")
    next(iter(manifest.sections.values())).tables[site.RULE] = {}
    assert site._in_short(record, manifest) == ""


@pytest.mark.parametrize(
    "text", ["<p>" + "".join(f"<b class={n}>" for n in range(2000)) + "<p>x" * 2000, "<div>" * 5000]
)
def test_html_that_would_become_many_times_as_long_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="so many elements open"):
        notebookpages.cleaned(text)


def test_a_record_without_sections_has_no_pages(record: Path, study: Study) -> None:
    manifest = Manifest.load(record)
    manifest.sections, manifest.files = {}, {}
    manifest.save(record)
    for path in record.rglob("*"):
        if path.is_file() and path.name != Manifest.NAME:
            path.unlink()
    with pytest.raises(UserError, match="holds no section"):
        report.write(record, study=study)


@browser.needed
def test_in_a_browser_nothing_of_a_hostile_record_runs_or_is_asked_for(
    record: Path, study: Study, tmp_path: Path
) -> None:
    report.write(hostile(record), study=study)
    tab = browser.Browser(tmp_path / "profile")
    try:
        for path in ("index.html", f"report/notebooks/{STEM}.html", "report/environment.html"):
            tab.open(record / path)
            tab.run(
                "[...document.querySelectorAll('main a')].slice(0, 5).forEach(a => a.dispatchEvent(new Event('x')))"
            )
            assert tab.run("document.documentElement.dataset.ran ?? 'no'") == "no", path
            assert tab.run("getComputedStyle(document.body).fontFamily").startswith(
                ("system", "-", '"', "Segoe", "sans")
            )
        tab.open(record / "index.html")
        assert tab.run("document.getElementById('filter').hidden") is False  # the board's own script does run
        asked = [about for about in tab.problems if "request" in about]
        assert asked == []
        # And were a script to slip through the cleaning, the policy would stop it.
        page = record / "report/environment.html"
        page.write_text(page.read_text().replace("<h1>", f'<script>{RUN}</script><img src=x onerror="{RUN}"><h1>'))
        tab.open(page)
        assert tab.run("document.documentElement.dataset.ran ?? 'no'") == "no"
        page.write_text(page.read_text().replace("Content-Security-Policy", "nothing"))
        tab.open(page)
        assert tab.run("document.documentElement.dataset.ran ?? 'no'") == "yes"  # so that the test can fail
    finally:
        tab.close()
