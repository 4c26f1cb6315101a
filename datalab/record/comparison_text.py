"""What ``datalab compare`` prints: what differs, the claims first, then table by table, then the environment."""

from collections.abc import Iterator, Sequence
from itertools import takewhile

from datalab.record.compare import ClaimComparison, Comparison, TableComparison
from datalab.record.tablediff import KINDS, TOLERANCE, Cell

LIMIT = 10  # differing cells, rows, claims or settings listed of one kind, unless all are asked for
WIDTH = 40  # characters of a value that are shown
NOTHING = "–"


def lines(c: Comparison, everything: bool = False) -> Iterator[str]:
    """The account of a comparison. With ``everything`` no list is cut and no value shortened."""
    limit = None if everything else LIMIT
    for name, side in (("A", c.a), ("B", c.b)):
        commit = f", commit {side['commit'][:12]}" if side["commit"] else ""
        yield f"{name}: {side['record']} (profile {side['profile']}{commit}, begun {side['created']})"
    yield f"Where a value differs it is A's | B's; the tolerance is {c.tolerance:g} of the larger."
    yield from _claims("claims", [claim for claim in c.claims if not claim.timing], limit)
    for table in c.tables:
        if not table.timing:
            yield from _table(table, [cell for cell in table.diff.cells if not cell.timing], limit)
    yield from _timed(c, limit)
    if c.sections:
        yield "sections:"
        yield from _list([[stem, *_pair(*statuses)] for stem, statuses in c.sections.items()], None)
    for group in c.files:
        if group.different or group.only_a or group.only_b:
            counts = f"{group.same} the same, {len(group.different)} different"
            yield f"{group.what}, by hash: {counts}, {len(group.only_a)} only in A, {len(group.only_b)} only in B"
    if c.environment:
        yield "environment (does not count):"
        rows = []
        for setting in c.environment:
            sections = f"section{'s' * (len(setting.sections) > 1)} {', '.join(setting.sections)}"
            where = sections if setting.sections else ""
            rows.append([setting.what, *_pair(setting.a, setting.b, cut=not everything), where])
        yield from _list(rows, limit and 3 * limit)
    yield _conclusion(c)


def _claims(title: str, claims: Sequence[ClaimComparison], limit: int | None) -> Iterator[str]:
    if not claims:
        return
    yield f"{title}: {_counted(claims)}"
    rows = []
    for claim in claims:
        also = ", ".join(name for name in claim.fields if name in ("effect_size", "n", "why"))
        figures = _pair(_figure(claim.a), _figure(claim.b))
        rows.append([claim.kind, claim.id, *figures, f"also {also}" if also else ""])
    verdicts = sum("verdict" in claim.fields for claim in claims)
    yield from _list(rows, limit and max(limit, verdicts))


def _figure(row: dict[str, str]) -> str:
    limits = f" [{row['low']}, {row['high']}]" if row["low"] or row["high"] else ""
    return f"{row['verdict'] or NOTHING}: {row['measured'] or NOTHING}{limits}"


def _table(table: TableComparison, cells: Sequence[Cell], limit: int | None) -> Iterator[str]:
    d = table.diff
    if table.only:
        yield f"{table.path}: only in {table.only.upper()}"
        return
    lists = {
        "columns only in A": d.columns_only_a,
        "columns only in B": d.columns_only_b,
        "rows only in A": [_row(d.key, row) for row in d.rows_only_a],
        "rows only in B": [_row(d.key, row) for row in d.rows_only_b],
    }
    lists = {title: names for title, names in lists.items() if names}
    if not (cells or lists or d.reordered):
        return
    cells = sorted(cells, key=lambda cell: -KINDS.index(cell.kind))
    parts = [_counted(cells)] if cells else []
    parts += [f"{title}: {len(names)}" for title, names in lists.items()] + ["in another order"] * d.reordered
    yield f"{table.path}: {d.compared} cells compared; {'; '.join(parts)}"
    for title, names in lists.items():
        more = f"; and {len(names) - limit} more (--all lists them)" if limit and len(names) > limit else ""
        yield f"  {title}: {'; '.join(names[:limit])}{more}"
    cut = limit is not None
    yield from _list([[c.kind, _row(d.key, c.row), c.column, *_pair(c.a, c.b, cut)] for c in cells], limit)


def _timed(c: Comparison, limit: int | None) -> Iterator[str]:
    """What differs in measured time and memory; its cells one by one only where they count, or all are asked for."""
    account = list(_claims("claims that rest on it", [claim for claim in c.claims if claim.timing], limit))
    for table in c.tables:
        if table.timing:
            of_table = list(_table(table, table.diff.cells, limit))
            account += of_table if c.timing or limit is None else of_table[:1]
        elif timed := sorted((cell for cell in table.diff.cells if cell.timing), key=lambda cell: cell.kind):
            account.append(f"{table.path}, where it repeats them: {_counted(timed)}")
    if account:
        yield "measured time and memory " + ("(counted):" if c.timing else "(does not count; --timing counts it):")
        yield from (f"  {line}" for line in account)


def _conclusion(c: Comparison) -> str:
    compared = f"{c.claims_compared} claims and {len(c.tables)} tables compared, figures' data among them"
    if c.same:
        near = sum(count for kind, count in c.by_kind().items() if kind.endswith(TOLERANCE))
        timed = any(claim.timing and claim.kind != TOLERANCE for claim in c.claims)
        timed |= any(table.differs(timing=True) and not table.differs(timing=False) for table in c.tables)
        aside = ", measured time and memory aside" if timed and not c.timing else ""
        return f"the same{aside} ({compared}" + (f"; {near} values within the tolerance)" if near else ")")
    claims = [claim for claim in c.claims if claim.kind != TOLERANCE and (c.timing or not claim.timing)]
    counts = {
        "claims": len(claims),
        "of them in the verdict": sum("verdict" in claim.fields for claim in claims),
        "tables": sum(table.differs(c.timing) for table in c.tables),
        "sections' status": len(c.sections),
    }
    return f"different in {', '.join(f'{count} {what}' for what, count in counts.items() if count)} ({compared})"


def _counted(differing: Sequence[Cell | ClaimComparison]) -> str:
    """How many there are of each kind, in the order in which they first come."""
    kinds = [difference.kind for difference in differing]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))


def _row(key: Sequence[str], row: Sequence[str]) -> str:
    return ", ".join(row) if key else f"row {row[0]}"


def _list(rows: Sequence[Sequence[str]], limit: int | None) -> Iterator[str]:
    """The first ``limit`` rows in aligned columns, and how many more there are."""
    widths = [max(map(len, column)) for column in zip(*rows[:limit], strict=True)]
    for row in rows[:limit]:
        yield "  " + "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
    if limit is not None and len(rows) > limit:
        yield f"  and {len(rows) - limit} more (--all lists them)"


def _pair(a: str | None, b: str | None, cut: bool = False) -> list[str]:
    """Both values with a bar between; where they are long, what surrounds the first character that differs."""
    texts = [str(text or NOTHING).replace("\n", " ") for text in (a, b)]
    if cut and max(map(len, texts)) > WIDTH:
        shared = sum(1 for _ in takewhile(lambda letters: letters[0] == letters[1], zip(*texts, strict=False)))
        start = max(0, shared - WIDTH // 4)
        texts = ["…" * (start > 0) + text[start:][:WIDTH] + "…" * (start + WIDTH < len(text)) for text in texts]
    return [texts[0], "|", texts[1]]
