"""Writing a record's pages: from the record, refused where it is not whole, and none outlives what it tells."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import record_fakes

from datalab import cli, ledger, report
from datalab.errors import UserError
from datalab.record import Study, lock
from datalab.record.checks import verify
from datalab.record.manifest import Manifest
from datalab.record.section import no_evidence
from datalab.report import pages


def test_equal_records_give_equal_pages_and_writing_them_again_changes_nothing(
    record: Path, study: Study, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(record, tmp_path / "other"))
    written = report.write(record, study=study)
    assert report.write(other, study=study) == written
    first = {path: (record / path).read_bytes() for path in written}
    assert {path: (other / path).read_bytes() for path in written} == first
    assert report.write(record, study=study) == written
    assert {path: (record / path).read_bytes() for path in written} == first
    assert verify.verify(record, study).findings == []


def test_running_a_section_again_drops_the_pages_and_a_run_of_nothing_keeps_them(record: Path, study: Study) -> None:
    report.write(record, study=study)
    assert record_fakes.run(study, record) == 0
    assert (record / "index.html").exists()
    assert record_fakes.run(study, record, "0", count=3) == 0
    assert not (record / "index.html").exists()
    assert not (record / "report").exists()
    assert verify.verify(record, study).findings == []


def test_a_record_with_a_failed_section_says_so_on_every_page(record: Path, study: Study) -> None:
    assert record_fakes.run(study, record, "0", mode="raise") == 1
    for path in report.write(record, study=study):
        if path.endswith(".html"):
            assert "This record is not complete." in (record / path).read_text()
    assert {finding.kind for finding in verify.verify(record, study).findings} == {"incomplete"}


def test_a_smoke_run_ends_and_its_pages_begin_with_the_line_that_it_is_no_evidence(
    record: Path, study: Study, capsys: pytest.CaptureFixture
) -> None:
    for call in (["run", "0", "--profile", "smoke", "--workers", "1", "--to"], ["report"]):
        with pytest.raises(SystemExit):
            cli.main([*call, str(record)], study=study)
        said = capsys.readouterr().out
        assert said.count("No evidence") == 1
        assert said.splitlines()[-1].startswith("No evidence: profile smoke")
    page = (record / "index.html").read_text()
    assert page.count("No evidence") == 1
    assert page.index("No evidence") < page.index("The answer.")


def test_an_unanswered_statement_is_not_counted_as_true_by_construction(record: Path, study: Study) -> None:
    """Before: "not run", of which some true by construction."""
    manifest = Manifest.load(record)
    made = {claim["id"] for entry in manifest.sections.values() for claim in entry.claims}
    assert not any(ledger.claims()[name].by_construction for name in made)
    report.write(record, study=study)
    assert "true by construction</small></li>" not in (record / "index.html").read_text()


def test_what_is_no_smaller_in_smoke_is_evidence_there_too() -> None:
    scaled = {"profile": "smoke", "seeds": 1}
    assert len(no_evidence([{"profile": "smoke"}, scaled, scaled])) == 1
    assert no_evidence([{"profile": "smoke"}, {"profile": "quick", "seeds": 1}]) == []


@pytest.mark.parametrize("fault", ["no record", "changed", "held", "not empty", "inside"])
def test_what_cannot_be_reported_is_refused_in_one_line_and_nothing_is_written(
    fault: str, record: Path, study: Study, tmp_path: Path, capsys: pytest.CaptureFixture
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
            cli.main(["report", *call], study=study)
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
    record: Path, study: Study, tmp_path: Path
) -> None:
    program = "import sys, pathlib, time, record_fakes; from datalab import ledger; from datalab.report import site; "
    program += "from datalab.record.manifest import Manifest; from datalab.record import Study; "
    program += "add = Manifest.add_file; Manifest.add_file = lambda *a, **k: (time.sleep(0.02), add(*a, **k)); "
    program += "study = Study(record_fakes.SECTIONS, ledger, pathlib.Path(sys.argv[2])); "
    program += "site.write(pathlib.Path(sys.argv[1]), study=study)"
    call = [sys.executable, "-c", program, str(record), str(study.notebooks)]
    process = subprocess.Popen(call, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (record / "report/tables.html").exists():
        assert time.monotonic() < deadline, "waited in vain"
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert ("incomplete", "the record", "its writer was interrupted") in {
        (finding.kind, finding.what, finding.detail) for finding in verify.verify(record, study).findings
    }
    other = Path(shutil.copytree(record, tmp_path / "other"))
    assert report.write(other, study=study)  # the same command puts it in order,
    assert verify.verify(other, study).findings == []
    assert record_fakes.run(study, record) == 0  # and so does a run
    assert not (record / "index.html").exists()
    assert verify.verify(record, study).findings == []
    assert not lock.is_held(record)


def claim_row(**given: object) -> dict:
    return dict.fromkeys(("measured", "low", "high", "unit"), None) | {"measured_unit": given.get("unit")} | given


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ({"measured": 0.71280199, "low": 0.60822653, "high": 0.81737775, "unit": "ratio"}, "0.713 [0.608, 0.817]"),
        ({"measured": 89.1, "low": 80.74, "high": 97.47, "unit": "%"}, "89.1 % [80.7, 97.5]"),
        ({"measured": 1.582, "low": "-inf", "high": 10.63, "unit": "% of labels flipped"}, None),
        ({"measured": "-inf", "low": "-inf", "high": "inf"}, "<0 [<0, >40]"),
        (
            {"measured": -0.03, "low": -0.1, "high": 0.04, "unit": "% of gain", "measured_unit": "F1"},
            "−0.030 F1 [−0.100, 0.040]",
        ),
        ({"measured": -2.9, "low": -6.0, "high": 0.2, "unit": "% loss"}, "−2.90 % loss [−6.00, 0.20]"),
        ({"measured": "0.5 to 0.7", "unit": "F1"}, "0.5 to 0.7"),
        ({"measured": 5, "unit": "levels"}, "5 levels"),
        ({}, "–"),
    ],
)
def test_a_figure_has_its_unit_and_the_digits_that_its_interval_supports(row: dict, shown: str | None) -> None:
    assert pages.measured(claim_row(**row)) == (shown or "1.58 % of labels flipped [<0, 10.63]")


def test_a_strip_has_the_interval_the_figure_and_what_is_printed_in_the_order_of_their_values() -> None:
    row = claim_row(measured=0.7, low=0.6, high=0.8, unit="ratio")
    places = pages.strip(row, 0.9)
    assert 0 < places["low"] < places["measured"] < places["high"] < places["printed"] < 100
    assert places["measured"] - places["low"] == pytest.approx(places["high"] - places["measured"], abs=0.02)
    assert "zero" not in places
    assert "printed" not in pages.strip(row | {"measured_unit": "F1"}, 0.9)  # of another unit
    across = pages.strip(claim_row(measured=0.0, low="-inf", high=2.0, unit="%"), 15.0)
    assert across["low"] == 0  # it has no limit below
    assert across["zero"] == across["measured"]
    assert pages.strip(claim_row(measured=3, unit="seeds"), 5.0) is None


def test_the_pages_name_no_folder_of_this_machine(made: Path, study: Study, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not empty"):
        report.write(made, made.parent, study)
    report.write(made, tmp_path / "copy", study)
    for path in (tmp_path / "copy").glob("report/*.html"):
        assert str(Path.home()) not in path.read_text()


def test_a_forged_crate_or_page_with_its_hash_put_right_is_named(record: Path, study: Study) -> None:
    report.write(record, study=study)
    forgeries = {"ro-crate-metadata.json": "{}", "index.html": "<h1>Reproduced</h1>", "report/x.html": "x"}
    forged = Path(shutil.copytree(record, record.with_name("forged")))
    manifest = Manifest.load(forged)
    for path, content in forgeries.items():
        (forged / path).write_text(content)
        manifest.add_file(forged, path)
    manifest.save(forged)
    assert verify.verify(forged, study).findings == []
    findings = verify.verify(forged, study, recompute=True, workers=1, pages=report.differing).findings
    assert set(forgeries) <= {finding.what for finding in findings}
    assert verify.verify(record, study, recompute=True, workers=1, pages=report.differing).findings == []
