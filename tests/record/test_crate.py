"""The record as an archive reads it: RO-Crate 1.1 and its Process Run Crate profile, by their validator, offline."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import record_fakes
from requests_cache import CachedRequest, CachedResponse, CachedSession
from rocrate import vocabs
from rocrate.rocrate import ROCrate
from rocrate_validator import services

from datalab.record import Study, crate
from datalab.record.manifest import Manifest

REFERENCE = Path(__file__).parents[2] / "runs" / "reference"
CONTEXT = Path(__file__).with_name("ro_crate_1_1_context.json")
Unmet = Callable[..., dict[str, set[str]]]
# What the profiles recommend and the manifest does not know: who ran it, and where the package is on the web.
UNKNOWN = {
    "Action agent",
    "Application url",
    "Root Data Entity: `author` property",
    "Root Data Entity: `publisher` property",
    "SoftwareApplication id",
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The validator's own HTTP cache, holding the one thing it asks for in its offline mode: RO-Crate's context."""
    path = tmp_path_factory.mktemp("validator") / "cache"
    content = CONTEXT.read_bytes()
    url = json.loads(content)["@id"]
    headers = {"Content-Type": "application/ld+json"}
    request = CachedRequest(method="GET", url=url)
    with CachedSession(str(path), backend="sqlite") as session:
        response = CachedResponse(status_code=200, url=url, content=content, headers=headers, request=request)
        session.cache.save_response(response)
    return path


@pytest.fixture
def unmet(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Unmet:
    """The names of the checks that a record fails, by severity; the network may not be touched on the way."""

    def check(record: Path, described: dict[str, Any] | None = None) -> dict[str, set[str]]:
        given = {"rocrate_uri": record} if described is None else {"metadata_dict": described, "package_root": record}
        common = {"profile_identifier": "process-run-crate", "requirement_severity": "RECOMMENDED"}
        touched: list[str] = []
        with monkeypatch.context() as patch:
            for name in ("connect", "connect_ex"):
                patch.setattr(socket.socket, name, lambda *address: touched.append(str(address)))
            patch.setattr(socket, "getaddrinfo", lambda *address, **_: touched.append(str(address)) or [])
            result = services.validate({"rocrate_uri": None, **given, **common, "offline": True, "cache_path": cache})
        assert touched == []
        assert len(result.executed_checks) > 90
        assert not result.skipped_checks
        names: dict[str, set[str]] = {"REQUIRED": set(), "RECOMMENDED": set()}
        for issue in result.issues:
            names[issue.severity.name].add(issue.check.name)
        return names

    return check


def described(record: Path) -> dict[str, Any]:
    return json.loads((record / crate.NAME).read_text())


def entity(metadata: dict[str, Any], identifier: str) -> dict[str, Any]:
    return next(entity for entity in metadata["@graph"] if entity["@id"] == identifier)


def ids(value: Any) -> set[str]:
    return {reference["@id"] for reference in (value if isinstance(value, list) else [value])}


def dangling(metadata: dict[str, Any]) -> set[str]:
    """What is referred to and not described. The validator takes whatever the root's ``hasPart`` names for a file."""
    values = [value for entity in metadata["@graph"] for value in entity.values()]
    references = [part for value in values for part in (value if isinstance(value, list) else [value])]
    known = {entity["@id"] for entity in metadata["@graph"]} | {"https://w3id.org/ro/crate/1.1"}
    return {reference["@id"] for reference in references if isinstance(reference, dict)} - known


# --- validity ---------------------------------------------------------------------------------------------------------


def test_a_complete_record_meets_all_that_the_profiles_ask_but_what_it_cannot_know(made: Path, unmet: Unmet) -> None:
    assert unmet(made) == {"REQUIRED": set(), "RECOMMENDED": UNKNOWN}
    assert dangling(described(made)) == set()


def test_a_record_with_a_failed_and_a_not_run_section_is_valid_and_says_why(
    record: Path, study: Study, unmet: Unmet
) -> None:
    assert record_fakes.run(study, record, "0", "6", mode="raise") == 1
    assert unmet(record) == {"REQUIRED": set(), "RECOMMENDED": UNKNOWN | {"Action endTime", "Action result"}}
    metadata = described(record)
    stems = ("0_alpha", "3_4_beta", "6_gamma")
    failed, complete, refused = (entity(metadata, f"#section-{stem}") for stem in stems)
    assert failed["actionStatus"] == refused["actionStatus"] == "http://schema.org/FailedActionStatus"
    assert "raised RuntimeError: as asked" in failed["error"]
    assert failed["endTime"] >= failed["startTime"]
    assert "notebooks/0_alpha.failed.ipynb" in ids(failed["result"])
    assert refused["error"] == "not run: needs 0_alpha, which did not complete"
    assert not {"result", "startTime", "endTime"} & set(refused)
    assert complete["actionStatus"] == "http://schema.org/CompletedActionStatus"
    assert "error" not in complete
    assert dangling(metadata) == set()


def test_a_record_whose_writer_was_killed_is_valid_and_says_so(record: Path, study: Study, unmet: Unmet) -> None:
    manifest = Manifest.load(record)
    manifest.closed, manifest.sections["0_alpha"].status, manifest.sections["0_alpha"].ended = False, "running", ""
    manifest.save(record)
    assert record_fakes.run(study, record, "3.4") == 0
    assert unmet(record) == {"REQUIRED": set(), "RECOMMENDED": UNKNOWN | {"Action endTime"}}
    assert entity(described(record), "#section-0_alpha")["error"] == "interrupted: its process was killed"


def test_a_record_made_in_a_notebook_session_is_valid_without_an_executed_notebook(
    tmp_path: Path, unmet: Unmet
) -> None:
    section = record_fakes.start("0", {"profile": "smoke", "record": str(tmp_path / "record")})
    section.table(pd.DataFrame({"x": [1.0]}), "t", caption="T")
    section.finish()
    assert unmet(section.record) == {"REQUIRED": set(), "RECOMMENDED": UNKNOWN}


def test_the_reference_records_crate_is_valid_and_small(unmet: Unmet) -> None:
    manifest = Manifest.load(REFERENCE)
    metadata = crate.metadata(REFERENCE, manifest)
    assert unmet(REFERENCE, metadata) == {"REQUIRED": set(), "RECOMMENDED": UNKNOWN}
    assert dangling(metadata) == set()
    assert len(crate.text(metadata).encode()) < 420 * len(manifest.files)


def rename(metadata: dict[str, Any], old: str, new: str) -> None:
    entity(metadata, old)["@id"] = new
    unlist(metadata, old)
    entity(metadata, "./")["hasPart"].append({"@id": new})


def unlist(metadata: dict[str, Any], path: str) -> None:
    entity(metadata, "./")["hasPart"].remove({"@id": path})


def test_a_crate_damaged_in_many_places_is_refused_for_each_of_them(made: Path, unmet: Unmet) -> None:
    metadata = described(made)
    action = entity(metadata, "#section-0_alpha")
    del action["instrument"]
    del entity(metadata, "./")["conformsTo"]
    del entity(metadata, "./")["license"]
    del metadata["@context"][1]["sha256"]
    rename(metadata, "claims.csv", "gone.csv")
    unlist(metadata, "tables/0_rows.md")
    assert unmet(made, metadata)["REQUIRED"] == {
        "Action instrument",
        "Root Data Entity conformsTo",
        "Root Data Entity: `license` property",
        "Validation of the compaction format of the file descriptor",
        "Data Entity: REQUIRED resource availability",
        "Data Entity MUST be directly referenced",
    }


def test_a_crate_that_falls_short_of_what_is_recommended_is_told_so(made: Path, unmet: Unmet) -> None:
    metadata = described(made)
    unlist(metadata, "tables/0_rows.csv")
    metadata["@graph"].remove(entity(metadata, "tables/0_rows.csv"))
    entity(metadata, "./")["mentions"].pop()
    entity(metadata, "#section-0_alpha")["error"] = "none"
    del entity(metadata, "claims.csv")["encodingFormat"]
    assert dangling(metadata) == {"tables/0_rows.csv"}
    checks = unmet(made, metadata)
    assert checks["REQUIRED"] == set()
    for words in ("action error", "object and result types", "via mentions from root", "`encodingformat` property"):
        assert any(words in name.lower() for name in checks["RECOMMENDED"]), words


def test_the_validators_context_is_that_of_ro_crate_where_the_two_meet() -> None:
    terms = json.loads(CONTEXT.read_text())["@context"]
    later = vocabs.RO_CRATE["@context"]
    assert {term: later[term] for term in terms} == terms
    assert not set(crate.TERMS) & set(terms)


# --- what it says -----------------------------------------------------------------------------------------------------


def test_the_crate_lists_every_file_with_its_size_and_hash(made: Path) -> None:
    read = ROCrate(made)
    assert read.metadata["conformsTo"] == "https://w3id.org/ro/crate/1.1"
    listed = {entity.id: (entity.get("contentSize"), entity.get("sha256")) for entity in read.data_entities}
    assert listed.pop("record.json") == (None, None)
    files = Manifest.load(made).files
    assert listed == {path: (str(e.bytes), e.sha256) for path, e in files.items() if path != crate.NAME}


def test_the_crate_is_what_its_manifest_gives_whatever_the_clock_and_one_line_an_entity(made: Path) -> None:
    manifest = Manifest.load(made)
    written = (made / crate.NAME).read_text()
    assert crate.text(crate.metadata(made, manifest)) == written
    assert len(written.splitlines()) == len(json.loads(written)["@graph"]) + 3
    manifest.created = "2001-02-03T04:05:06+00:00"
    assert entity(crate.metadata(made, manifest), "./")["datePublished"] == manifest.created


def test_raw_cells_are_the_result_of_the_section_that_asked_first(made: Path) -> None:
    metadata = described(made)
    cells = {path for path in Manifest.load(made).files if path.startswith("cells/")}
    first, second = (entity(metadata, f"#section-{stem}") for stem in ("0_alpha", "3_4_beta"))
    assert len(cells) == 1  # all three sections ask for the same tasks
    assert ids(first["result"]) >= {"notebooks/0_alpha.ipynb", "tables/0_rows.csv", "figures/0_curve.svg", *cells}
    assert not cells & ids(second["result"])


def test_a_section_that_other_code_ran_does_not_get_the_version_of_the_last_writer(record: Path) -> None:
    manifest = Manifest.load(record)
    manifest.git = {"commit": "c" * 40, "clean": True}
    manifest.sections["0_alpha"].key["code"] = "f" * 64
    metadata = crate.metadata(record, manifest)
    old, new = (entity(metadata, f"#section-{stem}")["instrument"]["@id"] for stem in ("0_alpha", "3_4_beta"))
    assert entity(metadata, old)["softwareVersion"] == f"0+unknown.{'f' * 12}"
    assert entity(metadata, new)["softwareVersion"] == f"{manifest.datalab}+{'c' * 40}"
