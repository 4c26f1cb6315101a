"""The record's pages: every link leads somewhere, every figure is the record's, none outlives what it tells."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import browser
import pandas as pd
import pytest
import record_fakes

from datalab import claims, cli, report
from datalab.errors import UserError
from datalab.record import lock, manifest, verify
from datalab.report import pages

REFERENCE = Path(__file__).parent.parent / "runs" / "reference"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the reference, a `quick` record, with its pages."""
    folder = tmp_path_factory.mktemp("site") / "record"
    before = (REFERENCE / manifest.NAME).read_bytes()
    report.write(REFERENCE, folder)
    assert (REFERENCE / manifest.NAME).read_bytes() == before
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small record of the fake sections; copy it before changing it."""
    folder = tmp_path_factory.mktemp("made")
    with record_fakes.installed(record_fakes.write_notebooks(folder / "notebooks")):
        assert record_fakes.run(folder / "record") == 0
        yield folder / "record"


@pytest.fixture
def record(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "record"))


class Page(HTMLParser):
    """A page's links, anchors and tables, and whether its tags close."""

    VOID = frozenset({"meta", "link", "img", "br", "input", "hr"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[tuple[str, str, str]] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.images_without_words = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list) -> None:
        about = dict(attributes)
        self.links += [(tag, name, about[name]) for name in ("href", "src") if about.get(name) is not None]
        self.ids += [about["id"]] if "id" in about else []
        self.images_without_words += tag == "img" and not about.get("alt")
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open, f"</{tag}> closes nothing"
            assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        if self.rows and self.rows[-1] and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += text


@pytest.fixture(scope="module")
def parsed(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in [site / "index.html", *sorted((site / "report").rglob("*.html"))]}


# --- the pages of a quick record --------------------------------------------------------------------------------------


def test_every_link_leads_to_a_file_of_the_record_and_every_anchor_exists(site: Path, parsed: dict[Path, Page]) -> None:
    broken, followed = [], 0
    for path, page in parsed.items():
        for _, _, target in page.links:
            file, _, fragment = target.partition("#")
            if target.startswith("data:"):
                continue
            goal = (path.parent / unquote(file)).resolve() if file else path.resolve()
            followed += 1
            if (
                not goal.is_file()
                or not goal.is_relative_to(site.resolve())
                or (fragment and "=" not in fragment and goal.suffix == ".html" and fragment not in parsed[goal].ids)
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
    found = verify.verify(site)
    assert found.findings == []
    assert found.files == verify.verify(REFERENCE).files + len(manifest.load(site).files) - len(
        manifest.load(REFERENCE).files
    )


def test_the_board_has_every_statement_with_both_verdicts(site: Path, parsed: dict[Path, Page]) -> None:
    listed = pd.read_csv(site / "claims.csv", dtype=str, keep_default_na=False).set_index("id")
    rows = {row[0]: row for row in parsed[site / "index.html"].rows if row[0] in listed.index}
    assert list(rows) == list(claims.ledger())
    for claim_id, row in rows.items():
        assert row[4].startswith(listed.paper_check[claim_id])
        assert row[6] == listed.verdict[claim_id]


def test_from_a_cell_of_table_41_two_clicks_lead_to_the_raw_rows_and_these_give_the_cells_figure(
    site: Path, parsed: dict[Path, Page]
) -> None:
    first = site / "report/tables.html"
    claim = site / "report/claims/T1.full.f1.html"
    assert ("a", "href", "claims/T1.full.f1.html") in parsed[first].links
    assert ("a", "href", "../rows/T1.full.f1.html") in parsed[claim].links
    head, *rows = parsed[site / "report/rows/T1.full.f1.html"].rows
    frame = pd.DataFrame([row for row in rows if len(row) == len(head)], columns=head)
    ours = frame[frame.method == "datalab_paper"].astype({"macro_f1": float})
    means = ours.groupby("dataset").macro_f1.mean()
    measured = pd.read_csv(site / "claims.csv").set_index("id").loc["T1.full.f1"]
    assert len(means) == measured.n
    assert means.mean() == pytest.approx(measured.measured, abs=1e-5)
    shown = next(row for row in parsed[first].rows if row[0] == "Ours (full)")[3]
    assert f"{measured.measured:.3f}" in shown
    assert "paper 0.74" in " ".join(shown.split())
    assert measured.verdict in shown


def test_every_measured_statement_that_names_raw_rows_has_a_page_with_all_of_them(
    site: Path, parsed: dict[Path, Page]
) -> None:
    named = {c["id"]: c["raw"] for e in manifest.load(site).sections.values() for c in e.claims if c["raw"]}
    assert len(named) > 100
    for claim_id, raw in named.items():
        head, *rows = parsed[site / f"report/rows/{claim_id}.html"].rows
        listed = sum(len(row) == len(head) for row in rows)
        assert listed == min(raw["rows"], 3000), claim_id


def test_a_claims_page_has_the_arithmetic_the_test_the_table_row_and_the_notebook_cell(
    site: Path, parsed: dict[Path, Page]
) -> None:
    claim, page = claims.find("T1.full.f1"), parsed[site / "report/claims/T1.full.f1.html"]
    text = (site / "report/claims/T1.full.f1.html").read_text()
    assert "2PR / (P + R)" in text
    assert claim.test in text
    assert claim.paper_check.note in text
    assert 'class="named"><td>Ours (full), paper</td><td>F1</td>' in text
    cell = manifest.load(site).sections["4_1_main_results"].tables["4_1_cells"]["cell"]
    assert ("a", "href", f"../notebooks/4_1_main_results.html#cell-{cell}") in page.links
    assert "datalab/experiments/main_results.py" in text
    assert str(manifest.load(site).git["commit"]) in text


def test_formulas_are_mathml_and_code_keeps_its_dollars() -> None:
    from datalab.report.notebookpages import markdown

    page = markdown(r"$\lambda_2 < 1$ costs `$5` and $$\sum_i w_i$$", lambda _: None)
    assert page.count("<math") == 2
    assert "<code>$5</code>" in page
    assert "$\\" not in page


@browser.needed
def test_in_a_browser_without_network_the_pages_work_and_the_console_stays_empty(site: Path, tmp_path: Path) -> None:
    shown = "[...document.querySelectorAll('#board tbody tr')].filter(r => !r.hidden).length"
    tab = browser.Browser(tmp_path / "profile")
    try:
        tab.open(site / "index.html")
        assert tab.run(shown) == 277
        assert tab.run("document.querySelector('img').naturalWidth") > 100
        opposite = int((pd.read_csv(site / "claims.csv").verdict == claims.OPPOSITE).sum())
        tab.run(f"f = document.forms.filter; f.elements.verdict.value = '{claims.OPPOSITE}'")
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
        found = tab.run(shown)
        assert 0 < found < 30
        tab.open(site / "index.html", f"#{tab.run('location.hash')[1:]}")
        assert tab.run(shown) == found  # the address keeps the filter
        tab.open(site / "report/tables.html")
        assert tab.click('a[href="claims/T1.full.f1.html"]').endswith("/report/claims/T1.full.f1.html")
        assert tab.click("#raw").endswith("/report/rows/T1.full.f1.html")
        assert tab.run("document.querySelectorAll('tbody tr').length") > 150
        for path in [*sorted((site / "report").glob("*.html")), *sorted((site / "report/notebooks").glob("*.html"))]:
            tab.open(path)
            assert tab.run("[...document.images].every(i => i.loading == 'lazy' || i.naturalWidth > 0)"), path
        tab.call("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
        for name in ("index.html", "report/tables.html", "report/claims/T1.full.f1.html", "report/reading.html"):
            tab.open(site / name)
            assert tab.run("document.documentElement.scrollWidth") <= 390, name  # nothing sticks out on a phone
        assert tab.problems == []
    finally:
        tab.close()


# --- writing them -----------------------------------------------------------------------------------------------------


def test_equal_records_give_equal_pages_and_writing_them_again_changes_nothing(record: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(record, tmp_path / "other"))
    written = report.write(record)
    assert report.write(other) == written
    first = {path: (record / path).read_bytes() for path in written}
    assert {path: (other / path).read_bytes() for path in written} == first
    assert report.write(record) == written
    assert {path: (record / path).read_bytes() for path in written} == first
    assert verify.verify(record).findings == []


def test_running_a_section_again_drops_the_pages_and_a_run_of_nothing_keeps_them(record: Path) -> None:
    report.write(record)
    assert record_fakes.run(record) == 0
    assert (record / "index.html").exists()
    assert record_fakes.run(record, "0", count=3) == 0
    assert not (record / "index.html").exists()
    assert not (record / "report").exists()
    assert verify.verify(record).findings == []


def test_a_record_with_a_failed_section_says_so_on_every_page(record: Path) -> None:
    assert record_fakes.run(record, "0", mode="raise") == 1
    for path in report.write(record):
        if path.endswith(".html"):
            assert "This record is not complete." in (record / path).read_text()
    assert {finding.kind for finding in verify.verify(record).findings} == {"incomplete"}


@pytest.mark.parametrize("fault", ["no record", "changed", "held", "not empty", "inside"])
def test_what_cannot_be_reported_is_refused_in_one_line_and_nothing_is_written(
    fault: str, record: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    call, word = [str(record)], {"held": "is writing to it", "not empty": "is not empty"}.get(fault, "record")
    if fault == "no record":
        call = [str(tmp_path / "nosuch")]
    elif fault == "changed":
        (record / "tables/0_rows.csv").write_text("better")
        word = "tables/0_rows.csv"
    elif fault == "not empty":
        call += ["--to", str(tmp_path)]
    elif fault == "inside":
        call, word = [*call, "--to", str(record / "pages")], "inside the record"
    holder = held(record) if fault == "held" else None
    before = sorted(tmp_path.rglob("*"))
    try:
        with pytest.raises(SystemExit) as exit_:
            cli.main(["report", *call])
    finally:
        if holder:
            holder.kill()
            holder.wait()
    assert exit_.value.code == 2
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1
    assert word in message
    assert sorted(tmp_path.rglob("*")) == before


def held(record: Path) -> subprocess.Popen:
    """Another process that writes to the record."""
    program = "import sys, time, pathlib; from datalab.record import lock; lock.hold(pathlib.Path(sys.argv[1])); "
    program += "print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program, str(record)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_after_kill_9_while_the_pages_are_written_verify_says_so_and_the_next_run_puts_it_in_order(
    record: Path, tmp_path: Path
) -> None:
    program = (
        "import sys, pathlib, time; from datalab.report import site; from datalab.record.manifest import Manifest; "
    )
    program += "add = Manifest.add_file; Manifest.add_file = lambda *a, **k: (time.sleep(0.02), add(*a, **k)); "
    program += "site.write(pathlib.Path(sys.argv[1]))"
    process = subprocess.Popen([sys.executable, "-c", program, str(record)], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (record / "report/tables.html").exists():
        assert time.monotonic() < deadline, "waited in vain"
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert ("incomplete", "the record", "its writer was interrupted") in {
        (finding.kind, finding.what, finding.detail) for finding in verify.verify(record).findings
    }
    other = Path(shutil.copytree(record, tmp_path / "other"))
    assert report.write(other)  # the same command puts it in order,
    assert verify.verify(other).findings == []
    assert record_fakes.run(record) == 0  # and so does a run
    assert not (record / "index.html").exists()
    assert verify.verify(record).findings == []
    assert not lock.is_held(record)


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ({"measured": 0.71280199, "low": 0.60822653, "high": 0.81737775}, "0.713 [0.608, 0.817]"),
        ({"measured": 89.1, "low": 80.74, "high": 97.47}, "89.1 [80.7, 97.5]"),
        ({"measured": 1.582, "low": "-inf", "high": 10.63}, "1.58 [−∞, 10.63]"),
        ({"measured": "0.5 to 0.7", "low": None, "high": None}, "0.5 to 0.7"),
        ({"measured": 5, "low": None, "high": None}, "5"),
        ({"measured": None, "low": None, "high": None}, "–"),
    ],
)
def test_a_figure_has_the_digits_that_its_interval_supports(row: dict, shown: str) -> None:
    assert pages.measured(row) == shown


def test_the_pages_name_no_folder_of_this_machine(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not empty"):
        report.write(made, made.parent)
    report.write(made, tmp_path / "copy")
    for path in (tmp_path / "copy").glob("report/*.html"):
        assert str(Path.home()) not in path.read_text()
