"""The paper's printed figures, one by one and by table."""

from collections.abc import Mapping

import pandas as pd

from datalab.ledger.claim import Claim
from datalab.ledger.rounding import RoundingInterval


class Figures:
    """The paper's printed figures by statement id; calling it gives the rounding interval."""

    def __init__(self, statements: Mapping[str, Claim]):
        self.statements = statements

    def __call__(self, statement_id: str, name: str = "value") -> RoundingInterval:
        return self.statements[statement_id].printed(name)

    def count(self, statement_id: str) -> int:
        """A printed count."""
        return int(self(statement_id).middle)

    def table(self, key: str) -> pd.DataFrame:
        """A table's printed cells as intervals, to reckon with, under the ledger's names and in the order of printing.

        NaN stands where the paper prints nothing.
        """
        rows: dict[str, dict[str, RoundingInterval]] = {}
        for statement_id, claim in self.statements.items():
            if claim.kind == "table_cell" and statement_id.startswith(f"{key}."):
                _, row, column = statement_id.split(".")
                rows.setdefault(row, {})[column] = claim.printed()
        return pd.DataFrame.from_dict(rows, orient="index")
