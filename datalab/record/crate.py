"""``ro-crate-metadata.json``: the record in the words of RO-Crate 1.1 and its Process Run Crate profile.

An archive reads it without us: every file with its hash, every section as an action with its results. What else there
is to know (parameters, packages, machine) is in ``record.json``, which is one of the files.
"""

import json
import logging
from pathlib import Path
from typing import Any

from datalab import atomic
from datalab.record.manifest import Manifest

NAME = "ro-crate-metadata.json"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
LICENCE = "https://spdx.org/licenses/GPL-3.0-or-later"
TERMS = {"sha256": "https://w3id.org/ro/terms/workflow-run#sha256"}  # RO-Crate 1.1 has no word for it
STATUSES = {"complete": "Completed", "running": "Active"}
KINDS = {".csv": "text/csv", ".md": "text/markdown", ".html": "text/html", ".tex": "application/x-tex"}
KINDS |= {".json": "application/json", ".svg": "image/svg+xml", ".png": "image/png"}
KINDS |= {".parquet": "application/vnd.apache.parquet", ".ipynb": "application/x-ipynb+json"}


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
    """The JSON-LD of the crate. It depends on the manifest only: the crate's date is the record's, not the clock's."""
    logging.getLogger("rocrate").setLevel(logging.ERROR)
    from rocrate.model.contextentity import ContextEntity
    from rocrate.rocrate import ROCrate

    crate = ROCrate(version="1.1")
    crate.metadata.extra_terms.update(TERMS)

    def add(identifier: str, kind: str, **known: Any) -> Any:
        return crate.add(ContextEntity(crate, identifier, {"@type": kind} | {n: v for n, v in known.items() if v}))

    root = crate.root_dataset
    root["conformsTo"] = add(PROFILE, "CreativeWork", name="Process Run Crate", version=PROFILE.rsplit("/", 1)[1])
    root["name"] = f"DATA-LAB reproduction record, profile {manifest.profile}"
    root["description"] = (
        "Executed notebooks, tables, figures, raw result rows and claims of a reproduction of 'Data Pruning via "
        "Influence Functions Outperforms Random Subsampling Only When Label Noise Exceeds 15%'. A section that was run "
        "again has kept its raw result rows: they can be older than its action."
    )
    root["datePublished"] = manifest.created
    root["license"] = add(LICENCE, "CreativeWork", name="GNU General Public License v3.0 or later")
    of_manifest = {"name": "Manifest", "encodingFormat": KINDS[".json"]}
    files = {Manifest.NAME: crate.add_file(record / Manifest.NAME, Manifest.NAME, properties=of_manifest)}
    for path, entry in sorted(manifest.files.items()):
        if path != NAME:  # nor can the manifest's own hash be given: it holds this crate's
            kind = KINDS.get(Path(path).suffix, "application/octet-stream")
            told = {"encodingFormat": kind, "contentSize": str(entry.bytes), "sha256": entry.sha256}
            files[path] = crate.add_file(record / path, path, properties=told)
    for stem, entry in manifest.sections.items():
        status, code = STATUSES.get(entry.status, "Failed"), entry.key.get("code", "")
        version = f"{manifest.datalab}+{manifest.git.get('commit') or 'unknown'}"
        if code and code != manifest.sources.get("code"):  # the manifest knows the version of its last writer only
            version = f"0+unknown.{code[:12]}"
        tool = f"#datalab-{version}"
        package = add(tool, "SoftwareApplication", name="datalab-reproduction", softwareVersion=version)
        known = {"startTime": entry.started, "endTime": entry.ended, "instrument": package, "description": entry.status}
        known |= {"actionStatus": f"http://schema.org/{status}ActionStatus", "name": f"{entry.number}: {entry.title}"}
        known |= {"error": f"{entry.status}: {entry.reason}".removesuffix(": ")} if status == "Failed" else {}
        action = add(f"#section-{stem}", "CreateAction", **known)
        for path in filter(files.get, manifest.files_of(stem)):
            action.append_to("result", files[path], compact=True)
        root.append_to("mentions", action, compact=True)
    return crate.metadata.generate()
