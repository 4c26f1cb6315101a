"""``ro-crate-metadata.json``: the record in the words of RO-Crate 1.1 and its Process Run Crate profile.

An archive reads it without us: every file with its hash, every section as an action with its inputs and results.
"""

import json
import logging
from pathlib import Path
from typing import Any

from datalab import atomic
from datalab.record import claims_table
from datalab.record.manifest import Manifest, SectionRecord

NAME = "ro-crate-metadata.json"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
LICENCE = "https://spdx.org/licenses/GPL-3.0-or-later"
# RO-Crate 1.1 has no word for these two: without a definition of their own a reader would drop them.
TERMS = {name: f"https://w3id.org/ro/terms/workflow-run#{name}" for name in ("environment", "sha256")}
SOFTWARE = ("numpy", "pandas", "papermill", "scikit-learn", "scipy", "torch")
ENVIRONMENT = {"threads": "OMP_NUM_THREADS", "hash_seed": "PYTHONHASHSEED"}  # as SectionRecord.determinism has them
STATUSES = {"complete": "Completed", "running": "Active"}
KINDS = {
    ".csv": "text/csv",
    ".md": "text/markdown",
    ".tex": "application/x-tex",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".parquet": "application/vnd.apache.parquet",
    ".ipynb": "application/x-ipynb+json",
    ".html": "text/html",
}


def write(record: Path, manifest: Manifest) -> None:
    """Write the crate's metadata for the files of ``manifest``, and enter it in the manifest."""
    atomic.write(record / NAME, text(metadata(record, manifest)))
    manifest.add_file(record, NAME)


def text(described: dict[str, Any]) -> str:
    """The JSON-LD as the file has it: one line an entity, so that a record of thousands of files stays readable."""
    context = json.dumps(described["@context"])
    entities = (json.dumps(entity, ensure_ascii=False, separators=(",", ":")) for entity in described["@graph"])
    return f'{{"@context": {context},\n"@graph": [\n' + ",\n".join(entities) + "\n]}\n"


def metadata(record: Path, manifest: Manifest) -> dict[str, Any]:
    """The JSON-LD of the crate: each file with type, size and SHA-256; each section as an action with its results.

    It depends on the manifest only: the crate's date is the record's, not the clock's. It names no agent, author or
    publisher, since the manifest knows none.
    """
    logging.getLogger("rocrate").setLevel(logging.ERROR)
    from rocrate.rocrate import ROCrate

    crate = ROCrate(version="1.1")
    crate.metadata.extra_terms.update(TERMS)
    root = crate.root_dataset
    version = PROFILE.rsplit("/", 1)[1]
    root["conformsTo"] = _add(crate, PROFILE, "CreativeWork", name="Process Run Crate", version=version)
    root["name"] = f"DATA-LAB reproduction record, profile {manifest.profile}"
    root["description"] = (
        "Executed notebooks, tables, figures, raw result rows and claims of a reproduction of 'Data Pruning via "
        "Influence Functions Outperforms Random Subsampling Only When Label Noise Exceeds 15%'. A section that was run "
        "again has kept its raw result rows: they can be older than its action."
    )
    root["datePublished"] = manifest.created
    root["license"] = _add(crate, LICENCE, "CreativeWork", name="GNU General Public License v3.0 or later")
    files, makers = _add_files(crate, record, manifest), _makers(manifest)
    if actions := [_add_action(crate, manifest, stem, files, makers) for stem in manifest.sections]:
        root.append_to("mentions", actions, compact=True)
    return crate.metadata.generate()


def _add_files(crate: Any, record: Path, manifest: Manifest) -> dict[str, Any]:
    """Add every file of the record, by path. The manifest's own hash cannot be given: it holds this crate's."""
    names = _names(manifest)
    described = {}
    for path, entry in sorted(manifest.files.items()):
        if path != NAME:
            name = names.get(_bare(path))
            kind = KINDS.get(Path(path).suffix, "application/octet-stream")
            described[path] = {"name": name} if name else {}
            described[path] |= {"encodingFormat": kind, "contentSize": str(entry.bytes), "sha256": entry.sha256}
    words = {"name": "Manifest", "description": "Hash of every file, parameters, versions, machine, statuses."}
    described[Manifest.NAME] = words | {"encodingFormat": KINDS[".json"]}
    return {path: crate.add_file(record / path, path, properties=words) for path, words in described.items()}


def _names(manifest: Manifest) -> dict[str, str]:
    """What a reader would call the files, by path without ending: captions; raw cells have no better name than it."""
    names = {_bare(claims_table.NAME): "Every statement of the paper, with what was measured and its verdict"}
    for stem, entry in manifest.sections.items():
        names[f"notebooks/{stem}"] = f"Section {entry.number}: the executed notebook"
        names |= {f"tables/{name}": table["caption"] for name, table in entry.tables.items()}
        names |= {f"figures/{name}": figure["caption"] for name, figure in entry.figures.items()}
    return names


def _bare(path: str) -> str:
    return path.split(".", 1)[0]


def _makers(manifest: Manifest) -> dict[str, str | None]:
    """Which section made each file. Of several that list a raw cell the first made it, and the others read it."""
    makers: dict[str, str | None] = {}
    for stem, entry in manifest.sections.items():
        makers = dict.fromkeys(entry.cells, stem) | makers
    return {path: entry.section for path, entry in manifest.files.items()} | makers


def _add_action(crate: Any, manifest: Manifest, stem: str, files: dict[str, Any], makers: dict[str, str | None]) -> Any:
    """Add what one section did. One that did not complete, or never began, is a failed action that says why."""
    entry = manifest.sections[stem]
    status = STATUSES.get(entry.status, "Failed")
    return _add(
        crate,
        f"#section-{stem}",
        "CreateAction",
        name=f"Section {entry.number}: {entry.title}",
        description=_how(entry),
        instrument=_instrument(crate, manifest, entry.key.get("code")),
        environment=_environment(crate, entry),
        object=_inputs(crate, stem, entry, files, makers),
        result=[file for path, file in files.items() if makers.get(path) == stem],
        startTime=entry.started,
        endTime=entry.ended,
        actionStatus=f"http://schema.org/{status}ActionStatus",
        error=f"{entry.status}: {entry.reason}".removesuffix(": ") if status == "Failed" else "",
    )


def _how(entry: SectionRecord) -> str:
    """``complete; by datalab run on cpu; parameters {...}``, without the parameters that results do not depend on."""
    reason = f" ({entry.reason})" if entry.status == "complete" and entry.reason else ""
    by = f"; by {entry.runner}" if entry.runner else ""
    on = f" on {entry.device}" if entry.device else ""
    given = {name: value for name, value in entry.parameters.items() if name not in ("workers", "record")}
    parameters = f"; parameters {json.dumps(given, ensure_ascii=False)}" if given else ""
    return f"{entry.status}{reason}{by}{on}{parameters}"


def _instrument(crate: Any, manifest: Manifest, code: str | None) -> Any:
    """The package as the section ran it. The manifest knows version, commit and packages of its last writer only."""
    last = manifest.sources.get("code")
    code = code or last
    identifier = f"#datalab-{code[:12]}" if code else "#datalab"
    if known := crate.get(identifier):
        return known
    package = {"name": "datalab-reproduction"}
    package["description"] = f"The SHA-256 of its code is {code}." if code else "The hash of its code is not known."
    if code != last:
        package["softwareVersion"] = f"0+unknown.{code[:12]}"
    else:
        commit, clean = manifest.git.get("commit"), manifest.git.get("clean")
        local = f"+g{commit[:12]}{'' if clean else '.dirty'}" if commit else ""
        package["softwareVersion"] = f"{manifest.datalab or '0'}{local}"
        package["identifier"] = f"swh:1:rev:{commit}" if commit and clean else ""
        package["softwareRequirements"] = _software(crate, manifest)
    return _add(crate, identifier, "SoftwareApplication", **package)


def _software(crate: Any, manifest: Manifest) -> list[Any]:
    """Python and the packages that results depend on most; ``record.json`` has them all."""
    python = manifest.machine.get("python", "")
    pages = {("Python", python): f"https://www.python.org/downloads/release/python-{python.replace('.', '')}/"}
    for name in SOFTWARE:
        version = manifest.packages.get(name, "")
        pages[name, version] = f"https://pypi.org/project/{name}/{version.split('+')[0]}/"
    return [
        _add(crate, url, "SoftwareApplication", name=name, softwareVersion=version, url=url)
        for (name, version), url in pages.items()
        if version
    ]


def _environment(crate: Any, entry: SectionRecord) -> list[Any]:
    """The environment variables that the section noted, each setting once in the crate."""
    settings = {variable: entry.determinism.get(key) for key, variable in ENVIRONMENT.items()}
    return [
        _add(crate, f"#{name}={value}", "PropertyValue", name=name, value=str(value))
        for name, value in settings.items()
        if value is not None
    ]


def _inputs(
    crate: Any, stem: str, entry: SectionRecord, files: dict[str, Any], makers: dict[str, str | None]
) -> list[Any]:
    """The notebook's source, the raw cells that other sections made, and the manifest where the section reads it."""
    inputs = []
    if digest := entry.key.get("notebook"):
        source = {"name": f"{stem}.ipynb, the notebook without outputs", "version": digest}
        source |= {"description": "Not part of the record. Its version is the SHA-256 of its cells."}
        inputs.append(_add(crate, f"#notebook-{stem}", "CreativeWork", **source))
    inputs += [files[path] for path in sorted(entry.cells) if path in files and makers[path] != stem]
    return inputs + ([files[Manifest.NAME]] if entry.key.get("reads") else [])


def _add(crate: Any, identifier: str, kind: str, /, **properties: Any) -> Any:
    """Add an entity that is no file, unless the crate has it; what is empty is left out, a list of one is its value."""
    from rocrate.model.contextentity import ContextEntity

    if known := crate.get(identifier):
        return known
    entity = crate.add(ContextEntity(crate, identifier, {"@type": kind}))
    for name, value in properties.items():
        if value:
            entity.append_to(name, value, compact=True)
    return entity
