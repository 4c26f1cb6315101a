"""How far a sweep is: a bar with its clock while it runs, and only what a record may hold when it is over."""

import json
import os
import time
from pathlib import Path

import pytest

from datalab.record import progress as module
from datalab.record.progress import Progress, line, read

RUNNING = {"done": 12, "total": 40, "failed": 1, "text": "wine mlp: 1.1 s", "ahead": 2.8, "took": 30.0}


def test_a_running_sweep_has_a_bar_its_count_and_its_times() -> None:
    expected = "━━━━━━────────────── 12 of 40 tasks, 1 failed, 30 s, about 84 s left: wine mlp: 1.1 s"
    assert line(RUNNING) == expected
    assert "left" not in line({**RUNNING, "ahead": 0.0})  # what was finished before says nothing of the pace


def test_a_finished_sweep_shows_its_count_and_no_clock() -> None:
    assert line({**RUNNING, "done": 40, "failed": 0}) == "40 of 40 tasks"
    assert line({**RUNNING, "done": 39}) == "39 of 40 tasks, 1 failed"


def test_the_clock_moves_between_two_tasks_and_stops_with_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, content: dict[str, str], **_: object) -> None:
            shown.append(content["text/plain"])

    monkeypatch.setattr(module, "TICK", 0.01)
    with Progress(tmp_path / "progress.json") as progress:
        progress._handle = Handle()
        progress(1, 4, 0, "a: 1.0 s")
        while len(shown) < 3:
            pass
    over = len(shown)
    progress(4, 4, 0, "d: 1.0 s")
    assert shown[over:] == ["4 of 4 tasks"]
    assert json.loads((tmp_path / "progress.json").read_text())["done"] == 4


def test_between_two_tasks_the_clock_goes_on_for_who_reads_the_file(tmp_path) -> None:
    """Before: until the first task ended it said the seconds at which the sweep began."""
    file = tmp_path / "progress.json"
    Progress(file)(0, 40)
    os.utime(file, (time.time() - 75, time.time() - 75))
    assert "0 of 40 tasks, 75 s" in line(read(file))
