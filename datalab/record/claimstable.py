"""``claims.csv``: one row a statement of the paper: what the paper says, what was measured, and where it stands."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datalab import atomic
from datalab.record.manifest import Manifest
from datalab.record.study import Study

if TYPE_CHECKING:
    import pandas as pd

NAME = "claims.csv"
LEDGER = ("id", "section", "text", "reported", "unit", "paper_check", "paper_strength", "unsupported")
MEASURED = ("measured", "low", "high", "effect_size", "n", "verdict", "why", "table", "row", "notebook", "cell", "raw")
COLUMNS = [*LEDGER, *MEASURED]


def rows(manifest: Manifest, study: Study) -> list[dict[str, Any]]:
    """One row a claim of the ledger, in its order; a claim two sections measured has the later section's figures."""
    measured = {}
    for stem, entry in manifest.sections.items():
        for claim in entry.claims:
            measured[claim["id"]] = {**claim, "notebook": f"notebooks/{stem}.ipynb"}
    return [_row(statement, measured.get(statement["id"])) for statement in study.ledger.statements()]


def _row(statement: Mapping[str, Any], measured: Mapping[str, Any] | None) -> dict[str, Any]:
    row = dict.fromkeys(COLUMNS) | {name: statement[name] for name in LEDGER}
    given = statement if measured is None else measured
    return row | {name: given.get(name) for name in MEASURED}


def trail(manifest: Manifest, row: dict[str, Any], study: Study) -> dict[str, Any]:
    """What leads from a statement's row to its evidence: the paper check's arithmetic, the test, raw rows, source."""
    found = {name: study.statement(row["id"])[name] for name in ("paper_note", "test", "ceiling")}
    if row["notebook"]:
        stem = str(row["notebook"]).removeprefix("notebooks/").removesuffix(".ipynb")
        entry = manifest.sections[stem]
        files = entry.cells
        found["raw_rows"] = f"{len(files)} files, the first {files[0]}" if files else "none: it reads other sections"
        found["measured_at"] = entry.ended
    return found | {"commit": manifest.git.get("commit")}


def frame(manifest: Manifest, study: Study) -> "pd.DataFrame":
    """The same as a data frame with the columns of ``claims.csv``."""
    import pandas as pd

    return pd.DataFrame(rows(manifest, study), columns=COLUMNS)


def text(manifest: Manifest, study: Study) -> str:
    """The bytes of ``claims.csv`` as the manifest's claims and the ledger give them."""
    from datalab.record.tables import exact

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([exact(row[name]) for name in COLUMNS] for row in rows(manifest, study))
    return out.getvalue()


def write(record: Path, manifest: Manifest, study: Study) -> None:
    """Write ``claims.csv`` and enter it in the manifest."""
    atomic.write(record / NAME, text(manifest, study))
    manifest.add_file(record, NAME)
