"""Table 4.1: precision, recall, F1 and accuracy of five rows, and the headline beside them."""

from collections.abc import Iterable
from fractions import Fraction
from math import ceil

from datalab.audit.outcomes import (
    CONSISTENT,
    INCONSISTENT,
    UNCHECKABLE,
    Check,
    Figures,
    Outcome,
    equals,
    order,
    relative_gain,
    same_everywhere,
    status,
)
from datalab.audit.rows import METHODS
from datalab.ledger.rounding import RoundingInterval, corners, have_common_point

_METRICS = ("precision", "recall", "f1", "accuracy")


def harmonic_mean(precision: RoundingInterval, recall: RoundingInterval) -> RoundingInterval:
    """``2PR / (P + R)``: F1 of pooled predictions, and the ceiling of any average of F1s with common weights."""
    return corners(lambda p, r: 2 * p * r / (p + r), precision, recall)


def positive_rate(
    precision: RoundingInterval, recall: RoundingInterval, accuracy: RoundingInterval
) -> RoundingInterval:
    """The share of positives at which a binary row has this accuracy: ``(1 - A) / [(1 - R) + R (1 - P) / P]``."""
    return corners(lambda p, r, a: (1 - a) / ((1 - r) + r * (1 - p) / p), precision, recall, accuracy)


def _row(
    figures: Figures, method: str
) -> tuple[RoundingInterval, RoundingInterval, RoundingInterval, RoundingInterval]:
    """Precision, recall, F1 and accuracy of one row, all as fractions of 1."""
    precision, recall, f1, accuracy = (figures(f"T1.{method}.{metric}") for metric in _METRICS)
    return precision, recall, f1, accuracy.scaled(Fraction(1, 100))


def _floor(precision: RoundingInterval, recall: RoundingInterval) -> Fraction:
    """The least that averaged F1s can be: ``max(0, P + R - 1)``, at the rounding's most generous end."""
    return max(Fraction(0), precision.low + recall.low - 1)


def _f1(method: str) -> Check:
    def check(figures: Figures) -> Outcome:
        precision, recall, f1, _ = _row(figures, method)
        mean = harmonic_mean(precision, recall)
        if f1.meets(mean):
            verdict = CONSISTENT
        else:  # below the harmonic mean an average over classes or benchmarks is possible, above it none is
            averaged = _floor(precision, recall) <= f1.high and f1.low <= mean.high
            verdict = UNCHECKABLE if averaged else INCONSISTENT
        return Outcome(float(mean.middle), verdict, "2PR / (P + R)", mean, f1)

    return check


def _accuracy(method: str) -> Check:
    def check(figures: Figures) -> Outcome:
        precision, recall, _, accuracy = _row(figures, method)
        rate = positive_rate(precision, recall, accuracy)
        feasible = rate.meets(RoundingInterval(Fraction(0), Fraction(1), Fraction(1, 2)))
        # the false positives must fit into the negatives
        false_positives = rate.low * recall.low * (1 - precision.high) / precision.high
        feasible = feasible and false_positives <= 1 - rate.low
        return Outcome(float(rate.middle), status(feasible), "(1 - A) / [(1 - R) + R (1 - P) / P]", rate)

    return check


def _conventions(figures: Figures) -> dict[str, int]:
    """How many of the five rows each reading of "F1" fits."""
    fits = dict.fromkeys(("pooled", "averaged", "bracket", "micro", "support_weighted", "medians"), 0)
    for method in METHODS:
        precision, recall, f1, accuracy = _row(figures, method)
        mean = harmonic_mean(precision, recall)
        fits["pooled"] += f1.meets(mean)
        fits["averaged"] += _floor(precision, recall) <= f1.high and f1.low <= mean.high
        lowest, highest = sorted((precision, recall), key=lambda side: side.middle)
        fits["bracket"] += lowest.low <= f1.high and f1.low <= highest.high
        fits["micro"] += have_common_point([precision, recall, f1, accuracy])
        fits["support_weighted"] += recall.meets(accuracy)
        needed = f1.low / (2 - f1.low)  # F1 = f needs P and R of at least f / (2 - f)
        fits["medians"] += precision.high >= needed and recall.high >= needed
    return fits


def _rows_fit(which: str) -> Check:
    def check(figures: Figures) -> Outcome:
        fits = _conventions(figures)
        values = {
            "pooled_identity": fits["pooled"],
            "averaged_admissible": fits["averaged"],
            "inside_P_R_bracket": fits["bracket"],
        }
        return Outcome(values, status(values[which] == len(METHODS)), f"rows of five with {which.replace('_', ' ')}")

    return check


def _averaging(figures: Figures) -> Outcome:
    fits = _conventions(figures)
    values = {
        "macro_HM_of_means": fits["pooled"],  # the harmonic mean of averaged P and R is the pooled identity again
        "macro_mean_of_F1": fits["averaged"],
        "medians_not_excluded": fits["medians"],
        "micro_single_label": fits["micro"],
        "pooled_or_binary": fits["pooled"],
        "support_weighted": fits["support_weighted"],
    }
    return Outcome(values, status(max(values.values()) == len(METHODS)), "rows of five that each convention fits")


def _prevalence(figures: Figures) -> Outcome:
    rates = {}
    for method in METHODS:
        precision, recall, _, accuracy = _row(figures, method)
        rates[method] = positive_rate(precision, recall, accuracy)
    values = {method: float(rate.middle) for method, rate in rates.items()}
    agrees = have_common_point(list(rates.values()))
    return Outcome(values, status(agrees), "(1 - A) / [(1 - R) + R (1 - P) / P]", tuple(rates.values()))


def _grim(figures: Figures) -> Outcome:
    """Is there a whole number k with ``100 k / N`` inside the cell? The cells are averages, so this decides nothing."""
    benchmark = -(-int(figures("S1.n_instances").middle) // int(figures("S1.n_benchmarks").middle))
    reachable = {}
    for n in (int(figures("S1.n_instances").middle), int(figures("ABS.n_instances").middle), benchmark):
        cells = [_row(figures, method)[3] for method in METHODS]
        reachable[str(n)] = sum(ceil(cell.low * n) <= cell.high * n for cell in cells)
    return Outcome(reachable, UNCHECKABLE, "accuracies of five that are k / N for a whole k")


def _full_against_vanilla(figures: Figures) -> Outcome:
    words = {}
    for metric, full, vanilla in zip(_METRICS, _row(figures, "full"), _row(figures, "vanilla"), strict=True):
        apart = full - vanilla
        words[metric] = "above" if apart.low > 0 else "below" if apart.high < 0 else "level"
    return Outcome(words, status(set(words.values()) == {"above"}), "full - vanilla, per metric")


def _pairs(figures: Figures, pairs: Iterable[tuple[str, str, str]]) -> list[tuple[RoundingInterval, RoundingInterval]]:
    return [(figures(f"T1.{above}.{metric}"), figures(f"T1.{below}.{metric}")) for above, below, metric in pairs]


def _steps(figures: Figures) -> Outcome:
    steps = (("if", "vanilla", "f1"), ("ln", "if", "f1"), ("full", "ln", "f1"))
    return order(_pairs(figures, steps), "each row's F1 above the row before")


def _influence_against_vanilla(figures: Figures) -> Outcome:
    steps = (("if", "vanilla", "f1"), ("if", "vanilla", "accuracy"))
    return order(_pairs(figures, steps), "'+ influence functions' above vanilla in F1 and accuracy")


def _oracle(figures: Figures) -> Outcome:
    above = {}
    for metric in _METRICS:
        bound = figures(f"T1.oracle.{metric}")
        above[metric] = sum((figures(f"T1.{row}.{metric}") - bound).low > 0 for row in METHODS if row != "oracle")
    return Outcome(above, status(not any(above.values())), "rows above the oracle, per metric")


def _rank_agreement(figures: Figures) -> Outcome:
    from scipy.stats import spearmanr

    f1, accuracy = ([float(figures(f"T1.{row}.{metric}").middle) for row in METHODS] for metric in ("f1", "accuracy"))
    rho = float(spearmanr(f1, accuracy).statistic)
    return Outcome(rho, UNCHECKABLE, "Spearman's rho over the five rows; odd, not impossible")


def _gain(full: str, vanilla: str) -> Check:
    def check(figures: Figures) -> Outcome:
        gain = relative_gain(figures(full), figures(vanilla))
        return equals(figures("S4.1.headline_rel"), gain, f"100 ({full} / {vanilla} - 1)")

    return check


CHECKS: dict[str, Check] = {
    **{f"T1.{method}.f1": _f1(method) for method in METHODS},
    **{f"T1.{method}.accuracy": _accuracy(method) for method in METHODS},
    "T1.hm_pooled": _rows_fit("pooled_identity"),
    "T1.jensen": _rows_fit("averaged_admissible"),
    "T1.bracket": _rows_fit("inside_P_R_bracket"),
    "T1.averaging": _averaging,
    "T1.prevalence": _prevalence,
    "T1.grim": _grim,
    "T1.full_vs_vanilla": _full_against_vanilla,
    "T1.f1_monotone_rows": _steps,
    "T1.if_vs_vanilla": _influence_against_vanilla,
    "T1.oracle_bound": _oracle,
    "T1.f1_vs_accuracy": _rank_agreement,
    "S4.1.headline_rel": _gain("S4.1.headline_f1", "S4.1.baseline_f1"),
    "S4.1.headline_rel_from_T1": _gain("T1.full.f1", "T1.vanilla.f1"),
    "S4.1.headline_rel_from_T3": _gain("T3.full.f1", "T3.wo_all.f1"),
    "S4.1.full_f1_values": lambda figures: same_everywhere(figures, ("T1.full.f1", "S4.1.headline_f1", "T3.full.f1")),
    "S4.1.baseline_f1_values": lambda figures: same_everywhere(
        figures, ("T1.vanilla.f1", "S4.1.baseline_f1", "T3.wo_all.f1")
    ),
}
