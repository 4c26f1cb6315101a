"""The pages of a `quick` record: every link leads somewhere, every figure is the record's, a browser is content."""

import functools
import inspect
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import browser
import pandas as pd
import pytest

from datalab import ledger, report
from datalab.record.checks import verify
from datalab.record.manifest import Manifest
from datalab.report import evidence, notebookpages, pages
from datalab.sections import STUDY, s4_1_main_results

REFERENCE = Path(__file__).parents[2] / "runs" / "reference"
HEADINGS, CELLS = frozenset({"h1", "h2", "h3"}), frozenset({"td", "th"})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the reference, a `quick` record, with its pages."""
    folder = tmp_path_factory.mktemp("site") / "record"
    before = (REFERENCE / Manifest.NAME).read_bytes()
    report.write(REFERENCE, folder)
    assert (REFERENCE / Manifest.NAME).read_bytes() == before
    return folder


class Page(HTMLParser):
    """A page's links, anchors, headings and tables, and whether its tags close."""

    VOID = frozenset({"meta", "link", "img", "br", "input", "hr", "wbr"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[tuple[str, str, str]] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.headings: list[tuple[str, str]] = []
        self.folded: list[list[str]] = []  # the table rows that lie in <details>
        self.boxed: list[bool] = []  # for each table, whether what holds it scrolls by keyboard
        self.images_without_words = 0
        self._last: dict[str, str | None] = {}
        self._texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = "".join(self._texts)

    @property
    def rows(self) -> list[list[str]]:
        return [row for table in self.tables for row in table]

    def handle_starttag(self, tag: str, attributes: list) -> None:
        attributes = dict(attributes)
        self.links += [(tag, name, attributes[name]) for name in ("href", "src") if attributes.get(name) is not None]
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.images_without_words += tag == "img" and not attributes.get("alt")
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
            self.boxed.append(self._last.get("class") == "wide" and self._last.get("tabindex") == "0")
        elif tag == "tr":
            self.tables[-1].append([])
            self.folded += [self.tables[-1][-1]] if "details" in self.open else []
        elif tag in CELLS and self.tables[-1]:
            self.tables[-1][-1].append("")
        elif tag in HEADINGS:
            self.headings.append((tag, ""))
        self._last = attributes

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open, f"</{tag}> closes nothing"
            assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        self._texts.append(text)
        if not HEADINGS.isdisjoint(self.open):
            self.headings[-1] = self.headings[-1][0], self.headings[-1][1] + text
        if self.tables and self.tables[-1] and self.tables[-1][-1] and not CELLS.isdisjoint(self.open):
            self.tables[-1][-1][-1] += text


@pytest.fixture(scope="module")
def parsed(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in [site / "index.html", *sorted((site / "report").rglob("*.html"))]}


def test_every_link_leads_to_a_file_of_the_record_and_every_anchor_exists(site: Path, parsed: dict[Path, Page]) -> None:
    broken, followed, home = [], 0, site.resolve()
    pages = {path.resolve(): set(page.ids) for path, page in parsed.items()}

    @functools.cache  # most links are those that every page of a folder has
    def followed_to(folder: Path, file: str) -> Path | None:
        goal = (folder / unquote(file)).resolve()
        return goal if goal.is_file() and goal.is_relative_to(home) else None

    for path, page in parsed.items():
        for _, _, target in page.links:
            file, _, fragment = target.partition("#")
            if target.startswith("data:"):
                continue
            goal = followed_to(path.parent, file or path.name)
            followed += 1
            if goal is None or (
                fragment and "=" not in fragment and goal.suffix == ".html" and fragment not in pages[goal]
            ):
                broken.append((path.name, target))
    assert broken == []
    assert followed > 5000


def test_no_page_asks_the_network_for_anything(parsed: dict[Path, Page]) -> None:
    outside = [link for page in parsed.values() for link in page.links if "//" in link[2][:8]]
    assert outside == []


def test_every_page_is_well_formed_with_unique_anchors_and_words_for_every_picture(parsed: dict[Path, Page]) -> None:
    for path, page in parsed.items():
        assert page.open == [], path
        assert len(set(page.ids)) == len(page.ids), path
        assert page.images_without_words == 0, path


def test_the_record_stays_whole_with_its_pages(site: Path) -> None:
    done = verify.verify(site, STUDY)
    assert done.findings == []
    assert done.files == verify.verify(REFERENCE, STUDY).files + len(Manifest.load(site).files) - len(
        Manifest.load(REFERENCE).files
    )


def test_the_board_has_every_statement_with_both_verdicts(site: Path, parsed: dict[Path, Page]) -> None:
    listed = pd.read_csv(site / "claims.csv", dtype=str, keep_default_na=False).set_index("id")
    rows = {row[0]: row for row in parsed[site / "index.html"].rows if len(row) == 6 and row[0] in listed.index}
    reached = listed.verdict != ledger.UNTESTABLE  # what a run can reach stands first
    assert list(rows) == [name for part in (reached, ~reached) for name in ledger.claims() if part[name]]
    for claim_id, row in rows.items():
        assert row[3].startswith(listed.paper_check[claim_id])
        assert row[5].startswith(listed.verdict[claim_id])
        assert ("printed value excluded" in row[5]) == (listed.excluded[claim_id] == "yes")
    folded = [row[0] for row in parsed[site / "index.html"].folded if len(row) == 6 and row[0] in listed.index]
    assert folded == [name for name in ledger.claims() if not reached[name]]  # a click away


def test_from_a_cell_of_table_41_two_clicks_lead_to_the_raw_rows_and_these_give_the_cells_figure(
    site: Path, parsed: dict[Path, Page]
) -> None:
    first = site / "report/tables.html"
    claim = site / "report/claims/T1.full.f1.html"
    assert ("a", "href", "claims/T1.full.f1.html") in parsed[first].links
    assert ("a", "href", "../rows/T1.full.f1.html") in parsed[claim].links
    sets, *tables = parsed[site / "report/rows/T1.full.f1.html"].tables
    assert [len(rows) for rows in tables] == [1 + 1 + 6] * 15  # a head, and a file with six rows
    parts = [pd.DataFrame([row for row in rows if len(row) == len(head)], columns=head) for head, *rows in tables]
    frame = pd.concat(parts, keys=[row[0] for row in sets[1:]], names=["dataset", None]).reset_index("dataset")
    ours = frame[frame.method == "datalab_paper"].astype({"macro_f1": float})
    means = ours.groupby("dataset").macro_f1.mean()
    measured = pd.read_csv(site / "claims.csv").set_index("id").loc["T1.full.f1"]
    assert len(means) == float(measured.n)
    figure = float(measured.measured)
    column = sets[0].index("mean macro_f1, datalab_paper")  # and a data set's line has its mean
    assert [float(row[column]) for row in sets[1:]] == pytest.approx(means[[row[0] for row in sets[1:]]], abs=1e-4)
    assert means.mean() == pytest.approx(figure, abs=1e-5)
    shown = next(row for row in parsed[first].rows if row[0] == "Ours (full)")[3]
    assert f"{figure:.3f}" in shown
    assert "paper 0.74" in " ".join(shown.split())
    assert measured.verdict in shown


def test_every_measured_statement_that_names_raw_rows_has_a_page_with_all_of_them(
    site: Path, parsed: dict[Path, Page]
) -> None:
    named = {c["id"]: c["raw"] for e in Manifest.load(site).sections.values() for c in e.claims if c["raw"]}
    assert len(named) > 100
    for claim_id, raw in named.items():
        sets, *tables = parsed[site / f"report/rows/{claim_id}.html"].tables
        counts = [int(row[1].replace(",", "")) for row in sets[1:]]
        assert sum(counts) == raw["rows"], claim_id
        most = raw["rows"] if raw["rows"] <= evidence.MOST_ROWS else evidence.MOST_ROWS // len(counts)
        shown = [sum(len(row) == len(head) for row in rows) for head, *rows in tables]
        single = len(tables[0][0]) == 1  # one column: a file's line looks like a row
        assert single or shown == [min(count, most) for count in counts], claim_id


def test_a_claims_page_has_the_arithmetic_the_test_the_table_row_and_the_notebook_cell(
    site: Path, parsed: dict[Path, Page]
) -> None:
    claim, page = ledger.find("T1.full.f1"), parsed[site / "report/claims/T1.full.f1.html"]
    text = (site / "report/claims/T1.full.f1.html").read_text()
    assert "<strong>In short.</strong> The paper’s own figures contradict this; what was measured here " in text
    assert "2PR / (P + R)" in text
    assert claim.test in text
    assert claim.paper_check.note in text
    assert 'class="named"><td>Ours (full), paper</td><td>F1</td>' in text
    cell = Manifest.load(site).sections["4_1_main_results"].tables["4_1_cells"]["cell"]
    assert ("a", "href", f"../notebooks/4_1_main_results.html#cell-{cell}") in page.links
    source = inspect.getsource(s4_1_main_results).splitlines()
    linked = re.findall(r'source/datalab.sections.s4_1_main_results.html#L-(\d+)"', text)
    assert [source[int(line) - 1].split("(")[0] for line in linked] == ["def cells", "def verdicts"]
    assert "It rests on 90 raw rows of 15 data sets, 3 seeds (20newsgroups, adult" in page.text
    for badge in ("Does the paper agree with itself?contradicted", "Does that bear it out?inconclusive"):
        assert badge in re.sub(r"\s*\n\s*", "", page.text)
    assert 'aria-label="On one line: measured 0.7' in text
    assert "the paper prints 0.74" in text
    assert str(Manifest.load(site).git["commit"]) in text


def test_a_claims_page_has_words_for_every_verdict_that_there_is() -> None:
    template = (Path(report.__file__).parent / "templates/claim.html.j2").read_text()
    for word in (*ledger.PAPER_WORDS.values(), *ledger.VERDICTS):
        assert f"'{word}': '" in template, word


def test_the_board_answers_before_its_figure_and_says_what_was_found_before_the_statements(
    site: Path, parsed: dict[Path, Page]
) -> None:
    text = (site / "index.html").read_text()
    listed = pd.read_csv(site / "claims.csv").set_index("id")
    title = listed.loc["TITLE.threshold"]
    places = [
        text.index(words)
        for words in (
            "The answer.",
            "What the title says",
            "#verdict=",
            "<figure",
            "What the sections found",
            'id="reachable"',
            'id="beyond"',
        )
    ]
    assert places == sorted(places)
    verdicts = text[places[1] : places[2]]
    rule = pd.read_csv(site / "tables/0_verdict.csv", dtype=str)
    assert (
        f"{float(title.measured):.2f}\N{NO-BREAK SPACE}% of labels flipped [&lt;0, {float(title.high):.2f}]" in verdicts
    )
    for claim_id, why in {
        "TITLE.threshold": rule.detail[rule.role == "refutes"].iloc[0],
        "TITLE.only_when": "",
    }.items():
        row = listed.loc[claim_id]
        assert f"{row.verdict}</span> “{row.text}” Measured" in verdicts
        assert (why or row.why) in unescape(verdicts).replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")
    assert f"of which {(listed.by_construction.notna() & (listed.verdict == ledger.DIRECTION)).sum()} true by" in text
    entries = {entry.number: entry for entry in Manifest.load(site).sections.values()}
    for number in ("7", "0"):  # what to do, then what the title asks: the headlines' own words
        said = next(part["text"] for part in entries[number].headline if "text" in part)
        assert " ".join(said.replace("*", "").split())[:40] in " ".join(unescape(text[places[0] : places[1]]).split())
    captioned = next(part for part in entries["0"].headline if part.get("caption"))
    answer = unescape(text[places[0] : places[1]]).replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")
    assert f"<caption>{captioned['caption']}</caption>" in answer
    for cell in captioned["rows"][-1]:
        assert f"<td>{cell}</td>" in answer


def test_no_page_shows_an_infinite_limit_as_a_float_does(site: Path, parsed: dict[Path, Page]) -> None:
    for path, page in parsed.items():
        if not {"notebooks", "source"} & set(path.parts):  # as they are
            assert not re.search(r"[\[ ,-]inf[\], ]|∞", page.text), path


def test_every_page_leads_to_every_notebook_and_these_to_their_neighbours_their_headings_and_their_finding(
    site: Path, parsed: dict[Path, Page]
) -> None:
    stems = list(Manifest.load(site).sections)
    for path, page in parsed.items():
        goals = {(path.parent / target).resolve() for tag, _, target in page.links if tag == "a"}
        assert {(site / f"report/notebooks/{stem}.html").resolve() for stem in stems} <= goals | {path.resolve()}, path
    for before, stem, after in zip([None, *stems], stems, [*stems[1:], None], strict=False):
        page = parsed[site / f"report/notebooks/{stem}.html"]
        text = (site / f"report/notebooks/{stem}.html").read_text()
        for rel, other in (("prev", before), ("next", after)):
            assert text.count(f'<a rel="{rel}" href="{other}.html">') == (2 if other else 0)
        inside = [target.removeprefix("#") for tag, _, target in page.links if tag == "a" and target.startswith("#")]
        assert set(re.findall(r'<h2 id="([^"]+)"', text)) <= set(inside), stem
        if Manifest.load(site).sections[stem].headline:
            assert text.index("What it found") < text.index('<div class="cell"')


def test_every_table_scrolls_in_a_box_of_its_own_and_none_has_an_empty_head(parsed: dict[Path, Page]) -> None:
    for path, page in parsed.items():
        assert all(page.boxed), path
    assert not [path for path in parsed if re.search(r"<th\b[^>]*>\s*</th>", path.read_text())]


def test_the_tables_say_their_outcome_and_what_is_untestable_has_no_badge(site: Path, parsed: dict[Path, Page]) -> None:
    listed = pd.read_csv(site / "claims.csv", keep_default_na=False).set_index("id")
    cells = listed[[ledger.find(name).kind == "table_cell" and name.startswith("T1.") for name in listed.index]]
    heading = next(words for _, words in parsed[site / "report/tables.html"].headings if "Table 4.1:" in words)
    for verdict, count in cells.verdict.value_counts().items():
        assert f"{count} {verdict}" in heading
    quiet = re.findall(r'<a class="quiet".*?</a>', (site / "report/tables.html").read_text(), re.DOTALL)
    untestable = [
        name for name in listed.index if ledger.find(name).kind == "table_cell" and listed.verdict[name] == "untestable"
    ]
    assert len(quiet) == len(untestable) > 0
    assert not any("badge" in cell for cell in quiet)


def test_what_stands_between_backticks_in_a_caption_is_code_and_the_rest_of_it_stays_text() -> None:
    assert notebookpages.ticked("`paper` <b>") == "<code>paper</code> &lt;b&gt;"
    page = notebookpages.cleaned("<table><caption><b>of `paper`</b></caption><tr><td>`kept`</td></tr></table>")
    assert "<b>of <code>paper</code></b>" in page
    assert "`kept`" in page


def test_formulas_are_mathml_and_code_keeps_its_dollars() -> None:
    from datalab.report.notebookpages import markdown

    page = markdown(r"$\lambda_2 < 1$ costs `$5` and $$\sum_i w_i$$", lambda _: None)
    assert page.count("<math") == 2
    assert "<code>$5</code>" in page
    assert "$\\" not in page


def test_no_line_of_a_page_ends_between_a_figure_and_its_percent_sign() -> None:
    page = '<p title="15 % > 3 %">15~% of <code>5 %</code> <a href="x?7 %">7~%</a></p><pre>1 %</pre>'
    page += "<strong>8</strong>~% 9~<small>%</small> &lt;~0~% to 5"
    assert pages.unbroken(page.replace("~", " ")) == page.replace("~", "\N{NO-BREAK SPACE}")


def test_the_answers_figures_have_a_true_minus_and_their_names_and_dates_a_hyphen() -> None:
    assert pages.minus("(-0.01 [-0.02, 0.1]), T-1, 2026-01-02, 1e-05") == "(−0.01 [−0.02, 0.1]), T-1, 2026-01-02, 1e-05"


def test_the_titles_page_says_of_each_condition_of_its_rule_whether_it_held(
    parsed: dict[Path, Page], site: Path
) -> None:
    rule = pd.read_csv(site / "tables/0_verdict.csv", dtype=str)
    claims = [
        (path.stem, table) for path, page in parsed.items() if path.parent.name == "claims" for table in page.tables
    ]
    [(name, shown)] = [(name, table) for name, table in claims if table[0] == [*rule]]
    assert name == "TITLE.threshold"
    assert [row[2] for row in shown[1:]] == rule.held.tolist()
    assert "gain at a low rate" in shown[2][1]


def test_a_table_cells_heading_names_its_column_and_only_a_longer_text_keeps_its_full_stop() -> None:
    def title(name: str) -> str:
        return pages.titled({"id": name, "text": ledger.find(name).text})

    assert title("T1.full.f1") == "Table 4.1, Ours (full), F1"
    assert not any(title(name).endswith(".") and ". " not in title(name) for name in ledger.claims())


@browser.needed
def test_in_a_browser_without_network_the_pages_work_and_the_console_stays_empty(site: Path, tmp_path: Path) -> None:
    shown = "[...document.querySelectorAll('.board tbody tr')].filter(r => !r.hidden).length"
    tab = browser.Browser(tmp_path / "profile")
    try:
        tab.open(site / "index.html")
        assert tab.run(shown) == 277
        assert tab.run("scrollY") == 0
        for _ in range(2):  # the counts stand far above the board; a second time the address stays as it is
            tab.run("scrollTo(0, 0); document.querySelector('.counts a').click()")
            tab.run("new Promise(done => setTimeout(done, 50))")
            assert 0 <= tab.run("document.getElementById('filter').getBoundingClientRect().top") < 100
            assert tab.run("document.activeElement.contains(document.querySelector('.board tbody tr:not([hidden])'))")
        tab.open(site / "index.html")
        assert tab.run("document.querySelector('img').naturalWidth") > 100
        opposite = int((pd.read_csv(site / "claims.csv").verdict == ledger.OPPOSITE).sum())
        tab.run(f"f = document.forms.filter; f.elements.verdict.value = '{ledger.OPPOSITE}'")
        tab.run("f.dispatchEvent(new Event('input'))")
        assert tab.run(shown) == opposite
        assert tab.run("document.getElementById('count').textContent") == f"{opposite} of 277 statements"
        tab.run("f.reset()")
        tab.run("new Promise(done => setTimeout(done, 50))")
        assert tab.run(shown) == 277
        for kind in ("keyDown", "keyUp"):
            tab.call("Input.dispatchKeyEvent", type=kind, key="/", text="/" if kind == "keyDown" else "")
        tab.call("Input.insertText", text="oracle")
        assert tab.run("document.activeElement.name") == "words"
        matching = tab.run(shown)
        assert 0 < matching < 30
        tab.open(site / "index.html", f"#{tab.run('location.hash')[1:]}")
        assert tab.run(shown) == matching  # the address keeps the filter
        tab.open(site / "report/tables.html")
        assert tab.click('a[href="claims/T1.full.f1.html"]').endswith("/report/claims/T1.full.f1.html")
        assert tab.click("#raw").endswith("/report/rows/T1.full.f1.html")
        assert tab.run("document.querySelectorAll('tbody tr').length") > 100
        for path in [*sorted((site / "report").glob("*.html")), *sorted((site / "report/notebooks").glob("*.html"))]:
            tab.open(path)
            assert tab.run("[...document.images].every(i => i.loading == 'lazy' || i.naturalWidth > 0)"), path
        tab.call("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
        for name in ("index.html", "report/tables.html", "report/claims/T1.full.f1.html", "report/reading.html"):
            tab.open(site / name)
            cut = "[...document.querySelectorAll('caption')].some(c => c.offsetWidth > c.closest('.wide').offsetWidth)"
            assert not tab.run(cut), name
            assert tab.run("document.documentElement.scrollWidth") <= 390, name  # nothing sticks out on a phone
        assert tab.problems == []
    finally:
        tab.close()
