"""A stranger's record, its folder: nothing outside it is read, written, deleted or ended, and nothing of it is run."""

import ast
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import record_fakes

from datalab import cli
from datalab.errors import UserError
from datalab.record import (
    Study,
    claims_table,
    crate,
    execution,
    folder,
    lock,
    provenance,
    rawrows,
    section,
    transaction,
)
from datalab.record.checks import replay, verify
from datalab.record.manifest import Manifest
from datalab.sweep import rowfiles

STEM = "0_alpha"
PACKAGE = Path(provenance.PACKAGE)


def call(*arguments: str | Path, study: Study) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments], study=study)
    return ended.value.code


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the record that nobody may touch."""
    place = tmp_path / "outside"
    place.mkdir()
    for name in ("kept.txt", "0_rows.csv"):
        (place / name).write_text("mine")
    return place


def contents(place: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in place.iterdir()}


def linked_folder(name: str) -> Callable[[Path, Path], None]:
    def plant(record: Path, outside: Path) -> None:
        if (record / name).exists():
            (record / name).rename(record.parent / "moved")
        (record / name).symlink_to(outside)

    return plant


def linked_file(name: str) -> Callable[[Path, Path], None]:
    def plant(record: Path, outside: Path) -> None:
        (record / name).unlink(missing_ok=True)
        (record / name).symlink_to(outside / "kept.txt")

    return plant


def pipe(record: Path, _: Path) -> None:
    os.mkfifo(record / "cells" / "waits.parquet")


def socket(record: Path, _: Path) -> None:
    os.mknod(record / "cells" / "listens.parquet", stat.S_IFSOCK | 0o600)


def sparse(record: Path, _: Path) -> None:
    """A file that costs nothing to send, and its reader minutes."""
    with open(record / "cells" / "sparse.parquet", "wb") as stream:
        stream.truncate(2**28 + 1)


def deep(record: Path, _: Path) -> None:
    (record / "/".join("abcdefgh")).mkdir(parents=True)


PLANTED = {
    "tables as a link": linked_folder("tables"),
    "report as a link": linked_folder("report"),
    "cells as a link": linked_folder("cells"),
    "the staging folder as a link": linked_folder(transaction.STAGING),
    "a table as a link": linked_file("tables/0_rows.csv"),
    "the manifest as a link": linked_file("record.json"),
    "the lock as a link": linked_file(".lock"),
    "a link that leads nowhere": lambda record, _: (record / "tables/x").symlink_to("/nonexistent"),
    "a link into the record itself": lambda record, _: (record / "tables/x").symlink_to(record / "claims.csv"),
    "a pipe, which would be waited at": pipe,
    "a socket": socket,
    "a sparse file": sparse,
    "folders without end": deep,
    "a name with a newline": lambda record, _: (record / "tables" / "x\nwhole (9 files)").write_text(""),
    "a name that moves the cursor": lambda record, _: (record / "tables" / "x\x1b[2K\x1b[1Aok").write_text(""),
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_folder_that_is_not_a_records_is_named_in_a_line_and_nothing_beside_it_is_touched(
    what: str, record: Path, outside: Path, study: Study, capsys: pytest.CaptureFixture
) -> None:
    PLANTED[what](record, outside)
    before = contents(outside)
    assert call("verify", record, study=study) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2, lines  # what is wrong, and the sum
    assert lines[0].startswith("added: ")
    assert all(line.isprintable() for line in lines)
    assert "whole (9" not in lines[-1]
    others = [("report", record), ("claims", "--record", record), ("compare", record, record)]
    others += [("run", "0", "--profile", "smoke", "--to", record)]
    for command in others:
        assert call(*command, study=study) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert contents(outside) == before


@pytest.mark.parametrize(
    "path",
    "../outside/kept.txt|cells/../../outside/kept.txt|/etc/passwd|cells/a\0b|tables//x|./x|.lock|tables/%2e%2e/x.csv|"
    "tables/a?b.csv|tables/a#b.csv|.partial/room|cells/\x1b[2K.parquet|a/b/c/d/e/f/g|"
    f"cells\\..\\x|tables/{'x' * 300}".split("|"),
)
@pytest.mark.parametrize("place", ["a file", "raw rows", "a claim's table"])
def test_a_path_that_leads_out_of_the_record_is_refused_when_its_manifest_is_read(
    path: str, place: str, record: Path, outside: Path, study: Study, capsys: pytest.CaptureFixture
) -> None:
    manifest = Manifest.load(record)
    entry = manifest.sections[STEM]
    if place == "a file":
        manifest.files[path] = next(iter(manifest.files.values()))
    elif place == "raw rows":
        entry.cells.append(path)
    else:
        entry.claims[0]["table"] = path
    manifest.closed = False  # so that a run would put the record in order: delete, move
    manifest.save(record)
    assert call("run", "0", "--profile", "smoke", "--to", record, study=study) == 2
    error = capsys.readouterr().err
    assert "record.json cannot be read" in error
    assert error.count("\n") == 1
    assert contents(outside) == {"kept.txt": "mine", "0_rows.csv": "mine"}


@pytest.mark.parametrize("stem", ["../x", "a/b", "..", "a b", "x" * 100, "7_extra"])
def test_a_section_that_the_study_does_not_have_is_refused_before_its_name_becomes_a_path(
    stem: str, record: Path, study: Study
) -> None:
    manifest = Manifest.load(record)
    manifest.sections[stem] = manifest.sections[STEM]
    manifest.save(record)
    with pytest.raises(UserError, match=r"cannot be read|the study does not have"):
        transaction.open_manifest(record, study, "smoke")


@pytest.mark.parametrize("path", ["../x", "tables/../../x", "/x", "tables/link/x", "\0"])
def test_no_path_leads_out_of_the_record_even_where_nobody_looked_first(path: str, record: Path, outside: Path) -> None:
    (record / "tables/link").symlink_to(outside)
    for use in (folder.read, folder.delete, folder.sha256, folder.inside):
        with pytest.raises(folder.Strange):
            use(record, path)
    with pytest.raises(folder.Strange):
        folder.delete_tree(record, "../outside")
    folder.delete_tree(record / "tables", "link")  # the link itself, not where it leads
    assert set(contents(outside)) == {"kept.txt", "0_rows.csv"}


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_lock_that_is_another_file_elsewhere_is_not_written_through(
    link: Callable[..., None], record: Path, outside: Path
) -> None:
    (record / ".lock").unlink(missing_ok=True)
    link(outside / "kept.txt", record / ".lock")
    with pytest.raises(UserError, match="cannot be locked"):
        lock.hold(record)
    assert not lock.is_held(record)
    assert contents(outside)["kept.txt"] == "mine"


def test_a_temporary_file_that_a_stranger_planted_is_not_written_through(record: Path, outside: Path) -> None:
    """Of the name that this process would write to: a hard link to a file elsewhere."""
    os.link(outside / "kept.txt", record / f".{Manifest.NAME}.{os.getpid()}.tmp")
    lock.hold(record)
    try:
        Manifest.load(record).save(record)
    finally:
        lock.release(record)
    assert contents(outside)["kept.txt"] == "mine"
    assert not list(record.rglob(".*.tmp"))


def test_who_holds_a_lock_is_told_without_its_escapes(record: Path) -> None:
    (record / ".lock").write_text(json.dumps({"pid": 1, "host": "a\x1b[2K\nwhole"}))
    assert lock.holder(record) == "process 1 on a\\x1b[2K\\nwhole"
    for text in ("[" * 900, '{"pid": "x", "host": 1}', "[]", "\xff", '"x"'):
        (record / ".lock").write_text(text)
        assert lock.holder(record) == "another process"


def test_no_process_is_ended_because_a_record_names_it(record: Path, study: Study) -> None:
    """Neither by its number nor by a word of its command: only by the environment that `datalab run` gave it."""
    program = "import time; print('up', flush=True); time.sleep(60)"
    pipes = {"stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", program, "ipykernel_launcher", "-f", "kernel.json"]
    ours = {**os.environ, section.RECORD: str(record.resolve())}
    bystanders = [
        subprocess.Popen(command, start_new_session=True, **pipes),
        subprocess.Popen(command, env={**ours, section.RECORD: "/another"}, start_new_session=True, **pipes),
    ]
    left_over = subprocess.Popen(command, env=ours, start_new_session=True, **pipes)
    try:
        assert all(process.stdout.readline() == "up\n" for process in [*bystanders, left_over])
        manifest = Manifest.load(record)
        manifest.sections[STEM].status, manifest.closed = "running", False
        (record / ".lock").write_text(json.dumps({"pid": bystanders[0].pid, "host": os.uname().nodename}))
        manifest.save(record)
        assert record_fakes.run(study, record, "6") in (0, 1)
        left_over.wait(timeout=20)
        assert [process.poll() for process in bystanders] == [None, None]
    finally:
        for process in [*bystanders, left_over]:
            process.kill()
            process.wait()


def test_a_process_named_with_more_than_a_writer_notes_is_refused(record: Path) -> None:
    tree = json.loads((record / "record.json").read_text())
    tree["sections"][STEM]["process"] = {"kernel": 1, "connection": "-c", "host": "x"}
    (record / "record.json").write_text(json.dumps(tree))
    manifest, problem = Manifest.read(record)
    assert manifest is None
    assert "process" in problem
    assert not hasattr(execution, "connection")


# --- code ------------------------------------------------------------------------------------------------------------

PLANT = "open({proof!r}, 'w').write('ran')\n"


def test_from_within_the_record_neither_its_notebooks_nor_its_modules_nor_its_matplotlibrc_are_used(
    record: Path, study: Study, tmp_path: Path
) -> None:
    """`cd record; datalab verify .`, by the command of another process, as an installed package: no checkout."""
    proof, fakes = tmp_path / "proof", Path(record_fakes.__file__).parent
    plant = PLANT.format(proof=str(proof))
    notebook = json.loads((record / f"notebooks/{STEM}.ipynb").read_text())
    notebook["cells"][1]["source"] = plant
    (record / f"notebooks/{STEM}.ipynb").write_text(json.dumps(notebook))
    put_right(record)
    for name in ("seaborn.py", "pingouin.py", "nh3.py", "latex2mathml.py", "sitecustomize.py", "usercustomize.py"):
        (record / name).write_text(plant)
    (record / "matplotlibrc").write_text("axes.facecolor: red\nsavefig.dpi: 20\nfont.size: 30\n")
    program = "from datalab.record import provenance; provenance.project = lambda: None; import sys, pathlib; "
    program += f"import datalab.cli, record_fakes; study = record_fakes.study(pathlib.Path({str(study.notebooks)!r})); "
    program += "datalab.cli.main(['verify', '.'], study=study)"
    environment = {**os.environ, "PYTHONPATH": f"{PACKAGE.parent}:{fakes}"}
    environment["MATPLOTLIBRC"] = str(record / "matplotlibrc")  # as the user's own would be read, wherever one stands
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(command, cwd=record, capture_output=True, text=True, env=environment)
    assert "Computed anew from the raw rows" in done.stdout, done.stderr
    assert not proof.exists()
    assert "its cells are not those of the source" in done.stdout
    assert "changed: figures" not in done.stdout, done.stdout  # a matplotlibrc changes no byte
    assert "added: matplotlibrc" in done.stdout


def test_processes_that_a_command_starts_import_nothing_from_the_record_it_stands_in(
    record: Path, study: Study, tmp_path: Path
) -> None:
    """Before: ``python -c`` and ``python -m``, as which pools start, looked for modules in the working directory."""
    proof, script = tmp_path / "proof", tmp_path / "elsewhere" / "script.py"
    for name in ("multiprocessing", "IPython", "struct", "joblib", "seaborn", "numpy", "datalab"):
        (record / f"{name}.py").write_text(PLANT.format(proof=str(proof)))
    script.parent.mkdir()
    script.write_text(
        "import pathlib, datalab.cli, record_fakes\n"
        "if __name__ == '__main__':\n"
        f"    study = record_fakes.study(pathlib.Path({str(study.notebooks)!r}))\n"
        "    datalab.cli.main(['verify', '.', '--cells', '1'], study=study)\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{PACKAGE.parent}:{Path(record_fakes.__file__).parent}"}
    environment.pop("PYTHONSAFEPATH", None)
    done = subprocess.run([sys.executable, script], cwd=record, capture_output=True, text=True, env=environment)
    assert "Computed anew from the raw rows" in done.stdout, done.stderr
    assert "trained anew: " in done.stdout, done.stdout
    assert not proof.exists()
    assert not done.stderr


def put_right(record: Path) -> None:
    """What a forger does: write all hashes anew, so that every file is what the manifest says."""
    manifest = Manifest.load(record)
    for path, entry in list(manifest.files.items()):
        manifest.add_file(record, path, entry.section, entry.timing)
    manifest.save(record)


def test_python_m_datalab_imports_nothing_from_the_folder_it_stands_in(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    for name in ("click.py", "rich.py", "pydantic.py", "numpy.py"):
        (tmp_path / name).write_text(PLANT.format(proof=str(proof)))
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-m", "datalab", "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert not proof.exists()


def test_without_its_notebooks_the_package_says_that_a_record_cannot_be_computed(record: Path, tmp_path: Path) -> None:
    done = verify.verify(record, record_fakes.study(tmp_path / "none"), recompute=True, workers=1)
    assert not done.whole
    assert len(done.unconfirmed) == 3
    assert all(line.endswith("the package came without its notebook") for line in done.unconfirmed)


@pytest.mark.parametrize(("bound", "words"), [("_BYTES", "GiB"), ("_FILES", "files")])
def test_a_folder_of_more_than_any_record_has_is_named_before_any_of_it_is_read(
    bound: str, words: str, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, bound, 3)
    assert "the folder holds more than" in (why := list(folder.foreign(record))[-1][1])
    assert words in why


def test_files_that_are_one_with_files_elsewhere_are_written_anew_and_not_through(record: Path, outside: Path) -> None:
    for name in (Manifest.NAME, claims_table.NAME, crate.NAME):
        os.link(record / name, outside / name)
    before = contents(outside)
    manifest = Manifest.load(record)
    manifest.packages["numpy"] = "0.0"
    claims_table.write(record, manifest, record_fakes.study(Path()))
    crate.write(record, manifest)
    manifest.save(record)
    assert contents(outside) == before
    assert "0.0" in (record / Manifest.NAME).read_text()


def test_a_record_is_the_same_record_by_a_link_to_it_or_to_a_folder_above_it(record: Path, study: Study) -> None:
    above, itself = record.parent / "above", record.parent / "itself"
    above.symlink_to(record.parent.parent)
    itself.symlink_to(record)
    for path in (above / record.parent.name / record.name, itself):
        assert verify.verify(path, study, owners=True).findings == []


# --- sizes -----------------------------------------------------------------------------------------------------------


def raw(record: Path, table: pa.Table, made_by: str = "", **how: object) -> Path:
    path = record / "cells" / "bomb.parquet"
    how = {"store_schema": False} | how
    with pq.ParquetWriter(path, table.schema, compression="zstd", **how) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({rowfiles.DESCRIPTION: made_by or '{"function": "x", "parameters": {}}'})
    return path


BOMBS = {
    "numbers": lambda: pa.table({"x": pa.array([0.0]).take(pa.array([0] * 30_000_000, pa.int32()))}),
    "a long text, often": lambda: pa.table({"x": pa.DictionaryArray.from_arrays([0] * 3000, ["y" * 1_000_000])}),
}


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("what", BOMBS)
def test_raw_rows_that_unpack_to_more_than_a_tasks_are_not_read(what: str, typed: bool, record: Path) -> None:
    path = raw(record, BOMBS[what](), use_dictionary=True, store_schema=typed)
    assert path.stat().st_size < 2**20
    import psutil

    before = psutil.Process().memory_info().rss
    assert rowfiles.by_task(path) is None
    assert psutil.Process().memory_info().rss - before < 2**30


TENSOR = pa.fixed_shape_tensor(pa.int64(), [1])


def many(tasks: int) -> str:
    return json.dumps({"function": "x", "tasks": [[f"{i:016x}", 0, {}] for i in range(tasks)]})


ODD: dict[str, tuple[pa.Table, str, dict[str, int]]] = {
    "more columns than any": (pa.table({f"x{i}": [1] for i in range(1001)}), "", {}),
    "objects in objects": (pa.table({"x": pa.array([{"a": {"b": 1}}])}), "", {}),
    "pairs": (pa.table({"x": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64()))}), "", {}),
    "lists of lists": (pa.table({"x": [[[1]]]}), "", {}),
    "a type of its own": (
        pa.table({"x": pa.ExtensionArray.from_storage(TENSOR, pa.array([[1]], TENSOR.storage_type))}),
        "",
        {},
    ),
    "too many lists": (pa.table({"x": [[1], [2]]}), "", {"MOST_LISTS": 1}),
    "too many values": (pa.table({"x": [1, 2]}), "", {"MOST_VALUES": 1}),
    "unpacked, more than any": (pa.table({"x": ["y" * 5000]}), "", {"LARGEST": 4096}),
    "a description without end": (pa.table({"x": [1]}), "", {"LONGEST": 10}),
    "tasks without rows": (pa.table({"x": pa.array([], pa.int64())}), many(1001), {}),
    "an infinite count": (pa.table({"x": [1]}), '{"function": "x", "tasks": [["0", 1e400, {}]]}', {}),
}


@pytest.mark.parametrize("what", ODD)
def test_raw_rows_of_a_kind_that_no_task_gives_are_torn(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, made_by, bounds = ODD[what]
    (tmp_path / "cells").mkdir()
    path = raw(tmp_path, table, made_by=made_by, store_schema=what == "a type of its own")
    for name, value in bounds.items():
        assert rowfiles.by_task(path) is not None  # so that it is the bound that refuses it
        monkeypatch.setattr(rowfiles, name, value)
    assert rowfiles.by_task(path) is None


def varint(number: int, length: int = 0) -> bytes:
    """A number as a parquet footer has it, with zeros above it up to a length."""
    parts, number = [], number << 1
    while number or not parts or len(parts) < length:
        parts.append(number & 127)
        number >>= 7
    return bytes([*(part | 128 for part in parts[:-1]), parts[-1]])


def test_raw_rows_that_say_they_are_small_are_stopped_where_they_unpack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cells").mkdir()
    path = raw(tmp_path, pa.table({name: ["y" * 300_000] for name in "abcd"}), use_dictionary=False)
    group = pq.ParquetFile(path).metadata.row_group(0)
    content = path.read_bytes()
    for size in {group.total_byte_size, *(group.column(i).total_uncompressed_size for i in range(4))}:
        content = content.replace(varint(size), varint(1, len(varint(size))))
    path.write_bytes(content)
    assert pq.ParquetFile(path).metadata.row_group(0).total_byte_size == 1
    assert rowfiles.by_task(path) is not None
    monkeypatch.setattr(rowfiles, "LARGEST", 2**20)
    assert rowfiles.by_task(path) is None


def test_no_column_is_hidden_by_what_a_file_says_to_pandas(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    frame = pd.DataFrame({"x": ["a", "b"], "y": [3, 4]}).set_index("x")
    path = raw(tmp_path, pa.Table.from_pandas(frame))
    assert sorted(rowfiles.by_task(path)[0][1]) == ["x", "y"]


def test_many_small_files_that_unpack_to_any_memory_are_refused(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rawrows, "MOST_BYTES", 10)
    with pytest.raises(replay.ReplayError, match="unpacked they are more than"):
        replay._raw_rows(record, Manifest.load(record).sections[STEM].cells)


@pytest.mark.parametrize("made_by", ["[" * 5000, "[]", '{"function": 1, "parameters": {}}', '{"function": "x"}', "1"])
def test_raw_rows_that_say_nothing_sound_of_what_made_them_are_torn(made_by: str, tmp_path: Path) -> None:
    with pq.ParquetWriter(tmp_path / "a.parquet", pa.schema([("x", pa.int64())])) as writer:
        writer.write_table(pa.table({"x": [1]}))
        writer.add_key_value_metadata({rowfiles.DESCRIPTION: made_by})
    assert rowfiles.by_task(tmp_path / "a.parquet") is None


def test_a_function_that_raw_rows_name_is_never_called(record: Path, study: Study) -> None:
    assert "import_module" not in Path(replay.__file__).read_text()
    for path in (record / "cells").glob("*.parquet"):
        table = pq.read_table(path)
        with pq.ParquetWriter(path, table.schema.remove_metadata()) as writer:
            writer.write_table(table.replace_schema_metadata(None))
            writer.add_key_value_metadata({rowfiles.DESCRIPTION: '{"function": "os:abort", "parameters": {}}'})
    put_right(record)
    from datalab.record.checks.retrain import Drawn

    done = verify.verify(record, study, recompute=True, workers=1, cells=Drawn(3, 1))
    assert {finding.what for finding in done.findings} >= {STEM}
    assert done.retrained == []


def test_a_file_larger_than_any_of_a_record_is_not_read(record: Path) -> None:
    with open(record / "record.json", "wb") as stream:
        stream.truncate(folder.LARGEST + 1)
    manifest, problem = Manifest.read(record)
    assert manifest is None
    assert "the largest that is read" in problem


# --- the room --------------------------------------------------------------------------------------------------------

# What opens, moves or deletes a file. In these rooms a record's files are opened by datalab.record.folder alone.
TOUCHES = {"read_text", "read_bytes", "unlink", "rmtree", "rglob", "glob", "open", "iterdir", "copytree", "rename"}
TOUCHES |= {"is_file", "exists", "write_text", "write_bytes", "rmdir", "stat", "scandir", "walk", "replace"}
# Functions that touch files of their own, or the user's: what they are.
ELSEWHERE = {
    "record/execution.py:Kernel": "the kernel's private folder",
    "record/lab.py:copy": "the package's notebooks, copied",
    "record/lab.py:_guide": "the project's README, copied",
    "record/papermills.py:_keep": "the notebook that papermill wrote, and the package's own",
    "report/origins.py:origins": "the package's own files",
    "report/origins.py:_source": "the package's own files",
    "record/provenance.py": "the package's own files and the machine",
    "record/lock.py": "the lock, opened without following links",
    "record/plan.py:_check_notebook": "the package's notebook",
    "record/checks/replay.py:replay": "the package's notebook",
    "record/checks/replay.py:_code": "the package's notebook",
    "record/progress.py:read": "the staging folder of a run at work",
    "record/runner.py:_check_folder": "the folder before it is a record: names alone",
    "record/runner.py:run": "whether the folder is there",
    "record/transaction.py:keep_notebook": "moved between two paths that were checked",
    "record/checks/compare.py": "whether there is a manifest",
    "record/checks/tablediff.py": "the table whose checked path it is given",
    "record/checks/verify.py": "the package's notebook",
    "record/checks/retrain.py:_compared": "the file that training has just made",
    "record/console.py:RunConsole": "nowhere, for a terminal that has gone",
    "report/pages.py:asset": "the package's own files",
    "report/site.py:_copied": "the folder the user named, and a record without links",
}


def test_no_file_of_a_record_is_touched_but_through_the_one_room_that_knows_how() -> None:
    found = set()
    for path in [*(PACKAGE / "record").rglob("*.py"), *(PACKAGE / "report").rglob("*.py")]:
        place = path.relative_to(PACKAGE).as_posix()
        for owner in ast.parse(path.read_text()).body:
            for node in ast.walk(owner):
                if not isinstance(node, ast.Call) or place in ("record/folder.py", *ELSEWHERE):
                    continue
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                of = getattr(getattr(node.func, "value", None), "id", "")
                text = name == "replace" and of != "os"  # of a text
                if name in TOUCHES and of not in ("folder", "psutil", "Image") and not text:
                    found.add(f"{place}:{getattr(owner, 'name', '')}")
    assert found <= ELSEWHERE.keys(), found - ELSEWHERE.keys()


def test_an_ignored_hangup_stays_ignored_so_that_nohup_outlives_its_terminal() -> None:
    program = """
import os, signal, sys
from datalab.record.runner import Interrupts
signal.signal(signal.SIGHUP, signal.SIG_IGN if sys.argv[1] == "nohup" else signal.SIG_DFL)
interrupts = Interrupts()
try:
    with interrupts.watched():
        os.kill(os.getpid(), signal.SIGHUP)
    print("went on")
except KeyboardInterrupt:
    print("stopped")
"""
    for how, said in (("nohup", "went on"), ("plain", "stopped")):
        done = subprocess.run([sys.executable, "-c", program, how], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == said


def test_a_run_does_not_overwrite_the_committed_record(study: Study, capsys: pytest.CaptureFixture) -> None:
    before = time.time()
    assert call("run", "0", "--profile", "smoke", "--to", str(provenance.reference()), study=study) == 2
    assert "committed record" in capsys.readouterr().err
    assert (provenance.reference() / "record.json").stat().st_mtime < before
    with pytest.raises(UserError, match="committed record"):
        record_fakes.start(STEM, {"profile": "smoke", "record": str(provenance.reference())})
