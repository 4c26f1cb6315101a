"""Does a record say what its raw rows give? Every table, figure, output and verdict, computed anew and compared."""

import ast
import base64
import hashlib
import json
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datalab.record import progress, provenance, replay
from datalab.record.manifest import Manifest, SectionRecord
from datalab.record.study import Study

LIBRARIES = ("numpy", "scipy", "pandas", "scikit-learn", "torch", "matplotlib", "seaborn", "pingouin")
_OF_CLAIM = ("verdict", "measured", "low", "high", "effect_size", "n", "why", "table", "row", "cell", "raw")


@dataclass(frozen=True)
class Difference:
    """One thing the raw rows give otherwise. ``claim`` says that ``what`` is a statement's id, else it is a path."""

    what: str
    detail: str
    claim: bool = False


@dataclass(frozen=True)
class Recomputed:
    """One section computed anew: what differs, or why it could not be (``problem``); and how much was compared."""

    stem: str
    differences: tuple[Difference, ...] = ()
    problem: str = ""
    files: int = 0
    outputs: int = 0
    claims: int = 0


def recompute(
    record: Path, manifest: Manifest, study: Study, stems: list[str], workers: int | None = None
) -> list[Recomputed]:
    """Compute the sections ``stems`` anew from the raw rows, on ``workers`` processes (None: one a core; 1: this)."""
    from joblib.externals.loky import ProcessPoolExecutor

    def size(stem: str) -> int:
        return sum(manifest.files[path].bytes for path in manifest.sections[stem].cells if path in manifest.files)

    count = min(workers or provenance.machine()["cores"], len(stems))

    def listed(stem: str) -> list[str]:
        return [path for path in manifest.files_of(stem) if path.startswith(("tables/", "figures/"))]

    jobs = {stem: (record, study, stem, manifest.sections[stem], listed(stem)) for stem in stems}
    if count <= 1:
        return [of_section(*jobs[stem]) for stem in stems]
    environment = {**provenance.DETERMINISM, "MPLBACKEND": "agg"}
    with ProcessPoolExecutor(max_workers=count, env=environment) as pool:
        largest_first = sorted(stems, key=size, reverse=True)
        running = {stem: pool.submit(of_section, *jobs[stem]) for stem in largest_first}
        return [running[stem].result() for stem in stems]


def other_libraries(manifest: Manifest) -> list[str]:
    """The libraries of :data:`LIBRARIES` that the record was made with in another version: ``numpy 2.3 (here 2.4)``."""
    found = []
    for name in LIBRARIES:
        here, then = version(name), manifest.packages.get(name)
        if here != then:
            found.append(f"{name} {then} (here {here})")
    return found


def of_section(record: Path, study: Study, stem: str, entry: SectionRecord, listed: Collection[str]) -> Recomputed:
    """Compute one section anew and compare all it left in the record; ``listed`` are its tables and figures."""
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder)
        try:
            done = replay.replay(record, study, stem, entry, stage)
        except replay.ReplayError as error:
            return Recomputed(stem, problem=str(error))
        found = [*_files(record, listed, stage), *_stated(entry, done.fragment["section"])]
        outputs = _outputs(record, stem, entry, done)
        count = sum(1 for path in stage.glob("*/*") if path.is_file())
        kept = record / "notebooks" / f"{stem}.ipynb"
        return Recomputed(
            stem, (*found, *outputs), "", count, len(done.outputs) if kept.exists() else 0, len(entry.claims)
        )


def _files(record: Path, listed: Collection[str], stage: Path) -> Iterator[Difference]:
    """The section's tables and figures: those it made, against those it has in the manifest."""
    made = {path.relative_to(stage).as_posix(): path for path in stage.glob("*/*") if path.is_file()}
    for path in sorted({*made, *listed}):
        if path not in listed:
            yield Difference(path, "the raw rows give it, the record does not have it")
        elif path not in made:
            yield Difference(path, "the record has it, the raw rows do not give it")
        elif (held := (record / path).read_bytes()) != made[path].read_bytes():
            yield Difference(path, f"the raw rows give something else{_first_line(held, made[path].read_bytes())}")


def _first_line(held: bytes, new: bytes) -> str:
    """Where two texts part, with both; nothing for a picture."""
    try:
        pairs = zip(held.decode().splitlines(), new.decode().splitlines(), strict=False)
    except UnicodeDecodeError:
        return ""
    for number, (one, other) in enumerate(pairs, 1):
        if one != other:
            return f": line {number} is '{_short(one)}', from the rows '{_short(other)}'"
    return ": they differ in length"


def _stated(entry: SectionRecord, fragment: Mapping[str, Any]) -> Iterator[Difference]:
    """Claims one by one; what the manifest says of tables, figures, headline and raw cells as a whole."""
    fragment = json.loads(json.dumps(fragment))
    held = {claim["id"]: claim for claim in entry.claims}
    made = {claim["id"]: claim for claim in fragment["claims"]}
    driven = entry.runner == "datalab run"  # by hand, cells have the numbers of that session
    names = [name for name in _OF_CLAIM if driven or name != "cell"]
    for claim_id in {**held, **made}:
        one, other = held.get(claim_id), made.get(claim_id)
        if one is None or other is None:
            yield Difference(claim_id, f"only {'the raw rows give it' if one is None else 'the record has it'}", True)
        elif differing := [name for name in names if one.get(name) != other.get(name)]:
            name = differing[0]
            detail = f"{name} is {one.get(name)!r}, from the raw rows {other.get(name)!r}"
            yield Difference(claim_id, detail, True)
    for name in ("tables", "figures", "headline", "cells"):
        one, other = getattr(entry, name), fragment[name]
        if name in ("tables", "figures") and not driven:
            one, other = ({key: about | {"cell": None} for key, about in part.items()} for part in (one, other))
        if one != other:
            yield Difference(
                "record.json", f"what it says of section {entry.number}'s {name} is not what the rows give"
            )


def _outputs(record: Path, stem: str, entry: SectionRecord, done: replay.Replay) -> Iterator[Difference]:
    """The executed notebook: its code is the source's, its outputs are what the raw rows give."""
    path = f"notebooks/{stem}.ipynb"
    try:
        cells = json.loads((record / path).read_text(encoding="utf-8"))["cells"]
    except FileNotFoundError:
        if entry.runner == "datalab run":
            yield Difference(path, "the record does not have the executed notebook")
        return
    except (OSError, ValueError, KeyError):
        yield Difference(path, "is not a notebook")
        return
    given = [cell for cell in cells if cell["cell_type"] == "code" and _is_injected(cell)]
    if provenance.cells_sha256([cell for cell in cells if cell not in given]) != entry.key.get("notebook"):
        yield Difference(path, "its cells are not those of the source that ran")
    if len(given) != 1 or not _is_given(given[0]["source"], entry.parameters):
        yield Difference(path, "the parameters in it are not those of the section")
    code = [cell for cell in cells if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
    if [cell.get("execution_count") for cell in code] != list(done.outputs):
        yield Difference(path, "its code cells are not counted 1, 2, and so on")
        return
    for cell, (number, made) in zip(code, done.outputs.items(), strict=True):
        held, new = _kept(cell, done.labels), _made(made)
        if number == done.started:
            held, new = _without_machine(held), _without_machine(new)
        if held != new:
            yield Difference(path, f"what code cell {number} shows is not what the raw rows give")


def _is_injected(cell: Mapping[str, Any]) -> bool:
    return "injected-parameters" in cell["metadata"].get("tags", [])


def _is_given(source: str | list[str], parameters: Mapping[str, Any]) -> bool:
    """Whether papermill's cell of parameters assigns literals, those of the manifest, and says nothing else."""
    lines = "".join(source).removeprefix("# Parameters\n").strip().splitlines()
    try:
        given = {name.strip(): ast.literal_eval(value) for name, value in (line.split("=", 1) for line in lines)}
    except (SyntaxError, ValueError):
        return False
    if any("#" in line and "#" not in str(given[line.split("=", 1)[0].strip()]) for line in lines):
        return False
    return all(
        name in parameters and json.loads(json.dumps(value)) == parameters[name] for name, value in given.items()
    )


Shown = tuple[str, str, list[dict[str, str]]]


def _kept(cell: Mapping[str, Any], labels: Collection[str]) -> Shown:
    """What a cell of the executed notebook shows: printed, warned, displayed; a sweep's progress aside."""
    streams = {"stdout": "", "stderr": ""}
    shown = []
    for output in cell["outputs"]:
        if "data" not in output:  # a stream, or an error, which no complete notebook has
            streams[output.get("name", "stderr")] += "".join(output.get("text", ["error"]))
        elif not _is_progress(output, labels):
            shown.append({kind: _hashed(kind, value) for kind, value in output["data"].items()})
    return streams["stdout"], streams["stderr"], shown


def _is_progress(output: Mapping[str, Any], labels: Collection[str]) -> bool:
    """Whether a display is what a finished sweep leaves: its count, and at most the last cell's name and time."""
    if output.get("metadata") != progress.MARK or list(output["data"]) != ["text/plain"]:
        return False
    text = "".join(output["data"]["text/plain"])
    match = re.fullmatch(r"(\d+) of \1 cells(?: were finished before|: (.*): \d+\.\d s)?", text)
    return match is not None and (match[2] is None or match[2] in labels)


def _made(output: replay.Output) -> Shown:
    shown = [{kind: _hashed(kind, value) for kind, value in data.items()} for data in output.shown]
    return output.printed, output.warned, shown


def _without_machine(shown: Shown) -> Shown:
    """The start cell's output without what it says of this machine and of the record's folder."""
    printed, warned, rest = shown
    kept = [line for line in printed.splitlines() if line.split(" ")[0] not in ("versions", "device", "record")]
    return "\n".join(kept), warned, rest


def _hashed(kind: str, value: Any) -> str:
    """A text as it is, a picture as its bytes' hash: the file holds it as base64, a shell as bytes."""
    text = "".join(value) if isinstance(value, list) else value
    if kind.startswith("image/") and kind != "image/svg+xml":
        content = text if isinstance(text, bytes) else base64.b64decode(text)
        return hashlib.sha256(content).hexdigest()
    return text if isinstance(text, str) else json.dumps(text)


def _short(line: str, width: int = 60) -> str:
    return line if len(line) <= width else line[: width - 1] + "…"
