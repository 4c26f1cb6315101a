"""One table object, four faces: ``.csv`` to compute with, ``.md`` and ``.tex`` to print, HTML to show. All byte-stable.

A table carries its stamp: profile, seeds and n. In ``.md``, ``.tex`` and HTML the stamp is a line under the table; the
``.csv`` stays clean for ``pandas.read_csv`` and has the stamp beside it in ``<name>.json``.
"""

import csv
import html
import io
import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

CSV_DIGITS = 6  # significant digits of a float in a .csv: what float32 training can support
SHOWN_DIGITS = 4  # of the largest value in a column, where the table is printed
EMPTY = "–"


@dataclass(frozen=True)
class Table:
    """A frame with its caption and stamp. ``timing`` marks measured time or memory: it differs between equal runs."""

    frame: pd.DataFrame
    name: str
    caption: str
    stamp: dict[str, Any] = field(default_factory=dict)
    timing: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame", flat(self.frame))

    @property
    def footer(self) -> str:
        """The stamp as one line."""
        return footer(self.stamp) + ("; measured on this machine, differs from run to run" if self.timing else "")

    def csv(self) -> str:
        """Comma-separated, LF, floats with :data:`CSV_DIGITS` significant digits, missing values empty."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.frame.columns)
        for row in self.frame.itertuples(index=False, name=None):
            writer.writerow([exact(value) for value in row])
        return out.getvalue()

    def sidecar(self) -> str:
        """What the ``.csv`` cannot say: caption, stamp, number of rows, whether it holds measured time. As JSON."""
        about = {"caption": self.caption, **self.stamp, "rows": len(self.frame), "timing": self.timing}
        return json.dumps(about, indent=1, ensure_ascii=False) + "\n"

    def markdown(self) -> str:
        """A pipe table, numbers right-aligned, with the caption above and the stamp below."""
        cells = self._shown()
        right = [_is_number(self.frame[column]) for column in self.frame]
        rule = "|" + "|".join(" ---: " if number else " --- " for number in right) + "|"
        lines = [_pipe(list(self.frame.columns)), rule, *(_pipe(row) for row in cells)]
        return f"**{self.caption}**\n\n" + "\n".join(lines) + f"\n\n*{self.footer}*\n"

    def latex(self) -> str:
        """A booktabs ``table``, numbers right-aligned, the stamp as a note under it."""
        kinds = "".join("r" if _is_number(self.frame[column]) else "l" for column in self.frame)
        rows = [" & ".join(_tex(cell) for cell in row) + r" \\" for row in [list(self.frame.columns), *self._shown()]]
        lines = [
            r"\begin{table}",
            rf"\caption{{{_tex(self.caption)}}}",
            rf"\label{{tab:{self.name}}}",
            rf"\begin{{tabular}}{{{kinds}}}",
            r"\toprule",
            rows[0],
            r"\midrule",
            *rows[1:],
            r"\bottomrule",
            r"\end{tabular}",
            rf"\par\footnotesize {_tex(self.footer)}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def _shown(self) -> list[list[str]]:
        columns = [shown_column(self.frame[column]) for column in self.frame]
        return [list(row) for row in zip(*columns, strict=True)]

    def _repr_html_(self) -> str:
        right = [_is_number(self.frame[column]) for column in self.frame]
        align = [' style="text-align:right"' if number else ' style="text-align:left"' for number in right]
        head = "".join(
            f'<th scope="col"{style}>{html.escape(str(column))}</th>'
            for column, style in zip(self.frame.columns, align, strict=True)
        )
        body = "\n".join(
            "<tr>" + "".join(f"<td{a}>{html.escape(cell)}</td>" for cell, a in zip(row, align, strict=True)) + "</tr>"
            for row in self._shown()
        )
        caption = f'<caption style="text-align:left"><b>{html.escape(self.caption)}</b></caption>'
        return (
            f'<div style="max-height:40em;overflow:auto"><table>{caption}\n<thead><tr>{head}</tr></thead>\n'
            f"<tbody>\n{body}\n</tbody></table></div>\n<p><small>{html.escape(self.footer)}</small></p>"
        )

    def __repr__(self) -> str:
        return self.markdown()


def flat(frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` with plain columns: a named index becomes columns, levels of a column index are joined by a space."""
    if isinstance(frame, pd.Series):
        frame = frame.to_frame()
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    names = [" ".join(str(p) for p in c if str(p)) if isinstance(c, tuple) else str(c) for c in frame.columns]
    if len(set(names)) < len(names):
        raise ValueError(f"table columns must differ, got {names}")
    return frame.set_axis(names, axis=1)


def footer(stamp: dict[str, Any]) -> str:
    """``profile quick; seeds 5 (root 2024); n = 15 data sets``."""
    seeds = "" if stamp.get("seeds") is None else f"; seeds {stamp['seeds']}"
    root = "" if stamp.get("root_seed") is None else f" (root {stamp['root_seed']})" if seeds else ""
    return f"profile {stamp.get('profile')}{seeds}{root}; n = {stamp.get('n')}"


def exact(value: Any) -> str:
    """One value as the ``.csv`` has it."""
    if is_missing(value):
        return ""
    if isinstance(value, float | np.floating):
        return f"{value + 0.0:.{CSV_DIGITS}g}"  # + 0.0 turns a negative zero into zero
    if isinstance(value, list | tuple | dict | set | np.ndarray):
        plain = sorted(value) if isinstance(value, set) else value.tolist() if isinstance(value, np.ndarray) else value
        return json.dumps(plain, ensure_ascii=False)
    return str(value)


def shown_column(column: pd.Series) -> list[str]:
    """A column as it is printed: floats with the same number of decimals, so that they align."""
    floats = [abs(float(v)) for v in column if isinstance(v, float | np.floating) and math.isfinite(v)]
    whole = all(value == round(value) for value in floats)
    largest = max(floats, default=0.0)
    decimals = 0 if whole else max(0, min(6, SHOWN_DIGITS - 1 - math.floor(math.log10(largest))))
    return [_shown(value, decimals) for value in column]


def _shown(value: Any, decimals: int) -> str:
    if is_missing(value):
        return EMPTY
    if isinstance(value, float | np.floating) and math.isfinite(value):
        text = f"{value + 0.0:.{decimals}f}"
        return f"{value:.1e}" if value != 0 and float(text) == 0 else text
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return exact(value)


def is_missing(value: Any) -> bool:
    """Whether ``value`` is ``None``, NaN or pandas' NA."""
    if isinstance(value, float | np.floating):
        return bool(value != value)
    return value is None or value is pd.NA or value is pd.NaT


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)


def _pipe(cells: list[str]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "\n": " "}


def _tex(text: Any) -> str:
    return "".join(_TEX.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in str(text))
