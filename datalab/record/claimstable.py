"""``claims.csv``: one row a statement of the paper: what the paper says, what was measured, and where it stands."""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datalab.record import atomic
from datalab.record.manifest import Manifest

if TYPE_CHECKING:
    import pandas as pd

NAME = "claims.csv"
LEDGER = ("id", "section", "text", "reported", "unit", "paper_check", "paper_strength", "unsupported")
MEASURED = ("measured", "low", "high", "effect_size", "n", "verdict", "why", "table", "row", "notebook", "cell", "raw")
COLUMNS = [*LEDGER, *MEASURED]


def check(claim_id: str) -> None:
    """Raise :class:`UserError`, with a suggestion, for an id the ledger does not have."""
    from datalab import claims

    claims.find(claim_id)


def rows(book: Manifest) -> list[dict[str, Any]]:
    """One row a claim of the ledger, in its order; a claim two sections measured has the later section's figures."""
    from datalab import claims

    measured = {}
    for stem, entry in book.sections.items():
        for claim in entry.claims:
            measured[claim["id"]] = {**claim, "notebook": f"notebooks/{stem}.ipynb"}
    return [_row(claims, claim, measured.get(claim_id)) for claim_id, claim in claims.ledger().items()]


def _row(claims: Any, claim: Any, measured: dict[str, Any] | None) -> dict[str, Any]:
    paper = claims.paper_column(claim)
    row = dict.fromkeys(COLUMNS)
    row |= {
        "id": claim.id,
        "section": claim.section,
        "text": claim.text,
        "reported": claim.reported_text(),
        "unit": claim.unit,
        "paper_check": paper.verdict,
        "paper_strength": paper.strength,
        "unsupported": paper.unsupported,
    }
    if measured is not None:
        return row | {name: measured.get(name) for name in MEASURED}
    fixed = claims.automatic(claim)
    verdict, why = (fixed.verdict, fixed.why) if fixed else (claims.NOT_RUN, "no section of this record measured it")
    return row | {"verdict": verdict, "why": why}


def trail(book: Manifest, row: dict[str, Any]) -> dict[str, Any]:
    """What leads from a statement's row to its evidence: the paper check's arithmetic, the test, raw rows, source."""
    from datalab import claims

    claim = claims.find(row["id"])
    found = {"paper_note": claim.paper_check.note, "test": claim.test, "ceiling": claim.verdict_ceiling}
    if row["notebook"]:
        stem = str(row["notebook"]).removeprefix("notebooks/").removesuffix(".ipynb")
        entry = book.sections[stem]
        files = entry.cells
        found["raw_rows"] = f"{len(files)} files, the first {files[0]}" if files else "none: it reads other sections"
        found["measured_at"] = entry.ended
    return found | {"commit": book.git.get("commit")}


def frame(book: Manifest) -> "pd.DataFrame":
    """The same as a data frame with the columns of ``claims.csv``."""
    import pandas as pd

    return pd.DataFrame(rows(book), columns=COLUMNS)


def text(book: Manifest) -> str:
    """The bytes of ``claims.csv`` as the manifest's claims and the ledger give them."""
    from datalab.record.tables import exact

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([exact(row[name]) for name in COLUMNS] for row in rows(book))
    return out.getvalue()


def write(record: Path, book: Manifest) -> None:
    """Write ``claims.csv`` and enter it in the manifest."""
    atomic.write(record / NAME, text(book))
    book.add_file(record, NAME)
