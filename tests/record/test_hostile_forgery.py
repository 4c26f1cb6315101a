"""A stranger's record, what it says: all hashes put right, everything in it has an owner and is recomputed, or named.

Each forgery is the smallest of its kind. ``verify`` must find it, and never call the record whole or exit 0.
"""

import functools
import io
import json
import re
import resource
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import record_fakes

from datalab import cli, sweep
from datalab.errors import UserError
from datalab.record import Study, claims_table, crate, executed, folder, progress, section
from datalab.record.checks import compare, recompute, replay, retrain, tablediff, verify
from datalab.record.manifest import FileRecord, Manifest, SectionRecord
from datalab.sweep import kernels, rowfiles

STEM = "0_alpha"
CSV = "tables/0_rows.csv"
NOTEBOOK = f"notebooks/{STEM}.ipynb"
Forge = Callable[[Path], Any]


def in_text(path: str, old: str, new: str) -> Forge:
    def forge(record: Path) -> None:
        text = (record / path).read_text()
        assert old in text
        (record / path).write_text(text.replace(old, new, 1))

    return forge


def put_right(record: Path) -> None:
    """What a forger does: write all hashes, claims.csv and the crate anew."""
    manifest = Manifest.load(record)
    for path, entry in list(manifest.files.items()):
        manifest.add_file(record, path, entry.section, entry.timing)
    claims_table.write(record, manifest, record_fakes.study(Path()))
    crate.write(record, manifest)
    manifest.save(record)


def in_manifest(change: Callable[[Manifest, SectionRecord], Any]) -> Forge:
    def forge(record: Path) -> None:
        manifest = Manifest.load(record)
        change(manifest, manifest.sections[STEM])
        manifest.save(record)

    return forge


def in_notebook(change: Callable[[dict], Any]) -> Forge:
    def forge(record: Path) -> None:
        notebook = json.loads((record / NOTEBOOK).read_text())
        change(notebook)
        (record / NOTEBOOK).write_text(json.dumps(notebook))

    return forge


def more(path: str, section: str | None = STEM, timing: bool = False, text: str = "F1\n1.0\n") -> Forge:
    def forge(record: Path) -> None:
        (record / path).parent.mkdir(parents=True, exist_ok=True)
        (record / path).write_text(text)
        manifest = Manifest.load(record)
        manifest.add_file(record, path, section, timing)
        manifest.save(record)

    return forge


def all_of(*forges: Forge) -> Forge:
    def forge(record: Path) -> None:
        for one in forges:
            one(record)

    return forge


def output(**fields: Any) -> Forge:
    return in_notebook(lambda notebook: notebook["cells"][-1]["outputs"].append(fields))


def shown(notebook: dict) -> dict:
    return next(o for c in notebook["cells"] for o in c.get("outputs", []) if "data" in o)


def display(kind: str, content: Any, **metadata: Any) -> Forge:
    return output(output_type="display_data", metadata=metadata, data={kind: content})


def of_claim(**fields: Any) -> Forge:
    return in_manifest(lambda m, e: e.claims[0].update(fields))


def dated(started: str, ended: str) -> Forge:
    return in_manifest(lambda m, e: (setattr(e, "started", started), setattr(e, "ended", ended)))


def printed(notebook: dict, old: str, new: str) -> None:
    stream = next(o for c in notebook["cells"] for o in c.get("outputs", []) if o.get("name") == "stdout")
    text = "".join(stream["text"])
    assert re.search(old, text)
    stream["text"] = re.sub(old, new, text)


def injected(notebook: dict, add: str) -> None:
    cell = next(c for c in notebook["cells"] if "injected-parameters" in c["metadata"].get("tags", []))
    cell["source"] = "".join(cell["source"]) + add


def earlier(notebook: dict) -> None:
    """The injected cell changes places, and its number, with the one before it."""
    cells = notebook["cells"]
    at = next(i for i, cell in enumerate(cells) if "injected-parameters" in cell["metadata"].get("tags", []))
    cells[at - 1 : at + 1] = cells[at], cells[at - 1]
    for number, cell in enumerate(cells[at - 1 : at + 1], at - 1):
        cell["execution_count"] = number


def counts(notebook: dict) -> list[dict]:
    """The outputs of the cell that sweeps, its count first."""
    return next(
        outputs
        for outputs in (cell.get("outputs", []) for cell in notebook["cells"])
        if outputs and outputs[0].get("metadata") == progress.MARK
    )


def slow(notebook: dict) -> None:
    data = counts(notebook)[0]["data"]
    data["text/plain"] = "".join(data["text/plain"]) + ": 123456789.0 s"


def started(change: Callable[[str], str]) -> Forge:
    """What the start cell prints, otherwise."""

    def of(notebook: dict) -> None:
        stream = next(o for c in notebook["cells"] for o in c.get("outputs", []) if o.get("name") == "stdout")
        text = "".join(stream["text"])
        stream["text"] = change(text)
        assert stream["text"] != text

    return in_notebook(of)


def counted(pattern: str, other: str) -> Forge:
    """What a sweep leaves, otherwise."""

    def of(notebook: dict) -> None:
        data = counts(notebook)[0]["data"]
        text = "".join(data["text/plain"])
        data["text/plain"] = re.sub(pattern, other, text)
        assert data["text/plain"] != text

    return in_notebook(of)


def as_display(notebook: dict) -> None:
    result = next(o for c in notebook["cells"] for o in c.get("outputs", []) if o["output_type"] == "execute_result")
    result["output_type"] = "display_data"
    del result["execution_count"]


def bare(notebook: dict) -> None:
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    del next(output for output in outputs if output.get("metadata") == {})["metadata"]


def prose(**fields: Any) -> Forge:
    return in_notebook(lambda n: next(c for c in n["cells"] if c["cell_type"] == "markdown").update(fields))


def by_hand(manifest: Manifest, entry: SectionRecord) -> None:
    entry.runner, entry.reason = "notebook session", section.BY_HAND
    del entry.key["parameters"], manifest.files[NOTEBOOK]
    entry.code_cells = entry.code_cells_ran = 99


def moved_on(manifest: Manifest, entry: SectionRecord) -> None:
    """Another code than any section ran with, and with it a version that nobody can check."""
    manifest.sources["code"], manifest.datalab = "0" * 64, "15.0"


def of_asked(**parameters: Any) -> Forge:
    return in_manifest(lambda m, e: (e.parameters.update(parameters), e.key["parameters"].update(parameters)))


def profile(manifest: Manifest, entry: SectionRecord) -> None:
    manifest.profile = "paper"
    for each in manifest.sections.values():
        each.parameters["profile"] = each.key["parameters"]["profile"] = "paper"


def as_time(record: Path) -> None:
    """A table that is said to be of measured time wherever it is said."""
    (record / "tables/0_rows.json").write_text((record / "tables/0_rows.json").read_text().replace("false", "true"))
    manifest = Manifest.load(record)
    manifest.sections[STEM].tables["0_rows"]["timing"] = True
    for path, entry in manifest.files.items():
        entry.timing |= path.startswith("tables/0_rows.")
    manifest.save(record)


def raw_files(record: Path) -> list[Path]:
    return sorted(path for path in (record / "cells").glob("*.parquet"))


def rows_of_another(record: Path) -> None:
    first = raw_files(record)[0]
    tasks, frame = record_fakes.rows(first)
    rowfiles.write(first, frame.assign(seed=frame.seed + 1), tasks)


def described(change: Callable[[list[rowfiles.Finished]], list[rowfiles.Finished]]) -> Forge:
    """What each raw file says of its tasks, in other words; its rows and its name stay."""

    def forge(record: Path) -> None:
        for path in raw_files(record):
            tasks, frame = record_fakes.rows(path)
            rowfiles.write(path, frame, change(tasks))

    return forge


def of_another_device(tasks: list[rowfiles.Finished]) -> list[rowfiles.Finished]:
    return [task._replace(parameters=task.parameters | {"device": "an H100"}) for task in tasks]


def renamed(record: Path, name: str = "") -> None:
    path = raw_files(record)[0]
    new = path.with_name(name or f"{path.name.rsplit('_', 1)[0]}_0123456789abcdef.parquet")
    path.rename(new)
    tree = json.loads((record / "record.json").read_text().replace(path.name, new.name))
    del tree["sha256"]
    Manifest.model_validate(tree).save(record)


def of_another_code(record: Path) -> None:
    """Keys that today's code does not give, and the name that follows from them."""
    tasks, frame = record_fakes.rows(raw_files(record)[0])
    tasks = [task._replace(key=f"{number:016x}") for number, task in enumerate(tasks)]
    rowfiles.write(raw_files(record)[0], frame, tasks)
    renamed(record, rowfiles.file_name(tasks))


def with_one_more(record: Path) -> None:
    """Rows in a section's file that no section asks for."""
    path = raw_files(record)[0]
    tasks, frame = record_fakes.rows(path)
    last = tasks[-1]._replace(key="0123456789abcdef", parameters=tasks[-1].parameters | {"index": 99})
    more = pd.concat([frame, frame.tail(last.count).assign(index=99)], ignore_index=True)
    rowfiles.write(path, more, [*tasks, last])
    renamed(record, rowfiles.file_name([*tasks, last]))


def twice(record: Path) -> None:
    path = raw_files(record)[0]
    copy = path.with_name("copy_0123456789abcdef.parquet")
    copy.write_bytes(path.read_bytes())
    manifest = Manifest.load(record)
    manifest.add_file(record, f"cells/{copy.name}", STEM)
    manifest.sections[STEM].cells.append(f"cells/{copy.name}")
    manifest.save(record)


def beside(record: Path) -> None:
    """Text between a raw file's rows and what describes them, where no reader looks."""
    content = raw_files(record)[0].read_bytes()
    end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    raw_files(record)[0].write_bytes(content[:end] + b"The title is won." + content[end:])


def described_twice(record: Path) -> None:
    """Of two names of one kind a reader takes the last, and another might take the first."""
    path = raw_files(record)[0]
    file = pq.ParquetFile(io.BytesIO(path.read_bytes()))
    said = file.metadata.metadata[rowfiles.DESCRIPTION.encode()].decode()
    twice = said.replace("{", '{"function": "won:won", ', 1)
    with pq.ParquetWriter(path, file.schema_arrow.remove_metadata(), store_schema=False) as writer:
        writer.write_table(file.read().replace_schema_metadata(None))
        writer.add_key_value_metadata({rowfiles.DESCRIPTION: twice})


FORGERIES: dict[str, tuple[Forge, str]] = {
    # files without an owner
    "a table of no section": (
        in_manifest(lambda m, e: setattr(m.files[CSV], "section", None)),
        "tables/",
    ),
    "a table of another section": (
        in_manifest(lambda m, e: setattr(m.files[CSV], "section", "3_4_beta")),
        "tables/",
    ),
    "a file of a section that is not there": (more("tables/9_x.csv", "9_x"), "tables/9_x.csv"),
    "a file at the top": (more("README.md", None), "README.md"),
    "a notebook more": (more("notebooks/0_better.ipynb", STEM, True, "{}"), "notebooks/0_better.ipynb"),
    "a notebook said to have failed": (more(f"notebooks/{STEM}.failed.ipynb", STEM, True, "{}"), "notebooks/"),
    "a page without the board": (more("report/claims/x.html", None, text="<p>"), "report/claims/x.html"),
    "a page as a table": (more("tables/0_rows.html"), "tables/0_rows.html"),
    "a script among the figures": (more("figures/0_curve.js"), "figures/0_curve.js"),
    "raw rows that no section asks for": (more("cells/x_0123456789abcdef.parquet"), "cells/x"),
    "the same raw rows twice": (twice, STEM),
    "a raw file that is not listed": (in_manifest(lambda m, e: m.files.pop(e.cells[0])), "cells/"),
    # what the manifest says
    "the profile": (in_manifest(lambda m, e: setattr(m, "profile", "paper")), STEM),
    "the profile, everywhere": (in_manifest(profile), NOTEBOOK),
    "a timing flag": (in_manifest(lambda m, e: setattr(m.files[CSV], "timing", True)), "tables/"),
    "a timing flag, everywhere": (as_time, "tables/"),
    "the key's parameters": (in_manifest(lambda m, e: e.key["parameters"].update(seeds=13)), STEM),
    "both parameters": (
        in_manifest(lambda m, e: (e.key["parameters"].update(mode="won"), e.parameters.update(mode="won"))),
        NOTEBOOK,
    ),
    "how many code cells": (in_manifest(lambda m, e: setattr(e, "code_cells", 99)), "record.json"),
    "how many ran": (in_manifest(lambda m, e: setattr(e, "code_cells_ran", 99)), "record.json"),
    "a reason": (in_manifest(lambda m, e: setattr(e, "reason", "reproduced beyond doubt")), STEM),
    "the device": (in_manifest(lambda m, e: setattr(e, "device", "NVIDIA H100")), NOTEBOOK),
    "a word more in a claim": (in_manifest(lambda m, e: e.claims[0].update(confirmed="yes")), "TITLE.threshold"),
    "a claim twice": (in_manifest(lambda m, e: e.claims.append({**e.claims[0], "verdict": "reproduced"})), "TITLE"),
    "a claim twice, the false one first": (
        in_manifest(lambda m, e: e.claims.insert(0, {**e.claims[0], "verdict": "reproduced"})),
        "TITLE.threshold",
    ),
    "no source by name": (in_manifest(lambda m, e: m.sources.pop("lock")), "record.json"),
    "another version of the same code": (in_manifest(lambda m, e: setattr(m, "datalab", "15.0")), "record.json"),
    "no runner": (in_manifest(lambda m, e: setattr(e, "runner", "")), STEM),
    # the executed notebook
    "a stream with data beside it": (output(output_type="stream", name="stdout", text="won", data={}), NOTEBOOK),
    "an error with data beside it": (
        output(output_type="error", ename="", evalue="won", traceback=[], data={"text/plain": "x"}),
        NOTEBOOK,
    ),
    "a display without data": (output(output_type="display_data", metadata={}), NOTEBOOK),
    "an error alone": (output(output_type="error", ename="x", evalue="won", traceback=[]), NOTEBOOK),
    "an output of another kind": (output(output_type="won", text="won"), NOTEBOOK),
    "a stream of another name": (output(output_type="stream", name="won", text="won"), NOTEBOOK),
    "a picture that is no base64": (
        output(output_type="display_data", metadata={}, data={"image/png": '"><script>'}),
        NOTEBOOK,
    ),
    "a display's metadata": (
        in_notebook(
            lambda n: next(o for c in n["cells"] for o in c.get("outputs", []) if "data" in o)["metadata"].update(
                a="won"
            )
        ),
        NOTEBOOK,
    ),
    "the notebook's metadata": (in_notebook(lambda n: n["metadata"].update(title="won")), NOTEBOOK),
    "the kernel's name": (in_notebook(lambda n: n["metadata"].update(kernelspec={"display_name": "won"})), NOTEBOOK),
    "the language": (in_notebook(lambda n: n["metadata"]["language_info"].update(version="won")), NOTEBOOK),
    "papermill's parameters": (in_notebook(lambda n: n["metadata"]["papermill"]["parameters"].update(a=1)), NOTEBOOK),
    "a cell's metadata": (in_notebook(lambda n: n["cells"][3]["metadata"].update(note="won")), NOTEBOOK),
    "a language of other words": (
        in_notebook(lambda n: n["metadata"]["language_info"].update(mimetype="completed")),
        NOTEBOOK,
    ),
    "a status that is no status": (
        in_notebook(lambda n: n["cells"][3]["metadata"]["papermill"].update(status="cab")),
        NOTEBOOK,
    ),
    "a clock in the place of a flag": (
        in_notebook(lambda n: n["cells"][3]["metadata"]["papermill"].update(exception=12)),
        NOTEBOOK,
    ),
    "a cell's clock": (in_notebook(lambda n: n["cells"][3]["metadata"]["papermill"].update(duration="won")), NOTEBOOK),
    "a cell's name": (in_notebook(lambda n: n["cells"][3].update(id="won")), NOTEBOOK),
    "an attachment": (in_notebook(lambda n: n["cells"][0].update(attachments={"a.png": {"image/png": ""}})), NOTEBOOK),
    "prose that shows something": (
        in_notebook(
            lambda n: n["cells"][0].update(outputs=[{"output_type": "stream", "name": "stdout", "text": "won"}])
        ),
        NOTEBOOK,
    ),
    "a parameter twice": (in_notebook(lambda n: injected(n, "\nprofile = 'smoke'")), NOTEBOOK),
    "a parameter that is none": (in_notebook(lambda n: injected(n, "\nwon = True")), NOTEBOOK),
    "the injected cell before the source's": (in_notebook(earlier), NOTEBOOK),
    "the versions printed": (in_notebook(lambda n: printed(n, "numpy ", "numpy won ")), NOTEBOOK),
    "the device printed": (in_notebook(lambda n: printed(n, "a process", "a process: won")), NOTEBOOK),
    "words for a folder": (in_notebook(lambda n: printed(n, "record    ", "record    the title is won ")), NOTEBOOK),
    "quoted words for a folder": (in_notebook(lambda n: printed(n, "record .*", "record 'it is won'")), NOTEBOOK),
    "an output's number": (in_notebook(lambda n: shown(n).update(execution_count=4242)), NOTEBOOK),
    "a sweep of more tasks": (
        output(
            output_type="display_data",
            metadata={"datalab": "progress"},
            data={"text/plain": "999 of 999 tasks"},
        ),
        NOTEBOOK,
    ),
    "a sweep's count again": (in_notebook(lambda n: counts(n).append(counts(n)[0])), NOTEBOOK),
    "a sweep's seconds": (in_notebook(slow), NOTEBOOK),
    "a cell that did not end": (
        in_notebook(lambda n: n["cells"][3]["metadata"]["papermill"].update(status="failed")),
        NOTEBOOK,
    ),
    "a cell that raised": (
        in_notebook(lambda n: n["cells"][3]["metadata"]["papermill"].update(exception=True)),
        NOTEBOOK,
    ),
    "words for a number of processes": (in_manifest(lambda m, e: e.parameters.update(workers=7)), NOTEBOOK),
    "words for the record's folder": (in_manifest(lambda m, e: e.parameters.update(record="won")), STEM),
    # the raw rows
    "rows that are another task's": (rows_of_another, "cells/"),
    "another device": (described(of_another_device), "cells/"),
    "two tasks' rows, one for the other": (described(lambda tasks: tasks[::-1]), "cells/"),
    "a raw file's name": (renamed, "cells/"),
    "a raw file's name and its tasks' keys": (of_another_code, "cells/"),
    "a task that nobody asks for": (with_one_more, "cells/"),
    # names that look like others
    "a table by a look-alike name": (more("tables/0_r\u043ews.csv"), "tables/0_r\u043ews.csv"),
    "a table's twin by case": (more("tables/0_Rows.csv"), "tables/0_Rows.csv"),
    "a name composed otherwise": (more("tables/e\u0301.csv"), "tables/e\u0301.csv"),
    # what other readers would make of it
    "a cell's outputs twice": (
        in_text(NOTEBOOK, '"outputs": [', '"outputs": [{"output_type": "stream", "text": "won"}], "outputs": ['),
        NOTEBOOK,
    ),
    "a formula for a spreadsheet": (of_claim(why='=HYPERLINK("http://192.0.2.1/","won")'), "TITLE.threshold"),
    "a script among the outputs": (display("application/javascript", "alert(1)"), NOTEBOOK),
    "a formula among the outputs": (display("text/latex", "$won$"), NOTEBOOK),
    "a widget among the outputs": (display("application/vnd.jupyter.widget-view+json", {"model_id": "x"}), NOTEBOOK),
    "a drawing among the outputs": (display("image/svg+xml", "<svg onload='alert(1)'/>"), NOTEBOOK),
    "HTML as a task's name": (
        display("text/plain", "1 of 1 tasks: <img src=x onerror=alert(1)>: 1.0 s", datalab="progress"),
        NOTEBOOK,
    ),
    "a cell's name that is markup": (in_notebook(lambda n: n["cells"][3].update(id='"><script>')), NOTEBOOK),
    # what is equal, and is not the same
    "a float for a whole number in a stamp": (
        in_manifest(lambda m, e: e.tables["0_rows"]["stamp"].update(root_seed=2024.0)),
        "record.json",
    ),
    "a float for a whole number in a claim": (of_claim(n=4.0), "TITLE.threshold"),
    "less than nothing for nothing": (of_claim(low=-0.0), "TITLE.threshold"),
    "a float for a whole number in both parameters": (of_asked(count=4.0), "record.json"),
    "a field without a value in a claim": (of_claim(**{"It is won.": None}), "TITLE.threshold"),
    "a claim's fields in another order": (
        in_manifest(lambda m, e: e.claims.append(dict(reversed(e.claims.pop().items())))),
        "TITLE.threshold",
    ),
    # what a reader in Jupyter sees
    "lines that hide one another": (started(lambda text: text.rstrip().replace("\n", "\r") + "\n"), NOTEBOOK),
    "a line pushed out of sight": (started(lambda text: text.replace("device ", "device " + " " * 3000)), NOTEBOOK),
    "more threads than the section says": (started(lambda text: text.replace("1 thread", "99999 threads")), NOTEBOOK),
    "libraries that are not printed": (started(lambda text: re.sub(r"(Python [\d.]+).*", r"\1", text)), NOTEBOOK),
    "a sweep of fewer tasks": (counted(r"4 of 4", "1 of 1"), NOTEBOOK),
    "a sweep's count in other digits": (counted(r"4 of 4", "\u0664 of \u0664"), NOTEBOOK),
    "a sweep that is not shown": (in_notebook(lambda n: counts(n).pop(0)), NOTEBOOK),
    "a result as a display": (in_notebook(as_display), NOTEBOOK),
    "prose that is counted": (prose(execution_count=7), NOTEBOOK),
    "prose with room for outputs": (prose(outputs=[]), NOTEBOOK),
    "a display without metadata": (in_notebook(bare), NOTEBOOK),
    "a later format": (in_notebook(lambda n: n.update(nbformat_minor=9999)), NOTEBOOK),
    "words for the injected cell's id": (
        in_notebook(
            lambda n: [c.update(id="the-title-is-won") for c in n["cells"] if "papermill" in str(c["metadata"])]
        ),
        NOTEBOOK,
    ),
    "a papermill of another name": (
        in_notebook(lambda n: n["metadata"]["papermill"].update(version="won")),
        NOTEBOOK,
    ),
    # what no file holds
    "bytes beside the raw rows": (beside, STEM),
    "raw rows described twice": (described_twice, STEM),
    "words in the lock": (lambda record: (record / ".lock").write_text("The title is won.\n"), ".lock"),
    "words for a lock's machine": (
        lambda record: (record / ".lock").write_text('{"pid": 1, "host": "the title is won"}\n'),
        ".lock",
    ),
    "a folder without files": (lambda record: (record / "tables" / "The title is won").mkdir(), "tables/The title"),
    "a hidden folder without files": (lambda record: (record / ".git").mkdir(), ".git/"),
    "raw rows of another section": (
        all_of(
            more("cells/x_0123456789abcdef.parquet", "3_4_beta"),
            in_manifest(lambda m, e: e.cells.append("cells/x_0123456789abcdef.parquet")),
        ),
        "cells/x",
    ),
    # what contradicts itself
    "a source that no section has": (in_manifest(lambda m, e: m.sources.update(protocol="0" * 64)), "record.json"),
    "another version of another code": (in_manifest(moved_on), "record.json"),
    "repeatable on many threads": (in_manifest(lambda m, e: e.determinism.update(threads="64")), STEM),
    "cells of no notebook": (all_of(in_manifest(by_hand), lambda record: (record / NOTEBOOK).unlink()), STEM),
    "asked of a GPU, and run on none": (of_asked(device="cuda"), STEM),
    # numbers and times that cannot be
    "no time at all": (in_manifest(lambda m, e: setattr(m, "created", "")), STEM),
    "no beginning": (dated("", "2026-01-02T00:00:00Z"), STEM),
    "a beginning before the record's": (in_manifest(lambda m, e: setattr(m, "created", "9999-01-01T00:00:00Z")), STEM),
    "less than no data sets": (of_claim(n=-4), "TITLE.threshold"),
    "an end before its beginning": (dated("2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z"), STEM),
    "an end that is still to come": (dated("2026-01-02T00:00:00Z", "9999-01-01T00:00:00"), STEM),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_a_forgery_is_named_though_its_hashes_are_right(what: str, record: Path, study: Study) -> None:
    forge, named = FORGERIES[what]
    forge(record)
    put_right(record)
    for recompute_too in (False, True):  # most are named by the owners of things alone, without a computation
        done = verify.verify(record, study, recompute=recompute_too, workers=1, owners=True)
        if any(finding.what.startswith(named) for finding in done.findings):
            return
    pytest.fail(f"{what}: {done.findings}")


def test_no_row_among_a_tasks_is_of_another_data_set_or_seed() -> None:
    task = sweep.Task("a:b", {"dataset": "digits", "seed": 1, "cap": 3})
    rows = pd.DataFrame({"dataset": "digits", "seed": 1, "cap": [3, 2]})
    assert replay._not_of(task, rows) == ""
    assert "dataset wine" in replay._not_of(task, rows.assign(dataset=["digits", "wine"]))
    assert "seed 2, and it says 1" in replay._not_of(task, rows.assign(seed=[1, 2]))


def test_the_number_of_forgeries_is_told(record_property: Callable[[str, object], None]) -> None:
    record_property("forgeries of a record that verify names", len(FORGERIES))
    assert len(FORGERIES) >= 115


@pytest.mark.parametrize(
    "line",
    [
        'record = "a#b"  # won',
        "record = 'a'",
        'record = "a" "b"',
        'caps = {"won": 1, "won": 2}',
        "# won",
        "count = 0x1",
        "count=1",
        "count = (1, 2)",
        'word = b"x"',
        "count = {1}",
        "count = ...",
    ],
)
def test_the_parameters_of_a_notebook_are_written_as_papermill_writes_them(line: str) -> None:
    cell = '# Parameters\nprofile = "smoke"\nnoise_rates = [0.1, 0.2]\nmode = None\n'
    assert recompute._literals(cell) == {"profile": "smoke", "noise_rates": [0.1, 0.2], "mode": None}
    assert recompute._literals(cell + line) is None


@pytest.mark.parametrize(("then", "here", "said"), [(None, "1", 0), ("0", None, 0), (None, None, 0), ("0", "1", 1)])
def test_where_there_is_no_lock_nothing_is_said_of_it(
    then: str | None, here: str | None, said: int, record: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_manifest(lambda m, e: [each.key.update(lock=then and then * 64) for each in m.sections.values()])(record)
    monkeypatch.setattr(verify.provenance, "lock_sha256", lambda: here and here * 64)
    assert list(verify.stale(Manifest.load(record), study)) == ["the lock file changed after all 3 sections ran"] * said


def test_pages_by_other_sources_are_one_line(record: Path, study: Study) -> None:
    in_manifest(lambda m, e: (m.sources.update(ledger="0" * 64), m.files.update({"index.html": m.files[CSV]})))(record)
    report = verify.Report()
    pages = ["index.html", "report/environment.html"]
    verify._derived(record, Manifest.load(record), study, report, lambda *_: pages)
    assert [line for line in report.unconfirmed if "page" in line or "html" in line] == [
        "2 pages made anew, by other sources, are others"
    ]


LOOPHOLES = {
    "another package's version": lambda m, e: m.packages.update(pingouin="0.0"),
    "another package's version, with letters": lambda m, e: m.packages.update(numpy="2.4.6+won"),
    "run by hand": lambda m, e: setattr(e, "runner", "notebook session"),
    "another code": lambda m, e: e.key.update(code="0" * 64),
    "another ledger": lambda m, e: (e.key.update(ledger="0" * 64), m.sources.update(ledger="0" * 64)),
    "another notebook": lambda m, e: e.key.update(notebook="0" * 64),
}


@pytest.mark.parametrize("what", LOOPHOLES)
def test_no_other_source_turns_a_forged_verdict_into_a_whole_record(
    what: str, record: Path, study: Study, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forge(manifest: Manifest, entry: SectionRecord) -> None:
        entry.claims[0]["verdict"] = "reproduced"
        LOOPHOLES[what](manifest, entry)

    in_manifest(forge)(record)
    put_right(record)
    monkeypatch.setattr(recompute.provenance, "machine", lambda: {"cores": 1})  # in this process, which knows the fakes
    with pytest.raises(SystemExit) as ended:
        cli.main(["verify", str(record)], study=study)
    assert ended.value.code == 1
    last = [line for line in capsys.readouterr().out.splitlines() if line.startswith(str(record))]
    assert "not whole" in last[0] or "not confirmed" in last[0]
    assert ": whole" not in last[0]


def test_by_hand_or_not_a_claims_cell_is_the_notebooks(record: Path, study: Study) -> None:
    in_manifest(lambda m, e: (setattr(e, "runner", "notebook session"), e.claims[0].update(cell=1)))(record)
    put_right(record)
    assert not verify.verify(record, study, recompute=True, workers=1).whole


def test_a_section_run_otherwise_than_its_profile_is_told(record: Path, study: Study, capsys) -> None:
    assert not list(verify.departures(Manifest.load(record), study))
    in_manifest(lambda m, e: e.parameters.update(count=e.parameters["count"] + 1))(record)
    assert list(verify.departures(Manifest.load(record), study)) == ["section 0 with other count"]
    in_manifest(lambda m, e: e.parameters.update(profile="no such"))(record)
    assert not list(verify.departures(Manifest.load(record), study)), "its entry names what is wrong"


CLAIMS: dict[str, Callable[[str], str]] = {
    "no column of that name": lambda text: "claim,verdict\nTITLE.threshold,reproduced\n",
    "a row twice, the false one first": lambda text: text.replace("\n", "\nTITLE.threshold,won\n", 1),
    "a line more": lambda text: text + "\n",
}


@pytest.mark.parametrize("ledger", ["the same", "another"])
@pytest.mark.parametrize("what", CLAIMS)
def test_a_table_of_claims_that_is_not_the_manifests_is_never_whole(
    what: str, ledger: str, record: Path, study: Study
) -> None:
    (record / claims_table.NAME).write_text(CLAIMS[what]((record / claims_table.NAME).read_text()))
    manifest = Manifest.load(record)
    if ledger == "another":
        manifest.sources["ledger"] = "0" * 64
    manifest.add_file(record, claims_table.NAME)
    crate.write(record, manifest)
    manifest.save(record)
    assert not verify.verify(record, study, recompute=True, workers=1).whole


def test_a_file_of_the_users_that_a_record_names_is_not_opened(record: Path, study: Study) -> None:
    in_manifest(lambda m, e: e.parameters.update(path="/etc/passwd"))(record)
    entry = Manifest.load(record).sections[STEM]
    spec = type(
        "Spec", (), {"load": lambda _: type("M", (), {"Parameters": type("P", (), {"model_fields": entry.parameters})})}
    )
    fake = type("S", (), {"find": lambda _, stem: spec(), "notebooks": study.notebooks})()
    with pytest.raises(replay.ReplayError, match="outside of the record"):
        replay.replay(record, fake, STEM, entry, record.parent)


def test_what_rests_on_a_file_of_the_users_is_not_called_a_forgery(record: Path, study: Study) -> None:
    in_manifest(lambda m, e: e.parameters.update(path="/etc/passwd"))(record)
    moved = verify._moved(Manifest.load(record), study, STEM, dict.fromkeys(verify.SOURCES))
    assert "a file outside of the record" in moved


# --- what has no end -------------------------------------------------------------------------------------------------


def test_parameters_that_multiply_to_more_tasks_than_any_section_has_are_one_line(
    record: Path, study: Study, tmp_path: Path
) -> None:
    in_manifest(lambda m, e: e.parameters.update(count=150_000))(record)
    entry = Manifest.load(record).sections[STEM]
    with pytest.raises(replay.ReplayError, match="ask for more than 100,000 tasks"):
        replay.replay(record, study, STEM, entry, tmp_path)


def test_no_more_tasks_are_counted_than_are_made_within_and_none_without_a_bound() -> None:
    with sweep.at_most(2):
        for _ in range(2):
            sweep.Task("a:b", {})
        with pytest.raises(UserError, match="tasks"):
            sweep.Task("a:b", {})
    sweep.Task("a:b", {})


def endless() -> None:
    while True:
        pass


def test_a_section_that_ends_in_no_time_is_stopped_and_what_bound_it_is_lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA), signal.getsignal(signal.SIGALRM)
    with pytest.raises(UserError, match="it takes more than"), folder.bounded(0.05):
        endless()
    monkeypatch.setattr(folder, "MOST_MEMORY", 2**20)
    with pytest.raises(MemoryError), folder.bounded():
        bytearray(2**28)
    assert (resource.getrlimit(resource.RLIMIT_DATA), signal.getsignal(signal.SIGALRM)) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_block_within_a_block_ends_with_it() -> None:
    def inner_first() -> None:
        with folder.bounded(60):
            pass
        endless()

    with pytest.raises(UserError, match="it takes more than"), folder.bounded(0.2), folder.bounded(60):
        endless()
    with pytest.raises(UserError, match="it takes more than"), folder.bounded(0.2):
        inner_first()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize(("module", "name", "arguments"), [
    (cli.records.compare, "compare", ("compare", "a", "b")),
    (cli.records.Manifest, "load", ("claims", "--record", "a")),
])  # fmt: skip
def test_a_record_that_ends_a_command_in_no_time_is_told_in_a_line(
    module: object, name: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(module, name, lambda *_, **__: endless())
    monkeypatch.setattr(folder, "bounded", functools.partial(folder.bounded, 0.05))
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "it takes more than" in capsys.readouterr().err


def test_what_takes_more_memory_than_there_is_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(cli.records.Manifest, "load", lambda *_: bytearray(2**62))
    with pytest.raises(SystemExit) as ended:
        cli.main(("claims", "--record", "a"))
    assert ended.value.code == 1
    assert capsys.readouterr().err == "datalab: there is not enough memory for this\n"


def swallowing() -> None:
    with suppress(Exception):
        endless()
    until = time.monotonic() + 5
    while time.monotonic() < until:
        pass


def test_a_block_that_swallows_the_alarm_is_stopped_by_the_next() -> None:
    with pytest.raises(UserError, match="it takes more than"), folder.bounded(0.05):
        swallowing()


@pytest.mark.parametrize("error", [RuntimeError("a worker process ended"), MemoryError()])
def test_a_process_that_dies_of_a_section_leaves_a_line(error: Exception) -> None:
    running: Future = Future()
    running.set_exception(error)
    assert recompute._result(STEM, running).problem.startswith(type(error).__name__)


# --- training anew ---------------------------------------------------------------------------------------------------


def invented(record: Path, study: Study, to: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A record all of whose rows were made by another function than the study's: consistent, and false."""
    honest = record_fakes.cell

    def better(**given: Any) -> list[dict]:
        return [row | {"value": 0.99} for row in honest(**given)]

    for path in raw_files(record):
        tasks, frame = record_fakes.rows(path)
        rowfiles.write(path, frame.assign(value=0.99), tasks)
    manifest = Manifest.load(record)
    for path, entry in list(manifest.files.items()):
        manifest.add_file(record, path, entry.section, entry.timing)
    manifest.closed = True
    manifest.save(record)
    return record


def test_rows_trained_anew_are_equal_and_invented_ones_are_named(
    record: Path, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = retrain.Drawn(3, seed=7)
    honest = verify.verify(record, study, recompute=True, workers=1, cells=drawn)
    assert honest.findings == []
    assert [done.same for done in honest.retrained] == ["equal but for measured time"] * 3  # the process's number
    again = verify.verify(record, study, recompute=True, workers=1, cells=drawn)
    assert [done.path for done in again.retrained] == [done.path for done in honest.retrained]
    invented(record, study, tmp_path / "false", monkeypatch)
    done = verify.verify(record, study, recompute=True, workers=1, cells=drawn)
    assert len([r for r in done.retrained if "training gives" in r.different]) == 3
    assert len([f for f in done.findings if f.what.startswith("cells/") and "trained anew" in f.detail]) == 3


def test_words_where_measured_time_should_stand_are_named_by_training_anew(record: Path, study: Study) -> None:
    tasks, frame = record_fakes.rows(raw_files(record)[0])
    rowfiles.write(raw_files(record)[0], frame.assign(pid="it is won"), tasks)
    put_right(record)
    done = verify.verify(record, study, recompute=True, workers=1, cells=retrain.Drawn(1, 1))
    assert [r.different for r in done.retrained] == ["it has other columns, or more or fewer rows"]


def test_training_anew_has_a_bound_that_a_strangers_sizes_cannot_move(
    record: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrain, "MOST_HOURS", 0.0)
    monkeypatch.setattr("datalab.sweep.machine_speed.pace", lambda: 1e9)
    with pytest.raises(UserError, match=r"would take .* hours here, more than 0\.0; draw fewer"):
        verify.verify(record, study, recompute=True, workers=1, cells=retrain.Drawn(3, seed=7))


@pytest.mark.parametrize("path", [Manifest.NAME, CSV])
def test_what_changes_while_the_record_is_verified_is_named(
    record: Path, study: Study, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    recomputing = verify._recompute

    def then_changed(*given: Any) -> None:
        recomputing(*given)
        (record / path).write_bytes((record / path).read_bytes() + b"\n")

    monkeypatch.setattr(verify, "_recompute", then_changed)
    found = verify.verify(record, study, recompute=True, workers=1).findings
    assert [(finding.what, finding.detail) for finding in found] == [(path, "while the record was verified")]


@pytest.mark.parametrize("processor", ["Another, family 9, kernels of AVX2", "Another, its own kernels", ""])
def test_on_another_processor_rounding_is_allowed_and_counted_and_is_no_confirmation(
    record: Path, study: Study, processor: str
) -> None:
    path = raw_files(record)[0]

    def trained(**columns: Any) -> list[retrain.Retrained]:
        tasks, frame = record_fakes.rows(path)
        tasks = [task._replace(processor=processor) for task in tasks]
        rowfiles.write(path, frame.assign(**{name: change(frame[name]) for name, change in columns.items()}), tasks)
        put_right(record)
        done = verify.verify(record, study, recompute=True, workers=1, cells=retrain.Drawn(100, 1))
        moved = [task for task in done.retrained if path.name in task.path]
        assert len(moved) == 4
        assert done.whole == (not columns)  # a forger may name any processor
        return moved

    # What a row says of its processor is not doubted where training gives the row to the byte.
    assert all(task.same.startswith("equal") for task in trained())
    for task in trained(value=lambda value: value + 0.001):
        assert task.rounded
        assert re.search(r"numbers differ, 0 by more than 1%, on another machine: .*\(here ", task.same)
        assert (processor or "a processor that the rows do not name") in task.same
    assert all(
        re.search(r"training gives .* by more than 1%\)", task.different) for task in trained(value=lambda v: v + 0.1)
    )


def test_on_the_same_processor_the_last_digit_is_a_difference(record: Path, study: Study) -> None:
    path = raw_files(record)[0]
    tasks, frame = record_fakes.rows(path)
    assert tasks[0].processor == f"{kernels.processor()}, {kernels.HELD if kernels.held() else 'its own kernels'}"
    rowfiles.write(path, frame.assign(value=np.nextafter(frame.value, 2.0)), tasks)
    put_right(record)
    done = verify.verify(record, study, recompute=True, workers=1, cells=retrain.Drawn(100, 1))
    assert {bool(task.different) for task in done.retrained if path.name in task.path} == {True}


@pytest.mark.parametrize(
    ("score", "moved", "further"), [(0.95, 0.009, 0), (0.95, 0.011, 20), (50.0, 0.4, 0), (50.0, 0.6, 20)]
)
def test_rounding_is_of_the_number_or_of_one(score: float, moved: float, further: int) -> None:
    held = pd.DataFrame({"score": [score + moved, np.nan, np.inf] + [score + moved] * 19})
    _, count = retrain._difference(held, held.assign(score=[score, np.nan, np.inf] + [score] * 19))
    assert (count.differ, count.further) == (20, further)


def test_rows_that_are_lists_are_compared_to_their_last_digit() -> None:
    """``repr`` of a thousand numbers shows six of them, with eight digits."""
    scores = np.linspace(0, 1, 2000)
    held = pd.DataFrame({"scores": [scores]})
    assert retrain._difference(held, held)[0] == ""
    for other in (np.where(np.arange(2000) == 1000, 0.7, scores), scores + 1e-12):
        assert retrain._difference(held, pd.DataFrame({"scores": [other]}))[0].startswith("row 1, scores")


@pytest.mark.parametrize(("further", "word", "rounding"), [(5, "a", True), (6, "a", False), (0, "b", False)])
def test_rounding_moves_few_numbers_far_and_no_word(further: int, word: str, rounding: bool) -> None:
    held = pd.DataFrame({"score": np.linspace(0.1, 0.9, 50), "steps": [100] * 50, "word": "a"})
    steps = [400] * further + [100] * (50 - further)
    _, count = retrain._difference(held, held.assign(score=held.score + 1e-4, steps=steps, word=word))
    assert count.is_rounding == rounding
    assert (count.numbers, count.differ, count.further) == (100, 50 + further, further)


def test_what_verification_cannot_know_is_a_list_that_the_pages_print() -> None:
    page = (Path(verify.__file__).parents[2] / "report/templates/reading.html.j2").read_text()
    assert "for line in unknown" in page
    assert any("raw rows" in line for line in verify.UNKNOWN)
    assert FileRecord.model_fields["timing"].default is False


def longer(text: str) -> str:
    return text.replace("2024\n", "2024,won\n", 1)


def column_twice(text: str) -> str:
    head, *rows = text.splitlines()
    return "\n".join([head.replace("value", "value,value"), *(row.replace(",", ",9,", 1) for row in rows)])


def test_compare_overlooks_no_cell_beyond_the_head_and_no_column_of_a_name_that_another_has(
    record: Path, made: Path, study: Study
) -> None:
    whole = (record / CSV).read_text()
    (record / CSV).write_text(longer(whole))
    put_right(record)
    assert not compare.compare(made, record, study).same
    (record / CSV).write_text(column_twice(whole))
    put_right(record)
    with pytest.raises(UserError, match="two columns of one name"):
        compare.compare(made, record, study)


TOO_LARGE = {
    "letters": ("a\n1\n", "MOST_LETTERS"),
    "cells": ("a,b\n1,2\n", "MOST_CELLS"),
    "columns": ("a,b\n1,2\n", "MOST_COLUMNS"),
    "a cell": ("a\n" + "x" * 200_000, ""),
}


@pytest.mark.parametrize("what", TOO_LARGE)
def test_a_table_larger_than_any_is_not_taken_apart(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, bound = TOO_LARGE[what]
    (tmp_path / "t.csv").write_text(text)
    if bound:
        tablediff.read(tmp_path / "t.csv")
        monkeypatch.setattr(tablediff, bound, 1)
    with pytest.raises(UserError, match=r"table t\.csv: "):
        tablediff.read(tmp_path / "t.csv")


def test_what_a_cell_says_of_the_paper_is_compared_too() -> None:
    assert tablediff.kind("0.7; paper 0.8", "0.7; paper 0.9", 1e-5) == tablediff.DIFFERENT
    assert tablediff.kind("0.7000001; paper 0.8", "0.7; paper 0.8", 1e-5) == tablediff.TOLERANCE


@pytest.mark.parametrize(("kind", "old"), [("md", "0.785"), ("json", "What the cells gave")])
def test_compare_says_that_a_table_is_another_in_another_form(
    kind: str, old: str, record: Path, made: Path, study: Study
) -> None:
    in_text(f"tables/0_rows.{kind}", old, "0.999")(record)
    put_right(record)
    done = compare.compare(made, record, study)
    assert any(group["different"] == [f"tables/0_rows.{kind}"] for group in done.files)
    assert not done.same


def test_what_a_cell_prints_displays_and_gives_has_an_order() -> None:
    text = {"output_type": "stream", "name": "stdout", "text": "a\n"}
    warned = {"output_type": "stream", "name": "stderr", "text": "b\n"}
    display = {"output_type": "display_data", "data": {"text/plain": "c"}, "metadata": {}}
    result = {**display, "output_type": "execute_result", "data": {"text/plain": "3"}, "execution_count": 1}
    source = "import sys\nfrom IPython.display import display\nprint('a'); print('b', file=sys.stderr)\n"
    made = replay._run(replay._shell(), 1, source + "display({'text/plain': 'c'}, raw=True)\n3")

    def held(*outputs: dict) -> replay.Output:
        cell = {"cell_type": "code", "source": source, "metadata": {}, "execution_count": 1, "outputs": outputs}
        return recompute._kept(executed.Cell.model_validate(json.loads(json.dumps(cell))))

    assert held(text, warned, display, result) == held(warned, text, display, result) == made
    assert held(warned, display, text, result) != made
    assert held(text, display, warned, result) != made
    assert held(text, warned, display, {**display, "data": result["data"]}) != made


def test_compare_takes_a_table_for_measured_time_only_on_the_word_of_both(
    record: Path, made: Path, study: Study
) -> None:
    (record / CSV).write_text((record / CSV).read_text().replace("0.785", "0.999"))
    as_time(record)
    put_right(record)
    assert not compare.compare(made, record, study).same


def test_what_the_start_cell_says_of_the_machine_is_left_out_and_its_place_is_not() -> None:
    def told(printed: str) -> str:
        return recompute._MACHINE.sub(r"\1", printed)

    assert told("device    cpu\nseeds     2") == told("device    cuda\nseeds     2")
    assert told("device    cpu\nseeds     2") != told("seeds     2\ndevice    cpu")
    assert told("device    cpu\nseeds     2") != told("seeds     2")


def test_compare_takes_a_claim_for_measured_time_only_on_the_word_of_both(record: Path, made: Path) -> None:
    resting = in_manifest(lambda m, e: e.claims[0].update(table=CSV))
    resting(record)
    own = Manifest.load(record)
    as_time(record)
    assert compare._timed(own) == set()
    assert compare._timed(Manifest.load(record)) == {own.sections[STEM].claims[0]["id"]}
    of_claim(measured=0.123)(record)
    put_right(record)
    done = compare.compare(made, record, record_fakes.study(Path()))
    assert [claim.timing for claim in done.claims] == [False]


def test_by_another_ledger_claims_that_differ_are_not_confirmed_and_no_forgery(record: Path, study: Study) -> None:
    (record / claims_table.NAME).write_text((record / claims_table.NAME).read_text() + "\n")
    in_manifest(lambda m, e: m.sources.update(ledger="0" * 64))(record)
    manifest, report = Manifest.load(record), verify.Report()
    verify._derived(record, manifest, study, report, None)
    assert report.findings == []
    assert report.unconfirmed == [f"{claims_table.NAME} made anew, by other sources, is another"]


def test_rows_that_agree_by_rounding_on_the_records_word_alone_are_not_confirmed(
    record: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounded = retrain.Retrained("cells/x.parquet", same="within 1e-06, on another machine", rounded=True)
    monkeypatch.setattr(retrain, "retrain", lambda *_: [rounded])
    report = verify.Report()
    verify._retrain(record, Manifest.load(record), report, retrain.Drawn(1, seed=0), workers=1)
    assert [line for line in report.unconfirmed if "cells/x.parquet trained anew" in line]
    assert not report.whole
