"""`datalab verify` computes a record anew from its raw rows: a forgery whose hashes were put right is found too."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyarrow.parquet as pq
import pytest
import record_fakes
from hypothesis import given
from hypothesis import strategies as st
from papermill.translators import PythonTranslator

from datalab import atomic, cli
from datalab.errors import UserError
from datalab.record import Study, claims_table, crate, progress, provenance, rawrows
from datalab.record.checks import recompute, replay, verify
from datalab.record.manifest import Manifest
from datalab.record.parameters import resolve
from datalab.sweep import rowfiles

STEM = "0_alpha"
TEXT, NUMBER = st.text(max_size=5), st.integers() | st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.none() | st.booleans() | NUMBER | TEXT
VALUES = st.recursive(PLAIN, lambda held: st.lists(held) | st.dictionaries(TEXT, held, max_size=3), max_leaves=8)


Verify = Callable[[Path], verify.Report]


@pytest.fixture
def hashed(study: Study) -> Verify:
    """Verification by hashes alone."""
    return lambda record: verify.verify(record, study)


@pytest.fixture
def checked(study: Study) -> Verify:
    """Verification that computes anew, in this process."""
    return lambda record: verify.verify(record, study, recompute=True, workers=1)


@given(VALUES)
def test_what_papermill_writes_of_a_value_is_read_as_the_value(value: object) -> None:
    assert recompute._literals(PythonTranslator.codify({"given": value})) == {"given": value}


@given(st.text("ab,", max_size=200), *[st.text("xyz", max_size=5)] * 2)
def test_two_lines_are_shown_where_they_part(same: str, held: str, made: str) -> None:
    said = recompute._first_line(f"head\n{same}{held}\nend".encode(), f"head\n{same}{made}\nend".encode())
    if held == made:
        assert said == ": they differ in length"
    else:
        assert f"{held}', from the rows '" in said
        assert said.endswith(f"{made}'")


def test_a_record_computed_anew_from_its_raw_rows_is_the_same_to_the_byte_and_is_only_read(
    record: Path, checked: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in record.rglob("*") if path.is_file()}
    monkeypatch.setattr(record_fakes, "cell", None)  # nothing may be computed but from the rows
    done = checked(record)
    assert done.findings == []
    assert [done.stem for done in done.recomputed] == ["0_alpha", "3_4_beta", "6_gamma"]
    first = done.recomputed[0]
    assert (first.problem, first.claims) == ("", 1)
    assert first.files == len([p for p in before if p.parent.name in ("tables", "figures") and p.name[:2] == "0_"])
    assert first.outputs == 9  # code cells, papermill's parameters among them
    assert {path: path.read_bytes() for path in record.rglob("*") if path.is_file()} == before


def test_on_one_core_too_it_is_computed_in_a_process_of_its_own_under_a_runs_switches(
    record: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recompute, "available_cores", lambda: 1)
    monkeypatch.setattr(replay, "replay", None)  # in this one
    done = verify.verify(record, study, recompute=True)
    assert done.findings == []
    assert (done.recomputed[0].problem, done.recomputed[0].claims) == ("", 1)


def put_right(record: Path) -> None:
    """What a forger does: write all hashes anew, so that every file is what the manifest says."""
    manifest = Manifest.load(record)
    for path, entry in list(manifest.files.items()):
        manifest.add_file(record, path, section=entry.section, timing=entry.timing)
    claims_table.write(record, manifest, record_fakes.study(Path()))
    crate.write(record, manifest)
    manifest.save(record)


def in_text(path: str, old: str, new: str) -> Callable[[Path], None]:
    def forge(record: Path) -> None:
        text = (record / path).read_text()
        assert re.search(old, text), path
        (record / path).write_text(re.sub(old, new, text, count=1))

    return forge


def in_claim(**fields: object) -> Callable[[Path], None]:
    def forge(record: Path) -> None:
        manifest = Manifest.load(record)
        manifest.sections[STEM].claims[0] |= fields
        manifest.save(record)

    return forge


def in_outputs(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def forge(record: Path) -> None:
        path = record / f"notebooks/{STEM}.ipynb"
        notebook = json.loads(path.read_text())
        change(notebook)
        path.write_text(json.dumps(notebook))

    return forge


def output(notebook: dict, kind: str) -> dict:
    return next(o["data"] for c in notebook["cells"] for o in c.get("outputs", []) if kind in o.get("data", {}))


def other_html(notebook: dict) -> None:
    shown = output(notebook, "text/html")
    shown["text/html"] = "".join(shown["text/html"]).replace("<td", "<td title='x'", 1)


def other_picture(notebook: dict) -> None:
    output(notebook, "image/png")["image/png"] = "aGVsbG8="


def other_parameter(notebook: dict) -> None:
    cell = next(c for c in notebook["cells"] if "injected-parameters" in c["metadata"].get("tags", []))
    cell["source"] = "".join(cell["source"]).replace("'smoke'", "'paper'").replace('"smoke"', '"paper"')


def other_raw_row(record: Path) -> None:
    path = sorted((record / "cells").glob("*.parquet"))[0]
    tasks, frame = record_fakes.rows(path)
    rowfiles.write(path, frame.assign(value=frame.value + 0.001), tasks)


def printed(what: str, on: str = "stdout") -> Callable[[dict], object]:
    return lambda notebook: notebook["cells"][-1]["outputs"].append({"output_type": "stream", "name": on, "text": what})


def as_progress(notebook: dict) -> None:
    data = {"text/plain": "1 of 1 tasks: the title is reproduced"}
    notebook["cells"][-1]["outputs"].append(
        {"output_type": "display_data", "metadata": dict(progress.MARK), "data": data}
    )


def uncounted(notebook: dict) -> None:
    notebook["cells"][-1]["execution_count"] = None
    printed("the title is reproduced")(notebook)


def at_the_start(notebook: dict) -> None:
    output = next(o for c in notebook["cells"] for o in c.get("outputs", []) if o.get("name") == "stdout")
    output["text"] = "".join(output["text"]).replace("root seed ", "root seed 13 of ", 1)


def in_prose(notebook: dict) -> None:
    cell = {"cell_type": "markdown", "id": "x", "metadata": {"tags": ["injected-parameters"]}, "source": "# Reproduced"}
    notebook["cells"].insert(2, cell)


def with_a_remark(notebook: dict) -> None:
    cell = next(c for c in notebook["cells"] if "injected-parameters" in c["metadata"].get("tags", []))
    cell["source"] = "".join(cell["source"]) + "  # reproduced"


def extra_table(record: Path) -> None:
    (record / "tables/0_better.csv").write_text("F1\n1.0\n")
    manifest = Manifest.load(record)
    manifest.add_file(record, "tables/0_better.csv", section=STEM)
    manifest.save(record)


def no_notebook(record: Path) -> None:
    (record / f"notebooks/{STEM}.ipynb").unlink()
    manifest = Manifest.load(record)
    del manifest.files[f"notebooks/{STEM}.ipynb"]
    manifest.save(record)


def extra_section(record: Path) -> None:
    manifest = Manifest.load(record)
    entry = manifest.sections[STEM].model_copy(update={"number": "7", "tables": {}, "figures": {}, "cells": []})
    entry.claims = [entry.claims[0] | {"verdict": "reproduced", "table": None}]
    manifest.sections["7_extra"] = entry
    manifest.save(record)


def other_title(record: Path) -> None:
    manifest = Manifest.load(record)
    manifest.sections[STEM].title = "Influence wins"
    manifest.save(record)


FORGERIES = {
    "a table's figure": (in_text("tables/0_rows.csv", r"0,0\.\d", "0,0.1234"), "tables/0_rows.csv"),
    "a printed table": (in_text("tables/0_rows.md", "What the cells gave", "What we hoped"), "tables/0_rows.md"),
    "a LaTeX table": (in_text("tables/0_rows.tex", "What the cells gave", "What we hoped"), "tables/0_rows.tex"),
    "the data behind a figure": (in_text("figures/0_curve.csv", r"0,0\.\d", "0,0.1234"), "figures/0_curve.csv"),
    "a drawing": (in_text("figures/0_curve.svg", "</svg>", "<text>better</text></svg>"), "figures/0_curve.svg"),
    "a picture": (lambda record: (record / "figures/0_curve.png").write_bytes(b"png"), "figures/0_curve.png"),
    "a verdict": (in_claim(verdict="reproduced"), "TITLE.threshold"),
    "a measured figure": (in_claim(measured=15.0), "TITLE.threshold"),
    "a limit": (in_claim(low=0.1), "TITLE.threshold"),
    "a reason": (in_claim(why="beyond doubt"), "TITLE.threshold"),
    "the cell that is named": (in_claim(cell=2), "TITLE.threshold"),
    "an output's table": (in_outputs(other_html), f"notebooks/{STEM}.ipynb"),
    "an output's picture": (in_outputs(other_picture), f"notebooks/{STEM}.ipynb"),
    "a notebook's source": (in_outputs(lambda b: b["cells"][-1].update(source="section.finish() ")), "notebooks/"),
    "a notebook's parameter": (in_outputs(other_parameter), f"notebooks/{STEM}.ipynb"),
    "a remark beside a parameter": (in_outputs(with_a_remark), f"notebooks/{STEM}.ipynb"),
    "a printed line": (in_outputs(printed("the title is reproduced")), f"notebooks/{STEM}.ipynb"),
    "a warning": (in_outputs(printed("the title is reproduced", "stderr")), f"notebooks/{STEM}.ipynb"),
    "a display that says it is progress": (in_outputs(as_progress), f"notebooks/{STEM}.ipynb"),
    "a cell without a number": (in_outputs(uncounted), f"notebooks/{STEM}.ipynb"),
    "what the start prints": (in_outputs(at_the_start), f"notebooks/{STEM}.ipynb"),
    "prose that says it is parameters": (in_outputs(in_prose), f"notebooks/{STEM}.ipynb"),
    "no executed notebook": (no_notebook, f"notebooks/{STEM}.ipynb"),
    "a table more": (extra_table, "tables/0_better.csv"),
    "a raw row": (other_raw_row, "tables/0_rows.csv"),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_a_forgery_with_all_hashes_put_right_is_named(what: str, record: Path, hashed: Verify, checked: Verify) -> None:
    forge, named = FORGERIES[what]
    forge(record)
    put_right(record)
    assert hashed(record).findings == []  # the hashes alone do not tell
    names = [finding.what for finding in checked(record).findings]
    assert any(name.startswith(named) for name in names), names


@pytest.mark.parametrize(("forge", "named"), [(extra_section, "7_extra"), (other_title, STEM)])
def test_a_section_that_is_not_the_studys_is_named_and_not_computed(
    forge: Callable[[Path], None], named: str, record: Path, hashed: Verify, checked: Verify
) -> None:
    forge(record)
    put_right(record)
    assert hashed(record).findings == []
    done = checked(record)
    assert named in {finding.what for finding in done.findings}
    assert named not in {section.stem for section in done.recomputed}


def test_a_reader_of_sections_that_were_run_again_is_stale_and_not_called_a_forgery(
    record: Path, study: Study, checked: Verify
) -> None:
    assert record_fakes.run(study, record, "0", count=5) == 0
    done = checked(record)
    assert done.findings == []
    assert done.stale == ["sections that section 6 reads were run again after it"]
    assert all("6_gamma" not in line for line in done.unconfirmed)  # it reads, and would give the same
    in_claim(verdict="reproduced")(record)
    manifest = Manifest.load(record)
    manifest.sections["6_gamma"].headline = []
    manifest.save(record)
    put_right(record)
    done = checked(record)
    assert {finding.what for finding in done.findings} == {"TITLE.threshold"}
    assert [line.split(":")[0] for line in done.unconfirmed] == [
        "section 6 computed anew, by other sources (sections that it read, run again since)"
    ]


def test_other_libraries_leave_a_difference_unconfirmed_and_the_state_says_so(
    record: Path, study: Study, checked: Verify, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_claim(verdict="reproduced")(record)
    manifest = Manifest.load(record)
    manifest.packages["pingouin"] = "0.0"
    manifest.save(record)
    put_right(record)
    assert checked(record).findings == []
    alone = SimpleNamespace(**vars(provenance) | {"machine": lambda: {"cores": 1}})
    monkeypatch.setattr(recompute, "provenance", alone)  # in this process, which knows the fakes
    with pytest.raises(SystemExit) as exit_:
        cli.main(["verify", str(record)], study=study)
    assert exit_.value.code == 1
    assert "not confirmed, 1 thing differs under other sources or on another machine" in capsys.readouterr().out


def test_raw_rows_that_do_not_say_what_made_them_are_not_taken_for_finished(record: Path) -> None:
    path = sorted((record / "cells").glob("*.parquet"))[0]
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    assert rowfiles.by_task(path) is None
    assert rowfiles.tasks_in(path) == []
    with pytest.raises(UserError, match="silent on what made them"):
        rawrows.Reader().by_task(path)


def test_a_parameters_name_is_never_run_as_code(record: Path, tmp_path: Path, checked: Verify) -> None:
    manifest = Manifest.load(record)
    entry = manifest.sections[STEM]
    entry.parameters[f"open({str(tmp_path / 'proof')!r}, 'w').close(); x"] = 1
    entry.key["parameters"] = {n: value for n, value in entry.parameters.items() if n not in ("workers", "record")}
    manifest.save(record)
    put_right(record)
    findings = checked(record).findings
    assert [finding.what for finding in findings] == [STEM]
    assert "the section has no parameter" in findings[0].detail
    assert not (tmp_path / "proof").exists()


def test_a_headline_or_a_tables_caption_edited_in_the_manifest_is_named(
    record: Path, hashed: Verify, checked: Verify
) -> None:
    manifest = Manifest.load(record)
    manifest.sections[STEM].headline[0]["text"] = "0_alpha: mean 0.999"
    manifest.sections[STEM].tables["0_rows"]["caption"] = "What we hoped"
    manifest.save(record)
    assert hashed(record).findings == []
    details = [finding.detail for finding in checked(record).findings if finding.what == "record.json"]
    assert len(details) == 2
    assert "headline" in details[1]


def test_raw_rows_that_are_gone_cannot_be_explained_away(record: Path, hashed: Verify, checked: Verify) -> None:
    manifest = Manifest.load(record)
    gone = manifest.sections[STEM].cells.pop()
    for entry in manifest.sections.values():
        entry.cells = [path for path in entry.cells if path != gone]
    del manifest.files[gone]
    (record / gone).unlink()
    manifest.save(record)
    assert hashed(record).findings == []
    finding = next(f for f in checked(record).findings if f.what == STEM)
    assert "the record has no raw rows of record_fakes:cell" in finding.detail


def test_a_section_whose_files_are_not_whole_is_named_and_not_computed(record: Path, checked: Verify) -> None:
    (record / "tables/0_rows.csv").write_text("index,value\n")
    done = checked(record)
    assert {"tables/0_rows.csv"} <= {finding.what for finding in done.findings}
    assert [done.stem for done in done.recomputed] == ["3_4_beta", "6_gamma"]


def test_where_the_code_has_moved_on_what_differs_is_stale_and_not_called_a_forgery(
    record: Path, checked: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_claim(verdict="reproduced")(record)
    put_right(record)
    monkeypatch.setattr("datalab.record.provenance.code_sha256", lambda: "other")
    done = checked(record)
    assert done.findings == []
    assert done.unconfirmed == [
        "section 0 computed anew, by other sources (the package's code): gives other TITLE.threshold",
    ]


def test_a_notebook_that_now_fails_on_these_rows_says_in_which_cell(record: Path, study: Study) -> None:
    path = study.notebooks / f"{STEM}.ipynb"
    before = path.read_text()
    try:
        path.write_text(before.replace("section.headline(rows", "1/0; section.headline(rows"))
        done = recompute.of_section(record, Manifest.load(record), study, STEM)
    finally:
        path.write_text(before)
    assert re.fullmatch(r"code cell \d raised ZeroDivisionError: division by zero", done.problem)


def test_a_section_run_by_hand_is_computed_anew_too(study: Study, tmp_path: Path, checked: Verify) -> None:
    notebook = study.notebooks / f"{STEM}.ipynb"
    status, said = record_fakes.ran_by_papermill(notebook, tmp_path / "record", tmp_path / "at")
    assert status == 0, said
    done = checked(tmp_path / "record")
    assert (done.findings, done.stale, done.unconfirmed) == ([], [], [])
    assert done.recomputed[0].claims == 1
    in_claim(verdict="reproduced")(tmp_path / "record")
    put_right(tmp_path / "record")
    done = checked(tmp_path / "record")
    assert done.findings == []  # nobody knows what notebook it was
    assert done.unconfirmed == [
        "section 0 computed anew, by other sources (a notebook run by hand): gives other TITLE.threshold"
    ]


def test_a_sweep_of_no_task_is_replayed_as_it_ran(record: Path, study: Study, tmp_path: Path) -> None:
    """Before: a record of `quick`, which leaves a grid of section 0 out, could not be computed anew."""
    given = resolve(record_fakes.Parameters, {"profile": "smoke"}, "test")
    replayed = replay._Replayed({}, "cpu", study, study.find(STEM), given, record, tmp_path, driven=True)
    assert replayed.sweep([]).empty


def test_the_records_own_notebook_is_never_run(record: Path, checked: Verify) -> None:
    in_outputs(lambda notebook: notebook["cells"][-1].update(source="open('/dev/null').close(); 1/0"))(record)
    put_right(record)
    findings = checked(record).findings
    assert [finding.what for finding in findings] == [f"notebooks/{STEM}.ipynb"]
    assert "its cells are not those of the source" in findings[0].detail


def test_raw_rows_are_found_by_the_values_a_claim_names() -> None:
    frame = pd.DataFrame(
        {"method": ["a", "b", "a", None], "rate": [0.1, 0.1, 0.3, 0.1 + 1e-12], "on": [True, False] * 2}
    )
    assert rawrows.matches(frame, {}).tolist() == [True] * 4
    assert rawrows.matches(frame, {"method": ["a"], "rate": 0.1}).tolist() == [True, False, False, False]
    assert rawrows.matches(frame, {"rate": [0.1]}).tolist() == [True, True, False, True]
    assert rawrows.matches(frame, {"on": False}).tolist() == [False, True, False, True]
    assert rawrows.matches(frame, {"absent": 1}).tolist() == [False] * 4
    assert rawrows.matches(frame, [{"method": "b"}, {"rate": 0.3}]).tolist() == [False, True, True, False]
    assert rawrows.matches(frame, {"absent": None, "rate": 0.1}).tolist() == [True, True, False, True]


def test_rows_of_models_that_chose_their_length_are_told_from_those_of_equal_names() -> None:
    fixed = pd.DataFrame({"method": ["a", "b"]})
    chosen = rawrows.with_lengths(fixed, {"lengths": [100, 400]})
    assert rawrows.with_lengths(fixed, {"seed": 1}) is fixed
    assert chosen.lengths.tolist() == ["100, 400"] * 2
    both = pd.concat([fixed, chosen], ignore_index=True)
    assert rawrows.matches(both, {"lengths": None}).tolist() == [True, True, False, False]
    assert rawrows.counted([fixed, chosen], {"lengths": None, "method": "a"}, "X")["rows"] == 1
    told = pd.DataFrame({"steps": [100]})
    assert rawrows.with_lengths(told, {"lengths": [100, 400]}) is told


def test_a_hash_is_of_the_whole_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    (tmp_path / "b").write_bytes(b"x" * 2_999_999 + b"y")
    assert atomic.sha256(tmp_path / "a") != atomic.sha256(tmp_path / "b")
