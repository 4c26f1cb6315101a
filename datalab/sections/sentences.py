"""Sentences that follow the numbers: ahead, behind or open; held or failed; with the interval. One maker for all."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from datalab import ledger
from datalab.record import Statement, claims_table

# What is asked of the main statements, in our words, so that "yes" is what the paper says; and what the figure is.
QUESTIONS = {
    "TITLE.threshold": ("Is there a noise rate from which influence pruning beats random, and is it 15 %?", "from"),
    "TITLE.only_when": ("Is influence pruning no better than random at or below that rate?", "lead in F1"),
    "S3.1.standard_metric": ("Does the metric reverse the order of any two systems, beyond chance?", "clearest lead"),
    "S3.3.kl_prevents_collapse": (
        "Does the KL term keep the weights from collapsing?",
        "effective share of the examples, with most of it less with least",
    ),
    "T1.full_vs_vanilla": ("Does DATA-LAB, as the paper words it, beat plain training?", "least gain of four scores"),
    "T1.if_vs_vanilla": (
        "Does influence pruning beat keeping everything, at 20 % flipped labels, all stopped early?",
        "the smaller gain of F1 and accuracy",
    ),
    "S4.1.headline_rel": ("Does DATA-LAB raise F1 over plain training?", ""),
    "S4.1.consistent_all": ("Is DATA-LAB ahead of plain training on every benchmark?", "on the least in favour"),
    "S4.2.baseline_drops": (
        "Does the baseline fall as the influence level rises, noise held equal?",
        "change of F1 from the lowest to the highest",
    ),
    "ABS.variance_explained": ("Does the influence level explain how good a model is?", ""),
    "S4.3.aw_most": ("Do the adaptive weights contribute most?", "their part of F1 less the largest other"),
    "S4.4.ours_always_better": (
        "Does DATA-LAB, as the paper words it, gain at every size?",
        "lead in F1 at the size that decides it",
    ),
    "S4.5.modest": ("Is the added training time modest, below 25 %?", "with scoring by influence"),
    "S5.3.filtering": (
        "Does removing high-influence examples hurt, at 20 % flipped labels, all stopped early?",
        "",
    ),
    "ABS.framework_f1": ("Can failures of influence pruning be foreseen better than by always expecting one?", ""),
}
_WORDS = {
    ledger.REPRODUCED: "Yes, by as much as the paper says",
    ledger.DIRECTION: "Yes",
    ledger.NULL: "No, what there is is too small to matter",
    ledger.OPPOSITE: "No, the other way round",
    ledger.DIFFERENCE: "No",
    ledger.INCONCLUSIVE: "Not settled",
}

NOTHING = "**Not measured here**."  # in place of a sentence on rows of which none has a value


def answers(statements: Iterable[Statement]) -> str:
    """What the statements answer of :data:`QUESTIONS`, a paragraph each."""
    lines = []
    for made in statements:
        if made.id not in QUESTIONS or made.verdict not in _WORDS or not isinstance(made.measured, float):
            continue
        claim, (question, what) = ledger.find(made.id), QUESTIONS[made.id]
        shown = figure(made.measured, made.low, made.high, made.unit or claim.unit or "")
        printed = f"; the paper prints {claim.reported_text()}" if claim.value is not None and made.unit is None else ""
        lines.append(f"**{question}** {_WORDS[made.verdict]}: {f'{what} {shown}'.lstrip()}{printed}.")
    return "\n\n".join(lines) or NOTHING


def figure(value: float, low: float | None, high: float | None, unit: str = "") -> str:
    """``0.74 F1 [0.70, 0.78]``, with no more digits than the interval supports; without limits the figure alone."""
    ends = [np.nan if end is None else float(end) for end in (low, high)]
    width = np.ptp([end for end in (value, *ends) if np.isfinite(end)] or [0.0])
    decimals = int(np.clip(1 - np.floor(np.log10(width)), 0, 6)) if width > 0 else 1 if np.isinf(value) else 3
    value, low, high = (ledger.BEYOND.get(number, f"{number:.{decimals}f}") for number in (value, *ends))
    return f"{value}{claims_table.shown(unit)}" + ("" if "nan" in (low, high) else f" [{low}, {high}]")


def digits(value: float, decimals: int = 3) -> str:
    """A number with its sign: ``+0.012``; what rounds to nothing is ``+0.000`` on either side of it."""
    return f"{value:+z.{decimals}f}"


def listed(names: Iterable[object], none: str = "none") -> str:
    """``a, b, c``, or ``none``."""
    return ", ".join(map(str, names)) or none


def limits(frame: pd.DataFrame | Mapping[str, float] | pd.Series, value: str) -> tuple[str, str]:
    """The names of the columns that hold a value's interval."""
    low, high = (f"{value} {end}" if f"{value} {end}" in frame else end for end in ("low", "high"))
    return low, high


def tallied(frame: pd.DataFrame, value: str, scale: float = 100.0) -> str:
    """The range of a column, times ``scale``, and how many of its intervals lie above and below 0."""
    low, high = limits(frame, value)
    ends = dict.fromkeys(digits(scale * end, 1) for end in (frame[value].min(), frame[value].max()))
    above, below = (frame[low] > 0).sum(), (frame[high] < 0).sum()
    return f"{' to '.join(ends)}, interval above 0 in {above}, below 0 in {below} of {len(frame)}"


def with_limits(
    row: Mapping[str, float] | pd.Series, value: str, decimals: int = 3, scale: float = 1.0, sign: str = "+"
) -> str:
    """A figure of a table's row times ``scale``, with its limits where there are any: ``+0.012 [0.003, 0.021]``."""
    figure, low, high = (scale * row[name] for name in (value, *limits(row, value)))
    limits_shown = "" if pd.isna(low) else f" [{low:z.{decimals}f}, {high:z.{decimals}f}]"
    return f"{figure:{sign}z.{decimals}f}{limits_shown}"


def points(row: Mapping[str, float] | pd.Series, value: str, sign: str = "+", decimals: int = 1) -> str:
    """:func:`with_limits` of a share, in points."""
    return with_limits(row, value, decimals, 100, sign)


def judged(frame: pd.DataFrame, value: str, below: bool = False) -> str:
    """What became of the expectation that a column lies above 0 (or ``below``) in every row, by its intervals.

    ``held`` where every interval lies there, ``failed`` where one lies on the other side, else ``open``.
    """
    held, failed = _came(frame, value, "below" if below else "above")
    return "failed" if failed.any() else "held" if len(frame) and held.all() else "open"


def standing(frame: pd.DataFrame, value: str, label: str, decimals: int = 3, confidence: float = 95) -> str:
    """Which rows of a table are ahead (interval above 0), behind (below) and open, each with value and interval.

    ``value`` names the column, whose limits, of ``confidence`` %, are ``value low`` and ``value high`` (else ``low``
    and ``high``); ``label`` names the column that says what the row is of. A row without a value, such as a base row,
    is left out; of no row with one nothing is said but that.
    """
    ahead, behind = _came(frame, value, "above")
    groups = {"Ahead": ahead, "Behind": behind, "Open": ~(ahead | behind)}
    text = _sorted(groups, frame, value, label, decimals)
    return text if text == NOTHING else f"{text} (Each by its own {confidence:g} % limits.)"


def expected(frame: pd.DataFrame, value: str, label: str, side: str, bound: float = 0.0, decimals: int = 3) -> str:
    """For which rows of a table what was expected held, failed or is open, by their intervals; else as `standing`.

    ``side``: "above" or "below" ``bound``, or "within" it on both sides of 0 (failed: the interval is all beyond).
    """
    held, failed = _came(frame, value, side, bound)
    return _sorted({"Held": held, "Failed": failed, "Open": ~(held | failed)}, frame, value, label, decimals)


def _came(frame: pd.DataFrame, value: str, side: str, bound: float = 0.0) -> tuple[pd.Series, pd.Series]:
    """In which rows an expectation held, and in which it failed: sides as in :func:`expected`."""
    low, high = (frame[name] for name in limits(frame, value))
    above, below = low > bound, high < bound
    held = {"above": above, "below": below, "within": (low > -bound) & (high < bound)}[side]
    failed = {"above": below, "below": above, "within": above | (high < -bound)}[side]
    return held, failed


def _sorted(groups: Mapping[str, pd.Series], frame: pd.DataFrame, value: str, label: str, decimals: int) -> str:
    if frame[value].isna().all():
        return NOTHING

    def shown(row: pd.Series) -> str:
        name = f"{row[label]:g}" if isinstance(row[label], float) else row[label]
        return f"{name} ({with_limits(row, value, decimals)})"

    rows = {word: frame[of_word & frame[value].notna()] for word, of_word in groups.items()}
    named = {word: listed(shown(row) for _, row in part.iterrows()) for word, part in rows.items()}
    return " ".join(f"**{word}**: {names}." for word, names in named.items())
