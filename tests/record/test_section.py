"""What a notebook sees: a section gathers its tables, figures and claims, and enters them when it is finished."""

import contextlib
import functools
import io
import os
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import record_fakes
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.figure import Figure

from datalab.errors import UserError
from datalab.record import Section, Statement, claims_table, provenance
from datalab.record import section as module
from datalab.record.checks import verify
from datalab.record.manifest import Manifest
from datalab.sections import start
from datalab.sweep import Task

matplotlib.use("agg")


@pytest.fixture
def section(tmp_path: Path) -> Section:
    return record_fakes.start("0_alpha", {"profile": "smoke", "record": str(tmp_path / "record")})


def test_outputs_join_the_record_only_when_the_section_is_finished(section: Section) -> None:
    section.table(pd.DataFrame({"x": [1.0]}), "t", caption="T")
    assert not (section.record / "tables").exists()
    assert Manifest.load(section.record).sections["0_alpha"].status == "running"
    section.finish()
    assert (section.record / "tables/0_t.csv").exists()
    assert verify.verify(section.record, record_fakes.study(Path())).whole
    with pytest.raises(UserError, match="finished"):
        section.table(pd.DataFrame({"x": [1.0]}), "t", caption="T")


def test_a_notebook_run_by_hand_says_that_its_executed_notebook_is_not_in_the_record(section: Section) -> None:
    section.finish()
    entry = Manifest.load(section.record).sections["0_alpha"]
    assert (entry.status, entry.runner) == ("complete", "notebook session")
    assert "not part of this record" in entry.reason


def test_starting_the_section_again_drops_what_its_last_run_left(section: Section) -> None:
    section.table(pd.DataFrame({"x": [1.0]}), "old", caption="T")
    section.finish()
    again = record_fakes.start("0_alpha", {"profile": "smoke", "record": str(section.record)})
    again.table(pd.DataFrame({"x": [1.0]}), "new", caption="T")
    again.finish()
    assert {path.stem for path in (section.record / "tables").iterdir()} == {"0_new"}
    assert verify.verify(section.record, record_fakes.study(Path())).whole


def test_another_profile_or_an_unknown_parameter_is_refused_in_one_line(section: Section) -> None:
    section.finish()
    with pytest.raises(UserError, match="holds profile 'smoke'") as refused:
        record_fakes.start("0_alpha", {"profile": "quick", "record": str(section.record)})
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="did you mean 'seeds'"):
        record_fakes.start("0_alpha", {"profile": "smoke", "sedes": 5})
    with pytest.raises(UserError, match=r"inner' cannot be written: Not a directory$"):
        record_fakes.start("0_alpha", {"profile": "smoke", "record": str(section.record / "record.json" / "inner")})


def test_a_data_set_that_is_not_on_this_disk_is_refused_at_once_with_the_command_that_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATALAB_CACHE", str(tmp_path / "cache"))
    asked = {"profile": "smoke", "record": str(tmp_path / "record"), "datasets": ["adult", "wine"]}
    with pytest.raises(UserError, match=r"1 data set not on this disk; to get .*datasets --fetch adult$"):
        record_fakes.start("0_alpha", asked)
    assert not (tmp_path / "record").exists()


def test_in_a_notebook_a_refusal_is_one_line_and_an_interruption_says_what_is_kept(section: Section) -> None:
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    try:
        shell.set_custom_exc((KeyboardInterrupt,), functools.partial(module._interrupted, section.record))
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            shell.run_cell("from datalab.errors import UserError\nraise UserError('x is wrong; y is right')")
            shell.run_cell("raise KeyboardInterrupt")
    finally:
        InteractiveShell.clear_instance()
    refused, interrupted = shown.getvalue().splitlines()
    assert refused == "x is wrong; y is right"
    assert interrupted.startswith("Interrupted. Finished tasks are kept in ")
    assert interrupted.endswith("/cells: run this cell again, or all, to go on.")


def test_a_smoke_run_says_that_it_is_no_evidence_and_the_end_links_to_all_that_was_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    section = record_fakes.start("0_alpha", {"profile": "smoke", "record": "record"})
    assert capsys.readouterr().out.startswith("No evidence: profile smoke ")
    section.table(pd.DataFrame({"x": [1.0]}), "t", caption="T")
    section.verdicts([Statement("TITLE.threshold", measured=0.123456, verdict="inconclusive", table="t")])
    section.finish()
    shown = capsys.readouterr().out
    assert "| 0.1235 | inconclusive |" in shown
    for link in ("[0_t](record/tables/0_t.csv)", "[all claims](record/claims.csv)"):
        assert link in shown
        assert (tmp_path / link.split("(")[1][:-1]).exists()
    assert "[the report](record/index.html), once `datalab report` has written it" in shown
    assert "No evidence" not in record_fakes.start("0_alpha", {"profile": "quick", "record": "other"}).describe()


def test_an_audit_that_is_the_same_in_every_profile_is_not_called_no_evidence_and_a_board_of_a_smoke_run_is(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name, warned in (("1_paper_audit", False), ("6_verdicts", True)):
        start(name, {"profile": "smoke", "record": str(tmp_path / name)})
        assert ("No evidence" in capsys.readouterr().out) == warned


def test_a_claim_needs_an_id_of_the_ledger_and_a_table_of_this_section(section: Section) -> None:
    with pytest.raises(UserError, match="did you mean"):
        section.verdicts([Statement("TITLE.treshold", measured=1.0)])
    with pytest.raises(UserError, match="no table 'nosuch'"):
        section.verdicts([Statement("TITLE.threshold", measured=1.0, table="nosuch")])


def test_claims_csv_has_one_row_a_statement_and_the_measured_figures_in_place(section: Section) -> None:
    section.table(pd.DataFrame({"x": [1.0]}), "t", caption="T")
    measured = {"measured": np.float32(0.125), "low": float("nan"), "high": np.inf, "n": np.int64(3)}
    section.verdicts(
        [Statement("TITLE.threshold", **measured, verdict="inconclusive", table="t", row="first", why="why")]
    )
    section.finish()
    rows = pd.read_csv(section.record / "claims.csv").set_index("id")
    assert list(rows.index) == [row["id"] for row in record_fakes.FakeLedger().statements()]
    row = rows.loc["TITLE.threshold"]
    assert (row["measured"], row["high"], row["n"], row["table"]) == (0.125, np.inf, 3, "tables/0_t.csv")
    assert np.isnan(row["low"])
    assert rows["verdict"].notna().all()
    assert set(rows.columns) == set(claims_table.COLUMNS) - {"id"}


def test_the_claims_stated_so_far_can_be_read_before_the_section_ends(section: Section) -> None:
    section.verdicts([Statement("TITLE.threshold", measured=0.5, verdict="inconclusive")])
    frame = section.claims().set_index("id")
    assert frame.loc["TITLE.threshold", "measured"] == 0.5
    assert (frame["verdict"] == "not run").any()


def test_the_same_tasks_swept_again_are_counted_once_and_no_change_of_the_notebooks(section: Section) -> None:
    tasks = [Task("record_fakes:cell", {"index": i, "seed": 1, "nap": 0.0}) for i in range(2)]
    rows = section.sweep(tasks)
    rows["seed"] = 2
    assert list(section.sweep(tasks[::-1]).seed) == [1, 1]
    section.verdicts([Statement("TITLE.threshold", 1.0, 0.0, 2.0, verdict="inconclusive", raw={"seed": 1})])
    assert section._claims["TITLE.threshold"]["raw"] == {"where": {"seed": 1}, "rows": 2}


def test_a_table_says_of_how_many_data_sets_and_seeds_it_is(section: Section) -> None:
    some = pd.DataFrame({"sets": [5, 8]})

    def said(frame: pd.DataFrame, **how: object) -> str:
        section.table(frame, "some", caption="T", **how)
        return next(section._stage.glob("tables/*_some.md")).read_text().splitlines()[-1].strip("*")

    assert said(some).endswith("n = 5 to 8 data sets")
    assert said(some[1:], seeds=1) == "profile smoke; seeds 1 (root 2024); n = 8 data sets"
    assert said(some, n="9 data sets").endswith("n = 9 data sets")
    assert said(pd.DataFrame({"x": [1, 2]})).endswith("n = 2 data sets")


def test_a_table_of_measured_time_says_so(section: Section) -> None:
    section.table(pd.DataFrame({"seconds": [1.0]}), "cost", caption="Cost", timing=True)
    section.finish()
    manifest = Manifest.load(section.record)
    assert manifest.files["tables/0_cost.csv"].timing
    assert "differs from run to run" in (section.record / "tables/0_cost.md").read_text()


def test_a_figure_is_saved_as_svg_and_png_with_the_data_behind_it(section: Section) -> None:
    figure = Figure()
    figure.subplots().plot([0, 1, 2], [0, 1, 2])
    section.figure(figure, "curve", caption="A curve", data=pd.DataFrame({"x": [0.1]}))
    section.finish()
    kinds = {path.suffix for path in (section.record / "figures").glob("0_curve.*")}
    assert kinds == {".svg", ".png", ".csv"}


def test_the_default_record_of_a_notebook_is_in_the_checkout_or_where_it_is_called_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    for folder in (checkout / "notebooks", elsewhere):
        folder.mkdir(parents=True)
    monkeypatch.setattr(provenance, "project", lambda: checkout)
    for here, home in ((checkout / "notebooks", checkout), (elsewhere, elsewhere)):
        monkeypatch.chdir(here)
        opened = record_fakes.start("0_alpha", {"profile": "smoke"})
        assert opened.record == home / "runs" / "notebook-smoke"
        opened.finish()
    assert sorted(os.listdir(checkout)) == ["notebooks", "runs"]
    assert os.listdir(checkout / "notebooks") == []


def test_the_folder_that_a_notebook_prints_is_one_word_that_says_no_sentence() -> None:
    assert module.as_word("../runs/é-1_b") == "../runs/é-1_b"
    assert module.as_word("it is 'won'\n") == "it%20is%20%27won%27%0A"
    assert module.as_word(module.as_word("a b")) == "a%20b"  # as verify asks of it
