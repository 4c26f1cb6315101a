"""The command line over the real sections: what it refuses, what it prints, how it exits."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import record_fakes

from datalab import cli
from datalab.record import Statement, Study, plan
from datalab.record.console import RunConsole
from datalab.record.manifest import Manifest
from datalab.sections import STUDY

FAKES = record_fakes.study(Path())
pytestmark = pytest.mark.usefixtures("_elsewhere")


@pytest.fixture
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def call(*arguments: str, study: Study | None = None) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments), study)
    return ended.value.code


WRONG = [
    (["run", "0", "-p", "keep_fractions", "[1.7]"], "keep_fractions"),
    (["run", "0", "-p", "sedes", "5"], "did you mean 'seeds'"),
    (["run", "0", "-p", "seeds", "many"], "seeds"),
    (["run", "0", "-p", "seeds", "0"], "seeds"),
    (["run", "0", "-p", "noise_rates", "[-0.1]"], "noise_rates"),
    (["run", "nosuch"], "unknown notebook 'nosuch'"),
    (["run", "0_title_noise_treshold"], "did you mean '0_title_noise_threshold'"),
    (["run", "0", "--profile", "qick"], "did you mean 'quick'"),
    (["run", "0", "-p", "seeds", "2", "-p", "seeds", "3"], "given twice"),
    (["run", "0", "-p", "record", "x"], "set by --to"),
    (["run", "0", "--workers", "0"], "workers"),
    (["run", "0", "--workers", "many"], "workers"),
    (["run", "0", "--nosuch"], "No such option"),
    *((["run", "0", "--timeout", seconds], "above 0") for seconds in ("0", "-1", "nan", "inf")),
    (["run", "0", "--timeout", "soon"], "--timeout"),
    (["run", "0", "--profile", "smoke", "-p"], "requires 2 arguments"),
    (["plan", "nosuch"], "unknown notebook"),
    (["verify", "nosuch"], "no such folder"),
    (["compare", "nosuch", "nosuch"], "no such folder"),
    (["verify", "nosuch", "--cells", "x"], "'--cells': 'x' is not a whole number"),
    (["compare", "nosuch"], "Missing argument 'OTHER_RECORD'"),
    (["compare", "nosuch", "nosuch", "--tolerance", "-1"], "a number of 0 or more"),
    (["claims", "TITLE.treshold"], "did you mean 'TITLE.threshold'"),
    (["claims", "--record", "nosuch"], "there is no such folder"),
    (["datasets", "adlut"], "did you mean 'adult'"),
    (["datasets", "--fetch", "all"], "unknown data set 'all'; --fetch without a name fetches all"),
    (["datasets", "all"], "unknown data set 'all'; no name lists all"),
    (["advise", "x.csv", "--minutes", "x"], "'x' is not a number."),
    (["advise", "x.csv", "--splits", "x"], "'x' is not a whole number."),
    (["lab", "x"], "'x' is no option"),
    (["rum"], "rum"),
]


@pytest.mark.parametrize(("arguments", "says"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_a_wrong_call_exits_2_with_one_line_and_writes_nothing(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command, *rest = arguments
    to = ["--to", str(tmp_path / "record")] if command == "run" else []
    assert call(command, *to, *rest) == 2
    shown = capsys.readouterr()
    assert len(shown.err.strip().splitlines()) == 1, shown.err
    assert says in shown.err
    assert shown.out == ""
    assert os.listdir(tmp_path) == []


def test_a_device_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert call("run", "0", "-p", "device", "cuda", "--to", str(tmp_path / "record")) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("command", ["plan", "run", "verify", "compare", "claims", "datasets", "advise", "lab", "api"])
def test_every_command_has_help_with_an_example_in_80_columns(command: str, capsys: pytest.CaptureFixture) -> None:
    assert call(command, "--help") == 0
    shown = capsys.readouterr().out
    assert f"Example:\n    datalab {command} " in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_the_list_of_commands_has_a_whole_line_for_each_and_says_how_completion_is_had(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("--help") == 0
    shown = capsys.readouterr().out
    listed = shown.split("Commands:\n")[1].split("\n\n")[0].splitlines()
    assert len(listed) == len(cli.cli.commands)
    assert all(line.endswith(".") and not line.endswith("...") for line in listed)
    assert 'eval "$(_DATALAB_COMPLETE=bash_source datalab)"' in shown
    monkeypatch.setenv("_DATALAB_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "datalab ver")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert call() == 0
    assert capsys.readouterr().out == "plain,verify\n"


def test_python_m_datalab_is_the_command() -> None:
    shown = subprocess.run([sys.executable, "-m", "datalab", "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("datalab, version ")


def test_plan_prints_the_time_and_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert call("plan", "0", "--profile", "smoke") == 0
    shown = capsys.readouterr().out
    assert "0_title_noise_threshold" in shown
    assert "Estimated time in all: about" in shown
    assert os.listdir(tmp_path) == []


def test_claims_lists_the_whole_ledger_or_shows_one_statement(capsys: pytest.CaptureFixture) -> None:
    assert call("claims") == 0
    assert capsys.readouterr().out.count("TITLE.") >= 4
    assert call("claims", "TITLE.threshold") == 0
    shown = capsys.readouterr().out
    assert "reported" in shown
    assert "15" in shown


def test_what_is_printed_fits_80_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name, value in (("a", 0.5), ("b", 0.25)):
        section = record_fakes.start("0_alpha", {"profile": "smoke", "record": str(tmp_path / name)})
        section.table(pd.DataFrame({"x": [value] * 30, "y": "a long text " * 9}), "t", caption="T")
        section.verdicts([Statement("TITLE.threshold", measured=value, verdict="inconclusive", why="why " * 40)])
        section.headline("**Ahead**: `influence` " * 9)
        wide = pd.DataFrame([dict.fromkeys(map("column {}".format, range(20)), value)])
        section.headline(wide, caption="How wide a table may be")
        section.finish()
    shutil.copytree(tmp_path / "b", tmp_path / "changed")
    (tmp_path / "changed/claims.csv").write_text("")
    monkeypatch.setenv("COLUMNS", "80")
    capsys.readouterr()
    entry = Manifest.load(tmp_path / "a").sections["0_alpha"]
    shown = {}
    for command, study in (
        ("plan 0 4.1 --profile quick", STUDY),
        ("claims", STUDY),
        ("claims TITLE.threshold", STUDY),
        ("claims TITLE.threshold --record a", FAKES),
        ("datasets", STUDY),
        ("datasets adult zh-reviews", STUDY),
        ("verify changed --hashes-only", FAKES),
        ("compare a b", FAKES),
    ):
        call(*command.split(), study=study)
        shown[command] = capsys.readouterr().out
    RunConsole().summary([entry], "runs/quick")
    RunConsole().end(SimpleNamespace(section=FAKES.sections[0]), entry)
    shown["run"] = capsys.readouterr().out
    assert "**" not in shown["run"]
    assert "\n0    How wide a table may be\n" in shown["run"]
    too_long = {name: [line for line in text.splitlines() if len(line) > 80] for name, text in shown.items()}
    assert not any(too_long.values()), too_long
    assert all(text.count("\n") > 1 for text in shown.values())


def test_json_holds_what_is_printed_and_nothing_else_is(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    record_fakes.start("0_alpha", {"profile": "smoke", "record": str(tmp_path / "record")}).finish()
    (tmp_path / "record/claims.csv").write_text("")
    capsys.readouterr()

    def printed(*arguments: str, study: Study = STUDY, code: int = 0) -> Any:
        assert call(*arguments, "--json", study=study) == code
        return json.loads(capsys.readouterr().out)

    planned = printed("plan", "1", "3.4", "--profile", "smoke")
    assert [job["notebook"] for job in planned["notebooks"]] == ["1_paper_audit", "3_4_statistics"]
    assert planned["seconds"] > 0
    assert planned["missing_datasets"] == []
    checked = printed("verify", "record", "--hashes-only", study=FAKES, code=1)
    assert not checked["whole"]
    assert ("changed", "claims.csv") in {(finding["kind"], finding["what"]) for finding in checked["findings"]}
    assert [row["id"] for row in printed("claims", "TITLE.thresh*")] == ["TITLE.threshold"]
    (adult,) = printed("datasets", "adult")
    assert (adult["name"], adult["classes"], adult["on_disk"] in (True, False)) == ("adult", 2, True)


def test_a_records_answer_is_three_plain_sentences(capsys: pytest.CaptureFixture) -> None:
    texts = ("**On** 40 sets.", "Against keeping [everything](x.html).", "The `title`.")
    lines = [part for text in texts for part in ({"text": text, "answer": True}, {"text": "By size."})]
    RunConsole().answer(SimpleNamespace(headline=[*lines, {"columns": [], "rows": []}]))
    assert capsys.readouterr().out.splitlines() == ["On 40 sets.", "Against keeping everything.", "The title."]
    RunConsole().answer(None)  # the record has no such section
    assert capsys.readouterr().out == ""


def test_datasets_says_of_each_set_where_it_comes_from_and_whether_it_is_here(capsys: pytest.CaptureFixture) -> None:
    assert call("datasets", "digits", "adult") == 0
    shown = capsys.readouterr().out
    assert "digits: Optically recognised digits" in shown
    assert "on this disk: yes" in shown
    assert "licence as stated: package: MIT and Apache-2.0; UCI: CC BY 4.0" in shown


def test_verify_exits_by_what_it_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    section = record_fakes.start("0_alpha", {"profile": "smoke", "record": str(tmp_path / "record")})
    section.verdicts([Statement("TITLE.threshold", measured=0.5, verdict="inconclusive")])
    section.finish()
    assert call("verify", "record", "--fresh", "--hashes-only", study=FAKES) == 0
    assert "record: as it was written" in capsys.readouterr().out  # nothing was computed, so it is not called whole
    assert call("claims", "TITLE.threshold", "--record", "record", study=FAKES) == 0
    assert "0.5" in capsys.readouterr().out
    (tmp_path / "record" / "claims.csv").write_text("")
    assert call("verify", "record", "--hashes-only", study=FAKES) == 1
    assert "changed: claims.csv" in capsys.readouterr().out
    for number in range(3):
        (tmp_path / "record" / f"{number}.txt").touch()
    monkeypatch.setattr(cli.records, "MOST_FINDINGS", 2)
    assert call("verify", "record", "--hashes-only", study=FAKES) == 1
    shown = capsys.readouterr().out
    assert "and 6 more, which --json lists" in shown
    assert shown.count(".txt") == 1


def test_verify_counts_a_stale_record_as_whole_unless_fresh_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    record_fakes.start("0_alpha", {"profile": "smoke", "record": str(tmp_path / "record")}).finish()
    monkeypatch.setattr("datalab.record.provenance.lock_sha256", lambda: "other")
    assert call("verify", "record", "--hashes-only", study=FAKES) == 0
    assert "stale: the lock file changed" in capsys.readouterr().out
    assert call("verify", "record", "--fresh", "--hashes-only", study=FAKES) == 1


def test_a_data_set_that_cannot_be_fetched_is_one_line_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("DATALAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert call("run", "0", "-p", "datasets", '["adult"]', "--to", str(tmp_path / "record")) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "record").exists()


def test_the_command_that_a_missing_encoder_asks_for_fetches_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    asked = []
    monkeypatch.setattr("datalab.data.fetch", lambda names, progress: asked.extend(names) or [])
    assert call("datasets", "--fetch", "minilm") == 0
    assert asked == ["minilm"]
    assert call("datasets", "minilm") == 2, "an encoder has no card"


def test_every_section_of_the_registry_can_be_planned_in_every_profile() -> None:
    for profile in ("smoke", "quick", "paper"):
        jobs = plan.jobs(STUDY, [], profile, {})
        assert [job.section for job in jobs] == list(STUDY.sections)
        assert all(job.estimate.seconds > 0 for job in jobs)


def test_a_command_that_computes_nothing_starts_without_the_libraries_that_take_seconds():
    asked = (
        "import sys; from datalab import cli, sections; print(*{'torch', 'scipy.stats', 'sklearn'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_on_a_terminal_what_takes_a_while_says_so_and_a_log_is_spared_it(capsys, monkeypatch):
    with RunConsole().waiting("Computing every section anew"):
        pass
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    with RunConsole().waiting("Computing every section anew"):
        pass
    assert "Computing every section anew" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [("claims",), ("claims", "--json"), ("datasets",), ("--help",)])
def test_on_a_full_disk_what_cannot_be_printed_is_told_in_a_line(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "datalab", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.stderr == "datalab: no space left for what it prints\n"


def test_without_a_record_claims_says_so_and_how_to_name_one(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(cli.records.provenance, "reference", lambda: None)
    with pytest.raises(SystemExit) as ended:
        cli.main(["claims", "TITLE.threshold"])
    assert ended.value.code == 0
    assert "There is no record here" in capsys.readouterr().out
