"""Whatever a record or a caller says, the answer is one line: no traceback, no escape, no second line."""

import copy
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import record_fakes

from datalab import cli
from datalab.errors import UserError
from datalab.record import Study, folder, plan, provenance
from datalab.record.checks import verify
from datalab.record.manifest import Manifest, _rendered
from datalab.sections import STUDY

STEM = "0_alpha"


def call(*arguments: str | Path, study: Study = STUDY) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments], study=study)
    return ended.value.code


def one_line(text: str) -> bool:
    return len(text.splitlines()) == 1 and text.rstrip("\n").isprintable()


DEEP = '{"a":' * 3000 + "1" + "}" * 3000
SHALLOW = "[" * 60 + "]" * 60
TEXTS: dict[str, Callable[[str], str]] = {
    "deep JSON": lambda text: text.replace('"git": {', f'"git": {{"x": {DEEP},', 1),
    "JSON that is only a little too deep": lambda text: text.replace(
        '"git": {', '"git": {"x": ' + "[" * 60 + "]" * 60 + ",", 1
    ),
    "half a surrogate pair": lambda text: text.replace('"smoke"', '"\\ud800"', 1),
    "no UTF-8": lambda text: text.replace("smoke", "sm\udcffke", 1),
    "NaN for a time": lambda text: text.replace('"wall_seconds": ', '"wall_seconds": NaN, "x": ', 1),
    "an infinite time": lambda text: text.replace('"wall_seconds": ', '"wall_seconds": 1e999, "x": ', 1),
    "a number without end": lambda text: text.replace('"bytes": ', f'"bytes": {"9" * 5000}, "x": ', 1),
    "a name twice": lambda text: text.replace('"profile": ', '"profile": "paper",\n "profile": ', 1),
    "a list": lambda text: "[]",
    "nothing": lambda text: "",
    "another JSON": lambda text: "1",
}


@pytest.mark.parametrize("what", TEXTS)
def test_a_manifest_that_is_no_sound_json_is_one_line(
    what: str, record: Path, study: Study, capsys: pytest.CaptureFixture
) -> None:
    text = TEXTS[what]((record / "record.json").read_text())
    (record / "record.json").write_text(text, errors="surrogateescape")
    assert call("verify", record, study=study) == 1
    assert "cannot be read" in capsys.readouterr().out
    for command in (("report", record), ("claims", "--record", record), ("compare", record, record)):
        assert call(*command, study=study) == 2
        assert one_line(capsys.readouterr().err)


def places(tree: Any, at: tuple = ()) -> list[tuple]:
    """Every place in a JSON tree, by its keys."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [at, *(place for key, part in inner for place in places(part, (*at, key)))]


VALUES = [
    None,
    True,
    -1,
    0.5,
    10**30,
    10**4000,
    "",
    "x" * 5000,
    "a\x1b[2K\nb",
    "‮",
    [],
    {},
    [[]],
    {"a": {"b": []}},
    [None],
]


def changed(tree: dict, rng: random.Random) -> dict:
    """The manifest with another value, or none, at one of its places; its own hash is put right."""
    tree = copy.deepcopy(tree)
    *to, last = rng.choice([place for place in places(tree) if place])
    part = tree
    for key in to:
        part = part[key]
    if rng.random() < 0.3:
        del part[last]
    else:
        part[last] = rng.choice(VALUES)
    return tree


def test_a_manifest_with_anything_anywhere_is_refused_or_read_and_never_a_traceback(
    record: Path, study: Study, record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture
) -> None:
    rng, refused, named = random.Random(1), 0, 0
    text = (record / "record.json").read_text()
    tree = json.loads(text)
    del tree["sha256"]
    for number in range(300):
        (record / "record.json").write_text(_rendered(changed(tree, rng)))
        manifest, problem = Manifest.read(record)
        assert problem.isprintable()
        refused += manifest is None
        if manifest is None:
            continue
        done = verify.verify(record, study, owners=True)
        named += bool(done.findings)
        assert all(str(finding).isprintable() for finding in done.findings)
        if number % 10 == 0:
            assert call("claims", "TITLE.*", "--record", record, study=study) in (0, 2)
            assert call("claims", "TITLE.threshold", "--record", record, study=study) in (0, 2)
            captured = capsys.readouterr()
            assert all(line.isprintable() for line in (captured.out + captured.err).splitlines())
    record_property(
        "manifests with one place changed: refused at load, named by their hashes and owners", (refused, named)
    )
    assert refused > 100


def test_a_changed_manifest_is_never_computed_into_a_traceback(record: Path, study: Study) -> None:
    rng = random.Random(2)
    tree = json.loads((record / "record.json").read_text())
    del tree["sha256"]
    for _ in range(12):
        part = changed(tree["sections"][STEM], rng)
        (record / "record.json").write_text(_rendered({**tree, "sections": {**tree["sections"], STEM: part}}))
        done = verify.verify(record, study, recompute=True, workers=1)
        assert all(str(finding).isprintable() for finding in done.findings)


BEYOND: dict[str, Callable[[dict], Any]] = {
    "words for a number of processes": lambda part: part["parameters"].update(workers="won"),
    "a folder on two lines": lambda part: part["parameters"].update(record="a\nwhole"),
    "a folder without end": lambda part: part["parameters"].update(record="x" * 5000),
    "a row without end": lambda part: part["claims"][0].update(row="x" * 1001),
    "a reason without end": lambda part: part["claims"][0].update(why="x" * 20_001),
    "headlines without end": lambda part: part.update(headline=[{"text": "[" * 10_000}] * 5),
    "raw rows without end": lambda part: part["claims"][0].update(raw={"where": {"a": ["x" * 10_000] * 20}, "rows": 1}),
    "words for a key": lambda part: part["key"].update(code="it_is_won"),
    "a headline without end": lambda part: part["headline"].append({"text": "x" * 20_001}),
    "an answer without a word": lambda part: part["headline"].append({"answer": True}),
    "columns without rows": lambda part: part["headline"].append({"columns": ["a"]}),
    "a row of more cells than columns": lambda part: part["headline"].append({"columns": ["a"], "rows": [["1", "2"]]}),
    "a caption without end": lambda part: next(iter(part["tables"].values())).update(caption="x" * 20_001),
    "a number that no table holds": lambda part: part["claims"][0].update(measured=10**4000),
    "a count that no machine has": lambda part: part.update(code_cells=10**30),
    "less than none": lambda part: part.update(code_cells=-1),
    "a month that is none": lambda part: part.update(ended="2026-13-01T00:00:00Z"),
}


WORDS: dict[str, Callable[[dict], Any]] = {
    "a source that is none": lambda tree: tree["sources"].update({"it is won": "15.0"}),
    "words for a source": lambda tree: tree["sources"].update(code="it_is_won"),
    "words for a commit": lambda tree: tree["git"].update(commit="title_reproduced_15.0_percent"),
    "words for a version": lambda tree: tree.update(datalab="it is won"),
    "words for a package": lambda tree: tree["packages"].update({"it is": "won"}),
    "words for a package's version": lambda tree: tree["packages"].update(pip="it is won"),
    "words for a system": lambda tree: tree["machine"].update(system="Linux, and it is won"),
    "words for a version of Python": lambda tree: tree["machine"].update(python="it is won"),
    "words for a file's hash": lambda tree: next(iter(tree["files"].values())).update(sha256="it_is_won"),
}


@pytest.mark.parametrize("what", [*BEYOND, *WORDS])
def test_what_no_section_says_of_itself_is_refused_when_the_manifest_is_read(what: str, record: Path) -> None:
    tree = json.loads((record / "record.json").read_text())
    del tree["sha256"]
    if what in WORDS:
        WORDS[what](tree)
    else:
        BEYOND[what](tree["sections"][STEM])
    (record / "record.json").write_text(_rendered(tree))
    manifest, problem = Manifest.read(record)
    assert manifest is None
    assert "cannot be read" in problem
    assert len(problem) < 400


def test_json_of_more_parts_than_any_is_not_taken_apart() -> None:
    with pytest.raises(folder.Strange, match="more than 300,000 parts"):
        folder.parsed("[" + "0," * 300_001 + "0]")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"cells": 1}', b'{"cells": [{"cell_type": "code"}]}', b"\xff"]
)
def test_an_executed_notebook_that_is_none_is_named(content: bytes, record: Path, study: Study) -> None:
    (record / f"notebooks/{STEM}.ipynb").write_bytes(content)
    manifest = Manifest.load(record)
    manifest.add_file(record, f"notebooks/{STEM}.ipynb", STEM, True)
    manifest.save(record)
    done = verify.verify(record, study, recompute=True, workers=1)
    assert any("no executed notebook" in finding.detail for finding in done.findings)


# --- what a caller says ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["x" * 300, "a/" + "é" * 200, "a\nb", "a\x1b[2Kb", "a\0b", "\udcff", "/".join(["a" * 200] * 30)]
)
@pytest.mark.parametrize("command", ["run", "report", "verify"])
def test_a_path_that_no_file_system_holds_is_one_line(
    command: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    more = ["1", "--profile", "smoke", "--to"] if command == "run" else []
    assert call(command, *more, path) == 2
    assert one_line(capsys.readouterr().err)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"seeds": True}, "no numbers"),
        ({"noise_rates": [True, 0.2]}, "no numbers"),
        ({"caps": {"train": True, "validation": 120, "test": 300}}, "no numbers"),
        ({"caps": {}}, "caps"),
        ({"caps": {"train": 100}}, "caps"),
        ({"datasets": ["digits"]}, "alone cannot be compared"),
        ({"datasets": ["digits", "digits"]}, "alone cannot be compared"),
        ({"datasets": '["digits", "wine"]'}, "-y 'datasets: "),
        ({"datasets": []}, "datasets"),
        ({"root_seed": 10**30}, "root_seed"),
        ({"noise_rates": [i / 1000 for i in range(201)]}, "more than 200 values"),
        ({"seeds": "a\x1b[2K\nb"}, "seeds"),
    ],
)
def test_a_parameter_out_of_range_is_refused_at_the_plan(given: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError) as caught:
        plan.jobs(STUDY, ["0"], "smoke", given)
    assert word in str(caught.value)


def test_what_a_list_names_twice_counts_once() -> None:
    (job,) = plan.jobs(STUDY, ["0"], "smoke", {"datasets": ["digits", "wine", "digits"], "keep_fractions": [0.7, 0.7]})
    assert list(job.parameters.datasets) == ["digits", "wine"]
    assert list(job.parameters.keep_fractions) == [0.7]


@pytest.mark.parametrize("how", ["ascii", "latin-1", "closed", "head"])
def test_a_terminal_that_takes_less_costs_letters_and_no_traceback(how: str, tmp_path: Path) -> None:
    program = "import sys; from datalab import cli; cli.main(['claims'])"
    environment = {**os.environ, "PYTHONIOENCODING": how if how in ("ascii", "latin-1") else "utf-8"}
    command = [sys.executable, "-c", program]
    if how == "closed":
        command = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    elif how == "head":
        command = ["sh", "-c", '("$@"; echo "status $?" >&2) | head -1', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, cwd=tmp_path)
    assert "Traceback" not in done.stderr, done.stderr
    assert "Exception" not in done.stderr, done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\x1b[2K", "a\\x1b[2K"), ("a\nwhole", "a\\nwhole"), ("a‮b", "a\\u202eb"), ("\ud800", "\\ud800"), ("é –", "é –")],
)
def test_what_does_not_print_is_shown_as_its_escape(text: str, shown: str) -> None:
    assert folder.printable(text) == shown


def test_a_record_that_breaks_what_reads_it_is_one_line_and_keeps_its_cause(tmp_path: Path) -> None:
    for error in (KeyError("x"), RecursionError("deep"), MemoryError(), ValueError("a\x1b\nb")):
        with pytest.raises(UserError) as caught, folder.reading(tmp_path):
            raise error
        assert str(caught.value).isprintable()
        assert caught.value.__cause__ is error
    assert provenance.reference() is None or provenance.reference().name == "reference"
    assert record_fakes.SECTIONS[0].stem == STEM
