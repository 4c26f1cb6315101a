"""`datalab run` over small sections: real papermill, real kernels, real sweeps."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import record_fakes
from record_fakes import run

from datalab.errors import UserError
from datalab.record import Study, plan, provenance, runner
from datalab.record.checks import verify
from datalab.record.manifest import Manifest, SectionRecord


def contents(record: Path, *folders: str) -> dict[str, bytes]:
    roots = [record / folder for folder in folders] or [record]
    files = (path for root in roots for path in root.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(record).as_posix(): path.read_bytes() for path in files}


def test_a_run_leaves_a_whole_record_of_executed_notebooks(made: Path, study: Study) -> None:
    assert verify.verify(made, study).findings == []
    manifest = Manifest.load(made)
    for stem in ("0_alpha", "3_4_beta", "6_gamma"):
        entry = manifest.sections[stem]
        assert (entry.status, entry.runner) == ("complete", "datalab run")
        assert entry.code_cells_ran == entry.code_cells > 5
        assert entry.wall_seconds > 0
        assert entry.cpu_seconds > 0
        executed = nbformat.read(made / f"notebooks/{stem}.ipynb", as_version=4)
        counts = [cell.execution_count for cell in executed.cells if cell.cell_type == "code"]
        assert counts == list(range(1, len(counts) + 1))
    assert manifest.sections["0_alpha"].determinism["on"]
    assert not (made / ".partial").exists()


def test_who_resumes_a_record_of_another_machine_is_told_that_what_it_keeps_was_not_computed_here(
    record: Path, study: Study, capsys: pytest.CaptureFixture
) -> None:
    assert run(study, record, "0") == 0
    assert "another machine" not in capsys.readouterr().out
    manifest = Manifest.load(record)
    manifest.machine["processor"] = "A stranger's"
    manifest.save(record)
    assert run(study, record, "0") == 0
    assert "on another machine (A stranger's): see datalab verify" in capsys.readouterr().out
    name, _, _ = provenance.machine()["processor"].partition(", family")
    manifest.machine["processor"] = name  # as older records have it
    manifest.save(record)
    assert run(study, record, "0") == 0
    assert "another machine" not in capsys.readouterr().out


def test_an_executed_notebook_names_no_folder_of_the_machine_as_its_source(made: Path, study: Study) -> None:
    assert str(study.notebooks) not in (made / "notebooks/0_alpha.ipynb").read_text()


def test_a_claim_leads_to_the_executed_cell_that_made_its_table(made: Path) -> None:
    claim = Manifest.load(made).sections["0_alpha"].claims[0]
    executed = nbformat.read(made / "notebooks/0_alpha.ipynb", as_version=4)
    cell = next(cell for cell in executed.cells if cell.get("execution_count") == claim["cell"])
    assert "section.table(" in cell.source
    assert (made / claim["table"]).exists()


def test_a_section_that_failed_before_and_whose_turn_is_to_come_holds_up_none_that_reads_it(
    record: Path, study: Study
) -> None:
    first, second, reader = record_fakes.SECTIONS
    reader_first = Study((first, reader, second), study.ledger, study.notebooks)
    assert run(reader_first, record, second.number, mode="raise") == 1
    assert run(reader_first, record) == 0
    assert {entry.status for entry in Manifest.load(record).sections.values()} == {"complete"}


def test_the_same_command_again_runs_nothing_and_changes_no_byte(
    record: Path, capfd: pytest.CaptureFixture, study: Study
) -> None:
    before = contents(record)
    assert run(study, record) == 0
    assert contents(record) == before
    assert capfd.readouterr().out.count("complete and unchanged") == 3


def test_another_parameter_runs_the_section_again_and_its_readers_but_not_the_others(
    record: Path, study: Study
) -> None:
    started = {stem: entry.model_copy() for stem, entry in Manifest.load(record).sections.items()}
    assert run(study, record, "0", count=3) == 0
    assert run(study, record, "3.4", "6") == 0
    manifest = Manifest.load(record)
    assert manifest.sections["0_alpha"].parameters["count"] == 3
    files = {"cells": manifest.sections["3_4_beta"].cells}  # the tasks that it asks for alone lie apart now
    assert manifest.sections["3_4_beta"] == started["3_4_beta"].model_copy(update=files)
    assert len(files["cells"]) == 2
    assert manifest.sections["6_gamma"].key != started["6_gamma"].key
    assert verify.verify(record, study).whole


def test_a_section_whose_table_was_changed_is_run_again_and_its_table_comes_back(record: Path, study: Study) -> None:
    table = record / "tables/0_rows.csv"
    before = table.read_bytes()
    table.write_bytes(before.replace(b"0", b"1"))
    assert run(study, record) == 0
    assert table.read_bytes() == before
    assert verify.verify(record, study).whole


def test_a_raw_cell_replaced_by_other_valid_rows_is_computed_again(record: Path, study: Study) -> None:
    cell = next((record / "cells").iterdir())
    tables = contents(record, "tables")
    pd.read_parquet(cell).assign(value=0.5).to_parquet(cell)
    (record / "tables/0_rows.csv").unlink()
    assert run(study, record) == 0
    assert contents(record, "tables") == tables
    assert verify.verify(record, study).whole


def test_a_changed_notebook_is_run_again(record: Path, study: Study) -> None:
    path = study.notebooks / "0_alpha.ipynb"
    before = path.read_text()
    try:
        path.write_text(before.replace("A fake.", "Another fake."))
        assert any("0_alpha" in line for line in verify.verify(record, study).stale)
        assert run(study, record, "0") == 0
        assert Manifest.load(record).sections["0_alpha"].started >= Manifest.load(record).created
        assert not any("0_alpha" in line for line in verify.verify(record, study).stale)
    finally:
        path.write_text(before)


def test_two_runs_from_scratch_give_the_same_tables_and_another_seed_does_not(
    made: Path, tmp_path: Path, study: Study
) -> None:
    assert run(study, tmp_path / "again", "0") == 0
    same = {path: made.joinpath(path).read_bytes() for path in contents(tmp_path / "again", "tables", "figures")}
    assert contents(tmp_path / "again", "tables", "figures") == same
    assert run(study, tmp_path / "again", "0", root_seed=7) == 0
    other = contents(tmp_path / "again", "tables")
    assert other["tables/0_rows.csv"] != same["tables/0_rows.csv"]


def test_fresh_refuses_to_delete_sections_that_the_run_does_not_make(record: Path, study: Study) -> None:
    before = contents(record)
    with pytest.raises(UserError, match=r"--fresh would delete sections 0, 6 too, .* leave --fresh out") as caught:
        run(study, record, "3.4", fresh=True)
    assert len(str(caught.value).splitlines()) == 1
    assert {path: content for path, content in contents(record).items() if path != ".lock"} == before


def test_fresh_starts_over(record: Path, study: Study) -> None:
    manifest = Manifest.load(record)
    created = manifest.files
    for stem, status in (("0_alpha", None), ("6_gamma", "not run")):  # which has nothing to lose
        del manifest.sections[stem]
        if status:
            manifest.sections[stem] = SectionRecord(number="6", title="x", status=status)
    manifest.save(record)
    (record / "tables" / "stray.csv").write_text("x")
    assert run(study, record, "3.4", fresh=True) == 0
    manifest = Manifest.load(record)
    assert set(manifest.sections) == {"3_4_beta"}
    assert set(manifest.files) < set(created)
    assert verify.verify(record, study).whole


def test_a_folder_that_is_not_a_record_is_never_touched(tmp_path: Path, study: Study) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for fresh in (False, True):
        with pytest.raises(UserError, match="is not a record"):
            run(study, tmp_path, "0", fresh=fresh)
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}


def test_a_record_of_another_profile_or_with_an_edited_manifest_is_refused(record: Path, study: Study) -> None:
    jobs = plan.jobs(study, ["0"], "quick", {"workers": 1})
    with pytest.raises(UserError, match="holds profile 'smoke'"):
        runner.run(study, jobs, record, "quick")
    path = record / "record.json"
    path.write_text(path.read_text().replace("complete", "failed"))
    with pytest.raises(UserError, match="--fresh starts over"):
        run(study, record, "0")


FAILURES = {
    "raise": "raised RuntimeError: as asked",
    "os._exit": "the kernel died",
    "exit late": "raised SystemExit: 0",
}


def test_a_notebook_that_does_not_come_to_its_end_has_failed(record: Path, study: Study) -> None:
    for mode, reason in FAILURES.items():
        assert run(study, record, "0", "6", mode=mode) == 1
        assert_failed(record, study, reason)
    assert run(study, record, "0", "6") == 0  # and the plain command puts it right
    assert verify.verify(record, study).whole


def assert_failed(record: Path, study: Study, reason: str) -> None:
    manifest = Manifest.load(record)
    entry = manifest.sections["0_alpha"]
    assert entry.status == "failed"
    assert reason in entry.reason
    assert entry.code_cells_ran < entry.code_cells
    assert manifest.sections["6_gamma"].status == "not run"
    assert "0_alpha" in manifest.sections["6_gamma"].reason
    assert manifest.sections["3_4_beta"].status == "complete"
    assert not (record / "notebooks/0_alpha.ipynb").exists()
    executed = nbformat.read(record / "notebooks/0_alpha.failed.ipynb", as_version=4)
    statuses = [cell.metadata.papermill["status"] for cell in executed.cells if cell.cell_type == "code"]
    assert statuses.count("completed") == entry.code_cells_ran
    named = {finding.what for finding in verify.verify(record, study).findings}
    assert named == {"0_alpha", "6_gamma"}


def test_plain_papermill_from_any_folder_gives_the_same_tables_and_says_how_it_was_run(
    made: Path, study: Study, tmp_path: Path
) -> None:
    record, elsewhere = tmp_path / "record", tmp_path / "elsewhere"
    status, said = record_fakes.ran_by_papermill(study.notebooks / "3_4_beta.ipynb", record, elsewhere)
    assert status == 0, said
    expected = {path: content for path, content in contents(made, "tables").items() if path.startswith("tables/3_4_")}
    assert contents(record, "tables") == expected
    entry = Manifest.load(record).sections["3_4_beta"]
    assert (entry.status, entry.runner) == ("complete", "notebook session")
    assert verify.verify(record, study).findings == []
    assert os.listdir(elsewhere) == ["out.ipynb"]


def test_papermill_stops_at_a_parameter_that_the_section_does_not_have(study: Study, tmp_path: Path) -> None:
    """It warns of one itself, and goes on; a list that -p hands over as text is told to be -y's."""
    for more, word in ((("-p", "sedes", "3"), "did you mean 'seeds'"), (("-p", "noise_rates", "[0.1]"), "-y '")):
        notebook, record = study.notebooks / "3_4_beta.ipynb", tmp_path / "record"
        status, said = record_fakes.ran_by_papermill(notebook, record, tmp_path, *more)
        assert status != 0
        assert word in said
    assert not (tmp_path / "record").exists()


def test_papermill_itself_calls_the_cells_after_a_kernels_death_completed(study: Study, tmp_path: Path) -> None:
    """Why we judge for ourselves: the status papermill 2 writes. Should this fail one day, papermill has improved."""
    elsewhere, record, died = tmp_path / "elsewhere", tmp_path / "record", ["-p", "mode", "os._exit"]
    record_fakes.ran_by_papermill(study.notebooks / "3_4_beta.ipynb", record, elsewhere, *died)
    written = json.loads((elsewhere / "out.ipynb").read_text())
    statuses = {cell["metadata"]["papermill"]["status"] for cell in written["cells"] if not cell.get("execution_count")}
    assert statuses == {"completed"}
    assert not verify.verify(record, study).whole


def test_what_a_killed_writer_left_is_put_in_order_even_when_its_section_is_not_asked_for(
    record: Path, study: Study
) -> None:
    manifest = Manifest.load(record)
    manifest.closed, manifest.sections["0_alpha"].status = False, "running"
    manifest.save(record)
    left = [".partial/0_alpha/tables/0_rows.csv", "tables/0_half.csv", "cells/.x.1.tmp", "tables/.a.csv.1.tmp"]
    for name in [*left, "notebooks/0_alpha.ipynb.partial"]:
        (record / name).parent.mkdir(parents=True, exist_ok=True)
        (record / name).write_text("half")
    assert run(study, record, "3.4") == 0
    assert not any((record / name).exists() for name in left)
    assert Manifest.load(record).sections["0_alpha"].status == "interrupted"
    assert (record / "notebooks/0_alpha.interrupted.ipynb").exists()
    assert [finding.what for finding in verify.verify(record, study).findings] == ["0_alpha"]


def test_a_failed_notebook_does_not_stop_the_others(tmp_path: Path, study: Study) -> None:
    path = study.notebooks / "0_alpha.ipynb"
    before = path.read_text()
    try:
        path.write_text(before.replace("section.verdicts(", "1/0; section.verdicts("))
        assert run(study, tmp_path / "record", "0", "3.4") == 1
    finally:
        path.write_text(before)
    sections = Manifest.load(tmp_path / "record").sections
    assert {stem: entry.status for stem, entry in sections.items()} == {"0_alpha": "failed", "3_4_beta": "complete"}
    assert "ZeroDivisionError" in sections["0_alpha"].reason


def test_a_notebook_without_finish_or_with_other_parameters_has_failed(tmp_path: Path, study: Study) -> None:
    path = study.notebooks / "0_alpha.ipynb"
    before = path.read_text()
    try:
        path.write_text(before.replace("section.finish()", "pass"))
        assert run(study, tmp_path / "record", "0") == 1
        assert "without section.finish()" in Manifest.load(tmp_path / "record").sections["0_alpha"].reason
        path.write_text(before.replace("globals()", "globals() | {'count': 2}"))
        assert run(study, tmp_path / "record", "0", count=3) == 1
        assert "other parameters than asked for: count" in Manifest.load(tmp_path / "record").sections["0_alpha"].reason
    finally:
        path.write_text(before)


def mutations(record: Path):
    files = sorted(path.relative_to(record).as_posix() for path in record.rglob("*") if path.is_file())
    for name in files:
        if name == ".lock":
            continue
        yield "change a byte", name, lambda path: path.write_bytes(flipped(path.read_bytes()))
        yield "truncate", name, lambda path: path.write_bytes(path.read_bytes()[:-1])
        yield "delete", name, lambda path: path.unlink()
    for name in ("tables/extra.csv", "cells/extra.parquet", "notebooks/extra.ipynb", "extra", ".partial/extra", ".x"):
        yield "add", name, lambda path: (path.parent.mkdir(exist_ok=True), path.write_text("x"))


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_every_mutation_of_every_file_is_caught_and_named(
    record: Path, record_property: Callable, study: Study
) -> None:
    caught = total = 0
    for _, name, change in list(mutations(record)):
        path = record / name
        before = path.read_bytes() if path.exists() else None
        change(path)
        findings = {finding.what for finding in verify.verify(record, study).findings}
        total += 1
        caught += name in findings
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)
    shutil.rmtree(record / ".partial")
    record_property("mutations of a small record caught", f"{caught} of {total}")
    assert caught == total > 70
    assert verify.verify(record, study).whole


def test_swapping_two_files_is_caught(record: Path, study: Study) -> None:
    table, figure = record / "tables/0_rows.csv", record / "figures/0_curve.svg"
    before = table.read_bytes()
    table.write_bytes(figure.read_bytes())
    figure.write_bytes(before)
    assert {finding.what for finding in verify.verify(record, study).findings} >= {
        "tables/0_rows.csv",
        "figures/0_curve.svg",
    }


def test_verify_names_the_claims_that_rest_on_a_changed_table_and_those_edited_in_claims_csv(
    record: Path, study: Study
) -> None:
    (record / "tables/0_rows.csv").write_text("index,value\n0,1\n")
    findings = {(finding.kind, finding.what) for finding in verify.verify(record, study).findings}
    assert ("claim", "TITLE.threshold") in findings
    csv = record / "claims.csv"
    csv.write_text(csv.read_text().replace("TITLE.only_when,", "TITLE.only_wenn,"))
    findings = {(finding.kind, finding.what) for finding in verify.verify(record, study).findings}
    assert {("claim", "TITLE.only_when"), ("claim", "TITLE.only_wenn")} <= findings


def test_verify_says_stale_when_the_code_has_moved_on_and_the_record_stays_whole(
    record: Path, monkeypatch: pytest.MonkeyPatch, study: Study
) -> None:
    assert verify.verify(record, study).stale == []
    monkeypatch.setattr("datalab.record.provenance.code_sha256", lambda: "other")
    report = verify.verify(record, study)
    assert report.whole
    assert report.stale == ["the package's code changed after all 3 sections ran"]
