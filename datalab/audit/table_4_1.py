"""Table 4.1: precision, recall, F1 and accuracy of five rows; the headline; six benchmarks' gains; every p-value."""

from collections.abc import Iterable
from fractions import Fraction
from math import ceil, comb

from datalab.audit.outcomes import (
    ABLATIONS,
    BENCHMARKS,
    CONSISTENT,
    INCONSISTENT,
    METHODS,
    UNCHECKABLE,
    Figures,
    Outcome,
    agreement,
    check,
    equals,
    order,
    relative_gain,
    same_everywhere,
    status,
)
from datalab.ledger.rounding import RoundingInterval, corners, have_common_point, hull, total
from datalab.protocol import protocol

_METRICS = ("precision", "recall", "f1", "accuracy")
_HEADLINES = {  # where the headline gain can be read: the full model's F1 and the baseline's
    "S4.1.headline_rel": ("S4.1.headline_f1", "S4.1.baseline_f1"),
    "S4.1.headline_rel_from_T1": ("T1.full.f1", "T1.vanilla.f1"),
    "S4.1.headline_rel_from_T3": ("T3.full.f1", "T3.wo_all.f1"),
}
_P_CELLS = (*(f"T1b.{row}.p" for row in BENCHMARKS), *(f"T3.{row}.p" for row in ABLATIONS if row != "full"))
_FAMILIES = {  # which p-values are held against alpha divided by how many tests (None: the announced benchmarks)
    **{key: ((key,), "alpha", None) for key in _P_CELLS},
    "S3.4.bonferroni_passed": (_P_CELLS[:6], "alpha", None),
    "S3.4.bonferroni_passed_05": (_P_CELLS[:6], "0.05", None),
    "S3.4.bonferroni_ablation": (_P_CELLS[6:], "alpha", 4),
}


# --- precision, recall, F1 and accuracy of one row ---


def harmonic_mean(precision: RoundingInterval, recall: RoundingInterval) -> RoundingInterval:
    """``2PR / (P + R)``: F1 of pooled predictions, and the ceiling of any average of F1s with common weights."""
    return corners(lambda p, r: 2 * p * r / (p + r), precision, recall)


def positive_rate(
    precision: RoundingInterval, recall: RoundingInterval, accuracy: RoundingInterval
) -> RoundingInterval:
    """The share of positives at which a binary row has this accuracy: ``(1 - A) / [(1 - R) + R (1 - P) / P]``."""
    return corners(lambda p, r, a: (1 - a) / ((1 - r) + r * (1 - p) / p), precision, recall, accuracy)


def _row(figures: Figures, method: str) -> list[RoundingInterval]:
    """Precision, recall, F1 and accuracy of one row, all as fractions of 1."""
    *first, accuracy = (figures(f"T1.{method}.{metric}") for metric in _METRICS)
    return [*first, accuracy.scaled(Fraction(1, 100))]


def _may_be_averaged(precision: RoundingInterval, recall: RoundingInterval, f1: RoundingInterval) -> bool:
    """Whether F1 may be an average over classes or benchmarks: at least max(0, P + R - 1), at most the harmonic mean.

    Both at the rounding's most generous end.
    """
    least = max(Fraction(0), precision.low + recall.low - 1)
    return least <= f1.high and f1.low <= harmonic_mean(precision, recall).high


@check("T1.{}.f1", METHODS)
def _f1(figures: Figures, method: str) -> Outcome:
    precision, recall, f1, _ = _row(figures, method)
    mean = harmonic_mean(precision, recall)
    averaged = UNCHECKABLE if _may_be_averaged(precision, recall, f1) else INCONSISTENT
    return Outcome(float(mean.middle), CONSISTENT if f1.meets(mean) else averaged, "2PR / (P + R)", mean, f1)


@check("T1.{}.accuracy", METHODS)
def _accuracy(figures: Figures, method: str) -> Outcome:
    precision, recall, _, accuracy = _row(figures, method)
    rate = positive_rate(precision, recall, accuracy)
    feasible = rate.meets(RoundingInterval(Fraction(0), Fraction(1), Fraction(1, 2)))
    # the false positives must fit into the negatives
    false_positives = rate.low * recall.low * (1 - precision.high) / precision.high
    feasible = feasible and false_positives <= 1 - rate.low
    return Outcome(float(rate.middle), status(feasible), "(1 - A) / [(1 - R) + R (1 - P) / P]", rate)


# --- what kind of average the five rows can be ---


def _conventions(figures: Figures) -> dict[str, int]:
    """How many of the five rows each reading of "F1" fits."""
    fits = dict.fromkeys(("pooled", "averaged", "bracket", "micro", "support_weighted", "medians"), 0)
    for method in METHODS:
        precision, recall, f1, accuracy = _row(figures, method)
        fits["pooled"] += f1.meets(harmonic_mean(precision, recall))
        fits["averaged"] += _may_be_averaged(precision, recall, f1)
        lowest, highest = sorted((precision, recall), key=lambda side: side.middle)
        fits["bracket"] += lowest.low <= f1.high and f1.low <= highest.high
        fits["micro"] += have_common_point([precision, recall, f1, accuracy])
        fits["support_weighted"] += recall.meets(accuracy)
        needed = f1.low / (2 - f1.low)  # F1 = f needs P and R of at least f / (2 - f)
        fits["medians"] += precision.high >= needed and recall.high >= needed
    return fits


_FITS = {"T1.hm_pooled": "pooled_identity", "T1.jensen": "averaged_admissible", "T1.bracket": "inside_P_R_bracket"}


@check("{}", _FITS)
def _rows_fit(figures: Figures, statement_id: str) -> Outcome:
    fits, which = _conventions(figures), _FITS[statement_id]
    values = dict(zip(_FITS.values(), (fits["pooled"], fits["averaged"], fits["bracket"]), strict=True))
    return Outcome(values, status(values[which] == len(METHODS)), f"rows of five with {which.replace('_', ' ')}")


@check("T1.averaging")
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


@check("T1.prevalence")
def _prevalence(figures: Figures) -> Outcome:
    rates = {}
    for method in METHODS:
        precision, recall, _, accuracy = _row(figures, method)
        rates[method] = positive_rate(precision, recall, accuracy)
    values = {method: float(rate.middle) for method, rate in rates.items()}
    agrees = have_common_point(list(rates.values()))
    return Outcome(values, status(agrees), "(1 - A) / [(1 - R) + R (1 - P) / P]", tuple(rates.values()))


@check("T1.grim")
def _grim(figures: Figures) -> Outcome:
    """Is there a whole number k with ``100 k / N`` inside the cell? The cells are averages, so this decides nothing."""
    benchmark = -(-int(figures("S1.n_instances").middle) // int(figures("S1.n_benchmarks").middle))
    reachable = {}
    for n in (int(figures("S1.n_instances").middle), int(figures("ABS.n_instances").middle), benchmark):
        cells = [_row(figures, method)[3] for method in METHODS]
        reachable[str(n)] = sum(ceil(cell.low * n) <= cell.high * n for cell in cells)
    return Outcome(reachable, UNCHECKABLE, "accuracies of five that are k / N for a whole k")


# --- who is above whom ---


@check("T1.full_vs_vanilla")
def _full_against_vanilla(figures: Figures) -> Outcome:
    words = {}
    for metric, full, vanilla in zip(_METRICS, _row(figures, "full"), _row(figures, "vanilla"), strict=True):
        apart = full - vanilla
        words[metric] = "above" if apart.low > 0 else "below" if apart.high < 0 else "level"
    return Outcome(words, status(set(words.values()) == {"above"}), "full - vanilla, per metric")


def _pairs(figures: Figures, pairs: Iterable[tuple[str, str, str]]) -> list[tuple[RoundingInterval, RoundingInterval]]:
    return [(figures(f"T1.{above}.{metric}"), figures(f"T1.{below}.{metric}")) for above, below, metric in pairs]


@check("T1.f1_monotone_rows")
def _steps(figures: Figures) -> Outcome:
    steps = (("if", "vanilla", "f1"), ("ln", "if", "f1"), ("full", "ln", "f1"))
    return order(_pairs(figures, steps), "each row's F1 above the row before")


@check("T1.if_vs_vanilla")
def _influence_against_vanilla(figures: Figures) -> Outcome:
    steps = (("if", "vanilla", "f1"), ("if", "vanilla", "accuracy"))
    return order(_pairs(figures, steps), "'+ influence functions' above vanilla in F1 and accuracy")


@check("T1.oracle_bound")
def _oracle(figures: Figures) -> Outcome:
    above = {}
    for metric in _METRICS:
        bound = figures(f"T1.oracle.{metric}")
        above[metric] = sum((figures(f"T1.{row}.{metric}") - bound).low > 0 for row in METHODS if row != "oracle")
    return Outcome(above, status(not any(above.values())), "rows above the oracle, per metric")


@check("T1.f1_vs_accuracy")
def _rank_agreement(figures: Figures) -> Outcome:
    from scipy.stats import spearmanr

    f1, accuracy = ([float(figures(f"T1.{row}.{metric}").middle) for row in METHODS] for metric in ("f1", "accuracy"))
    rho = float(spearmanr(f1, accuracy).statistic)
    return Outcome(rho, UNCHECKABLE, "Spearman's rho over the five rows; odd, not impossible")


# --- the headline ---


@check("{}", _HEADLINES)
def _headline(figures: Figures, statement_id: str) -> Outcome:
    full, vanilla = _HEADLINES[statement_id]
    gain = relative_gain(figures(full), figures(vanilla))
    return equals(figures("S4.1.headline_rel"), gain, f"100 ({full} / {vanilla} - 1)")


@check("S4.1.full_f1_values")
def _full_f1(figures: Figures) -> Outcome:
    return same_everywhere(figures, ("T1.full.f1", "S4.1.headline_f1", "T3.full.f1"))


@check("S4.1.baseline_f1_values")
def _baseline_f1(figures: Figures) -> Outcome:
    return same_everywhere(figures, ("T1.vanilla.f1", "S4.1.baseline_f1", "T3.wo_all.f1"))


# --- benchmark by benchmark ---


def _gain(figures: Figures, row: str) -> RoundingInterval:
    return relative_gain(figures(f"T1b.{row}.ours_f1"), figures(f"T1b.{row}.baseline_f1"))


@check("T1b.{}.improvement", BENCHMARKS)
def _improvement(figures: Figures, row: str) -> Outcome:
    return equals(figures(f"T1b.{row}.improvement"), _gain(figures, row), "100 (ours / baseline - 1)")


@check("T1b.printed_range")
def _column(figures: Figures) -> Outcome:
    pairs = [(figures(f"T1b.{row}.improvement"), _gain(figures, row)) for row in BENCHMARKS]
    return agreement(pairs, "gains of six that the row's F1s allow")


def _stated_range(figures: Figures) -> RoundingInterval:
    return hull([figures("S4.1.range", "lo"), figures("S4.1.range", "hi")])


def _in_range(figures: Figures, gains: list[RoundingInterval], formula: str) -> Outcome:
    """Counts the gains that meet the stated range; the interval spans the gains' middles, as the range does."""
    inside = sum(gain.meets(_stated_range(figures)) for gain in gains)
    middles = [RoundingInterval.point(gain.middle) for gain in gains]
    return Outcome({"inside": inside, "of": len(gains)}, status(inside == len(gains)), formula, hull(middles))


@check("S4.1.range_vs_printed")
def _printed_in_range(figures: Figures) -> Outcome:
    gains = [figures(f"T1b.{row}.improvement") for row in BENCHMARKS]
    return _in_range(figures, gains, "printed gains inside the stated range")


@check("S4.1.range_vs_recomputed")
def _recomputed_in_range(figures: Figures) -> Outcome:
    gains = [_gain(figures, row) for row in BENCHMARKS]
    return _in_range(figures, gains, "recomputed gains (relative %) inside the stated range")


@check("S4.1.range_vs_recomputed_pp")
def _points_in_range(figures: Figures) -> Outcome:
    pairs = ((figures(f"T1b.{row}.ours_f1"), figures(f"T1b.{row}.baseline_f1")) for row in BENCHMARKS)
    gains = [(ours - base).scaled(100) for ours, base in pairs]
    return _in_range(figures, gains, "recomputed gains (points) inside the stated range")


@check("S4.1.mean_vs_range")
def _aggregate_in_range(figures: Figures) -> Outcome:
    """mean(ours) / mean(base) is a weighted mean of the ratios, so it cannot leave their range."""
    gain = relative_gain(figures("S4.1.headline_f1"), figures("S4.1.baseline_f1"))
    agrees = status(gain.meets(_stated_range(figures)))
    return Outcome(float(gain.middle), agrees, "100 (0.849 / 0.708 - 1) inside the stated range", gain)


@check("S4.1.mean_of_listed")
def _mean_of_listed(figures: Figures) -> Outcome:
    ours, base = (total(list(figures.row("T1b", BENCHMARKS, c).values())) for c in ("ours_f1", "baseline_f1"))
    gain = relative_gain(ours, base)
    formula = "100 (sum of ours / sum of baselines - 1), six rows; the nine unlisted are free"
    return Outcome(float(gain.middle), UNCHECKABLE, formula, gain, figures("S4.1.headline_rel"))


@check("S4.1.unlisted_implied")
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


# --- p-values ---


def corrected(p_values: list[RoundingInterval], threshold: Fraction) -> dict[str, int]:
    """How many p-values pass a threshold for sure, fail it for sure, or are printed too coarsely to say."""
    passes = sum(p.high <= threshold for p in p_values)
    fails = sum(p.low > threshold for p in p_values)
    return {"passes": passes, "undetermined": len(p_values) - passes - fails, "fails": fails}


@check("{}", _FAMILIES)
def _bonferroni(figures: Figures, statement_id: str) -> Outcome:
    ids, alpha, tests = _FAMILIES[statement_id]
    level = Fraction(str(protocol().statistics["alpha"]) if alpha == "alpha" else alpha)
    number = tests or int(figures("S3.4.bonferroni").middle)
    counts = corrected([figures(key) for key in ids], level / number)
    verdict = INCONSISTENT if counts["fails"] else UNCHECKABLE if counts["undetermined"] else CONSISTENT
    return Outcome(counts, verdict, f"p <= {float(level):g} / {number}")


@check("S3.4.min_p")
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
