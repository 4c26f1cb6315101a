"""Does a record say what its raw rows give? Every table, figure, output and verdict, computed anew and compared."""

import ast
import json
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from datalab.record import progress, provenance, replay
from datalab.record.manifest import Manifest, SectionRecord
from datalab.record.replay import Output
from datalab.record.study import Study

LIBRARIES = ("numpy", "scipy", "pandas", "scikit-learn", "torch", "matplotlib", "seaborn", "pingouin")
Kind = Literal["changed", "missing", "added", "incomplete", "claim"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: ``what`` is a file, a section or, where the kind is ``claim``, a statement's id."""

    kind: Kind
    what: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}" + (f": {self.detail}" if self.detail else "")


@dataclass(frozen=True)
class Recomputed:
    """One section computed anew: what differs, or why it could not be (``problem``); and how much was compared."""

    stem: str
    differences: tuple[Finding, ...] = ()
    problem: str = ""
    files: int = 0
    outputs: int = 0
    claims: int = 0


def recompute(
    record: Path, manifest: Manifest, study: Study, stems: list[str], workers: int | None = None
) -> list[Recomputed]:
    """Compute the sections ``stems`` anew from the raw rows, on ``workers`` processes (None: one a core; 1: this)."""
    from joblib.externals.loky import ProcessPoolExecutor

    count = min(workers or provenance.machine()["cores"], len(stems))
    if count <= 1:
        return [of_section(record, manifest, study, stem) for stem in stems]

    def size(stem: str) -> int:
        return sum(manifest.files[path].bytes for path in manifest.sections[stem].cells if path in manifest.files)

    with ProcessPoolExecutor(max_workers=count, env={**provenance.DETERMINISM, "MPLBACKEND": "agg"}) as pool:
        largest_first = sorted(stems, key=size, reverse=True)
        running = {stem: pool.submit(of_section, record, manifest, study, stem) for stem in largest_first}
        return [running[stem].result() for stem in stems]


def other_libraries(manifest: Manifest) -> list[str]:
    """The libraries of :data:`LIBRARIES` that the record was made with in another version: ``numpy 2.3 (here 2.4)``."""
    pairs = {name: (manifest.packages.get(name), version(name)) for name in LIBRARIES}
    return [f"{name} {then} (here {here})" for name, (then, here) in pairs.items() if then != here]


def of_section(record: Path, manifest: Manifest, study: Study, stem: str) -> Recomputed:
    """Compute one section anew and compare all it left in the record."""
    entry = manifest.sections[stem]
    listed = [path for path in manifest.files_of(stem) if path.startswith(("tables/", "figures/"))]
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder)
        try:
            done = replay.replay(record, study, stem, entry, stage)
        except replay.ReplayError as error:
            return Recomputed(stem, problem=str(error))
        made = {path.relative_to(stage).as_posix(): path.read_bytes() for path in stage.glob("*/*") if path.is_file()}
    differences = *_files(record, listed, made), *_stated(entry, done.fragment), *_outputs(record, stem, entry, done)
    outputs = len(done.outputs) if (record / f"notebooks/{stem}.ipynb").exists() else 0
    return Recomputed(stem, differences, files=len(made), outputs=outputs, claims=len(entry.claims))


def _files(record: Path, listed: Collection[str], made: Mapping[str, bytes]) -> Iterator[Finding]:
    """The section's tables and figures: those it made, against those it has in the manifest."""
    for path in sorted({*made, *listed}):
        if path not in listed:
            yield Finding("changed", path, "the raw rows give it, the record does not have it")
        elif path not in made:
            yield Finding("changed", path, "the record has it, the raw rows do not give it")
        elif (held := (record / path).read_bytes()) != made[path]:
            yield Finding("changed", path, f"the raw rows give something else{_first_line(held, made[path])}")


def _first_line(held: bytes, made: bytes, width: int = 60) -> str:
    """Where two texts part, with both; nothing for a picture."""
    try:
        pairs = zip(held.decode().splitlines(), made.decode().splitlines(), strict=False)
    except UnicodeDecodeError:
        return ""
    for number, lines in enumerate(pairs, 1):
        if lines[0] != lines[1]:
            here, there = (line if len(line) <= width else line[: width - 1] + "…" for line in lines)
            return f": line {number} is '{here}', from the rows '{there}'"
    return ": they differ in length"


def _stated(entry: SectionRecord, fragment: Mapping[str, Any]) -> Iterator[Finding]:
    """Claims one by one; what the manifest says of tables, figures, headline and raw cells as a whole."""
    given = json.loads(json.dumps(fragment["section"]))
    held = {name: getattr(entry, name) for name in ("claims", "tables", "figures", "headline", "cells")}
    if entry.runner != "datalab run":  # by hand, cells have the numbers of that session
        for stated in (held, given):
            stated["claims"] = [claim | {"cell": None} for claim in stated["claims"]]
            for name in ("tables", "figures"):
                stated[name] = {key: described | {"cell": None} for key, described in stated[name].items()}
    claims_held, claims_given = ({claim["id"]: claim for claim in stated.pop("claims")} for stated in (held, given))
    for claim_id in {**claims_held, **claims_given}:
        a, b = claims_held.get(claim_id), claims_given.get(claim_id)
        if a is None or b is None:
            detail = f"only {'the raw rows give it' if a is None else 'the record has it'}"
            yield Finding("claim", claim_id, detail)
        elif names := [name for name in {**a, **b} if a.get(name) != b.get(name)]:
            detail = f"{names[0]} is {a.get(names[0])!r}, from the raw rows {b.get(names[0])!r}"
            yield Finding("claim", claim_id, detail)
    for name in held:
        if held[name] != given[name]:
            detail = f"what it says of section {entry.number}'s {name} is not what the rows give"
            yield Finding("changed", Manifest.NAME, detail)


def _outputs(record: Path, stem: str, entry: SectionRecord, done: replay.Replay) -> Iterator[Finding]:
    """The executed notebook: its code is the source's, its outputs are what the raw rows give."""
    path = f"notebooks/{stem}.ipynb"
    try:
        cells = json.loads((record / path).read_text(encoding="utf-8"))["cells"]
    except FileNotFoundError:
        if entry.runner == "datalab run":
            yield Finding("changed", path, "the record does not have the executed notebook")
        return
    except (OSError, ValueError, KeyError):
        yield Finding("changed", path, "is not a notebook")
        return
    code = [cell for cell in cells if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
    injected = [cell for cell in code if "injected-parameters" in cell["metadata"].get("tags", [])]
    if provenance.cells_sha256([cell for cell in cells if cell not in injected]) != entry.key.get("notebook"):
        yield Finding("changed", path, "its cells are not those of the source that ran")
    if len(injected) != 1 or not _is_given(injected[0]["source"], entry.parameters):
        yield Finding("changed", path, "the parameters in it are not those of the section")
    if [cell.get("execution_count") for cell in code] != list(done.outputs):
        yield Finding("changed", path, "its code cells are not counted 1, 2, and so on")
        return
    for cell, (number, made) in zip(code, done.outputs.items(), strict=True):
        held = _kept(cell, done.labels)
        if number == done.started:
            held, made = _without_machine(held), _without_machine(made)
        if held != made:
            yield Finding("changed", path, f"what code cell {number} shows is not what the raw rows give")


def _is_given(source: str | list[str], parameters: Mapping[str, Any]) -> bool:
    """Whether papermill's cell of parameters assigns literals, those of the manifest, and says nothing else."""
    for line in "".join(source).removeprefix("# Parameters\n").strip().splitlines():
        name, _, literal = (part.strip() for part in line.partition("="))
        try:
            value = ast.literal_eval(literal)
        except (SyntaxError, ValueError):
            return False
        remark = "#" in line and "#" not in str(value)
        if remark or name not in parameters or json.loads(json.dumps(value)) != parameters[name]:
            return False
    return True


def _kept(cell: Mapping[str, Any], labels: Collection[str]) -> Output:
    """What a cell of the executed notebook shows: printed, warned, displayed; a sweep's progress aside."""
    streams = {"stdout": "", "stderr": ""}
    displays = []
    for output in cell["outputs"]:
        if "data" not in output:  # a stream, or an error, which no complete notebook has
            streams[output.get("name", "stderr")] += "".join(output.get("text", ["error"]))
        elif not _is_progress(output, labels):
            displays.append(replay.hashed(output["data"]))
    return Output(streams["stdout"], streams["stderr"], displays)


def _is_progress(output: Mapping[str, Any], labels: Collection[str]) -> bool:
    """Whether a display is what a finished sweep leaves: its count, and at most the last cell's name and time."""
    if output.get("metadata") != progress.MARK or list(output["data"]) != ["text/plain"]:
        return False
    text = "".join(output["data"]["text/plain"])
    # An earlier version called a task a cell.
    match = re.fullmatch(r"(\d+) of \1 (?:tasks|cells)(?: were finished before|: (.*): \d+\.\d s)?", text)
    return match is not None and (match[2] is None or match[2] in labels)


def _without_machine(output: Output) -> Output:
    """The start cell's output without what it says of this machine and of the record's folder."""
    lines = [line for line in output.printed.splitlines() if line.split(" ")[0] not in ("versions", "device", "record")]
    return Output("\n".join(lines), output.warned, output.displays)
