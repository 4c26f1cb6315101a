"""The paper's tables, with its rows and columns: which statement of the ledger stands in which cell."""

from collections.abc import Mapping
from typing import Any

from datalab.ledger.claim import claims

_TABLES = {  # title, and head of the first column
    "T1": ("Table 4.1: main results", "method"),
    "T1b": ("Table 4.1b: benchmark by benchmark", "benchmark"),
    "T2": ("Table 4.2: by influence level", "level"),
    "T3": ("Table 4.3: ablation", "configuration"),
    "T4": ("Table 4.4: by training size", "size"),
    "T5": ("Table 4.5: overhead", "component"),
}
# As the paper words them; where it prints the key itself the key stands.
_ROWS = {
    "T1.vanilla": "Baseline (vanilla)",
    "T1.if": "+ influence functions",
    "T1.ln": "+ label noise",
    "T1.full": "Ours (full)",
    "T1.oracle": "Oracle upper bound",
    "T3.full": "Full model",
    "T3.wo_fe": "w/o Feature Extraction",
    "T3.wo_aw": "w/o Adaptive Weighting",
    "T3.wo_reg": "w/o Regularization",
    "T3.wo_all": "w/o All (baseline)",
    "T5.fe": "Feature Extraction",
    "T5.aw": "Adaptive Weighting",
    "T5.reg": "Regularization",
    "T5.total": "Total",
}
_COLUMNS = {
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "accuracy": "Accuracy (%)",
    "baseline_f1": "Baseline F1",
    "ours_f1": "Ours F1",
    "improvement": "Improvement (%)",
    "p": "p-value",
    "gap_pp": "Gap (pp)",
    "cohen_d": "Cohen's d",
    "delta": "Delta vs Full",
    "rel_gain": "Relative Gain (%)",
    "train": "Training Time Overhead (%)",
    "infer": "Inference Time Overhead (%)",
    "mem": "Memory Overhead (%)",
}


def paper_tables(rows: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """All of the paper's tables: each its ``key``, ``title``, ``head``, ``columns`` and ``rows``, (name, cells) a row.

    ``rows`` are the record's claims by id; a cell is one of these, or ``None`` where the paper prints none.
    """
    ids = [claim_id.split(".") for claim_id, claim in claims().items() if claim.kind == "table_cell"]
    tables = []
    for key, (title, head) in _TABLES.items():
        cells = {(row, column): rows[f"{key}.{row}.{column}"] for table, row, column in ids if table == key}
        names, columns = (list(dict.fromkeys(at)) for at in zip(*cells, strict=True))
        named = [(_row(key, row), [cells.get((row, column)) for column in columns]) for row in names]
        words = [_COLUMNS[column] for column in columns]
        tables.append({"key": key, "title": title, "head": head, "columns": words, "rows": named})
    return tables


def _row(table: str, row: str) -> str:
    named = {"T1b": f"Bench-{row}", "T2": row.capitalize()}
    return _ROWS.get(f"{table}.{row}", named.get(table, row))
