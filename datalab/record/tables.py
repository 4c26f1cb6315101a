"""One table object, four faces: ``.csv`` to compute with, ``.md`` and ``.tex`` to print, HTML to show. All byte-stable.

A table carries its stamp: profile, seeds and n. In ``.md``, ``.tex`` and HTML the stamp is a line under the table; the
``.csv`` stays clean for ``pandas.read_csv`` and has the stamp beside it in ``<name>.json``.
"""

import csv
import html
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

CSV_DIGITS = 6  # significant digits of a float in a .csv: what float32 training can support
SHOWN_DIGITS = 4  # of the largest value in a column, where the table is printed
LONGEST = 30  # rows that a table shows in a terminal
EMPTY = "–"
_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "\n": " "}
_TEX |= {letter: f"\\{letter}" for letter in "&%$#_{}"}


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
        """The stamp as one line: ``profile quick; seeds 5 (root 2024); n = 15 data sets``."""
        seeds, root = self.stamp.get("seeds"), self.stamp.get("root_seed")
        parts = [f"profile {self.stamp.get('profile')}"]
        if seeds is not None:
            parts.append(f"seeds {seeds}" + (f" (root {root})" if root is not None else ""))
        parts.append(f"n = {self.stamp.get('n')}")
        return "; ".join(parts + ["measured on this machine, differs from run to run"] * self.timing)

    def csv(self) -> str:
        """Comma-separated, LF, floats with :data:`CSV_DIGITS` significant digits, missing values empty."""
        return csv_of(self.frame.astype(object).map(exact))

    def sidecar(self) -> str:
        """What the ``.csv`` cannot say: caption, stamp, number of rows, whether it holds measured time. As JSON."""
        content = {"caption": self.caption, **self.stamp, "rows": len(self.frame), "timing": self.timing}
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def markdown(self, most: int | None = None) -> str:
        """A pipe table, numbers right-aligned, caption above and stamp below; of ``most`` rows, if that is given."""
        rule = "|" + "|".join(" ---: " if number else " --- " for number in self._are_numbers()) + "|"
        rows, footer = shown_rows(self.frame), self.footer
        if most is not None and len(rows) > most:
            footer = f"{len(rows) - most} more rows; {footer}"
        lines = [_pipe(self.frame.columns), rule, *map(_pipe, rows[:most])]
        return f"**{self.caption}**\n\n" + "\n".join(lines) + f"\n\n*{footer}*\n"

    def latex(self) -> str:
        """A booktabs ``table``, numbers right-aligned, the stamp as a note under it."""
        names, *rows = (" & ".join(map(_tex, row)) + r" \\" for row in (self.frame, *shown_rows(self.frame)))
        sides = "".join("r" if number else "l" for number in self._are_numbers())
        head = [r"\begin{table}", rf"\caption{{{_tex(self.caption)}}}", rf"\label{{tab:{self.name}}}"]
        body = [rf"\begin{{tabular}}{{{sides}}}", r"\toprule", names, r"\midrule", *rows]
        end = [r"\bottomrule", r"\end{tabular}", rf"\par\footnotesize {_tex(self.footer)}", r"\end{table}"]
        return "\n".join([*head, *body, *end, ""])

    def _are_numbers(self) -> list[bool]:
        """Of each column whether it holds numbers."""
        kinds = pd.api.types
        return [kinds.is_numeric_dtype(dtype) and not kinds.is_bool_dtype(dtype) for dtype in self.frame.dtypes]

    def _repr_html_(self) -> str:
        # A number's cell has no style: JupyterLab and the report's pages set it to the right (a seventh of a notebook).
        styles = ["" if number else ' style="text-align:left"' for number in self._are_numbers()]

        def row(tag: str, cells: Any) -> str:
            pairs = zip(cells, styles, strict=True)
            shown = (f"<{tag}{style}>{html.escape(str(cell))}" for cell, style in pairs)
            return "<tr>" + "".join(f"{cell}</{tag.split()[0]}>" for cell in shown) + "</tr>"

        body = "\n".join(row("td", cells) for cells in shown_rows(self.frame))
        caption = f'<caption style="text-align:left"><b>{html.escape(self.caption)}</b></caption>'
        head = row('th scope="col"', self.frame.columns)
        return (
            f'<div style="max-height:40em;overflow:auto"><table class="exported">{caption}\n<thead>{head}</thead>\n'
            f"<tbody>\n{body}\n</tbody></table></div>\n<p><small>{html.escape(self.footer)}</small></p>"
        )

    def __repr__(self) -> str:
        return self.markdown(most=LONGEST)  # a notebook keeps it beside the HTML, which has all rows


def style() -> None:
    """Let frames print alike in a kernel, in a terminal and where a record is computed anew; select rows fast."""
    pd.set_option("display.max_columns", 20, "display.width", 120)
    pd.set_option("mode.string_storage", "python")  # a tenth of the time off: pyarrow's is slow on many small frames


def flat(frame: pd.DataFrame | pd.Series) -> pd.DataFrame:
    """``frame`` with plain columns: a named index becomes columns, levels of a column index are joined by a space.

    Raises ``ValueError`` where two columns then have one name.
    """
    if isinstance(frame, pd.Series):
        frame = frame.to_frame()
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    names = [" ".join(str(p) for p in c if str(p)) if isinstance(c, tuple) else str(c) for c in frame.columns]
    if len(set(names)) < len(names):
        raise ValueError(f"table columns must differ, got {names}")
    return frame.set_axis(names, axis=1)


def csv_of(frame: pd.DataFrame, path: Path | None = None) -> str | None:
    """The frame comma-separated with LF, in a file or as text. Text is quoted where some of it holds a bare CR, which
    pandas does not quote and which ends a row to whoever reads it.
    """
    text = frame.select_dtypes(exclude=["number", "bool"])
    returns = any("\r" in str(value) for name in text for value in (name, *text[name].unique()))
    quoting = csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL
    return frame.to_csv(path, index=False, lineterminator="\n", quoting=quoting)


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


def shown_rows(frame: pd.DataFrame) -> list[list[str]]:
    """The rows of a frame as they are printed: the floats of a column with as many decimals each, so that they align.

    A column of whole numbers has none, another so many that its largest value has :data:`SHOWN_DIGITS` digits.
    """
    columns = []
    for column in frame:
        floats = [abs(float(v)) for v in frame[column] if isinstance(v, float | np.floating) and math.isfinite(v)]
        whole = all(value == round(value) for value in floats)
        decimals = 0 if whole else max(0, min(6, SHOWN_DIGITS - 1 - math.floor(math.log10(max(floats)))))
        columns.append([_shown(value, decimals) for value in frame[column]])
    return [list(row) for row in zip(*columns, strict=True)]


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
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def _pipe(cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _tex(text: Any) -> str:
    return "".join(_TEX.get(letter, letter) for letter in str(text))
