"""``claims.csv``: one row a statement of the paper: what the paper says, what was measured, and where it stands."""

from pathlib import Path
from typing import Any

import pandas as pd

from datalab import atomic
from datalab.record.manifest import Manifest
from datalab.record.study import Study
from datalab.record.tables import Table

NAME = "claims.csv"
LEDGER = ("id", "section", "text", "reported", "unit", "paper_check", "paper_strength", "unsupported")
FIGURES = ("measured", "low", "high", "measured_unit", "effect_size", "n")
MEASURED = (*FIGURES, "verdict", "why", "table", "row", "notebook", "cell", "raw")
# What qualifies a verdict: is the reported figure outside the interval, and was the outcome fixed before any run?
QUALIFIED = ("excluded", "by_construction")
COLUMNS = [*LEDGER, *MEASURED, *QUALIFIED]


def shown(unit: str | None) -> str:
    """A unit as it stands behind a figure, a space before it: nothing where there is none, or of a ratio."""
    return f" {unit}" if unit and unit not in ("ratio", "probability") else ""


def rows(manifest: Manifest, study: Study) -> list[dict[str, Any]]:
    """One row a claim of the ledger, in its order; a claim two sections measured has the later section's figures."""
    measured, table = manifest.measured(), []
    for statement in study.ledger.statements():
        stem, figures = measured.get(statement["id"], (None, statement))
        row = {name: statement[name] for name in LEDGER} | {name: figures.get(name) for name in MEASURED}
        if row["measured"] is not None:
            row["measured_unit"] = figures.get("unit") or statement["unit"]
        row |= {"excluded": figures.get("excluded") or None, "by_construction": statement.get("by_construction")}
        table.append(row | {"notebook": f"notebooks/{stem}.ipynb" if stem else None})
    return table


def trail(manifest: Manifest, row: dict[str, Any], study: Study) -> dict[str, Any]:
    """What leads from a statement's row to its evidence: the paper check's arithmetic, the test, raw rows, source."""
    statement = study.statement(row["id"])
    steps = {name: statement[name] for name in ("paper_note", "test", "ceiling")}
    if row["notebook"]:
        entry = manifest.sections[Path(row["notebook"]).stem]
        cells = entry.cells
        steps["raw_rows"] = f"{len(cells)} files, the first {cells[0]}" if cells else "none: it reads other sections"
        steps["measured_at"] = entry.ended
    return steps | {"commit": manifest.git.get("commit")}


def frame(manifest: Manifest, study: Study, dtype: type | None = None) -> pd.DataFrame:
    """The same as a data frame with the columns of ``claims.csv``."""
    return pd.DataFrame(rows(manifest, study), columns=COLUMNS, dtype=dtype)


def text(manifest: Manifest, study: Study) -> str:
    """The bytes of ``claims.csv`` as the manifest's claims and the ledger give them."""
    return Table(frame(manifest, study, dtype=object), "claims", "").csv()


def write(record: Path, manifest: Manifest, study: Study) -> None:
    """Write ``claims.csv`` and enter it in the manifest."""
    atomic.write(record / NAME, text(manifest, study))
    manifest.add_file(record, NAME)
