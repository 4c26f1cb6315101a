"""The notebook that papermill's command has executed joins the record, and is held to its raw rows there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import record_fakes

from datalab import cli
from datalab.record import Study
from datalab.record.manifest import Manifest


def test_what_papermill_executed_is_kept_in_the_record_with_links_that_hold_there(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    record, elsewhere = tmp_path / "record", tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = os.pathsep.join([str(record_fakes.HERE), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "FAKE_NOTEBOOKS": str(study.notebooks)}
    command = [sys.executable, "-m", "papermill", str(study.notebooks / "3_4_beta.ipynb"), "out.ipynb"]
    command += ["-p", "profile", "smoke", "-p", "record", str(record), "-p", "workers", "1"]
    command += ["-k", "python3", "--language", "python"]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    kept, written = record / "notebooks/3_4_beta.ipynb", elsewhere / "out.ipynb"
    assert "(../tables/3_4_rows.csv)" in kept.read_text()
    assert "(../record/tables/3_4_rows.csv)" in written.read_text()
    entry = Manifest.load(record).sections["3_4_beta"]
    assert (entry.status, entry.runner, entry.reason) == ("complete", "notebook session", "")
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(["verify", str(record), "--json"], study)
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["anew"] == {"files": 4, "outputs": 8, "claims": 1}
