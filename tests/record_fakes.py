"""Small sections for the tests of the record: real notebooks, kernels and sweeps, a second or two each.

Run as a script it is the ``datalab`` command over these sections: ``python record_fakes.py NOTEBOOKS run alpha ...``.
What goes wrong is told by the environment, so that the same command without it is the same command:

``FAKE_MODE``    what every notebook does, see :func:`act`; with ``FAKE_SHELL`` it runs a shell command that fails
``FAKE_WAIT``    the first cell of the sweep that waits at the gate, as those after it do
``FAKE_NOTEBOOKS``  the notebooks' sources, for a kernel that `datalab run` did not start
``FAKE_PYTHON``  the interpreter of the kernels
``FAKE_HOLD``    a function of the package, ``module:name`` (``@2``: its second call), that waits at the gate before it
                 begins: the moment at which a test does its harm
``FAKE_GATE``    the file that is the gate: who waits there writes its process's number into it, and goes on when there
                 is a file of that name that ends in ``.open``
"""

import functools
import hashlib
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Annotated, Any

import pandas as pd
import pydantic

from datalab.record import Section, SectionSpec, Statement, Study, open_section, rawrows
from datalab.record.parameters import Estimate, SectionParameters
from datalab.sweep import Finished

HERE = Path(__file__).resolve().parent
Rate = Annotated[float, pydantic.Field(ge=0, lt=0.9)]


@dataclass(frozen=True)
class FakeLedger:
    """Three statements, so that a kernel need not import the paper's: two are measured here, one never is."""

    def sha256(self) -> str:
        """The hash of what it says."""
        return hashlib.sha256(json.dumps(self.statements()).encode()).hexdigest()

    def statements(self) -> list[dict[str, Any]]:
        """One dict a statement, as :class:`datalab.record.study.Study` wants them."""
        return [
            _stated("TITLE.threshold", "Influence wins above 15 %.", "15"),
            _stated("TITLE.only_when", "And below 15 % it does not.", ""),
            _stated("TITLE.other", "A statement that nobody measures.", "0.5"),
        ]


def _stated(claim_id: str, text: str, reported: str) -> dict[str, Any]:
    paper = {"paper_check": "uncheckable", "paper_strength": None, "unsupported": True, "paper_note": "no table has it"}
    rest = {"test": "compare both", "ceiling": "value", "verdict": "not run", "why": "no section measured it"}
    return {"id": claim_id, "section": "Title", "text": text, "reported": reported, "unit": "%"} | paper | rest


class Parameters(SectionParameters):
    """What every fake section takes; ``mode`` is what goes wrong in its third code cell."""

    seeds: Annotated[int, pydantic.Field(ge=1)]
    noise_rates: tuple[Rate, ...]
    count: int = 4
    nap: float = 0.0
    mode: str = "ok"
    datasets: tuple[str, ...] = ()


class FakeSpec(SectionSpec):
    """A section whose module is made up here."""

    def load(self) -> ModuleType:
        """The made-up module."""
        reads = ("all",) if self.module == "reader" else ()
        return SimpleNamespace(Parameters=Parameters, READS=reads, estimate=lambda p: Estimate(2.0, 2e8, "a fake"))


SECTIONS = (
    FakeSpec("0", "0_alpha", "The first question?", "plain"),
    FakeSpec("3.4", "3_4_beta", "The second question?", "plain"),
    FakeSpec("6", "6_gamma", "What do the others say?", "reader"),
)
NAMES = ("seeds", "root_seed", "device", "workers", "record", "noise_rates", "count", "nap", "mode", "datasets")
FIGURE = """
import matplotlib.pyplot as plt
figure, axes = plt.subplots(figsize=(2, 1))
axes.plot(rows["index"], rows["value"])
section.figure(figure, "curve", caption="The value of each cell", data=rows.drop(columns="pid"))
---
"""
SHELL = """import os
if "FAKE_SHELL" in os.environ:
    {run}!exit 3
    {run}!true
"""
CELLS = """
import record_fakes
section = record_fakes.start("{stem}", globals())
record_fakes.act(section.parameters.mode, "first")
---
from datalab.sweep import Task
p = section.parameters
grid = [{{"index": i, "seed": p.root_seed, "nap": p.nap}} for i in range(p.count)]
rows = section.sweep([Task("record_fakes:cell", parameters) for parameters in grid])
---
{shell}record_fakes.act(p.mode)
---
section.table(rows.drop(columns="pid"), "rows", caption="What the cells gave")
len(rows)
---
{figure}section.verdicts([record_fakes.statement("{claim}", rows)])
section.headline(f"{{section.spec.stem}}: mean {{rows['value'].mean():.3f}}")
section.headline(rows.drop(columns="pid").head(2), caption="The first two")
---
record_fakes.act(p.mode, "late")
section.finish()
record_fakes.act(p.mode, "last")
"""


def study(notebooks: Path) -> Study:
    """The fake sections, with the fake ledger and their notebooks in this folder."""
    return Study(SECTIONS, FakeLedger(), notebooks)


def start(name: str, namespace: Mapping[str, Any]) -> Section:
    """What the fake notebooks' second cell calls."""
    return open_section(study(Path(os.environ.get("FAKE_NOTEBOOKS", ""))), name, namespace)


def statement(claim_id: str, rows: pd.DataFrame) -> Statement:
    """What a fake section says of a claim."""
    mean, n = rows["value"].mean(), len(rows)
    return Statement(claim_id, mean, 0.0, 1.0, n=n, verdict="inconclusive", table="rows", row="0")


def cell(index: int, seed: int, nap: float) -> list[dict]:
    """One row; ``pid`` says which process made it. The log gets a line a call, so that a test can count them."""
    with open(os.environ.get("FAKE_LOG", os.devnull), "a") as log:
        log.write(f"{index}\n")
    time.sleep(nap)
    if index >= int(os.environ.get("FAKE_WAIT", index + 1)):
        gate()
    value = (seed * 7919 + index * 104729) % 1000 / 1000
    return [{"index": index, "value": value, "seed": seed, "pid": os.getpid()}]


def act(mode: str, when: str = "early") -> None:
    """Do what ``mode`` says, or the environment."""
    mode = os.environ.get("FAKE_MODE", mode)
    if when != "early":
        if mode == "exit late" and when == "late":
            sys.exit(0)
        if mode == f"wait {when}":
            gate()
        return
    if mode == "raise":
        raise RuntimeError("as asked")
    if mode == "sys.exit":
        sys.exit(0)
    if mode == "os._exit":
        os._exit(0)
    if mode == "wait":
        gate()
    if mode == "hang":  # deaf to interrupts, and with a child in another session
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        Path(os.environ["FAKE_GATE"]).write_text(f"{child.pid}\n")
        child.wait()
    if mode == "memory":  # a limit on this process, and more asked of it than that
        import resource

        import psutil

        limit = psutil.Process().memory_info().vms + 2**28
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        bytearray(2**33)


def gate() -> None:
    """Wait at the gate until it is open."""
    path = Path(os.environ["FAKE_GATE"])
    with open(path, "a") as waiting:
        waiting.write(f"{os.getpid()}\n")
    for _ in range(3000):
        if path.with_suffix(".open").exists():
            return
        time.sleep(0.02)
    raise TimeoutError("nobody opened the gate")


def hold(where: str) -> None:
    """Make one call of a function of the package wait at the gate."""
    name, _, call = where.partition("@")
    module, _, path = name.partition(":")
    owner: object = importlib.import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    original, calls = getattr(owner, name), itertools.count(1)

    @functools.wraps(original)
    def held(*given: object, **named: object) -> object:
        if next(calls) == int(call or 1):
            gate()
        return original(*given, **named)

    setattr(owner, name, held)


def write_notebooks(folder: Path) -> Path:
    """The fake sections' notebooks in ``folder``."""
    import nbformat

    folder.mkdir(parents=True, exist_ok=True)
    for section in SECTIONS:
        first = section.stem == "0_alpha"
        claim = "TITLE.threshold" if first else "TITLE.only_when"
        figure = FIGURE if first else ""
        shell = SHELL.format(run="" if first else "lines = ")
        code = CELLS.format(stem=section.stem, claim=claim, figure=figure, shell=shell).split("---\n")
        parameters = "\n".join(['profile = "smoke"', *(f"{name} = None" for name in NAMES)])
        notebook = nbformat.v4.new_notebook()
        notebook.cells = [nbformat.v4.new_markdown_cell("A fake."), nbformat.v4.new_code_cell(parameters)]
        notebook.cells[1].metadata["tags"] = ["parameters"]
        notebook.cells += [nbformat.v4.new_code_cell(source.strip()) for source in code]
        for position, cell in enumerate(notebook.cells):
            cell["id"] = f"{section.stem}-{position}"
        nbformat.write(notebook, folder / f"{section.stem}.ipynb")
    return folder


def rows(path: Path) -> tuple[list[Finished], pd.DataFrame]:
    """The tasks of a file of raw rows, and all its rows."""
    tasks, frames = zip(*rawrows.Reader().by_task(path), strict=True)
    return list(tasks), pd.concat(frames, ignore_index=True)


def papermill(notebook: Path, record: Path, *more: str) -> list[str]:
    """What plain papermill is told, as its users call it, behind its name."""
    arguments = [str(notebook), "out.ipynb", "-k", "python3", "--language", "python"]
    return [*arguments, "-p", "profile", "smoke", "-p", "record", str(record), "-p", "workers", "1", *more]


def ran_by_papermill(notebook: Path, record: Path, folder: Path, *more: str) -> tuple[int, str]:
    """The status of papermill's command, run from a folder that has nothing to do with the project, and its error."""
    import contextlib
    from unittest import mock

    from click.testing import CliRunner
    from papermill.cli import papermill as command

    folder.mkdir(exist_ok=True)
    sources = {"FAKE_NOTEBOOKS": str(notebook.parent)}
    with contextlib.chdir(folder), mock.patch.dict(os.environ, sources):
        done = CliRunner().invoke(command, papermill(notebook, record, *more))
    return done.exit_code, f"{done.output}{done.exception or ''}"


def run(study: Study, record: Path, *names: str, fresh: bool = False, **given: object) -> int:
    """``datalab run`` of these sections into ``record``, in the smoke profile with one worker."""
    from datalab.record import plan, runner

    jobs = plan.jobs(study, names, "smoke", {"workers": 1, **given})
    return runner.run(study, jobs, record, "smoke", fresh=fresh)


if __name__ == "__main__":
    from datalab.cli import main

    notebooks = Path(sys.argv.pop(1))
    if "FAKE_PYTHON" in os.environ:
        sys.executable = os.environ["FAKE_PYTHON"]
    if "FAKE_HOLD" in os.environ:
        hold(os.environ["FAKE_HOLD"])
    main(study=importlib.import_module("record_fakes").study(notebooks))  # whose classes other processes know
