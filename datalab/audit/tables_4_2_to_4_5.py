"""Tables 4.2 to 4.5: the columns that follow from others, and what the text reads from them."""

from fractions import Fraction

from datalab.audit.outcomes import (
    ABLATIONS,
    COSTS,
    LEVELS,
    PARTS,
    SIZES,
    UNCHECKABLE,
    Figures,
    Outcome,
    agreement,
    check,
    correlation_with_rank,
    equals,
    order,
    relative_gain,
    same_everywhere,
    sign,
    status,
    within_hull,
)
from datalab.ledger.rounding import RoundingInterval, corners, have_common_point, total

# --- table 4.2: five influence levels, the gap column, and the trend ---


def _gap(figures: Figures, level: str) -> RoundingInterval:
    return figures(f"T2.{level}.ours_f1") - figures(f"T2.{level}.baseline_f1")


@check("T2.{}.gap_pp", LEVELS)
def _gap_cell(figures: Figures, level: str) -> Outcome:
    return equals(figures(f"T2.{level}.gap_pp"), _gap(figures, level).scaled(100), "100 (ours - baseline)")


@check("T2.gap_all")
def _gap_column(figures: Figures) -> Outcome:
    pairs = [(figures(f"T2.{level}.gap_pp"), _gap(figures, level).scaled(100)) for level in LEVELS]
    return agreement(pairs, "gaps of five that the row's F1s allow")


@check("T2.implied_sd")
def _implied_sd(figures: Figures) -> Outcome:
    """``gap / d`` per row. No SD is printed, so an unstable one is implausible but not impossible."""
    d = [figures(f"T2.{level}.cohen_d").middle for level in LEVELS]
    from_f1 = [float(_gap(figures, level).middle / size) for level, size in zip(LEVELS, d, strict=True)]
    gaps = [figures(f"T2.{level}.gap_pp").middle / 100 for level in LEVELS]
    printed = [float(gap / size) for gap, size in zip(gaps, d, strict=True)]
    return Outcome({"sd_from_F1": from_f1, "sd_from_printed_gap": printed}, UNCHECKABLE, "gap / d; no SD is printed")


_ENDS = {"S4.2.baseline_drops": ("baseline_f1", "negative"), "S4.2.ours_robust": ("ours_f1", "not negative")}


@check("{}", _ENDS)
def _end_to_end(figures: Figures, statement_id: str) -> Outcome:
    column, claimed = _ENDS[statement_id]
    change = figures(f"T2.{LEVELS[-1]}.{column}") - figures(f"T2.{LEVELS[0]}.{column}")
    return sign(change, claimed, "extreme - minimal")


@check("{}", ("S4.2.r_baseline", "S4.2.strong_relationship"))
def _baseline_correlation(figures: Figures, _: str) -> Outcome:
    r = correlation_with_rank(list(figures.row("T2", LEVELS, "baseline_f1").values()))
    return sign(r, "negative", "Pearson's r of the column with the level's number")


@check("S4.2.r_ours")
def _ours_correlation(figures: Figures) -> Outcome:
    """The printed correlation is lost, so there is nothing to hold the recomputed one against."""
    r = correlation_with_rank(list(figures.row("T2", LEVELS, "ours_f1").values()))
    return Outcome(float(r.middle), UNCHECKABLE, "Pearson's r with the level's number; the printed r is lost", r)


@check("S4.2.gap_widens")
def _widening(figures: Figures) -> Outcome:
    r = correlation_with_rank([_gap(figures, level) for level in LEVELS])
    return sign(r, "positive", "Pearson's r of (ours - baseline) with the level's number")


# --- table 4.3: the delta column, who is best, and the shares of the gain ---

_VARIANTS = ABLATIONS[1:]


@check("T3.{}.delta", ABLATIONS)
def _delta(figures: Figures, row: str) -> Outcome:
    full = figures("T3.full.f1")
    change = RoundingInterval.point(0) if row == "full" else figures(f"T3.{row}.f1") - full
    return equals(figures(f"T3.{row}.delta"), change, "F1 - F1 of the full model")


@check("T3.common_full")
def _common_full(figures: Figures) -> Outcome:
    implied = {row: figures(f"T3.{row}.f1") - figures(f"T3.{row}.delta") for row in ABLATIONS}
    values = {row: float(value.middle) for row, value in implied.items()}
    agrees = have_common_point(list(implied.values()))
    return Outcome(values, status(agrees), "F1 - delta gives the full model's F1", tuple(implied.values()))


@check("T3.full_is_best")
def _full_is_best(figures: Figures) -> Outcome:
    full = figures("T3.full.f1")
    return order([(full, figures(f"T3.{row}.f1")) for row in _VARIANTS], "full above each variant")


@check("T3.all_hurts_most")
def _all_hurts_most(figures: Figures) -> Outcome:
    everything = figures("T3.wo_all.delta")
    pairs = [(figures(f"T3.wo_{part}.delta"), everything) for part in PARTS]
    return order(pairs, "printed delta of 'w/o All' at most each single part's", strict=False)


@check("S4.3.aw_most")
def _weighting_hurts_most(figures: Figures) -> Outcome:
    without = figures("T3.wo_aw.f1")
    pairs = [(figures(f"T3.{row}.f1"), without) for row in _VARIANTS if row != "wo_aw"]
    return order(pairs, "every other variant above 'w/o Adaptive Weighting'")


def _loss(figures: Figures, part: str) -> RoundingInterval:
    """The printed loss without a part: minus its delta."""
    return figures(f"T3.wo_{part}.delta").scaled(-1)


@check("S4.3.share_{}", PARTS)
def _share(figures: Figures, part: str) -> Outcome:
    """``loss / sum of the three losses``; each loss raises its own share and lowers the others'."""
    others = [_loss(figures, other) for other in PARTS if other != part]
    share = corners(lambda own, *rest: 100 * own / (own + sum(rest)), _loss(figures, part), *others)
    return equals(figures(f"S4.3.share_{part}"), share, "100 delta / sum of the three deltas")


@check("S4.3.share_sum")
def _sum_of_shares(figures: Figures) -> Outcome:
    shares = total([figures(f"S4.3.share_{part}") for part in PARTS])
    return equals(RoundingInterval.point(100), shares, "sum of the three shares, against 100")


@check("S4.3.share_times_gain")
def _share_times_gain(figures: Figures) -> Outcome:
    gain = figures("S4.1.headline_f1") - figures("S4.1.baseline_f1")
    values = {}
    for part in ("aw", "reg", "fe"):
        share, printed = figures(f"S4.3.share_{part}").scaled(Fraction(1, 100)), _loss(figures, part)
        implied = corners(lambda a, b: a * b, share, gain)
        values[f"share_{part}"] = {
            "implied_loss": float(implied.middle),
            "printed_loss": float(printed.middle),
            "agree": implied.meets(printed),
        }
    agrees = all(value["agree"] for value in values.values())
    return Outcome(values, status(agrees), "share x (0.849 - 0.708) against the printed loss")


@check("S4.3.gain_sign")
def _gain_sign(figures: Figures) -> Outcome:
    return sign(figures("T3.full.f1") - figures("T3.wo_all.f1"), "positive", "F1 full - F1 w/o All")


@check("S4.3.reg_over_fe")
def _regularisation_over_features(figures: Figures) -> Outcome:
    return sign(figures("T3.wo_fe.f1") - figures("T3.wo_reg.f1"), "positive", "F1 w/o features - F1 w/o regularisation")


# --- table 4.4: F1 and gain against training size ---

_LOW_DATA = {"1K", "5K"}


def _gain(figures: Figures, size: str) -> RoundingInterval:
    return relative_gain(figures(f"T4.{size}.ours_f1"), figures(f"T4.{size}.baseline_f1"))


@check("T4.{}.rel_gain", SIZES)
def _gain_cell(figures: Figures, size: str) -> Outcome:
    return equals(figures(f"T4.{size}.rel_gain"), _gain(figures, size), "100 (ours / baseline - 1)")


@check("T4.gain_all")
def _gain_column(figures: Figures) -> Outcome:
    pairs = [(figures(f"T4.{size}.rel_gain"), _gain(figures, size)) for size in SIZES]
    return agreement(pairs, "gains of five that the row's F1s allow")


@check("S4.4.low_data")
def _low_data(figures: Figures) -> Outcome:
    """1K and 5K must be the two largest gains, in the printed column or in the recomputed one."""
    columns = {"printed": figures.row("T4", SIZES, "rel_gain"), "recomputed": {s: _gain(figures, s) for s in SIZES}}
    orders = {
        f"order_{name}": sorted(column, key=lambda size, column=column: -column[size].middle)
        for name, column in columns.items()
    }
    agrees = any(set(sizes[:2]) == _LOW_DATA for sizes in orders.values())
    return Outcome(orders, status(agrees), "sizes from the largest gain to the smallest")


@check("S4.4.baseline_vulnerable")
def _vulnerable(figures: Figures) -> Outcome:
    base = {size: figures(f"T4.{size}.baseline_f1").middle for size in SIZES}
    ascending = sorted(base, key=lambda size: base[size])
    claimed = [base[size] for size in SIZES if size in _LOW_DATA]
    others = [base[size] for size in SIZES if size not in _LOW_DATA]
    values = {
        "order_low_to_high": ascending,
        "mean_claimed": float(sum(claimed) / len(claimed)),
        "mean_others": float(sum(others) / len(others)),
    }
    return Outcome(values, status(set(ascending[:2]) == _LOW_DATA), "sizes from the lowest baseline F1 to the highest")


@check("S4.4.ours_always_better")
def _always_better(figures: Figures) -> Outcome:
    pairs = [(figures(f"T4.{size}.ours_f1"), figures(f"T4.{size}.baseline_f1")) for size in SIZES]
    return order(pairs, "ours above baseline at each size")


@check("S4.4.more_data_helps")
def _more_data(figures: Figures) -> Outcome:
    change = figures(f"T4.{SIZES[-1]}.baseline_f1") - figures(f"T4.{SIZES[0]}.baseline_f1")
    return sign(change, "positive", "baseline F1 at 100K - at 1K")


@check("T4.hull_headline")
def _headline_baseline(figures: Figures) -> Outcome:
    strata = list(figures.row("T4", SIZES, "baseline_f1").values())
    values = {"S4.1.baseline_f1": figures("S4.1.baseline_f1")}
    return within_hull(values, strata, "between the smallest and largest baseline of table 4.4")


# --- table 4.5: the total row against its parts and the text; 5.1 and 5.3: what cannot cost or gain that much ---


def _sum(figures: Figures, cost: str) -> RoundingInterval:
    return total([figures(f"T5.{part}.{cost}") for part in PARTS])


@check("T5.total.{}", COSTS)
def _total_cell(figures: Figures, cost: str) -> Outcome:
    return equals(figures(f"T5.total.{cost}"), _sum(figures, cost), "sum of the three parts")


@check("S4.5.text_vs_sum_{}", ("train", "infer"))
def _text_against_parts(figures: Figures, cost: str) -> Outcome:
    return equals(figures(f"S4.5.total_{cost}"), _sum(figures, cost), "sum of the three parts")


@check("S4.5.total_{}", ("train", "infer"))
def _text_against_table(figures: Figures, cost: str) -> Outcome:
    return same_everywhere(figures, (f"S4.5.total_{cost}", f"T5.total.{cost}"))


_FREE = {"T5.aw.infer": "T5.aw.infer", "T5.reg.infer": "T5.reg.infer", "S5.1.no_arch_change": "T5.total.infer"}


@check("{}", _FREE)
def _must_be_free(figures: Figures, statement_id: str) -> Outcome:
    """A part that acts in training only costs nothing at inference."""
    return sign(figures(_FREE[statement_id]), "zero", "inference overhead, which must be 0")


_FAR_ABOVE = {
    "S5.3.ensemble": ("S4.1.headline_rel", "value"),
    "S5.3.ensemble_vs_range": ("S4.1.range", "lo"),
}


@check("{}", _FAR_ABOVE)
def _far_below(figures: Figures, statement_id: str) -> Outcome:
    large = _FAR_ABOVE[statement_id]
    return sign(figures(*large) - figures("S5.3.ensemble"), "positive", f"{large[0]} - S5.3.ensemble")
