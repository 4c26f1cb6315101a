"""Table 4.2: five influence levels, the gap column, and the trend the text reads from them."""

from datalab.audit.outcomes import (
    UNCHECKABLE,
    Check,
    Figures,
    Outcome,
    agreement,
    correlation_with_rank,
    equals,
    sign,
)
from datalab.audit.rows import LEVELS
from datalab.ledger.rounding import RoundingInterval


def _gap(figures: Figures, level: str) -> RoundingInterval:
    return figures(f"T2.{level}.ours_f1") - figures(f"T2.{level}.baseline_f1")


def _gap_cell(level: str) -> Check:
    return lambda figures: equals(
        figures(f"T2.{level}.gap_pp"), _gap(figures, level).scaled(100), "100 (ours - baseline)"
    )


def _gap_column(figures: Figures) -> Outcome:
    pairs = [(figures(f"T2.{level}.gap_pp"), _gap(figures, level).scaled(100)) for level in LEVELS]
    return agreement(pairs, "gaps of five that the row's F1s allow")


def _end_to_end(column: str, claimed: str) -> Check:
    def check(figures: Figures) -> Outcome:
        change = figures(f"T2.{LEVELS[-1]}.{column}") - figures(f"T2.{LEVELS[0]}.{column}")
        return sign(change, claimed, "extreme - minimal")

    return check


def _correlation(column: str, claimed: str) -> Check:
    def check(figures: Figures) -> Outcome:
        r = correlation_with_rank(list(figures.row("T2", LEVELS, column).values()))
        return sign(r, claimed, "Pearson's r of the column with the level's number")

    return check


def _ours(figures: Figures) -> Outcome:
    """The printed correlation is lost, so there is nothing to hold the recomputed one against."""
    r = correlation_with_rank(list(figures.row("T2", LEVELS, "ours_f1").values()))
    return Outcome(float(r.middle), UNCHECKABLE, "Pearson's r with the level's number; the printed r is lost", r)


def _widening(figures: Figures) -> Outcome:
    r = correlation_with_rank([_gap(figures, level) for level in LEVELS])
    return sign(r, "positive", "Pearson's r of (ours - baseline) with the level's number")


def _implied_sd(figures: Figures) -> Outcome:
    """``gap / d`` per row. No SD is printed, so an unstable one is implausible but not impossible."""
    d = [figures(f"T2.{level}.cohen_d").middle for level in LEVELS]
    from_f1 = [float(_gap(figures, level).middle / size) for level, size in zip(LEVELS, d, strict=True)]
    gaps = [figures(f"T2.{level}.gap_pp").middle / 100 for level in LEVELS]
    printed = [float(gap / size) for gap, size in zip(gaps, d, strict=True)]
    return Outcome({"sd_from_F1": from_f1, "sd_from_printed_gap": printed}, UNCHECKABLE, "gap / d; no SD is printed")


CHECKS: dict[str, Check] = {
    **{f"T2.{level}.gap_pp": _gap_cell(level) for level in LEVELS},
    "T2.gap_all": _gap_column,
    "T2.implied_sd": _implied_sd,
    "S4.2.baseline_drops": _end_to_end("baseline_f1", "negative"),
    "S4.2.ours_robust": _end_to_end("ours_f1", "not negative"),
    "S4.2.r_baseline": _correlation("baseline_f1", "negative"),
    "S4.2.strong_relationship": _correlation("baseline_f1", "negative"),
    "S4.2.r_ours": _ours,
    "S4.2.gap_widens": _widening,
}
