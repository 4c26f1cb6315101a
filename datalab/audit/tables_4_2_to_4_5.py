"""Tables 4.2 to 4.5: the columns that follow from others, and what the text reads from them."""

from fractions import Fraction

from datalab.audit.figures import ABLATIONS, COSTS, LEVELS, PARTS, SIZES, Figures
from datalab.audit.shapes import (
    UNCHECKABLE,
    Outcome,
    agreement,
    column,
    correlation_with_rank,
    equals,
    order,
    relative_gains,
    same_everywhere,
    sign,
    status,
    within_hull,
)
from datalab.ledger.rounding import RoundingInterval, corners, have_common_point


def table_4_2(figures: Figures) -> dict[str, Outcome]:
    """Five influence levels, the gap column, and the trend."""
    base, ours, printed, d = (
        figures.each(f"T2.{{}}.{name}", LEVELS) for name in ("baseline_f1", "ours_f1", "gap_pp", "cohen_d")
    )
    gaps = ours - base
    # No SD is printed, so an unstable one is implausible but not impossible.
    implied = {"sd_from_F1": gaps, "sd_from_printed_gap": Fraction(1, 100) * printed}
    sds = {key: [float(g.middle / s.middle) for g, s in zip(gap, d, strict=True)] for key, gap in implied.items()}
    falling = sign(correlation_with_rank(base), "negative", "Pearson's r of the column with the level's number")
    r_ours = correlation_with_rank(ours)
    return {
        **column(figures, "T2.{}.gap_pp", LEVELS, 100 * gaps, "100 (ours - baseline)"),
        "T2.gap_all": agreement(printed, 100 * gaps, "gaps of five that the row's F1s allow"),
        "T2.implied_sd": Outcome(sds, UNCHECKABLE, "gap / d; no SD is printed"),
        "S4.2.baseline_drops": sign(base[-1] - base[0], "negative", "extreme - minimal"),
        "S4.2.ours_robust": sign(ours[-1] - ours[0], "not negative", "extreme - minimal"),
        "S4.2.r_baseline": falling,
        "S4.2.strong_relationship": falling,
        "S4.2.r_ours": Outcome(
            float(r_ours.middle), UNCHECKABLE, "Pearson's r with the level's number; the printed r is lost", r_ours
        ),
        "S4.2.gap_widens": sign(
            correlation_with_rank(gaps), "positive", "Pearson's r of (ours - baseline) with the level's number"
        ),
    }


def table_4_3(figures: Figures) -> dict[str, Outcome]:
    """The delta column, who is best, and the shares of the gain."""
    f1 = dict(zip(ABLATIONS, figures.each("T3.{}.f1", ABLATIONS), strict=True))
    delta = dict(zip(ABLATIONS, figures.each("T3.{}.delta", ABLATIONS), strict=True))
    full, variants = f1["full"], ABLATIONS[1:]
    changes = [RoundingInterval.point(0), *(f1[row] - full for row in variants)]
    implied = {row: f1[row] - delta[row] for row in ABLATIONS}
    common, implied_full = status(have_common_point(list(implied.values()))), tuple(implied.values())
    return {
        **column(figures, "T3.{}.delta", ABLATIONS, changes, "F1 - F1 of the full model"),
        "T3.common_full": Outcome(
            {row: float(value.middle) for row, value in implied.items()},
            common,
            "F1 - delta gives the full model's F1",
            implied_full,
        ),
        "T3.full_is_best": order([(full, f1[row]) for row in variants], "full above each variant"),
        "T3.all_hurts_most": order(
            [(delta[f"wo_{part}"], delta["wo_all"]) for part in PARTS],
            "printed delta of 'w/o All' at most each single part's",
            strict=False,
        ),
        "S4.3.aw_most": order(
            [(f1[row], f1["wo_aw"]) for row in variants if row != "wo_aw"],
            "every other variant above 'w/o Adaptive Weighting'",
        ),
        "S4.3.gain_sign": sign(full - f1["wo_all"], "positive", "F1 full - F1 w/o All"),
        "S4.3.reg_over_fe": sign(f1["wo_fe"] - f1["wo_reg"], "positive", "F1 w/o features - F1 w/o regularisation"),
    }


def shares_of_the_gain(figures: Figures) -> dict[str, Outcome]:
    """``loss / sum of the three losses``; each loss raises its own share and lowers the others'."""
    losses = {part: -1 * figures(f"T3.wo_{part}.delta") for part in PARTS}
    printed = {part: figures(f"S4.3.share_{part}") for part in PARTS}
    gain = figures("S4.1.headline_f1") - figures("S4.1.baseline_f1")
    checks, parts = {}, {}
    for part in ("aw", "reg", "fe"):
        others = [loss for other, loss in losses.items() if other != part]
        share = corners(lambda own, *rest: 100 * own / (own + sum(rest)), losses[part], *others)
        checks[f"S4.3.share_{part}"] = equals(printed[part], share, "100 delta / sum of the three deltas")
        implied = corners(lambda a, b: a * b, Fraction(1, 100) * printed[part], gain)
        parts[f"share_{part}"] = {
            "implied_loss": float(implied.middle),
            "printed_loss": float(losses[part].middle),
            "agree": implied.meets(losses[part]),
        }
    agrees = status(all(values["agree"] for values in parts.values()))
    total = figures.each("S4.3.share_{}", PARTS).sum()
    return checks | {
        "S4.3.share_sum": equals(RoundingInterval.point(100), total, "sum of the three shares, against 100"),
        "S4.3.share_times_gain": Outcome(parts, agrees, "share x (0.849 - 0.708) against the printed loss"),
    }


def table_4_4(figures: Figures) -> dict[str, Outcome]:
    """F1 and gain against training size."""
    ours, base, printed = (figures.each(f"T4.{{}}.{name}", SIZES) for name in ("ours_f1", "baseline_f1", "rel_gain"))
    gains, low_data = relative_gains(ours, base), {"1K", "5K"}

    def from_the_largest(values: list[RoundingInterval]) -> list[str]:
        middles = {size: value.middle for size, value in zip(SIZES, values, strict=True)}
        return sorted(SIZES, key=lambda size: -middles[size])

    orders = {"order_printed": from_the_largest(printed), "order_recomputed": from_the_largest(gains)}
    largest = any(set(sizes[:2]) == low_data for sizes in orders.values())
    ascending = from_the_largest(-1 * base)
    vulnerable = {
        "order_low_to_high": ascending,
        "mean_claimed": float(sum(value.middle for value in base[:2]) / 2),
        "mean_others": float(sum(value.middle for value in base[2:]) / 3),
    }
    lowest = status(set(ascending[:2]) == low_data)
    return {
        **column(figures, "T4.{}.rel_gain", SIZES, gains, "100 (ours / baseline - 1)"),
        "T4.gain_all": agreement(printed, gains, "gains of five that the row's F1s allow"),
        "S4.4.low_data": Outcome(orders, status(largest), "sizes from the largest gain to the smallest"),
        "S4.4.baseline_vulnerable": Outcome(vulnerable, lowest, "sizes from the lowest baseline F1 to the highest"),
        "S4.4.ours_always_better": order(zip(ours, base, strict=True), "ours above baseline at each size"),
        "S4.4.more_data_helps": sign(base[-1] - base[0], "positive", "baseline F1 at 100K - at 1K"),
        "T4.hull_headline": within_hull(
            {"S4.1.baseline_f1": figures("S4.1.baseline_f1")},
            base,
            "between the smallest and largest baseline of table 4.4",
        ),
    }


def table_4_5(figures: Figures) -> dict[str, Outcome]:
    """The total row against its parts and the text; 5.1 and 5.3: what cannot cost or gain that much."""
    sums = {cost: figures.each(f"T5.{{}}.{cost}", PARTS).sum() for cost in COSTS}
    checks = column(figures, "T5.total.{}", COSTS, sums.values(), "sum of the three parts")
    for cost in ("train", "infer"):
        total = f"S4.5.total_{cost}"
        checks[f"S4.5.text_vs_sum_{cost}"] = equals(figures(total), sums[cost], "sum of the three parts")
        checks[total] = same_everywhere(figures, total, f"T5.total.{cost}")
    # A part that acts in training only costs nothing at inference.
    for statement, cell in {
        "T5.aw.infer": "T5.aw.infer",
        "T5.reg.infer": "T5.reg.infer",
        "S5.1.no_arch_change": "T5.total.infer",
    }.items():
        checks[statement] = sign(figures(cell), "zero", "inference overhead, which must be 0")
    ensemble = figures("S5.3.ensemble")
    for statement, larger, name in (
        ("S5.3.ensemble", "S4.1.headline_rel", "value"),
        ("S5.3.ensemble_vs_range", "S4.1.range", "lo"),
    ):
        checks[statement] = sign(figures(larger, name) - ensemble, "positive", f"{larger} - S5.3.ensemble")
    return checks


TOPICS = (table_4_2, table_4_3, shares_of_the_gain, table_4_4, table_4_5)
