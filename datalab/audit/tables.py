"""Tables 4.1 to 4.5: the columns that follow from others, the text's readings of them, and every p-value."""

from fractions import Fraction
from math import ceil, comb

import pandas as pd
from scipy.stats import spearmanr

from datalab.audit import check
from datalab.audit.check import CONSISTENT, INCONSISTENT, UNCHECKABLE, Figures, Outcome, status
from datalab.ledger.rounding import RoundingInterval, corners, have_common_point, hull
from datalab.protocol import protocol


def harmonic_mean(precision: RoundingInterval, recall: RoundingInterval) -> RoundingInterval:
    """``2PR / (P + R)``: F1 of pooled predictions, and the ceiling of any average of F1s with common weights."""
    return corners(lambda p, r: 2 * p * r / (p + r), precision, recall)


def positive_rate(
    precision: RoundingInterval, recall: RoundingInterval, accuracy: RoundingInterval
) -> RoundingInterval:
    """The share of positives at which a binary row has this accuracy: ``(1 - A) / [(1 - R) + R (1 - P) / P]``."""
    return corners(lambda p, r, a: (1 - a) / ((1 - r) + r * (1 - p) / p), precision, recall, accuracy)


def may_be_averaged(precision: RoundingInterval, recall: RoundingInterval, f1: RoundingInterval) -> bool:
    """Whether F1 may be an average over classes or benchmarks: at least max(0, P + R - 1), at most the harmonic mean.

    Both at the rounding's most generous end.
    """
    least = max(Fraction(0), precision.low + recall.low - 1)
    return least <= f1.high and f1.low <= harmonic_mean(precision, recall).high


def _table_4_1(figures: Figures) -> pd.DataFrame:
    """Precision, recall, F1 and accuracy of each row, all as fractions of 1."""
    table = figures.table("T1")
    return table.assign(accuracy=Fraction(1, 100) * table.accuracy)


def row_by_row(figures: Figures) -> dict[str, Outcome]:
    """Is a row's F1 that of its precision and recall, and its accuracy one that these two can have?"""
    checks, rates, formula = {}, {}, "(1 - A) / [(1 - R) + R (1 - P) / P]"
    for method, precision, recall, f1, accuracy in _table_4_1(figures).itertuples():
        mean = harmonic_mean(precision, recall)
        averaged = UNCHECKABLE if may_be_averaged(precision, recall, f1) else INCONSISTENT
        agrees = CONSISTENT if f1.meets(mean) else averaged
        checks[f"T1.{method}.f1"] = Outcome(float(mean.middle), agrees, "2PR / (P + R)", mean, f1)

        rate = rates[method] = positive_rate(precision, recall, accuracy)
        false_positives = rate.low * recall.low * (1 - precision.high) / precision.high  # must fit into the negatives
        feasible = rate.low <= 1 and rate.high >= 0 and false_positives <= 1 - rate.low
        checks[f"T1.{method}.accuracy"] = Outcome(float(rate.middle), status(feasible), formula, rate)
    values, intervals = {method: float(rate.middle) for method, rate in rates.items()}, tuple(rates.values())
    checks["T1.prevalence"] = Outcome(values, status(have_common_point(intervals)), formula, intervals)
    return checks


def averages(figures: Figures) -> dict[str, Outcome]:
    """What kind of average can the five rows be? How many of them each reading of "F1" fits."""
    pooled = averaged = bracket = micro = weighted = medians = 0
    table = _table_4_1(figures)
    for precision, recall, f1, accuracy in table.itertuples(index=False):
        pooled += f1.meets(harmonic_mean(precision, recall))
        averaged += may_be_averaged(precision, recall, f1)
        bracket += f1.meets(hull([precision, recall]))
        micro += have_common_point([precision, recall, f1, accuracy])
        weighted += recall.meets(accuracy)
        needed = f1.low / (2 - f1.low)  # F1 = f needs P and R of at least f / (2 - f)
        medians += precision.high >= needed and recall.high >= needed

    fits = {"pooled_identity": pooled, "averaged_admissible": averaged, "inside_P_R_bracket": bracket}
    checks = {
        statement: Outcome(fits, status(rows == len(table)), f"rows of five with {name.replace('_', ' ')}")
        for statement, (name, rows) in zip(("T1.hm_pooled", "T1.jensen", "T1.bracket"), fits.items(), strict=True)
    }
    conventions = {
        "macro_HM_of_means": pooled,  # the harmonic mean of averaged P and R is the pooled identity again
        "macro_mean_of_F1": averaged,
        "medians_not_excluded": medians,
        "micro_single_label": micro,
        "pooled_or_binary": pooled,
        "support_weighted": weighted,
    }
    some = status(max(conventions.values()) == len(table))
    return checks | {"T1.averaging": Outcome(conventions, some, "rows of five that each convention fits")}


def granularity(figures: Figures) -> dict[str, Outcome]:
    """Is there a whole number k with ``100 k / N`` inside the cell? The cells are averages, so this decides nothing."""
    instances = figures.count("S1.n_instances")
    sizes = (instances, figures.count("ABS.n_instances"), -(-instances // figures.count("S1.n_benchmarks")))
    cells = _table_4_1(figures).accuracy
    reachable = {str(n): sum(ceil(cell.low * n) <= cell.high * n for cell in cells) for n in sizes}
    return {"T1.grim": Outcome(reachable, UNCHECKABLE, "accuracies of five that are k / N for a whole k")}


def ranks(figures: Figures) -> dict[str, Outcome]:
    """Who is above whom in table 4.1?"""
    words, above_oracle, table = {}, {}, _table_4_1(figures)
    for metric, cells in table.items():
        apart = cells["full"] - cells["vanilla"]
        words[metric] = "above" if apart.low > 0 else "below" if apart.high < 0 else "level"
        above_oracle[metric] = sum(cell.low > cells["oracle"].high for cell in cells.drop("oracle"))
    f1, accuracy = table.f1.tolist(), table.accuracy.tolist()
    rho = spearmanr(*([float(cell.middle) for cell in cells] for cells in (f1, accuracy))).statistic
    steps = zip(f1[1:4], f1[:3], strict=True)
    influence = ((f1[1], f1[0]), (accuracy[1], accuracy[0]))
    bound = status(not any(above_oracle.values()))
    return {
        "T1.full_vs_vanilla": Outcome(words, status(set(words.values()) == {"above"}), "full - vanilla, per metric"),
        "T1.f1_monotone_rows": check.order(steps, "each row's F1 above the row before"),
        "T1.if_vs_vanilla": check.order(influence, "'+ influence functions' above vanilla in F1 and accuracy"),
        "T1.oracle_bound": Outcome(above_oracle, bound, "rows above the oracle, per metric"),
        "T1.f1_vs_accuracy": Outcome(float(rho), UNCHECKABLE, "Spearman's rho over the five rows; odd, not impossible"),
    }


def headline(figures: Figures) -> dict[str, Outcome]:
    """The headline gain, from wherever the full model's F1 and the baseline's can be read."""
    sources = {
        "S4.1.headline_rel": ("S4.1.headline_f1", "S4.1.baseline_f1"),
        "S4.1.headline_rel_from_T1": ("T1.full.f1", "T1.vanilla.f1"),
        "S4.1.headline_rel_from_T3": ("T3.full.f1", "T3.wo_all.f1"),
    }
    printed, checks = figures("S4.1.headline_rel"), {}
    for statement, (full, base) in sources.items():
        gain = check.relative_gain(figures(full), figures(base))
        checks[statement] = check.equals(printed, gain, f"100 ({full} / {base} - 1)")
    return checks | {
        "S4.1.full_f1_values": check.same_everywhere(figures, "T1.full.f1", "S4.1.headline_f1", "T3.full.f1"),
        "S4.1.baseline_f1_values": check.same_everywhere(figures, "T1.vanilla.f1", "S4.1.baseline_f1", "T3.wo_all.f1"),
    }


def benchmarks(figures: Figures) -> dict[str, Outcome]:
    """The gains benchmark by benchmark, the range the text states for them, and what the nine unlisted must be."""
    table = figures.table("T1b")
    ours, base, printed = table.ours_f1, table.baseline_f1, table.improvement
    gains, points = check.relative_gain(ours, base), 100 * (ours - base)
    stated = hull([figures("S4.1.range", "lo"), figures("S4.1.range", "hi")])

    def in_range(gains: pd.Series, what: str) -> Outcome:
        """Counts the gains that meet the stated range; the interval spans the gains' middles, as the range does."""
        inside = sum(gain.meets(stated) for gain in gains)
        middles = hull([RoundingInterval.point(gain.middle) for gain in gains])
        counts = {"inside": inside, "of": len(gains)}
        return Outcome(counts, status(inside == len(gains)), f"{what} inside the stated range", middles)

    # mean(ours) / mean(base) is a weighted mean of the ratios, so it cannot leave their range.
    pooled = check.relative_gain(figures("S4.1.headline_f1"), figures("S4.1.baseline_f1"))
    listed = check.relative_gain(ours.sum(), base.sum())
    of_pooled = "100 (0.849 / 0.708 - 1) inside the stated range"
    of_listed = "100 (sum of ours / sum of baselines - 1), six rows; the nine unlisted gain at most the stated maximum"
    headline = figures("S4.1.headline_rel")
    reachable = status(headline.low <= max(listed.high, stated.high))
    return {
        **check.column(figures, "T1b.{}.improvement", gains, "100 (ours / baseline - 1)"),
        "T1b.printed_range": check.agreement(printed, gains, "gains of six that the row's F1s allow"),
        "S4.1.range_vs_printed": in_range(printed, "printed gains"),
        "S4.1.range_vs_recomputed": in_range(gains, "recomputed gains (relative %)"),
        "S4.1.range_vs_recomputed_pp": in_range(points, "recomputed gains (points)"),
        "S4.1.mean_vs_range": Outcome(float(pooled.middle), status(pooled.meets(stated)), of_pooled, pooled),
        "S4.1.mean_of_listed": Outcome(float(listed.middle), reachable, of_listed, listed, headline),
        "S4.1.unlisted_implied": _unlisted(figures, table, stated),
    }


def _unlisted(figures: Figures, listed: pd.DataFrame, stated: RoundingInterval) -> Outcome:
    """What the nine unlisted benchmarks must average for 15 to give each candidate aggregate.

    A mean gain over benchmarks is a weighted mean of their gains, so that of the text's aggregates cannot leave the
    range that the text states.
    """
    announced = figures.count("S1.n_benchmarks")
    share = Fraction(1, announced - len(listed))
    candidates = {"text": ("S4.1.baseline_f1", "S4.1.headline_f1"), "table": ("T1.vanilla.f1", "T1.full.f1")}
    values, gains = {}, {}
    for name, (base_id, ours_id) in candidates.items():
        base = share * (announced * figures(base_id) - listed.baseline_f1.sum())
        ours = share * (announced * figures(ours_id) - listed.ours_f1.sum())
        gain = gains[name] = check.relative_gain(ours, base)
        named = {"base": base, "ours": ours, "gain_percent": gain}
        values[name] = {figure: float(interval.middle) for figure, interval in named.items()}
    formula = "(15 x aggregate - sum of six) / 9; the text's gain of the nine inside the stated range"
    return Outcome(values, status(gains["text"].meets(stated)), formula, gains["text"])


def corrected(p_values: list[RoundingInterval], threshold: Fraction) -> dict[str, int]:
    """How many p-values pass a threshold for sure, fail it for sure, or are printed too coarsely to say."""
    passes = sum(p.high <= threshold for p in p_values)
    fails = sum(p.low > threshold for p in p_values)
    return {"passes": passes, "undetermined": len(p_values) - passes - fails, "fails": fails}


def p_values(figures: Figures) -> dict[str, Outcome]:
    """Each p-value and each family of them against alpha / the number of tests; the least p that the seeds can give."""
    listed, ablation = ([f"{key}.{row}.p" for row in figures.table(key).p.dropna().index] for key in ("T1b", "T3"))
    ids = [*listed, *ablation]
    alpha, announced = str(protocol().statistics["alpha"]), figures.count("S3.4.bonferroni")
    families = {key: ([key], alpha, announced) for key in ids} | {
        "S3.4.bonferroni_passed": (listed, alpha, announced),
        "S3.4.bonferroni_passed_05": (listed, "0.05", announced),
        "S3.4.bonferroni_ablation": (ablation, alpha, len(ablation)),
    }
    checks = {}
    for statement, (members, level, tests) in families.items():
        counts = corrected([figures(key) for key in members], Fraction(level) / tests)
        verdict = INCONSISTENT if counts["fails"] else UNCHECKABLE if counts["undetermined"] else CONSISTENT
        if statement in ids and verdict == INCONSISTENT:
            verdict = UNCHECKABLE  # the paper prints this p, and does not say that it passes
        checks[statement] = Outcome(counts, verdict, f"p <= {float(level):g} / {tests}")

    n = figures.count("S3.2.n_seeds")
    paired, unpaired = Fraction(2, 2**n), Fraction(2, comb(2 * n, n))  # two-sided, all seeds on one side
    below = sum(figures(key).high < min(paired, unpaired) for key in ids)
    floors = {"signed_rank": float(paired), "label_permutation": float(unpaired)}
    floors |= {"printed_p_below_both": below, "of": len(ids)}
    checks["S3.4.min_p"] = Outcome(floors, status(below == 0), "2 / 2^n and 2 / C(2n, n) with n = 5 seeds")
    return checks


def table_4_2(figures: Figures) -> dict[str, Outcome]:
    """Five influence levels, the gap column, and the trend."""
    table = figures.table("T2")
    base, ours, printed, d = table.baseline_f1, table.ours_f1, table.gap_pp, table.cohen_d
    gaps = ours - base
    # No SD is printed, so an unstable one is implausible but not impossible.
    implied = {"sd_from_F1": gaps, "sd_from_printed_gap": Fraction(1, 100) * printed}
    sds = {key: [float(g.middle / s.middle) for g, s in zip(gap, d, strict=True)] for key, gap in implied.items()}
    falling = check.sign(
        check.correlation_with_rank(base), "negative", "Pearson's r of the column with the level's number"
    )
    r_ours, r_gaps = check.correlation_with_rank(ours), check.correlation_with_rank(gaps)
    lost = "Pearson's r with the level's number; the printed r is lost"
    return {
        **check.column(figures, "T2.{}.gap_pp", 100 * gaps, "100 (ours - baseline)"),
        "T2.gap_all": check.agreement(printed, 100 * gaps, "gaps of five that the row's F1s allow"),
        "T2.implied_sd": Outcome(sds, UNCHECKABLE, "gap / d; no SD is printed"),
        "S4.2.baseline_drops": check.sign(base["extreme"] - base["minimal"], "negative", "extreme - minimal"),
        "S4.2.ours_robust": check.sign(ours["extreme"] - ours["minimal"], "not negative", "extreme - minimal"),
        "S4.2.r_baseline": falling,
        "S4.2.strong_relationship": falling,
        "S4.2.r_ours": Outcome(float(r_ours.middle), UNCHECKABLE, lost, r_ours),
        "S4.2.gap_widens": check.sign(r_gaps, "positive", "Pearson's r of (ours - baseline) with the level's number"),
    }


def table_4_3(figures: Figures) -> dict[str, Outcome]:
    """The delta column, who is best, and the shares of the gain."""
    f1, delta = (figures.table("T3")[name] for name in ("f1", "delta"))
    full, variants, implied = f1["full"], f1.drop("full"), f1 - delta
    changes = {"full": RoundingInterval.point(0)} | dict(variants - full)
    middles = {row: float(value.middle) for row, value in implied.items()}
    single = [(part, delta["wo_all"]) for part in delta.drop(["full", "wo_all"])]
    others = [(other, f1["wo_aw"]) for other in variants.drop("wo_aw")]
    return {
        **check.column(figures, "T3.{}.delta", changes, "F1 - F1 of the full model"),
        "T3.common_full": Outcome(
            middles, status(have_common_point(implied)), "F1 - delta gives the full model's F1", tuple(implied)
        ),
        "T3.full_is_best": check.order([(full, variant) for variant in variants], "full above each variant"),
        "T3.all_hurts_most": check.order(single, "printed delta of 'w/o All' at most each single part's", strict=False),
        "S4.3.aw_most": check.order(others, "every other variant above 'w/o Adaptive Weighting'"),
        "S4.3.gain_sign": check.sign(full - f1["wo_all"], "positive", "F1 full - F1 w/o All"),
        "S4.3.reg_over_fe": check.sign(
            f1["wo_fe"] - f1["wo_reg"], "positive", "F1 w/o features - F1 w/o regularisation"
        ),
    }


def shares_of_the_gain(figures: Figures) -> dict[str, Outcome]:
    """``loss / sum of the three losses``; each loss raises its own share and lowers the others'."""
    losses = {part: -1 * figures(f"T3.wo_{part}.delta") for part in ("aw", "reg", "fe")}
    printed = {part: figures(f"S4.3.share_{part}") for part in losses}
    gain = figures("S4.1.headline_f1") - figures("S4.1.baseline_f1")
    checks, parts = {}, {}
    for part, loss in losses.items():
        others = [other for name, other in losses.items() if name != part]
        share = corners(lambda own, *rest: 100 * own / (own + sum(rest)), loss, *others)
        checks[f"S4.3.share_{part}"] = check.equals(printed[part], share, "100 delta / sum of the three deltas")
        implied = corners(lambda a, b: a * b, Fraction(1, 100) * printed[part], gain)
        parts[f"share_{part}"] = {
            "implied_loss": float(implied.middle),
            "printed_loss": float(loss.middle),
            "agree": implied.meets(loss),
        }
    agrees = status(all(values["agree"] for values in parts.values()))
    named = printed["aw"] + printed["reg"]
    total = named + printed["fe"]
    return checks | {
        "S4.3.share_sum": check.equals(RoundingInterval.point(100), total, "sum of the three shares, against 100"),
        "S6.via": Outcome(float(named.middle), status(named.contains(100)), "share_aw + share_reg, against 100", named),
        "S4.3.share_times_gain": Outcome(parts, agrees, "share x (0.849 - 0.708) against the printed loss"),
    }


def table_4_4(figures: Figures) -> dict[str, Outcome]:
    """F1 and gain against training size."""
    table = figures.table("T4")
    ours, base, printed = table.ours_f1, table.baseline_f1, table.rel_gain
    gains, low_data = check.relative_gain(ours, base), {"1K", "5K"}

    def from_the_largest(values: pd.Series) -> list[str]:
        return sorted(values.index, key=lambda size: -values[size].middle)

    orders = {"order_printed": from_the_largest(printed), "order_recomputed": from_the_largest(gains)}
    largest = any(set(sizes[:2]) == low_data for sizes in orders.values())
    ascending = from_the_largest(-1 * base)
    vulnerable = {
        "order_low_to_high": ascending,
        "mean_claimed": float(base.iloc[:2].sum().middle / 2),
        "mean_others": float(base.iloc[2:].sum().middle / 3),
    }
    lowest = status(set(ascending[:2]) == low_data)
    columns = {"S4.1.baseline_f1": base, "S4.1.headline_rel": printed}
    inside = {key: figures(key).meets(hull(cells)) for key, cells in columns.items()}
    between = "between the smallest and largest baseline, and printed gain, of table 4.4"
    ranges = tuple(hull(cells) for cells in columns.values())
    return {
        **check.column(figures, "T4.{}.rel_gain", gains, "100 (ours / baseline - 1)"),
        "T4.gain_all": check.agreement(printed, gains, "gains of five that the row's F1s allow"),
        "S4.4.low_data": Outcome(orders, status(largest), "sizes from the largest gain to the smallest"),
        "S4.4.baseline_vulnerable": Outcome(vulnerable, lowest, "sizes from the lowest baseline F1 to the highest"),
        "S4.4.ours_always_better": check.order(zip(ours, base, strict=True), "ours above baseline at each size"),
        "S4.4.more_data_helps": check.sign(base["100K"] - base["1K"], "positive", "baseline F1 at 100K - at 1K"),
        "T4.hull_headline": Outcome(inside, status(all(inside.values())), between, ranges),
    }


def table_4_5(figures: Figures) -> dict[str, Outcome]:
    """The total row against its parts and the text; 5.1 and 5.3: what cannot cost or gain that much."""
    sums = figures.table("T5").drop("total").sum()
    checks = check.column(figures, "T5.total.{}", sums, "sum of the three parts")
    for cost in ("train", "infer"):
        total = f"S4.5.total_{cost}"
        checks[f"S4.5.text_vs_sum_{cost}"] = check.equals(figures(total), sums[cost], "sum of the three parts")
        checks[total] = check.same_everywhere(figures, total, f"T5.total.{cost}")
    # A part that acts in training only costs nothing at inference.
    cells = {cell: cell for cell in ("T5.aw.infer", "T5.reg.infer")} | {"S5.1.no_arch_change": "T5.total.infer"}
    for statement, cell in cells.items():
        checks[statement] = check.sign(figures(cell), "zero", "inference overhead, which must be 0")
    larger = {"S5.3.ensemble": ("S4.1.headline_rel", "value"), "S5.3.ensemble_vs_range": ("S4.1.range", "lo")}
    for statement, of in larger.items():
        less = figures(*of) - figures("S5.3.ensemble")
        checks[statement] = check.sign(less, "positive", f"{of[0]} - S5.3.ensemble")
    return checks


TOPICS = (row_by_row, averages, granularity, ranks, headline, benchmarks, p_values)
TOPICS += (table_4_2, table_4_3, shares_of_the_gain, table_4_4, table_4_5)
