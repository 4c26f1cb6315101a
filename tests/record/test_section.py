"""The record's parts: tables, figures, manifest, claims, lock, parameters; nothing here starts a kernel."""

import io
import json
import multiprocessing
import os
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import record_fakes
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from datalab import ledger
from datalab.errors import UserError
from datalab.record import claims_table, figures, lock, plan, provenance, start, verify
from datalab.record.manifest import Manifest
from datalab.record.section import Section
from datalab.record.tables import Table

matplotlib.use("agg")


@pytest.fixture
def section(tmp_path: Path) -> Section:
    return start(record_fakes.SECTIONS[0], profile="smoke", record=str(tmp_path / "record"))


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = record_fakes.write_notebooks(tmp_path / "notebooks")
    monkeypatch.setattr("datalab.sections.SECTIONS", record_fakes.SECTIONS)
    monkeypatch.setattr("datalab.record.plan.notebooks_folder", lambda: folder)
    return folder


def table_of(frame: pd.DataFrame) -> Table:
    return Table(frame, "1_t", "A caption", {"profile": "smoke", "seeds": 2, "root_seed": 2024, "n": "3 data sets"})


# --- tables -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(allow_nan=True, allow_infinity=False, width=32), min_size=1))
def test_a_table_read_back_by_pandas_has_its_values_to_six_digits(values: list[float]) -> None:
    frame = pd.DataFrame({"set": [f"s{i}" for i in range(len(values))], "d, F1": values})
    back = pd.read_csv(io.StringIO(table_of(frame).csv()))
    assert list(back.columns) == list(frame.columns)
    np.testing.assert_allclose(back["d, F1"].to_numpy(float), frame["d, F1"], rtol=1e-5, atol=1e-40)


def test_values_that_differ_by_rounding_noise_give_the_same_bytes() -> None:
    one, other = (table_of(pd.DataFrame({"x": [value, -value * 0]})) for value in (0.1 + 0.2, 0.3))
    assert (one.csv(), one.markdown(), one.latex()) == (other.csv(), other.markdown(), other.latex())
    assert "-0" not in one.csv()


def test_every_printed_face_of_a_table_carries_profile_seeds_and_n() -> None:
    table = table_of(pd.DataFrame({"x": [1.0]}))
    for face in (table.markdown(), table.latex(), table._repr_html_()):
        assert "profile smoke; seeds 2 (root 2024); n = 3 data sets" in face
    assert json.loads(table.sidecar())["n"] == "3 data sets"


def test_a_markdown_table_keeps_its_columns_whatever_the_text() -> None:
    lines = table_of(pd.DataFrame({"a|b": ["x|y\nz"], "n": [3]})).markdown().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {3}


def test_a_latex_table_escapes_what_latex_would_act_on() -> None:
    text = table_of(pd.DataFrame({"50 % & _x": ["a_b#$~^\\{}"]})).latex()
    assert r"50 \% \& \_x" in text
    assert r"a\_b\#\$\textasciitilde{}\textasciicircum{}\textbackslash{}\{\}" in text


def test_a_column_is_printed_with_aligned_decimals_and_no_more_than_four_digits() -> None:
    shown = table_of(pd.DataFrame({"d": [0.123456, -0.01], "p": [1e-9, 0.5], "n": [4.0, 12.0]})).markdown()
    assert "| 0.1235 | 1.0e-09 | 4 |" in shown
    assert "| -0.0100 | 0.5000 | 12 |" in shown


def test_a_table_of_measured_time_says_so(section: Section) -> None:
    section.table(pd.DataFrame({"seconds": [1.0]}), "cost", caption="Cost", timing=True)
    section.finish()
    manifest = Manifest.load(section.record)
    assert manifest.files["tables/0_cost.csv"].timing
    assert "differs from run to run" in (section.record / "tables/0_cost.md").read_text()


def test_a_named_index_becomes_columns_and_equal_column_names_are_refused() -> None:
    frame = pd.DataFrame({("a", "x"): [1], ("a", "y"): [2]}, index=pd.Index(["s"], name="set"))
    assert table_of(frame).csv() == "set,a x,a y\ns,1,2\n"
    with pytest.raises(ValueError, match="must differ"):
        table_of(pd.DataFrame([[1, 2]], columns=["a", "a"]))


# --- figures ----------------------------------------------------------------------------------------------------------


def drawn(scale: float = 1.0) -> Figure:
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1, 2], [0, scale, 2], label="a")
    axes.scatter([0, 1], [1, 0])
    axes.legend()
    return figure


def test_equal_figures_have_equal_bytes_and_others_do_not() -> None:
    assert figures.render(drawn(), "x") == figures.render(drawn(), "x")
    assert figures.render(drawn(2.0), "x") != figures.render(drawn(), "x")
    assert b"<dc:date>" not in figures.render(drawn(), "x")["svg"]


def test_a_figure_is_saved_as_svg_and_png_with_the_data_behind_it(section: Section) -> None:
    section.figure(drawn(), "curve", caption="A curve", data=pd.DataFrame({"x": [0.1]}))
    section.finish()
    kinds = {path.suffix for path in (section.record / "figures").glob("0_curve.*")}
    assert kinds == {".svg", ".png", ".csv"}


# --- the notebook's section -------------------------------------------------------------------------------------------


def test_outputs_join_the_record_only_when_the_section_is_finished(section: Section) -> None:
    section.table(pd.DataFrame({"x": [1.0]}), "t", caption="T")
    assert not (section.record / "tables").exists()
    assert Manifest.load(section.record).sections["0_alpha"].status == "running"
    section.finish()
    assert (section.record / "tables/0_t.csv").exists()
    assert verify.verify(section.record).whole
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
    again = start(record_fakes.SECTIONS[0], profile="smoke", record=str(section.record))
    again.table(pd.DataFrame({"x": [1.0]}), "new", caption="T")
    again.finish()
    assert {path.stem for path in (section.record / "tables").iterdir()} == {"0_new"}
    assert verify.verify(section.record).whole


def test_another_profile_or_an_unknown_parameter_is_refused_in_one_line(section: Section) -> None:
    section.finish()
    with pytest.raises(UserError, match="holds profile 'smoke'") as refused:
        start(record_fakes.SECTIONS[0], profile="quick", record=str(section.record))
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="did you mean 'seeds'"):
        start(record_fakes.SECTIONS[0], profile="smoke", sedes=5)


def test_a_claim_needs_an_id_of_the_ledger_and_a_table_of_this_section(section: Section) -> None:
    with pytest.raises(UserError, match="did you mean"):
        section.claim("TITLE.treshold", measured=1.0)
    with pytest.raises(UserError, match="no table 'nosuch'"):
        section.claim("TITLE.threshold", measured=1.0, table="nosuch")


def test_claims_csv_has_one_row_a_statement_and_the_measured_figures_in_place(section: Section) -> None:
    section.table(pd.DataFrame({"x": [1.0]}), "t", caption="T")
    measured = {"measured": np.float32(0.125), "low": float("nan"), "high": np.inf, "n": np.int64(3)}
    section.claim("TITLE.threshold", **measured, verdict="inconclusive", table="t", row="first", note="why")
    section.finish()
    rows = pd.read_csv(section.record / "claims.csv").set_index("id")
    assert list(rows.index) == list(ledger.claims())
    assert len(rows) == 277
    row = rows.loc["TITLE.threshold"]
    assert (row["measured"], row["high"], row["n"], row["table"]) == (0.125, np.inf, 3, "tables/0_t.csv")
    assert np.isnan(row["low"])
    assert rows["verdict"].notna().all()
    assert set(rows.columns) == set(claims_table.COLUMNS) - {"id"}


def test_the_claims_stated_so_far_can_be_read_before_the_section_ends(section: Section) -> None:
    section.claim("TITLE.threshold", measured=0.5, verdict="inconclusive")
    frame = section.claims().set_index("id")
    assert frame.loc["TITLE.threshold", "measured"] == 0.5
    assert (frame["verdict"] == "not run").any()


# --- manifest, lock ---------------------------------------------------------------------------------------------------


def test_the_manifest_says_what_ran_with_what(section: Section) -> None:
    section.finish()
    manifest = Manifest.load(section.record)
    assert set(manifest.sources) == {"code", "protocol", "ledger", "lock"}
    assert all(manifest.sources.values())
    assert {"torch", "numpy", "papermill"} <= set(manifest.packages)
    assert manifest.machine["cores"] >= 1
    assert manifest.machine["memory_bytes"] > 2**28
    entry = manifest.sections["0_alpha"]
    assert entry.parameters["seeds"] == 2
    assert entry.wall_seconds is not None
    assert entry.cpu_seconds is not None


def test_an_edited_manifest_is_refused_even_when_it_is_valid_json(section: Section) -> None:
    section.finish()
    path = section.record / "record.json"
    path.write_text(path.read_text().replace('"profile": "smoke"', '"profile": "quick"', 1))
    with pytest.raises(UserError, match="changed after it was written"):
        Manifest.load(section.record)


def _hold(folder: str, ready, done) -> None:
    lock.hold(Path(folder))
    ready.set()
    done.wait(30)


def test_a_second_writer_is_refused_with_the_holder_named_and_the_lock_dies_with_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path), ready, done))
    other.start()
    assert ready.wait(30)
    with pytest.raises(UserError, match=f"process {other.pid} on "):
        lock.hold(tmp_path)
    assert lock.is_held(tmp_path)
    other.kill()
    other.join()
    assert not lock.is_held(tmp_path)
    lock.hold(tmp_path)
    lock.hold(tmp_path)  # again is allowed
    lock.release(tmp_path)


# --- planning ---------------------------------------------------------------------------------------------------------


def test_a_parameter_goes_to_the_sections_that_have_it_and_must_belong_to_one(fakes: Path) -> None:
    jobs = plan.jobs(["0", "3.4"], "smoke", {"count": 7})
    assert [job.parameters.count for job in jobs] == [7, 7]
    with pytest.raises(UserError, match="unknown parameter 'sedes'; did you mean 'seeds'"):
        plan.jobs(["0"], "smoke", {"sedes": 5})
    with pytest.raises(UserError, match="noise_rates"):
        plan.jobs(["0"], "smoke", {"noise_rates": [-0.1]})
    with pytest.raises(UserError, match="set by --to"):
        plan.jobs(["0"], "smoke", {"record": "x"})


def test_sections_run_in_the_registrys_order_whatever_the_order_asked_for(fakes: Path) -> None:
    assert [job.section.number for job in plan.jobs(["6", "0"], "smoke", {})] == ["0", "6"]
    assert [job.section.number for job in plan.jobs([], "smoke", {})] == ["0", "3.4", "6"]


def test_a_parameter_the_notebook_would_drop_in_silence_is_refused(fakes: Path) -> None:
    path = fakes / "0_alpha.ipynb"
    path.write_text(path.read_text().replace("count = None", "other = None"))
    with pytest.raises(UserError, match="does not name 'count'"):
        plan.jobs(["0"], "smoke", {"count": 7})


def test_saving_a_notebook_with_outputs_does_not_change_its_source_hash(fakes: Path) -> None:
    path = fakes / "0_alpha.ipynb"
    before = provenance.notebook_sha256(path)
    notebook = json.loads(path.read_text())
    notebook["cells"][1]["execution_count"] = 5
    notebook["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["x"]}]
    path.write_text(json.dumps(notebook))
    assert provenance.notebook_sha256(path) == before
    notebook["cells"][1]["source"] = ["x = 1"]
    path.write_text(json.dumps(notebook))
    assert provenance.notebook_sha256(path) != before


def test_the_default_record_of_a_notebook_does_not_depend_on_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = provenance.project()
    monkeypatch.chdir(tmp_path)
    assert provenance.project() == home
    monkeypatch.setattr(provenance, "project", lambda: tmp_path / "project")
    opened = start(record_fakes.SECTIONS[0], profile="smoke")
    assert opened.record == tmp_path / "project" / "runs" / "notebook-smoke"
    opened.finish()
    assert os.listdir(tmp_path) == ["project"]
