"""Table 4.3: the delta column, who is best, and the shares of the gain."""

from fractions import Fraction

from datalab.audit.outcomes import Check, Figures, Outcome, equals, order, sign, status
from datalab.audit.rows import ABLATIONS, PARTS
from datalab.ledger.rounding import RoundingInterval, corners, have_common_point, total

_VARIANTS = ABLATIONS[1:]


def _delta(row: str) -> Check:
    def check(figures: Figures) -> Outcome:
        full = figures("T3.full.f1")
        change = RoundingInterval.point(0) if row == "full" else figures(f"T3.{row}.f1") - full
        return equals(figures(f"T3.{row}.delta"), change, "F1 - F1 of the full model")

    return check


def _common_full(figures: Figures) -> Outcome:
    implied = {row: figures(f"T3.{row}.f1") - figures(f"T3.{row}.delta") for row in ABLATIONS}
    values = {row: float(value.middle) for row, value in implied.items()}
    agrees = have_common_point(list(implied.values()))
    return Outcome(values, status(agrees), "F1 - delta gives the full model's F1", tuple(implied.values()))


def _full_is_best(figures: Figures) -> Outcome:
    full = figures("T3.full.f1")
    return order([(full, figures(f"T3.{row}.f1")) for row in _VARIANTS], "full above each variant")


def _all_hurts_most(figures: Figures) -> Outcome:
    everything = figures("T3.wo_all.delta")
    pairs = [(figures(f"T3.wo_{part}.delta"), everything) for part in PARTS]
    return order(pairs, "printed delta of 'w/o All' at most each single part's", strict=False)


def _weighting_hurts_most(figures: Figures) -> Outcome:
    without = figures("T3.wo_aw.f1")
    pairs = [(figures(f"T3.{row}.f1"), without) for row in _VARIANTS if row != "wo_aw"]
    return order(pairs, "every other variant above 'w/o Adaptive Weighting'")


def _loss(figures: Figures, part: str) -> RoundingInterval:
    """The printed loss without a part: minus its delta."""
    return figures(f"T3.wo_{part}.delta").scaled(-1)


def _share(part: str) -> Check:
    """``loss / sum of the three losses``; each loss raises its own share and lowers the others'."""

    def check(figures: Figures) -> Outcome:
        others = [_loss(figures, other) for other in PARTS if other != part]
        share = corners(lambda own, *rest: 100 * own / (own + sum(rest)), _loss(figures, part), *others)
        return equals(figures(f"S4.3.share_{part}"), share, "100 delta / sum of the three deltas")

    return check


def _sum_of_shares(figures: Figures) -> Outcome:
    shares = total([figures(f"S4.3.share_{part}") for part in PARTS])
    return equals(RoundingInterval.point(100), shares, "sum of the three shares, against 100")


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


def _gain_sign(figures: Figures) -> Outcome:
    return sign(figures("T3.full.f1") - figures("T3.wo_all.f1"), "positive", "F1 full - F1 w/o All")


def _regularisation_over_features(figures: Figures) -> Outcome:
    return sign(figures("T3.wo_fe.f1") - figures("T3.wo_reg.f1"), "positive", "F1 w/o features - F1 w/o regularisation")


CHECKS: dict[str, Check] = {
    **{f"T3.{row}.delta": _delta(row) for row in ABLATIONS},
    **{f"S4.3.share_{part}": _share(part) for part in PARTS},
    "T3.common_full": _common_full,
    "T3.full_is_best": _full_is_best,
    "T3.all_hurts_most": _all_hurts_most,
    "S4.3.share_sum": _sum_of_shares,
    "S4.3.share_times_gain": _share_times_gain,
    "S4.3.gain_sign": _gain_sign,
    "S4.3.aw_most": _weighting_hurts_most,
    "S4.3.reg_over_fe": _regularisation_over_features,
}
