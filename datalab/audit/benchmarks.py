"""The benchmark table of 4.1: six gains, the stated range around them, and every printed p-value."""

from fractions import Fraction
from math import comb

from datalab.audit.outcomes import (
    INCONSISTENT,
    UNCHECKABLE,
    Check,
    Figures,
    Outcome,
    agreement,
    equals,
    relative_gain,
    status,
)
from datalab.audit.rows import ABLATIONS, BENCHMARKS
from datalab.ledger.rounding import RoundingInterval, hull, total
from datalab.protocol import protocol

_P_CELLS = (*(f"T1b.{row}.p" for row in BENCHMARKS), *(f"T3.{row}.p" for row in ABLATIONS if row != "full"))


def _gain(figures: Figures, row: str) -> RoundingInterval:
    return relative_gain(figures(f"T1b.{row}.ours_f1"), figures(f"T1b.{row}.baseline_f1"))


def _points(figures: Figures, row: str) -> RoundingInterval:
    return (figures(f"T1b.{row}.ours_f1") - figures(f"T1b.{row}.baseline_f1")).scaled(100)


def _stated_range(figures: Figures) -> RoundingInterval:
    return hull([figures("S4.1.range", "lo"), figures("S4.1.range", "hi")])


def _improvement(row: str) -> Check:
    return lambda figures: equals(figures(f"T1b.{row}.improvement"), _gain(figures, row), "100 (ours / baseline - 1)")


def _column(figures: Figures) -> Outcome:
    pairs = [(figures(f"T1b.{row}.improvement"), _gain(figures, row)) for row in BENCHMARKS]
    return agreement(pairs, "gains of six that the row's F1s allow")


def _in_range(gains: list[RoundingInterval], stated: RoundingInterval, formula: str) -> Outcome:
    """Counts the gains that meet the stated range; the interval spans the gains' middles, as the range does."""
    inside = sum(gain.meets(stated) for gain in gains)
    middles = [RoundingInterval.point(gain.middle) for gain in gains]
    return Outcome({"inside": inside, "of": len(gains)}, status(inside == len(gains)), formula, hull(middles))


def _printed_in_range(figures: Figures) -> Outcome:
    gains = [figures(f"T1b.{row}.improvement") for row in BENCHMARKS]
    return _in_range(gains, _stated_range(figures), "printed gains inside the stated range")


def _recomputed_in_range(figures: Figures) -> Outcome:
    gains = [_gain(figures, row) for row in BENCHMARKS]
    return _in_range(gains, _stated_range(figures), "recomputed gains (relative %) inside the stated range")


def _points_in_range(figures: Figures) -> Outcome:
    gains = [_points(figures, row) for row in BENCHMARKS]
    return _in_range(gains, _stated_range(figures), "recomputed gains (points) inside the stated range")


def _aggregate_in_range(figures: Figures) -> Outcome:
    """mean(ours) / mean(base) is a weighted mean of the ratios, so it cannot leave their range."""
    gain = relative_gain(figures("S4.1.headline_f1"), figures("S4.1.baseline_f1"))
    agrees = status(gain.meets(_stated_range(figures)))
    return Outcome(float(gain.middle), agrees, "100 (0.849 / 0.708 - 1) inside the stated range", gain)


def _mean_of_listed(figures: Figures) -> Outcome:
    ours, base = (total(list(figures.row("T1b", BENCHMARKS, c).values())) for c in ("ours_f1", "baseline_f1"))
    gain = relative_gain(ours, base)
    formula = "100 (sum of ours / sum of baselines - 1), six rows; the nine unlisted are free"
    return Outcome(float(gain.middle), UNCHECKABLE, formula, gain, figures("S4.1.headline_rel"))


def _unlisted(figures: Figures) -> Outcome:
    """What the nine unlisted benchmarks must average for 15 to give each candidate aggregate. Points, no rounding."""
    sums = {c: total(list(figures.row("T1b", BENCHMARKS, c).values())).middle for c in ("baseline_f1", "ours_f1")}
    announced = int(figures("S1.n_benchmarks").middle)
    free = announced - len(BENCHMARKS)
    candidates = {"text": ("S4.1.baseline_f1", "S4.1.headline_f1"), "table": ("T1.vanilla.f1", "T1.full.f1")}
    values = {}
    for name, (base_id, ours_id) in candidates.items():
        base = (announced * figures(base_id).middle - sums["baseline_f1"]) / free
        ours = (announced * figures(ours_id).middle - sums["ours_f1"]) / free
        values[name] = {"base": float(base), "ours": float(ours), "gain_percent": float(100 * (ours / base - 1))}
    return Outcome(values, UNCHECKABLE, "(15 x aggregate - sum of six) / 9; possible values")


def corrected(p_values: list[RoundingInterval], threshold: Fraction) -> dict[str, int]:
    """How many p-values pass a threshold for sure, fail it for sure, or are printed too coarsely to say."""
    passes = sum(p.high <= threshold for p in p_values)
    fails = sum(p.low > threshold for p in p_values)
    return {"passes": passes, "undetermined": len(p_values) - passes - fails, "fails": fails}


def _bonferroni(ids: tuple[str, ...], alpha: str, tests: int | None = None) -> Check:
    """Each p against ``alpha / tests`` (the number of benchmarks, unless given)."""

    def check(figures: Figures) -> Outcome:
        level = Fraction(str(protocol().statistics["alpha"])) if alpha == "alpha" else Fraction(alpha)
        number = tests or int(figures("S3.4.bonferroni").middle)
        counts = corrected([figures(key) for key in ids], level / number)
        verdict = INCONSISTENT if counts["fails"] else UNCHECKABLE if counts["undetermined"] else "consistent"
        return Outcome(counts, verdict, f"p <= {float(level):g} / {number}")

    return check


def _floor(figures: Figures) -> Outcome:
    """The smallest two-sided p that n seeds can give: ``2 / 2^n`` paired, ``2 / C(2n, n)`` unpaired."""
    n = int(figures("S3.2.n_seeds").middle)
    paired, unpaired = Fraction(2, 2**n), Fraction(2, comb(2 * n, n))
    below = sum(figures(key).high < min(paired, unpaired) for key in _P_CELLS)
    values = {
        "signed_rank": float(paired),
        "label_permutation": float(unpaired),
        "printed_p_below_both": below,
        "of": len(_P_CELLS),
    }
    return Outcome(values, status(below == 0), "2 / 2^n and 2 / C(2n, n) with n = 5 seeds")


CHECKS: dict[str, Check] = {
    **{f"T1b.{row}.improvement": _improvement(row) for row in BENCHMARKS},
    **{key: _bonferroni((key,), "alpha") for key in _P_CELLS},
    "T1b.printed_range": _column,
    "S4.1.range_vs_printed": _printed_in_range,
    "S4.1.range_vs_recomputed": _recomputed_in_range,
    "S4.1.range_vs_recomputed_pp": _points_in_range,
    "S4.1.mean_vs_range": _aggregate_in_range,
    "S4.1.mean_of_listed": _mean_of_listed,
    "S4.1.unlisted_implied": _unlisted,
    "S3.4.bonferroni_passed": _bonferroni(_P_CELLS[:6], "alpha"),
    "S3.4.bonferroni_passed_05": _bonferroni(_P_CELLS[:6], "0.05"),
    "S3.4.bonferroni_ablation": _bonferroni(_P_CELLS[6:], "alpha", tests=4),
    "S3.4.min_p": _floor,
}
