"""Table 4.4: F1 and gain against training size."""

from datalab.audit.outcomes import (
    Check,
    Figures,
    Outcome,
    agreement,
    equals,
    order,
    relative_gain,
    sign,
    status,
    within_hull,
)
from datalab.audit.rows import SIZES
from datalab.ledger.rounding import RoundingInterval

_LOW_DATA = {"1K", "5K"}


def _gain(figures: Figures, size: str) -> RoundingInterval:
    return relative_gain(figures(f"T4.{size}.ours_f1"), figures(f"T4.{size}.baseline_f1"))


def _gain_cell(size: str) -> Check:
    return lambda figures: equals(figures(f"T4.{size}.rel_gain"), _gain(figures, size), "100 (ours / baseline - 1)")


def _gain_column(figures: Figures) -> Outcome:
    pairs = [(figures(f"T4.{size}.rel_gain"), _gain(figures, size)) for size in SIZES]
    return agreement(pairs, "gains of five that the row's F1s allow")


def _low_data(figures: Figures) -> Outcome:
    """1K and 5K must be the two largest gains, in the printed column or in the recomputed one."""
    columns = {"printed": figures.row("T4", SIZES, "rel_gain"), "recomputed": {s: _gain(figures, s) for s in SIZES}}
    orders = {
        f"order_{name}": sorted(column, key=lambda size, column=column: -column[size].middle)
        for name, column in columns.items()
    }
    agrees = any(set(sizes[:2]) == _LOW_DATA for sizes in orders.values())
    return Outcome(orders, status(agrees), "sizes from the largest gain to the smallest")


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


def _always_better(figures: Figures) -> Outcome:
    pairs = [(figures(f"T4.{size}.ours_f1"), figures(f"T4.{size}.baseline_f1")) for size in SIZES]
    return order(pairs, "ours above baseline at each size")


def _more_data(figures: Figures) -> Outcome:
    change = figures(f"T4.{SIZES[-1]}.baseline_f1") - figures(f"T4.{SIZES[0]}.baseline_f1")
    return sign(change, "positive", "baseline F1 at 100K - at 1K")


def _headline_baseline(figures: Figures) -> Outcome:
    strata = list(figures.row("T4", SIZES, "baseline_f1").values())
    values = {"S4.1.baseline_f1": figures("S4.1.baseline_f1")}
    return within_hull(values, strata, "between the smallest and largest baseline of table 4.4")


CHECKS: dict[str, Check] = {
    **{f"T4.{size}.rel_gain": _gain_cell(size) for size in SIZES},
    "T4.gain_all": _gain_column,
    "S4.4.low_data": _low_data,
    "S4.4.baseline_vulnerable": _vulnerable,
    "S4.4.ours_always_better": _always_better,
    "S4.4.more_data_helps": _more_data,
    "T4.hull_headline": _headline_baseline,
}
