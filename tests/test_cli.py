"""The command line over the real sections: what it refuses, what it prints, how it exits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import record_fakes

from datalab import cli
from datalab.record import Statement, Study, plan
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
    (["compare", "nosuch"], "Missing argument 'B'"),
    (["compare", "nosuch", "nosuch", "--tolerance", "-1"], "a number of 0 or more"),
    (["claims", "TITLE.treshold"], "did you mean 'TITLE.threshold'"),
    (["claims", "--record", "nosuch"], "record.json is missing"),
    (["datasets", "adlut"], "did you mean 'adult'"),
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


@pytest.mark.parametrize("command", ["plan", "run", "verify", "compare", "claims", "datasets", "advise"])
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture) -> None:
    assert call(command, "--help") == 0
    shown = capsys.readouterr().out
    assert f"Example:\n    datalab {command} " in shown


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


def test_datasets_says_of_each_set_where_it_comes_from_and_whether_it_is_here(capsys: pytest.CaptureFixture) -> None:
    assert call("datasets", "digits", "adult") == 0
    shown = capsys.readouterr().out
    assert "digits" in shown
    assert "yes" in shown
    assert "adult" in shown


def test_verify_exits_by_what_it_finds(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
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


def test_every_section_of_the_registry_can_be_planned_in_every_profile() -> None:
    for profile in ("smoke", "quick", "paper"):
        jobs = plan.jobs(STUDY, [], profile, {})
        assert [job.section for job in jobs] == list(STUDY.sections)
        assert all(job.estimate.seconds > 0 for job in jobs)
