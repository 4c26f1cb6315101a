"""What ``datalab compare`` prints: what differs, the claims first, then table by table, then the environment."""

from collections.abc import Iterator, Sequence

from datalab.record.compare import ClaimComparison, Comparison, TableComparison
from datalab.record.tablediff import KINDS, TOLERANCE, Cell

LIMIT = 10  # differing cells, rows, claims or settings listed of one kind, unless all are asked for
WIDTH = 40  # characters of a value that are shown
NOTHING = "–"


def lines(c: Comparison, everything: bool = False) -> Iterator[str]:
    """The account of a comparison. With ``everything`` no list is cut and no value shortened."""
    limit = None if everything else LIMIT
    for name, side in (("A", c.a), ("B", c.b)):
        commit = f", commit {side.commit[:12]}" if side.commit else ""
        yield f"{name}: {side.record} (profile {side.profile}{commit}, begun {side.created})"
    yield f"Where a value differs it is A's | B's; the tolerance is {c.tolerance:g} of the larger."
    yield from _claims("claims", [claim for claim in c.claims if not claim.timing], limit)
    for table in c.tables:
        if not table.timing:
            yield from _table(table, [cell for cell in table.diff.cells if not cell.timing], limit)
    yield from _timed(c, limit)
    if c.sections:
        yield "sections:"
        yield from _aligned([[section.stem, *_pair(section.a, section.b, False)] for section in c.sections])
    for group in c.files:
        if group.different or group.only_a or group.only_b:
            counts = f"{group.same} the same, {len(group.different)} different"
            yield f"{group.what}, by hash: {counts}, {len(group.only_a)} only in A, {len(group.only_b)} only in B"
    if c.environment:
        yield "environment (does not count):"
        pairs = [_pair(setting.a, setting.b, not everything) for setting in c.environment]
        rows = [[s.what, *pair, _of(s.sections)] for s, pair in zip(c.environment, pairs, strict=True)]
        yield from _list(rows, limit if limit is None else 3 * limit)
    yield _conclusion(c)


def _claims(title: str, claims: Sequence[ClaimComparison], limit: int | None) -> Iterator[str]:
    if not claims:
        return
    yield f"{title}: {_counted([claim.kind for claim in claims])}"
    rows = []
    for claim in claims:
        also = [name for name in claim.fields if name in ("effect_size", "n", "why")]
        said = [f"{row['verdict'] or NOTHING}: {_figure(row)}" for row in (claim.a, claim.b)]
        rows.append([claim.kind, claim.id, *_pair(*said, False), f"also {', '.join(also)}" if also else ""])
    verdicts = sum("verdict" in claim.fields for claim in claims)
    yield from _list(rows, limit if limit is None else max(limit, verdicts))


def _figure(row: dict[str, str]) -> str:
    limits = f" [{row['low']}, {row['high']}]" if row["low"] or row["high"] else ""
    return (row["measured"] or NOTHING) + limits


def _table(table: TableComparison, cells: Sequence[Cell], limit: int | None) -> Iterator[str]:
    d = table.diff
    if table.only:
        yield f"{table.path}: only in {table.only.upper()}"
        return
    cells = sorted(cells, key=lambda cell: -KINDS.index(cell.kind))
    columns = (("columns only in A", d.columns_only_a), ("columns only in B", d.columns_only_b))
    row_names = [
        (what, [_row(d.key, row) for row in only])
        for what, only in (("rows only in A", d.rows_only_a), ("rows only in B", d.rows_only_b))
    ]
    only = [(what, names) for what, names in (*columns, *row_names) if names]
    if not (cells or only or d.reordered):
        return
    what = [_counted([cell.kind for cell in cells])] if cells else []
    what += [f"{names_of}: {len(names)}" for names_of, names in only] + ["in another order"] * d.reordered
    yield f"{table.path}: {d.compared} cells compared; {'; '.join(what)}"
    for names_of, names in only:
        yield f"  {names_of}: {'; '.join(names[:limit])}{_more(names, limit)}"
    pairs = [_pair(cell.a, cell.b, limit is not None) for cell in cells]
    rows = [[cell.kind, _row(d.key, cell.row), cell.column, *pair] for cell, pair in zip(cells, pairs, strict=True)]
    yield from _list(rows, limit)


def _timed(c: Comparison, limit: int | None) -> Iterator[str]:
    """What differs in measured time and memory; its cells one by one only where they count, or all are asked for."""
    claims = list(_claims("claims that rest on it", [claim for claim in c.claims if claim.timing], limit))
    tables: list[str] = []
    for table in c.tables:
        if table.timing:
            told = list(_table(table, table.diff.cells, limit))
            tables += told if c.timing or limit is None else told[:1]
        elif timed := [cell for cell in table.diff.cells if cell.timing]:
            tables.append(f"{table.path}, where it repeats them: {_counted(sorted(cell.kind for cell in timed))}")
    if claims or tables:
        yield "measured time and memory " + ("(counted):" if c.timing else "(does not count; --timing counts it):")
        yield from (f"  {line}" for line in claims + tables)


def _conclusion(c: Comparison) -> str:
    compared = f"{c.claims_compared} claims and {len(c.tables)} tables compared, figures' data among them"
    if c.same:
        near = sum(count for kind, count in c.by_kind().items() if kind.endswith(TOLERANCE))
        aside = ", measured time and memory aside" if not c.timing and any(_moved_with_time(c)) else ""
        return f"the same{aside} ({compared}" + (f"; {near} values within the tolerance)" if near else ")")
    claims = [claim for claim in c.claims if claim.kind != TOLERANCE and (c.timing or not claim.timing)]
    found = {
        "claims": len(claims),
        "of them in the verdict": sum("verdict" in claim.fields for claim in claims),
        "tables": sum(table.differs(c.timing) for table in c.tables),
        "sections' status": len(c.sections),
    }
    parts = ", ".join(f"{count} {what}" for what, count in found.items() if count)
    return f"different in {parts} ({compared})"


def _moved_with_time(c: Comparison) -> Iterator[bool]:
    yield from (claim.timing and claim.kind != TOLERANCE for claim in c.claims)
    yield from (table.differs(timing=True) and not table.differs(timing=False) for table in c.tables)


def _counted(kinds: Sequence[str]) -> str:
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))


def _row(key: Sequence[str], row: Sequence[str]) -> str:
    return ", ".join(row) if key else f"row {row[0]}"


def _of(sections: Sequence[str]) -> str:
    return f"section{'s' * (len(sections) > 1)} {', '.join(sections)}" if sections else ""


def _list(rows: Sequence[Sequence[str]], limit: int | None) -> Iterator[str]:
    yield from _aligned(rows[:limit])
    if limit is not None and len(rows) > limit:
        yield f"  and {len(rows) - limit} more (--all lists them)"


def _more(names: Sequence[str], limit: int | None) -> str:
    return f"; and {len(names) - limit} more (--all lists them)" if limit is not None and len(names) > limit else ""


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip()


def _pair(a: str | None, b: str | None, cut: bool) -> list[str]:
    """Both values with a bar between; where they are long, what surrounds the first character that differs."""
    texts = [NOTHING if text in (None, "") else str(text).replace("\n", " ") for text in (a, b)]
    if cut and max(map(len, texts)) > WIDTH:
        common = next((i for i, (x, y) in enumerate(zip(*texts, strict=False)) if x != y), min(map(len, texts)))
        start = max(0, common - WIDTH // 4)
        texts = [_cut(text, start) for text in texts]
    return [texts[0], "|", texts[1]]


def _cut(text: str, start: int) -> str:
    shown = text[start : start + WIDTH]
    return "…" * (start > 0) + shown + "…" * (start + WIDTH < len(text))
