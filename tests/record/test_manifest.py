"""The manifest says what ran with what, under a lock that dies with its holder."""

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import record_fakes

from datalab.errors import UserError
from datalab.record import Section, lock, provenance
from datalab.record.manifest import Manifest, _rendered
from datalab.sweep import kernels


@pytest.fixture
def section(tmp_path: Path) -> Section:
    return record_fakes.start("0_alpha", {"profile": "smoke", "record": str(tmp_path / "record")})


def test_the_manifest_says_what_ran_with_what(section: Section) -> None:
    section.finish()
    manifest = Manifest.load(section.record)
    assert set(manifest.sources) == {"code", "protocol", "ledger", "lock"}
    assert all(manifest.sources.values())
    assert {"torch", "numpy", "papermill"} <= set(manifest.packages)
    assert manifest.machine["cores"] >= 1
    assert manifest.machine["memory_bytes"] > 2**28
    entry = manifest.sections["0_alpha"]
    assert entry.parameters["seeds"] == 1
    assert entry.wall_seconds is not None
    assert entry.cpu_seconds is not None


@pytest.mark.parametrize(("process", "refused"), [({}, False), ({"pid": 1}, True)])
def test_a_record_that_names_a_process_as_earlier_ones_did_is_read_or_refused_in_a_line(
    section: Section, process: dict[str, int], refused: bool
) -> None:
    section.finish()
    tree = json.loads((section.record / Manifest.NAME).read_text())
    del tree["sha256"]
    tree["sections"]["0_alpha"]["process"] = process
    (section.record / Manifest.NAME).write_text(_rendered(tree))
    manifest, problem = Manifest.read(section.record)
    assert (manifest is None, "sections.0_alpha.process" in problem, "\n" in problem) == (refused, refused, False)
    if manifest is not None:
        manifest.save(section.record)
        assert "process" not in json.loads((section.record / Manifest.NAME).read_text())["sections"]["0_alpha"]


DETERMINISM = """
import json, os, numpy
from datalab.record import provenance
os.environ.update(provenance.DETERMINISM)  # too late
print(json.dumps(provenance.determinism()))
"""


@pytest.mark.parametrize("in_time", [True, False])
def test_determinism_is_what_holds_of_the_process_and_not_what_its_environment_says(in_time: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in provenance.DETERMINISM}
    environment |= provenance.DETERMINISM if in_time else {"PYTHONHASHSEED": "random", "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", DETERMINISM], env=environment, capture_output=True, text=True, check=True
    )
    measured = json.loads(done.stdout)
    assert measured["on"] == in_time
    assert measured["kernels"] == (in_time and bool(kernels.held()))
    assert measured["hash_seed"] == ("0" if in_time else None)
    assert (measured["threads"] == "1") == (in_time or os.cpu_count() == 1)


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


def test_sections_stand_in_the_studys_order_whichever_were_run_first(tmp_path: Path) -> None:
    for name in ("6_gamma", "3_4_beta", "0_alpha"):
        record_fakes.start(name, {"profile": "smoke", "record": str(tmp_path / "record")}).finish()
    assert list(Manifest.load(tmp_path / "record").sections) == ["0_alpha", "3_4_beta", "6_gamma"]
