"""Two records side by side: which cells, claims and verdicts differ, and what of the environment does."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from datalab.errors import UserError
from datalab.record import claims_table, provenance
from datalab.record.checks import tablediff, verify
from datalab.record.checks.tablediff import AGREEING, DIFFERENT, INTERVAL, ROUNDING, TOLERANCE, TableDiff
from datalab.record.manifest import Manifest, SectionRecord
from datalab.record.study import Study
from datalab.record.tables import exact

DEFAULT_TOLERANCE = 1e-5  # relative: a step in the last of the six digits that a table has
VERDICT, MEASURED, REASON = "changed verdict", "changed measured", "changed reason"
CLAIM_KINDS = (VERDICT, MEASURED, REASON, INTERVAL, ROUNDING, TOLERANCE)  # as they are listed
_FIGURES = ("measured", "low", "high", "effect_size", "n")
_COMPARED = ("verdict", *_FIGURES, "why", "excluded")  # what is left of a claim's row says where, or is the ledger's


@dataclass(frozen=True)
class ClaimComparison:
    """A claim whose row differs in ``fields``; ``a`` and ``b`` have its figures as the text of ``claims.csv``."""

    id: str
    kind: str
    fields: tuple[str, ...]
    timing: bool
    a: dict[str, str]
    b: dict[str, str]


@dataclass(frozen=True)
class Comparison:
    """Two records, and what differs between them. Values are text as in the tables, ``None`` where there is none.

    ``a`` and ``b`` say of each ``record``, ``profile``, ``created`` and ``commit``; ``timing`` whether measured time
    and memory count; ``counts`` how many claims, tables and cells there are, and how many of each kind of difference.
    ``sections`` are those whose status or headline differs (``stem``, ``a``, ``b``), ``files`` raw cells, images and
    tables in other forms than ``.csv``, by hash (``what``, ``same``, ``different``, ``only_a``, ``only_b``, and
    ``counts``: the forms that differ of a table whose ``.csv`` does not), ``environment`` the
    settings that differ (``what``, ``a``, ``b`` and the ``sections`` it is true of; none: the whole record).
    """

    a: dict[str, str | None]
    b: dict[str, str | None]
    tolerance: float
    timing: bool
    counts: dict[str, Any]
    claims: tuple[ClaimComparison, ...]
    tables: tuple[TableDiff, ...]
    sections: tuple[dict[str, str | None], ...]
    files: tuple[dict[str, Any], ...]
    environment: tuple[dict[str, Any], ...]

    @property
    def same(self) -> bool:
        """Whether every table, claim and figure's data is equal, in bytes, within the tolerance or by its meaning: what
        another processor's rounding leaves (:data:`datalab.record.checks.tablediff.ROUNDING`).

        A changed verdict counts even where it rests on measured time. Raw cells, images and environment never count.
        """
        return not any(self.differing().values())

    def differing(self) -> dict[str, int]:
        """How many of what make the records different."""
        claims = [claim for claim in self.claims if claim.kind not in AGREEING and (self.timing or not claim.timing)]
        return {
            "claims": len(claims),
            "of them in the verdict": sum("verdict" in claim.fields for claim in claims),
            "tables": sum(table.differs(self.timing) for table in self.tables),
            "sections' status or headline": len(self.sections),
            "tables' other forms": sum(len(group["counts"]) for group in self.files),
        }

    @property
    def other_rounding(self) -> bool:
        """Whether the two are the same by their meaning, but not in bytes or within the tolerance."""
        return self.same and any(self.counts["by_kind"][f"{what} {ROUNDING}"] for what in ("claims", "cells"))

    def as_dict(self) -> dict[str, Any]:
        """The comparison as plain data; of each table ``counts`` says whether it makes the records different."""
        tree = {"same": self.same, "other_rounding": self.other_rounding, **asdict(self)}
        tree["tables"] = [asdict(table) | {"counts": table.differs(self.timing)} for table in self.tables]
        return tree


def compare(a: Path, b: Path, study: Study, tolerance: float = DEFAULT_TOLERANCE, timing: bool = False) -> Comparison:
    """Compare record ``b`` with record ``a``: claims, tables, figures' data, raw files by hash, environment.

    ``tolerance`` is relative. With ``timing``, measured time and memory count too.
    Raises :class:`UserError` for a record that is not there or not whole, and for a tolerance that is not 0 or more.
    """
    if not 0 <= tolerance < math.inf:
        raise UserError(f"tolerance {tolerance}: it is a relative difference, a number of 0 or more, such as 1e-5")
    manifests = _whole(a, study), _whole(b, study)
    timed = _timed(manifests[0]) & _timed(manifests[1])  # on the word of both: one of them may be a stranger's
    claims_a, claims_b = (_claims(manifest, study) for manifest in manifests)
    ids, absent = {**claims_a, **claims_b}, dict.fromkeys(_COMPARED, "")
    claims = [_claim(i, claims_a.get(i, absent), claims_b.get(i, absent), tolerance, i in timed) for i in ids]
    claims = sorted((claim for claim in claims if claim.fields), key=lambda claim: CLAIM_KINDS.index(claim.kind))
    tables = list(_tables((a, b), manifests, tolerance, timed))
    cells = [cell.kind for table in tables for cell in table.cells]
    by_kind = {f"cells {kind}": cells.count(kind) for kind in (DIFFERENT, INTERVAL, ROUNDING, TOLERANCE)}
    by_kind |= {f"claims {kind}": sum(claim.kind == kind for claim in claims) for kind in CLAIM_KINDS}
    statuses = [{stem: entry.status for stem, entry in manifest.sections.items()} for manifest in manifests]
    compared = {"claims": len(ids), "tables": len(tables), "cells": sum(table.compared for table in tables)}
    summaries = [
        {"record": provenance.shown(path), "profile": m.profile, "created": m.created, "commit": m.git.get("commit")}
        for path, m in zip((a, b), manifests, strict=True)
    ]
    return Comparison(
        *summaries,
        tolerance=tolerance,
        timing=timing,
        counts=compared | {"by_kind": by_kind},
        claims=tuple(claims),
        tables=tuple(table for table in tables if table.differs(timing=True) or table.cells or table.reordered),
        sections=tuple(
            {"stem": stem, "a": left, "b": right}
            for stem, left, right in [*_unequal(*statuses), *_headlines(*manifests, tolerance, timing)]
        ),
        files=(
            _files("raw cells", "cells/", (".parquet",), *manifests),
            _files("figures' images", "figures/", (".svg", ".png"), *manifests),
            _files("tables in other forms", "tables/", (".md", ".tex", ".json"), *manifests),
        ),
        environment=tuple(_environment(*manifests)),
    )


def _whole(record: Path, study: Study) -> Manifest:
    """The manifest of a record whose files are what it says they are; a section that failed is no hindrance."""
    name = provenance.shown(record)
    if record.is_dir() and not (record / Manifest.NAME).exists():
        raise UserError(f"record '{name}': {Manifest.NAME} is missing; name a folder that `datalab run` wrote")
    findings = [f for f in verify.verify(record, study).findings if f.kind != "incomplete" or f.what == verify.RECORD]
    if findings:
        more = f", and {len(findings) - 1} more" if len(findings) > 1 else ""
        raise UserError(f"record '{name}' is not whole ({findings[0]}{more}); `datalab verify {name}` names everything")
    return Manifest.load(record)


def _timed(manifest: Manifest) -> set[str]:
    """The claims whose measured value is time or memory: they rest on a table that is marked so."""
    tables = {path for path, entry in manifest.files.items() if entry.timing}
    return {claim_id for claim_id, (_, claim) in manifest.measured().items() if claim["table"] in tables}


def _claims(manifest: Manifest, study: Study) -> dict[str, dict[str, str]]:
    """Every claim's figures as ``claims.csv`` has them; those that only another version's ledger knows come last."""
    rows = {row["id"]: row for row in claims_table.rows(manifest, study)}
    rows |= {claim_id: claim for claim_id, (_, claim) in sorted(manifest.measured().items()) if claim_id not in rows}
    return {claim_id: {name: exact(row.get(name)) for name in _COMPARED} for claim_id, row in rows.items()}


def _claim(claim_id: str, a: dict[str, str], b: dict[str, str], tolerance: float, timed: bool) -> ClaimComparison:
    fields = tuple(name for name in _COMPARED if a[name] != b[name])
    # What was measured may move with the clock; what it was measured on, and what follows, may not.
    timing = timed and not {"verdict", "n", "excluded"} & set(fields)
    kinds = tablediff.kinds(a, b, _COMPARED[1:], [("measured", "low", "high")], tolerance)
    if tolerance and kinds["measured"] in AGREEING and not (a["low"] or a["high"]):  # the rest follows it
        follow = [name for name in fields if tablediff.follows(a[name], b[name], tablediff.FOLLOWING)]
        kinds |= {name: ROUNDING for name in follow if kinds.get(name) == DIFFERENT}
    if "verdict" in fields:
        kind = VERDICT
    elif kinds["measured"] == INTERVAL:
        kind = INTERVAL  # its limits and its effect size move with it
    elif DIFFERENT not in kinds.values():
        kind = ROUNDING if ROUNDING in kinds.values() else TOLERANCE
    else:
        beyond = [name for name in _FIGURES if tablediff.kind(a[name], b[name], tolerance) == DIFFERENT]
        kind = MEASURED if beyond else REASON
    return ClaimComparison(claim_id, kind, fields, timing, a, b)


def _tables(
    records: tuple[Path, Path], manifests: tuple[Manifest, Manifest], tolerance: float, timed: set[str]
) -> Iterator[TableDiff]:
    """The tables of either record, then the data of their figures."""
    paths = sorted({path for manifest in manifests for path in manifest.files if path.endswith(".csv")})
    for path in [path for folder in ("tables/", "figures/") for path in paths if path.startswith(folder)]:
        entries = {side: m.files[path] for side, m in zip("ab", manifests, strict=True) if path in m.files}
        timing = all(entry.timing for entry in entries.values())
        if len(entries) == 2:
            tables = (tablediff.read(record / path) for record in records)
            yield replace(tablediff.diff(*tables, tolerance, timed), path=path, timing=timing)
        else:
            yield TableDiff(path, timing, only=min(entries))


def _headlines(a: Manifest, b: Manifest, tolerance: float, timing: bool) -> Iterator[tuple[str, str, str]]:
    """The first text of each section's headline that is another, but for rounding, which its tables tell.

    Those of a section that measures time do not count, without ``timing``.
    """
    for stem in (stem for stem in a.sections if stem in b.sections):
        timed = all(any(m.files[path].timing for path in m.files_of(stem) if path.endswith(".csv")) for m in (a, b))
        texts = [_said(manifest.sections[stem]) for manifest in (a, b)]
        if timing or not timed:
            for left, right in zip_longest(*texts, fillvalue=""):
                near = tablediff.kind(left, right, tolerance) in AGREEING
                if not (near or (tolerance and tablediff.follows(left, right, tablediff.FOLLOWING))):
                    yield f"{stem}: headline", left, right
                    break


def _said(entry: SectionRecord) -> list[str]:
    """The texts of a section's headline, its small tables cell by cell."""
    texts: list[str] = []
    for part in entry.headline:
        cells = [cell for row in (part.get("columns", []), *part.get("rows", [])) for cell in row]
        texts += [*filter(None, (part.get("text"), part.get("caption"))), *cells]
    return texts


def _files(what: str, folder: str, kinds: tuple[str, ...], a: Manifest, b: Manifest) -> dict[str, Any]:
    """Files compared by name and hash alone."""
    hashes_a, hashes_b = ({path: entry.sha256 for path, entry in m.files.items()} for m in (a, b))
    in_a, in_b = ({path for path in m.files if path.startswith(folder) and path.endswith(kinds)} for m in (a, b))
    different = sorted(path for path in in_a & in_b if hashes_a[path] != hashes_b[path])
    tables = {path: f"{path.rpartition('.')[0]}.csv" for path in different if folder == "tables/"}
    counts = [path for path, csv in tables.items() if csv in hashes_a and hashes_a[csv] == hashes_b.get(csv)]
    only = {"only_a": sorted(in_a - in_b), "only_b": sorted(in_b - in_a)}
    same = len(in_a & in_b) - len(different)
    return {"what": what, "same": same, "different": different, **only, "counts": counts}


def _environment(a: Manifest, b: Manifest) -> Iterator[dict[str, Any]]:
    """What differs between the two records' provenance and between the parameters of the sections they share."""
    numbers: dict[tuple, list[str]] = {difference: [] for difference in _unequal(_of_record(a), _of_record(b))}
    whole = set(numbers)
    for stem in a.sections:
        if stem in b.sections:
            for difference in _unequal(_of_section(a.sections[stem]), _of_section(b.sections[stem])):
                # A section made by the sources that the whole record names is not worth a line of its own.
                if difference not in whole:
                    numbers.setdefault(difference, []).append(a.sections[stem].number)
    for (what, left, right), sections in numbers.items():
        yield {"what": what, "a": left, "b": right, "sections": sections}


def _of_record(manifest: Manifest) -> dict[str, Any]:
    settings = {"profile": manifest.profile} | {name: manifest.sources.get(name) for name in verify.SOURCES}
    settings |= {"git commit": manifest.git.get("commit"), "git tree clean": manifest.git.get("clean")}
    settings |= {"datalab": manifest.datalab}
    settings |= {f"machine: {name}": value for name, value in manifest.machine.items()}
    return settings | {f"package {name}": version for name, version in manifest.packages.items()}


def _of_section(entry: SectionRecord) -> dict[str, Any]:
    settings = {name: entry.key.get(name) for name in (*verify.SOURCES, "notebook")}
    settings |= {"runner": entry.runner, "device": entry.device}
    settings |= {f"determinism: {name}": value for name, value in entry.determinism.items()}
    parameters = {name: value for name, value in entry.parameters.items() if name not in ("record", "profile")}
    return settings | {f"parameter {name}": value for name, value in parameters.items()}


def _unequal(a: dict[str, Any], b: dict[str, Any]) -> list[tuple[str, str | None, str | None]]:
    """The names whose values differ, with both as text."""
    pairs = [(name, _text(a.get(name)), _text(b.get(name))) for name in {**a, **b}]
    return [pair for pair in pairs if pair[1] != pair[2]]


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
