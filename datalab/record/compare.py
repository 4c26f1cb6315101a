"""Two records side by side: which cells, claims and verdicts differ, and what of the environment does."""

import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from datalab.errors import UserError
from datalab.record import claimstable, provenance, surroundings, tablediff, verify
from datalab.record.manifest import Manifest
from datalab.record.study import Study
from datalab.record.surroundings import Setting
from datalab.record.tablediff import DIFFERENT, INTERVAL, TOLERANCE, TableDiff
from datalab.record.tables import exact

DEFAULT_TOLERANCE = 1e-5  # relative: a step in the last of the six digits that a table has
VERDICT, MEASURED, REASON = "changed verdict", "changed measured", "changed reason"
CLAIM_KINDS = (VERDICT, MEASURED, REASON, INTERVAL, TOLERANCE)  # as they are listed
_FIGURES = ("low", "high", "effect_size", "n")
_COMPARED = ("verdict", "measured", *_FIGURES, "why")  # what is left of a claim's row says where, or is the ledger's
Which = Literal["", "a", "b"]


@dataclass(frozen=True)
class Side:
    """One of the two records."""

    record: str
    profile: str
    created: str
    commit: str | None


@dataclass(frozen=True)
class TableComparison:
    """A table, or the data behind a figure. ``only`` names the record that alone has it; empty: both do."""

    path: str
    timing: bool
    only: Which = ""
    diff: TableDiff = field(default_factory=TableDiff)

    def differs(self, timing: bool) -> bool:
        """Whether it differs in more than the tolerance; measured time and memory count only with ``timing``."""
        d = self.diff
        listed = self.only or d.rows_only_a or d.rows_only_b or d.columns_only_a or d.columns_only_b
        if self.timing and not timing:
            return False
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
class SectionComparison:
    """A section whose status differs; ``None`` where a record does not have it."""

    stem: str
    a: str | None
    b: str | None


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
    """Two records. ``timing`` says whether measured time and memory count; ``tables`` has every table of either."""

    a: Side
    b: Side
    tolerance: float
    timing: bool
    claims: tuple[ClaimComparison, ...]
    claims_compared: int
    tables: tuple[TableComparison, ...]
    sections: tuple[SectionComparison, ...]
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
        tables = [self._table(table) for table in self.tables if table.noted]
        cells = sum(table.diff.compared for table in self.tables)
        counts = {"claims": self.claims_compared, "tables": len(self.tables), "cells": cells}
        return {
            "same": self.same,
            **{name: tree[name] for name in ("a", "b", "tolerance", "timing")},
            "counts": counts | {"by_kind": self.by_kind()},
            "claims": tree["claims"],
            "tables": tables,
            **{name: tree[name] for name in ("sections", "files", "environment")},
        }

    def _table(self, table: TableComparison) -> dict[str, Any]:
        about = {"path": table.path, "timing": table.timing, "only": table.only}
        return about | {"counts": table.differs(self.timing), **asdict(table.diff)}

    def by_kind(self) -> dict[str, int]:
        """How many cells and claims there are of each kind of difference, measured time counted too."""
        cells = [cell.kind for table in self.tables for cell in table.diff.cells]
        claims = [claim.kind for claim in self.claims]
        found = {f"cells {kind}": cells.count(kind) for kind in (DIFFERENT, INTERVAL, TOLERANCE)}
        return found | {f"claims {kind}": claims.count(kind) for kind in CLAIM_KINDS}


def compare(a: Path, b: Path, study: Study, tolerance: float = DEFAULT_TOLERANCE, timing: bool = False) -> Comparison:
    """Compare record ``b`` with record ``a``: claims, tables, figures' data, raw files by hash, environment.

    ``tolerance`` is relative. With ``timing``, measured time and memory count too.
    Raises :class:`UserError` for a record that is not there or not whole, and for a tolerance that is not 0 or more.
    """
    if not 0 <= tolerance < math.inf:
        raise UserError(f"tolerance {tolerance}: it is a relative difference, a number of 0 or more, such as 1e-5")
    book_a, book_b = _whole(a, study), _whole(b, study)
    timed = _timed(book_a) | _timed(book_b)
    claims_a, claims_b = _claims(book_a, study), _claims(book_b, study)
    ids = list(dict.fromkeys([*claims_a, *claims_b]))
    found = [_claim(one, claims_a.get(one, {}), claims_b.get(one, {}), tolerance, one in timed) for one in ids]
    claims = sorted((claim for claim in found if claim), key=lambda claim: CLAIM_KINDS.index(claim.kind))
    return Comparison(
        a=_side(a, book_a),
        b=_side(b, book_b),
        tolerance=tolerance,
        timing=timing,
        claims=tuple(claims),
        claims_compared=len(ids),
        tables=tuple(_tables((a, book_a), (b, book_b), tolerance, timed)),
        sections=tuple(_sections(book_a, book_b)),
        files=(
            _files("raw cells", "cells/", (".parquet",), book_a, book_b),
            _files("figures' images", "figures/", (".svg", ".png"), book_a, book_b),
        ),
        environment=surroundings.differing(book_a, book_b),
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


def _side(record: Path, manifest: Manifest) -> Side:
    return Side(provenance.shown(record), manifest.profile, manifest.created, manifest.git.get("commit"))


def _timed(manifest: Manifest) -> Set[str]:
    """The claims whose measured value is time or memory: they rest on a table that is marked so."""
    timed = {path for path, entry in manifest.files.items() if entry.timing}
    return {claim["id"] for entry in manifest.sections.values() for claim in entry.claims if claim["table"] in timed}


def _claims(manifest: Manifest, study: Study) -> dict[str, dict[str, str]]:
    """Every claim's figures as ``claims.csv`` has them; those that only another version's ledger knows come last."""
    rows = {row["id"]: row for row in claimstable.rows(manifest, study)}
    measured = {claim["id"]: claim for entry in manifest.sections.values() for claim in entry.claims}
    rows |= {one: claim for one, claim in sorted(measured.items()) if one not in rows}
    return {one: {name: exact(row.get(name)) for name in _COMPARED} for one, row in rows.items()}


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
    measured = tablediff.kind(a["measured"], b["measured"], limits[0], limits[1], tolerance)
    if measured == INTERVAL:  # its limits and its effect size move with it
        return INTERVAL
    others = [tablediff.kind(a[name], b[name], None, None, tolerance) for name in _FIGURES]
    if DIFFERENT in (measured, *others):
        return MEASURED
    return REASON if "why" in fields else TOLERANCE


def _tables(
    a: tuple[Path, Manifest], b: tuple[Path, Manifest], tolerance: float, timed: Set[str]
) -> Iterator[TableComparison]:
    (record_a, book_a), (record_b, book_b) = a, b
    for path in _data(book_a, book_b):
        in_a, in_b = book_a.files.get(path), book_b.files.get(path)
        timing = any(entry.timing for entry in (in_a, in_b) if entry)
        if not in_a or not in_b:
            yield TableComparison(path, timing, only="a" if in_a else "b")
        else:
            grids = tablediff.read(record_a / path), tablediff.read(record_b / path)
            yield TableComparison(path, timing, diff=tablediff.diff(*grids, tolerance, timed))


def _data(*manifests: Manifest) -> list[str]:
    """The paths of the tables of any of the records, then of their figures' data."""
    paths = {path for manifest in manifests for path in manifest.files if path.endswith(".csv")}
    return [path for folder in ("tables/", "figures/") for path in sorted(paths) if path.startswith(folder)]


def _sections(a: Manifest, b: Manifest) -> Iterator[SectionComparison]:
    for stem in dict.fromkeys([*a.sections, *b.sections]):
        statuses = [manifest.sections[stem].status if stem in manifest.sections else None for manifest in (a, b)]
        if statuses[0] != statuses[1]:
            yield SectionComparison(stem, *statuses)


def _files(what: str, folder: str, kinds: tuple[str, ...], a: Manifest, b: Manifest) -> FileGroup:
    hashes_a, hashes_b = (
        {
            path: manifest.files[path].sha256
            for path in sorted(manifest.files)
            if path.startswith(folder) and path.endswith(kinds)
        }
        for manifest in (a, b)
    )
    both = [path for path in hashes_a if path in hashes_b]
    different = tuple(path for path in both if hashes_a[path] != hashes_b[path])
    only_a = tuple(path for path in hashes_a if path not in hashes_b)
    only_b = tuple(path for path in hashes_b if path not in hashes_a)
    return FileGroup(what, len(both) - len(different), different, only_a, only_b)
