"""``ro-crate-metadata.json``: the record in the words of RO-Crate 1.1, so that an archive can read it without us."""

import json
import logging
from pathlib import Path

from datalab.record import atomic
from datalab.record.manifest import Manifest

NAME = "ro-crate-metadata.json"
LICENCE = "https://spdx.org/licenses/GPL-3.0-or-later"
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


def write(record: Path, book: Manifest) -> None:
    """Write the crate's metadata for the files of ``book``, and enter it in the manifest."""
    atomic.write(record / NAME, json.dumps(metadata(record, book), indent=1, ensure_ascii=False) + "\n")
    book.add_file(record, NAME)


def metadata(record: Path, book: Manifest) -> dict:
    """The JSON-LD of the crate: each file with type, size and SHA-256; each section as an action with its results.

    It depends on the manifest only: the crate's date is the record's, not the clock's.
    """
    logging.getLogger("rocrate").setLevel(logging.ERROR)
    from rocrate.model.contextentity import ContextEntity
    from rocrate.rocrate import ROCrate

    crate = ROCrate(version="1.1")
    crate.root_dataset["name"] = f"DATA-LAB reproduction record, profile {book.profile}"
    crate.root_dataset["description"] = (
        "Executed notebooks, tables, figures, raw result rows and claims of a reproduction of 'Data Pruning via "
        "Influence Functions Outperforms Random Subsampling Only When Label Noise Exceeds 15%'."
    )
    crate.root_dataset["datePublished"] = book.created
    crate.root_dataset["license"] = crate.add(
        ContextEntity(crate, LICENCE, {"@type": "CreativeWork", "name": "GNU General Public License v3.0 or later"})
    )
    instrument = crate.add(
        ContextEntity(
            crate,
            "#datalab",
            {
                "@type": "SoftwareApplication",
                "name": "datalab-reproduction",
                "softwareVersion": f"{book.datalab} (git {book.git.get('commit') or 'unknown'})",
            },
        )
    )
    files = {
        path: crate.add_file(record / path, dest_path=path, properties=_file(path, entry.bytes, entry.sha256))
        for path, entry in sorted(book.files.items())
        if path != NAME
    }
    crate.add_file(
        record / "record.json",
        dest_path="record.json",
        properties={"name": "Manifest", "description": "Hash of every file, parameters, versions, machine, statuses."}
        | {"encodingFormat": "application/json"},
    )
    for stem, entry in book.sections.items():
        results = [files[path] for path in sorted(book.files_of(stem)) if path in files]
        action = {
            "@type": "CreateAction",
            "name": f"Section {entry.number}: {entry.title}",
            "description": f"{entry.status}{': ' + entry.reason if entry.reason else ''}",
            "instrument": instrument,
            "result": results,
            "actionStatus": "http://schema.org/" + _status(entry.status),
        }
        action |= {"startTime": entry.started} if entry.started else {}
        action |= {"endTime": entry.ended} if entry.ended else {}
        references = {key: action.pop(key) for key in ("instrument", "result")}
        entity = crate.add(ContextEntity(crate, f"#section-{stem}", action))
        for key, value in references.items():
            if value:
                entity[key] = value
        crate.root_dataset.append_to("mentions", entity)
    return crate.metadata.generate()


def _file(path: str, size: int, digest: str) -> dict:
    kind = KINDS.get(Path(path).suffix, "application/octet-stream")
    return {"name": path, "encodingFormat": kind, "contentSize": str(size), "sha256": digest}


def _status(status: str) -> str:
    other = {"complete": "Completed", "running": "Active", "not run": "Potential"}
    return f"{other.get(status, 'Failed')}ActionStatus"
