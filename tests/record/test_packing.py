"""Raw rows of a finished section are packed: each file is rested on by the same sections, and nothing is lost."""

from pathlib import Path

import pytest
import record_fakes

from datalab.record import transaction
from datalab.record.checks import verify
from datalab.record.manifest import Manifest
from datalab.sweep import Task, rowfiles


def finish(record: Path, name: str, indices: range) -> None:
    """A section, run by hand, that asks for these tasks."""
    section = record_fakes.start(name, {"profile": "smoke", "record": str(record), "workers": 1})
    section.sweep([Task("record_fakes:cell", {"index": i, "seed": 1, "nap": 0.0}) for i in indices])
    section.finish()


def asked(record: Path) -> dict[str, list[int]]:
    """The tasks of each file, by the sections that rest on it."""
    manifest, files = Manifest.load(record), {}
    assert {path.name for path in (record / "cells").iterdir()} == {
        path.removeprefix("cells/") for path in manifest.files if path.startswith("cells/")
    }
    for path in sorted((record / "cells").iterdir()):
        stems = [stem for stem, entry in manifest.sections.items() if f"cells/{path.name}" in entry.cells]
        files[" ".join(stems)] = [task.parameters["index"] for task in rowfiles.tasks_in(path)]
        assert manifest.files[f"cells/{path.name}"].section == stems[0]
    assert verify.verify(record, record_fakes.study(Path()), owners=True).findings == []
    return files


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def test_a_file_holds_what_the_same_sections_rest_on_and_no_task_is_run_twice(tmp_path: Path, log: Path) -> None:
    record = tmp_path / "record"
    finish(record, "0", range(4))
    assert asked(record) == {"0_alpha": [0, 1, 2, 3]}
    finish(record, "3.4", range(2, 6))
    assert asked(record) == {"0_alpha": [0, 1], "0_alpha 3_4_beta": [2, 3], "3_4_beta": [4, 5]}
    finish(record, "0", range(1, 3))  # asks for less
    assert asked(record) == {"0_alpha": [1], "0_alpha 3_4_beta": [2], "3_4_beta": [3, 4, 5]}
    assert sorted(map(int, log.read_text().split())) == [0, 1, 2, 3, 4, 5]


def test_sections_finished_in_another_order_leave_the_same_files(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    finish(a, "0", range(4))
    finish(a, "3.4", range(2, 6))
    finish(b, "3.4", range(2, 6))
    finish(b, "0", range(4))
    assert {p.name for p in (a / "cells").iterdir()} == {p.name for p in (b / "cells").iterdir()}
    assert len(list((a / "cells").iterdir())) == 3


def test_a_writer_killed_between_packing_and_deleting_loses_nothing_and_leaves_nothing(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tmp_path / "record"
    finish(record, "0", range(4))
    with monkeypatch.context() as patch:
        patch.setattr(transaction, "_drop_packed", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            finish(record, "3.4", range(2, 6))
    assert len(list((record / "cells").iterdir())) == 3 + 1 + 2  # the packs, the old one, the new tasks' own files
    assert not Manifest.load(record).closed
    finish(record, "6", range(6))
    assert asked(record) == {
        "0_alpha 6_gamma": [0, 1],
        "0_alpha 3_4_beta 6_gamma": [2, 3],
        "3_4_beta 6_gamma": [4, 5],
    }
    assert sorted(map(int, log.read_text().split())) == [0, 1, 2, 3, 4, 5]


def test_a_damaged_file_of_another_section_is_named_and_not_forgotten_when_a_section_is_packed(tmp_path: Path) -> None:
    record = tmp_path / "record"
    finish(record, "0", range(4))
    path = next((record / "cells").iterdir())
    path.write_bytes(path.read_bytes()[:-10])
    finish(record, "3.4", range(8, 10))
    findings = verify.verify(record, record_fakes.study(Path()), owners=True).findings
    assert {(finding.kind, finding.what) for finding in findings} == {("missing", f"cells/{path.name}")}
    assert path.name.startswith("record_fakes_cell_0_to_3_4_tasks_")  # the name says what is lost
