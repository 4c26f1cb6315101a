"""What ``datalab compare`` prints: what differs, the claims first, then table by table, then the environment."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import takewhile

from datalab.record.checks.compare import CLAIM_KINDS, ClaimComparison, Comparison
from datalab.record.checks.tablediff import DIFFERENT, ROUNDING, TOLERANCE, Cell, TableDiff

LIMIT = 10  # differing cells, rows, claims or settings listed of one kind, unless all are asked for
WIDTH = 40  # characters of a value that are shown
NOTHING = "–"
ORDER = (DIFFERENT, *CLAIM_KINDS)  # of the kinds of difference, the farthest apart first


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
            yield from _table(table, [cell for cell in table.cells if not cell.timing], limit)
    if timed := list(_timed(c, limit)):
        yield "measured time and memory " + ("(counted):" if c.timing else "(does not count; --timing counts it):")
        yield from (f"  {line}" for line in timed)
    if c.sections:
        yield "sections:"
        rows = [[section["stem"], *_pair(section["a"], section["b"], cut=not everything)] for section in c.sections]
        yield from _list(rows, None)
    for group in c.files:
        different, only_a, only_b = (len(group[name]) for name in ("different", "only_a", "only_b"))
        if different or only_a or only_b:
            counts = f"{group['same']} the same, {different} different, {only_a} only in A, {only_b} only in B"
            yield f"{group['what']}, by hash: {counts}"
            yield from (f"  {path} differs, though its .csv does not" for path in group["counts"][:limit])
    if c.environment:
        yield "environment (does not count):"
        rows = []
        for setting in c.environment:
            sections = f"sections {', '.join(setting['sections'])}" if setting["sections"] else ""
            rows.append([setting["what"], *_pair(setting["a"], setting["b"], cut=not everything), sections])
        yield from _list(rows, limit and 3 * limit)
    yield _conclusion(c)


def _claims(title: str, claims: Sequence[ClaimComparison], limit: int | None) -> Iterator[str]:
    if not claims:
        return
    yield f"{title}: {_counted(claims)}"
    rows = []
    for claim in claims:
        also = ", ".join(name for name in claim.fields if name in ("effect_size", "n", "why", "excluded"))
        figures = _pair(_figure(claim.a), _figure(claim.b))
        rows.append([claim.kind, claim.id, *figures, f"also {also}" if also else ""])
    verdicts = sum("verdict" in claim.fields for claim in claims)
    yield from _list(rows, limit and max(limit, verdicts))


def _figure(row: dict[str, str]) -> str:
    limits = f" [{row['low']}, {row['high']}]" if row["low"] or row["high"] else ""
    return f"{row['verdict'] or NOTHING}: {row['measured'] or NOTHING}{limits}"


def _table(table: TableDiff, cells: Sequence[Cell], limit: int | None) -> Iterator[str]:
    """A table's count of ``cells``, what one record alone has of it, and the cells; nothing where there is none."""
    lists = {"columns only in A": table.columns_only_a, "columns only in B": table.columns_only_b}
    lists |= {"rows only in A": [_row(table, row) for row in table.rows_only_a]}
    lists |= {"rows only in B": [_row(table, row) for row in table.rows_only_b]}
    parts = [_counted(cells)] if cells else []
    parts += [f"{title}: {len(names)}" for title, names in lists.items() if names]
    parts += ["in another order"] * table.reordered
    if table.only:
        yield f"{table.path}: only in {table.only.upper()}"
    elif parts:
        yield f"{table.path}: {table.compared} cells compared; {'; '.join(parts)}"
    for title, names in lists.items():
        if names:
            more = f"; and {len(names) - limit} more (--all lists them)" if limit and len(names) > limit else ""
            yield f"  {title}: {'; '.join(names[:limit])}{more}"
    farthest_first = sorted(cells, key=lambda cell: ORDER.index(cell.kind))
    cut = limit is not None
    rows = [[cell.kind, _row(table, cell.row), cell.column, *_pair(cell.a, cell.b, cut)] for cell in farthest_first]
    yield from _list(rows, limit)


def _timed(c: Comparison, limit: int | None) -> Iterator[str]:
    """What differs in measured time and memory; its cells one by one only where they count, or all are asked for."""
    yield from _claims("claims that rest on it", [claim for claim in c.claims if claim.timing], limit)
    for table in c.tables:
        if table.timing:
            listed = list(_table(table, table.cells, limit))
            yield from listed if c.timing or limit is None else listed[:1]
        elif repeated := [cell for cell in table.cells if cell.timing]:
            yield f"{table.path}, where it repeats them: {_counted(repeated)}"


def _conclusion(c: Comparison) -> str:
    compared = f"{c.counts['claims']} claims and {c.counts['tables']} tables compared, figures' data among them"
    if c.other_rounding:
        by_rounding = sum(count for kind, count in c.counts["by_kind"].items() if kind.endswith(ROUNDING))
        return (
            f"agrees (other rounding): every verdict is the same, and {by_rounding} values moved, each estimate by "
            f"under a twentieth of its half-width ({compared})"
        )
    if c.same:
        near = sum(count for kind, count in c.counts["by_kind"].items() if kind.endswith(TOLERANCE))
        aside = "" if replace(c, timing=True).same else ", measured time and memory aside"
        return f"the same{aside} ({compared}" + (f"; {near} values within the tolerance)" if near else ")")
    counts = ", ".join(f"{count} {what}" for what, count in c.differing().items() if count)
    return f"different in {counts} ({compared})"


def _counted(differing: Sequence[Cell | ClaimComparison]) -> str:
    """How many there are of each kind, the farthest apart first."""
    kinds = Counter(difference.kind for difference in differing)
    return ", ".join(f"{kinds[kind]} {kind}" for kind in ORDER if kind in kinds)


def _row(table: TableDiff, row: Sequence[str]) -> str:
    return ", ".join(row) if table.key else f"row {row[0]}"


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
