"""Does a record say what its raw rows give? Every table, figure, output and verdict, computed anew and compared."""

import ast
import json
import multiprocessing
import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import pairwise
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, Literal

from datalab.record import executed, folder, parameters, provenance, section
from datalab.record.checks import replay
from datalab.record.checks.replay import Output
from datalab.record.executed import Cell
from datalab.record.folder import Strange, printable
from datalab.record.manifest import Manifest, SectionRecord
from datalab.record.study import Study
from datalab.sweep import Task, available_cores

LIBRARIES = ("numpy", "scipy", "pandas", "scikit-learn", "torch", "matplotlib", "seaborn", "pingouin")
# Beside the sections' own modules.
PRELOADED = ("IPython.core.interactiveshell", "matplotlib.pyplot", "papermill.translators", "pingouin", "seaborn")
# What a section's entry says that its raw rows give again.
_STATED = ("claims", "tables", "figures", "headline", "cells", "parameters", "code_cells", "code_cells_ran")
_MACHINE = re.compile(r"^(versions  |device    |record    )(.*)$", re.MULTILINE)  # where the start cell prints it
Kind = Literal["changed", "missing", "added", "incomplete", "claim"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: ``what`` is a file, a section or, where the kind is ``claim``, a statement's id."""

    kind: Kind
    what: str
    detail: str = ""

    def __str__(self) -> str:
        return printable(f"{self.kind}: {self.what}" + (f": {self.detail}" if self.detail else ""))


@dataclass(frozen=True)
class Recomputed:
    """One section computed anew: what differs, or why it could not be (``problem``); and how much was compared.

    ``tasks`` are those its sweeps asked for, by the path of their raw rows and their key in it; ``renamed`` those of
    these paths that have keys which today's code and libraries would not give.
    """

    stem: str
    differences: tuple[Finding, ...] = ()
    problem: str = ""
    files: int = 0
    outputs: int = 0
    claims: int = 0
    tasks: Mapping[tuple[str, str], Task] = field(default_factory=dict)
    renamed: tuple[str, ...] = ()


def recompute(
    record: Path,
    manifest: Manifest,
    study: Study,
    stems: list[str],
    workers: int | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> list[Recomputed]:
    """Compute the sections ``stems`` anew from the raw rows, on ``workers`` processes.

    None is one a core; 1 computes in this process, under whatever switches it has. ``meanwhile`` is called once, here.
    """
    from joblib import wrap_non_picklable_objects

    if workers == 1 or not stems:  # for none no process need start
        meanwhile()
        return [of_section(record, manifest, study, stem) for stem in stems]

    sizes = dict.fromkeys(stems, 0)
    for path, entry in manifest.files.items():
        if entry.section in sizes and path.startswith(("tables/", "figures/")):
            sizes[entry.section] += entry.bytes
    with _pool(min(workers or available_cores(), len(stems)), study) as pool:
        largest_first = sorted(stems, key=sizes.get, reverse=True)
        sent = wrap_non_picklable_objects(study, keep_wrapper=False)  # it may hold modules
        running = {stem: pool.submit(of_section, record, manifest, sent, stem) for stem in largest_first}
        meanwhile()
        return [_result(stem, running[stem]) for stem in stems]


def _pool(workers: int, study: Study) -> ProcessPoolExecutor:
    """Processes under the switches of a run, forked from one that has imported what the sections do, once for all."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*(section.module for section in study.sections), *PRELOADED])
    before = dict(os.environ)
    os.environ.update(provenance.DETERMINISM | {"MPLBACKEND": "agg"})
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return ProcessPoolExecutor(workers, context)


def _result(stem: str, running: "Future[Recomputed]") -> Recomputed:
    """What a process gave; where it died, of whatever a stranger's record made of it, that it did."""
    try:
        return running.result()
    except Exception as error:
        return Recomputed(stem, problem=folder.in_a_line(error))


def other_libraries(manifest: Manifest) -> list[str]:
    """The libraries of :data:`LIBRARIES` that the record was made with in another version: ``numpy 2.3 (here 2.4)``."""
    pairs = {name: (manifest.packages.get(name), version(name)) for name in LIBRARIES}
    return [f"{name} {then} (here {here})" for name, (then, here) in pairs.items() if then != here]


def of_section(record: Path, manifest: Manifest, study: Study, stem: str) -> Recomputed:
    """Compute one section anew and compare all it left in the record."""
    entry, notebook = manifest.sections[stem], f"notebooks/{stem}.ipynb"
    listed = [path for path in manifest.files_of(stem) if path.startswith(("tables/", "figures/"))]
    with tempfile.TemporaryDirectory() as place:
        stage = Path(place)
        try:
            with folder.bounded():
                done = replay.replay(record, study, stem, entry, stage)
                made = {path: folder.read(stage, path) for path in done.fragment["files"]}
                ran = len(done.outputs) if folder.has(record, notebook) else None
                differences = [*_files(record, listed, made), *_stated(entry, done, ran)]
                differences += [Finding("changed", path, why) for path, why in done.strange.items()]
                if ran or entry.runner == "datalab run":
                    try:
                        _check_notebook(record, manifest, study, stem, done)
                    except (OSError, ValueError) as error:
                        differences += [Finding("changed", notebook, str(error))]
        except replay.ReplayError as error:
            return Recomputed(stem, problem=printable(str(error)))
        except Exception as error:  # what a stranger's record can break is not known in advance
            return Recomputed(stem, problem=folder.in_a_line(error))
    renamed = tuple(dict.fromkeys(path for (path, key), task in done.tasks.items() if key != task.key))
    counts = {"files": len(made), "outputs": ran or 0, "claims": len(done.fragment["section"]["claims"])}
    return Recomputed(stem, tuple(differences), **counts, tasks=done.tasks, renamed=renamed)


def _files(record: Path, listed: Collection[str], made: Mapping[str, bytes]) -> Iterator[Finding]:
    """The section's tables and figures: those it made, against those it has in the manifest."""
    for path in sorted({*made, *listed}):
        if path not in listed:
            yield Finding("changed", path, "the raw rows give it, the record does not have it")
        elif path not in made:
            yield Finding("changed", path, "the record has it, the raw rows do not give it")
        elif (held := folder.read(record, path)) != made[path]:
            yield Finding("changed", path, f"the raw rows give something else{_first_line(held, made[path])}")


def _first_line(held: bytes, made: bytes) -> str:
    """Where two texts part, with both; nothing for a picture."""
    try:
        pairs = zip(held.decode().splitlines(), made.decode().splitlines(), strict=False)
    except UnicodeDecodeError:
        return ""
    for number, (here, there) in enumerate(pairs, 1):
        if here != there:
            letters = enumerate(zip(f"{here}\n", f"{there}\n", strict=False))
            start = max(0, next(place for place, (a, b) in letters if a != b) - 20)
            here, there = (f"{'...' if start else ''}{text[start:]:.60}" for text in (here, there))
            return f": line {number} is '{here}', from the rows '{there}'"
    return ": they differ in length"


def _stated(entry: SectionRecord, done: replay.Replay, ran: int | None) -> Iterator[Finding]:
    """Claims one by one; the other parts of a section's entry as a whole. ``ran`` counts its notebook's code cells."""
    given = json.loads(json.dumps(done.fragment["section"])) | {"code_cells": ran, "code_cells_ran": ran}
    given["cells"].sort()
    held = {name: getattr(entry, name) for name in _STATED}
    given = {name: given[name] for name in _STATED}
    ids_held, ids_given = ([claim["id"] for claim in stated["claims"]] for stated in (held, given))
    for stated in (held, given):
        stated["claims"] = {claim["id"]: claim for claim in stated["claims"]}
        # The device is the machine's, and the section says which it was.
        apart = parameters.OF_THE_MACHINE
        stated["parameters"] = {name: value for name, value in stated["parameters"].items() if name not in apart}
        if ran is None:  # run by hand, cells have the numbers of that session
            for name in ("claims", "tables", "figures"):
                stated[name] = {key: described | {"cell": None} for key, described in stated[name].items()}
    claims_held, claims_given = held.pop("claims"), given.pop("claims")
    if ids_held != ids_given and set(ids_held) == set(ids_given):  # others are named one by one
        detail = f"section {entry.number} states its claims in another order than the rows give, or one of them twice"
        yield Finding("changed", Manifest.NAME, detail)
    for claim_id in {**claims_held, **claims_given}:
        a, b = claims_held.get(claim_id), claims_given.get(claim_id)
        if a is None or b is None:
            yield Finding("claim", claim_id, f"only {'the raw rows give it' if a is None else 'the record has it'}")
        elif json.dumps(a) != json.dumps(b):  # in which 2 is not 2.0, and nothing is not no field
            names = [name for name in {**a, **b} if json.dumps(a.get(name)) != json.dumps(b.get(name))]
            said = [f"{name} is {a.get(name)!r}, from the raw rows {b.get(name)!r}" for name in names]
            yield Finding("claim", claim_id, said[0] if said else "it has other fields, or in another order")
    for name in held:
        if json.dumps(held[name]) != json.dumps(given[name]):
            detail = f"what it says of section {entry.number}'s {name} is not what the rows give"
            yield Finding("changed", Manifest.NAME, detail)


def _check_notebook(record: Path, manifest: Manifest, study: Study, stem: str, done: replay.Replay) -> None:
    """Raise ``ValueError`` where the executed notebook's cells are not the source's, or its outputs not the rows'."""
    entry, path = manifest.sections[stem], f"notebooks/{stem}.ipynb"
    if not folder.has(record, path):
        raise Strange("the record does not have the executed notebook")
    notebook, source = executed.read(record, path), executed.read(study.notebooks, f"{stem}.ipynb")
    code = [cell for cell in notebook.cells if cell.is_code]
    injected = [cell for cell in code if cell.is_injected]
    rest = [cell for cell in notebook.cells if not cell.is_injected]
    own = [(cell.cell_type, cell.source, cell.tags, cell.id) for cell in rest]
    if own != [(cell.cell_type, cell.source, cell.tags, cell.id) for cell in source.cells]:
        raise Strange("its cells are not those of the source that ran")
    after = [cell for before, cell in pairwise(notebook.cells) if "parameters" in before.tags]
    one = len(injected) == 1 and injected == after and re.fullmatch("[0-9a-f]{8}", injected[0].id)
    given = _literals(injected[0].source) if one else None
    if given is None:
        raise Strange("its cell of parameters is not papermill's")
    # On a machine that may have no such device.
    whole = parameters.resolve(study.find(stem).load().Parameters, {**given, "device": None}, where=stem)
    asked = {"workers": None, "record": None} | entry.parameters
    if whole.model_dump(mode="json") | {"device": given.get("device") or "auto"} != asked:
        raise Strange("the parameters in it are not those of the section")
    executed.check_metadata(notebook, source, given)
    if [cell.execution_count for cell in code] != list(done.outputs):
        raise Strange("its code cells are not counted 1, 2, and so on")
    if any(cell.shows for cell in notebook.cells if not cell.is_code):
        raise Strange("a cell that did not run shows something")
    differing = []
    for cell, (number, made) in zip(code, done.outputs.items(), strict=True):
        try:
            held = _kept(cell)
        except ValueError as error:  # no base64
            raise Strange(f"what code cell {number} shows cannot be read ({error})") from None
        fits = True
        if number == done.started:
            fits = _says_its_machine(held.printed, made.printed, manifest, entry)
            held, made = (shown._replace(printed=_MACHINE.sub(r"\1", shown.printed)) for shown in (held, made))
        differing += [str(number)] * (held != made or not fits)
    if differing:
        raise Strange(f"what is shown by code cell {', '.join(differing)} is not what the raw rows give")


def _literals(source: str) -> dict[str, Any] | None:
    """What papermill's cell of parameters assigns; ``None`` where it does or says anything else."""
    from papermill.translators import PythonTranslator as Papermill  # half a second that other commands need not spend

    try:
        given = {line.targets[0].id: ast.literal_eval(line.value) for line in ast.parse(source).body}
        written = [Papermill.assign(name, Papermill.translate(value)) for name, value in given.items()]
    except (SyntaxError, ValueError, TypeError, AttributeError, RecursionError, MemoryError):
        return None
    # What is written otherwise may say more: a comment, a key of a mapping twice.
    return json.loads(json.dumps(given)) if source.strip() == "\n".join([parameters.INJECTED, *written]) else None


def _kept(cell: Cell) -> Output:
    """What a cell of the executed notebook shows: printed, warned, displayed. Raises ``ValueError``."""
    streams, displays = {"stdout": "", "stderr": ""}, []
    for output in cell.outputs:
        if isinstance(output, executed.Stream):
            streams[output.name] += output.text
        elif isinstance(output, executed.Raised):  # which no complete notebook has
            streams["stderr"] += "error"
        elif output.execution_count != (cell.execution_count if output.output_type == "execute_result" else None):
            raise ValueError("it is counted otherwise than its cell")
        else:
            streams = {name: text + replay.SHOWN[output.output_type] for name, text in streams.items()}
            displays.append((replay.hashed(output.data), output.metadata))
    return Output(streams["stdout"], streams["stderr"], displays)


def _says_its_machine(held: str, made: str, manifest: Manifest, entry: SectionRecord) -> bool:
    """Whether the start cell, of which ``made`` is printed here, told machine and libraries as the manifest does."""
    then, here = dict(_MACHINE.findall(held)), dict(_MACHINE.findall(made))
    if then.keys() != here.keys():
        return False
    known = manifest.packages | {"Python": manifest.machine.get("python")}
    names = [library.partition(" ")[0] for library in here["versions  "].split(", ")]
    threads = re.fullmatch(rf"{re.escape(entry.device)}, ([0-9]{{1,6}}) threads? a process", then["device    "])
    return (
        then["versions  "] == ", ".join(f"{name} {known.get(name)}" for name in names)
        and threads is not None
        and int(threads[1]) <= int(entry.determinism.get("threads") or 0)
        and section.as_word(then["record    "]) == then["record    "]
    )
