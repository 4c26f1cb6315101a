"""Two records side by side: which cells, claims and verdicts differ, and what of the environment does."""

import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from datalab.errors import UserError
from datalab.record import claims_table, environment_diff, provenance, tablediff, verify
from datalab.record.environment_diff import Setting
from datalab.record.manifest import Manifest
from datalab.record.study import Study
from datalab.record.tablediff import DIFFERENT, INTERVAL, TOLERANCE, TableDiff
from datalab.record.tables import exact

DEFAULT_TOLERANCE = 1e-5  # relative: a step in the last of the six digits that a table has
VERDICT, MEASURED, REASON = "changed verdict", "changed measured", "changed reason"
CLAIM_KINDS = (VERDICT, MEASURED, REASON, INTERVAL, TOLERANCE)  # as they are listed
_FIGURES = ("low", "high", "effect_size", "n")
_COMPARED = ("verdict", "measured", *_FIGURES, "why")  # what is left of a claim's row says where, or is the ledger's


@dataclass(frozen=True)
class TableComparison:
    """A table, or the data behind a figure. ``only`` names the record that alone has it; empty: both do."""

    path: str
    timing: bool
    only: Literal["", "a", "b"] = ""
    diff: TableDiff = field(default_factory=TableDiff)

    def differs(self, timing: bool) -> bool:
        """Whether it differs in more than the tolerance; measured time and memory count only with ``timing``."""
        if self.timing and not timing:
            return False
        d = self.diff
        listed = self.only or d.rows_only_a or d.rows_only_b or d.columns_only_a or d.columns_only_b
        return bool(listed) or any(cell.kind != TOLERANCE and (timing or not cell.timing) for cell in d.cells)

    @property
    def noted(self) -> bool:
        """Whether there is anything to say of it, however small."""
        return self.differs(timing=True) or bool(self.diff.cells) or self.diff.reordered


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
class FileGroup:
    """Files compared by name and hash alone."""

    what: str
    same: int
    different: tuple[str, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Two records. ``a`` and ``b`` say of each ``record``, ``profile``, ``created`` and ``commit``.

    ``timing`` says whether measured time and memory count; ``tables`` has every table of either record; ``sections``
    maps those whose status differs to their two statuses, ``None`` where a record does not have it.
    """

    a: dict[str, str | None]
    b: dict[str, str | None]
    tolerance: float
    timing: bool
    claims: tuple[ClaimComparison, ...]
    claims_compared: int
    tables: tuple[TableComparison, ...]
    sections: dict[str, tuple[str | None, str | None]]
    files: tuple[FileGroup, ...]
    environment: tuple[Setting, ...]

    @property
    def same(self) -> bool:
        """Whether every table, claim and figure's data is equal, in bytes or within the tolerance.

        A changed verdict counts even where it rests on measured time. Raw cells, images and environment never count.
        """
        tables = any(table.differs(self.timing) for table in self.tables)
        claims = any(claim.kind != TOLERANCE and (self.timing or not claim.timing) for claim in self.claims)
        return not (tables or claims or self.sections)

    def as_dict(self) -> dict[str, Any]:
        """The comparison as plain data, the same for the same records.

        ``same``; ``a`` and ``b`` (``record``, ``profile``, ``created``, ``commit``); ``tolerance``; ``timing``;
        ``counts``: how many claims, tables and cells there are of each kind; ``claims``, ``tables``, ``sections`` that
        differ (a table has ``counts`` for whether it makes the records different; its ``cells`` have ``row``,
        ``column``, ``a``, ``b``, ``kind``, ``timing``); ``files``: raw cells and images by hash; ``environment``:
        ``what``, ``a``, ``b``, ``sections``. Values are text as in the tables.
        """
        tree = asdict(self)
        cells = sum(table.diff.compared for table in self.tables)
        counts = {"claims": self.claims_compared, "tables": len(self.tables), "cells": cells}
        tables = []
        for table in self.tables:
            if table.noted:
                of = {"path": table.path, "timing": table.timing, "only": table.only}
                tables.append(of | {"counts": table.differs(self.timing), **asdict(table.diff)})
        return {
            "same": self.same,
            **{name: tree[name] for name in ("a", "b", "tolerance", "timing")},
            "counts": counts | {"by_kind": self.by_kind()},
            "claims": tree["claims"],
            "tables": tables,
            "sections": [{"stem": stem, "a": a, "b": b} for stem, (a, b) in self.sections.items()],
            **{name: tree[name] for name in ("files", "environment")},
        }

    def by_kind(self) -> dict[str, int]:
        """How many cells and claims there are of each kind of difference, measured time counted too."""
        cells = [cell.kind for table in self.tables for cell in table.diff.cells]
        claims = [claim.kind for claim in self.claims]
        counts = {f"cells {kind}": cells.count(kind) for kind in (DIFFERENT, INTERVAL, TOLERANCE)}
        return counts | {f"claims {kind}": claims.count(kind) for kind in CLAIM_KINDS}


def compare(a: Path, b: Path, study: Study, tolerance: float = DEFAULT_TOLERANCE, timing: bool = False) -> Comparison:
    """Compare record ``b`` with record ``a``: claims, tables, figures' data, raw files by hash, environment.

    ``tolerance`` is relative. With ``timing``, measured time and memory count too.
    Raises :class:`UserError` for a record that is not there or not whole, and for a tolerance that is not 0 or more.
    """
    if not 0 <= tolerance < math.inf:
        raise UserError(f"tolerance {tolerance}: it is a relative difference, a number of 0 or more, such as 1e-5")
    manifests = _whole(a, study), _whole(b, study)
    timed = {claim_id for manifest in manifests for claim_id in _timed(manifest)}
    claims_a, claims_b = (_claims(manifest, study) for manifest in manifests)
    ids = list({**claims_a, **claims_b})
    claims = [_claim(i, claims_a.get(i, {}), claims_b.get(i, {}), tolerance, i in timed) for i in ids]
    return Comparison(
        a=_summary(a, manifests[0]),
        b=_summary(b, manifests[1]),
        tolerance=tolerance,
        timing=timing,
        claims=tuple(sorted(filter(None, claims), key=lambda claim: CLAIM_KINDS.index(claim.kind))),
        claims_compared=len(ids),
        tables=tuple(_tables((a, b), manifests, tolerance, timed)),
        sections=_sections(*manifests),
        files=(
            _files("raw cells", "cells/", (".parquet",), *manifests),
            _files("figures' images", "figures/", (".svg", ".png"), *manifests),
        ),
        environment=environment_diff.differing(*manifests),
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


def _summary(record: Path, manifest: Manifest) -> dict[str, str | None]:
    summary = {"record": provenance.shown(record), "profile": manifest.profile, "created": manifest.created}
    return summary | {"commit": manifest.git.get("commit")}


def _timed(manifest: Manifest) -> Iterator[str]:
    """The claims whose measured value is time or memory: they rest on a table that is marked so."""
    for entry in manifest.sections.values():
        for claim in entry.claims:
            if claim["table"] in manifest.files and manifest.files[claim["table"]].timing:
                yield claim["id"]


def _claims(manifest: Manifest, study: Study) -> dict[str, dict[str, str]]:
    """Every claim's figures as ``claims.csv`` has them; those that only another version's ledger knows come last."""
    rows = {row["id"]: row for row in claims_table.rows(manifest, study)}
    rows |= {claim_id: claim for claim_id, (_, claim) in sorted(manifest.measured().items()) if claim_id not in rows}
    return {claim_id: {name: exact(row.get(name)) for name in _COMPARED} for claim_id, row in rows.items()}


def _claim(
    claim_id: str, a: Mapping[str, str], b: Mapping[str, str], tolerance: float, timed: bool
) -> ClaimComparison | None:
    a, b = ({name: row.get(name, "") for name in _COMPARED} for row in (a, b))
    fields = tuple(name for name in _COMPARED if a[name] != b[name])
    if not fields:
        return None
    kind = _claim_kind(a, b, fields, tolerance)
    # What was measured may move with the clock; what it was measured on, and what follows, may not.
    return ClaimComparison(claim_id, kind, fields, timed and not {"verdict", "n"} & set(fields), a, b)


def _claim_kind(a: Mapping[str, str], b: Mapping[str, str], fields: tuple[str, ...], tolerance: float) -> str:
    if "verdict" in fields:
        return VERDICT
    limits = [(row["low"], row["high"]) for row in (a, b)]
    measured = tablediff.kind(a["measured"], b["measured"], *limits, tolerance)
    if measured == INTERVAL:  # its limits and its effect size move with it
        return INTERVAL
    others = [tablediff.kind(a[name], b[name], None, None, tolerance) for name in _FIGURES]
    if DIFFERENT in (measured, *others):
        return MEASURED
    return REASON if "why" in fields else TOLERANCE


def _tables(
    records: tuple[Path, Path], manifests: tuple[Manifest, Manifest], tolerance: float, timed: Set[str]
) -> Iterator[TableComparison]:
    """The tables of either record, then the data of their figures."""
    paths = sorted({path for manifest in manifests for path in manifest.files if path.endswith(".csv")})
    for path in [path for folder in ("tables/", "figures/") for path in paths if path.startswith(folder)]:
        a, b = (manifest.files.get(path) for manifest in manifests)
        timing = any(entry.timing for entry in (a, b) if entry)
        if a and b:
            tables = [tablediff.read(record / path) for record in records]
            yield TableComparison(path, timing, diff=tablediff.diff(*tables, tolerance, timed))
        else:
            yield TableComparison(path, timing, only="a" if a else "b")


def _sections(a: Manifest, b: Manifest) -> dict[str, tuple[str | None, str | None]]:
    statuses_a, statuses_b = ({stem: entry.status for stem, entry in m.sections.items()} for m in (a, b))
    pairs = {stem: (statuses_a.get(stem), statuses_b.get(stem)) for stem in {**statuses_a, **statuses_b}}
    return {stem: pair for stem, pair in pairs.items() if pair[0] != pair[1]}


def _files(what: str, folder: str, kinds: tuple[str, ...], a: Manifest, b: Manifest) -> FileGroup:
    hashes_a, hashes_b = (
        {path: entry.sha256 for path, entry in m.files.items() if path.startswith(folder) and path.endswith(kinds)}
        for m in (a, b)
    )
    both = hashes_a.keys() & hashes_b.keys()
    different = tuple(sorted(path for path in both if hashes_a[path] != hashes_b[path]))
    only_a, only_b = (tuple(sorted(hashes.keys() - both)) for hashes in (hashes_a, hashes_b))
    return FileGroup(what, len(both) - len(different), different, only_a, only_b)
