"""Before a run: which p-values a design can reach at all, and how likely it is to see an effect of a given size."""

import math

from datalab.errors import UserError


def p_floor(n: int) -> float:
    """The smallest two-sided p of a paired sign-flip or signed-rank test on ``n`` pairs: 2 / 2^n, at most 1.

    Five seeds give 0.0625: whatever the data, no such test can print less.
    """
    if n < 1:
        raise UserError(f"n: {n} pairs are too few; use at least 1")
    return min(1.0, 2.0 ** (1 - n))


def p_floor_unpaired(n: int) -> float:
    """The smallest two-sided p of a label-permutation test of ``n`` runs against ``n``: 2 / C(2n, n), at most 1."""
    if n < 1:
        raise UserError(f"n: {n} runs are too few; use at least 1")
    return min(1.0, 2 / math.comb(2 * n, n))


def seeds_needed(alpha: float) -> int:
    """The fewest pairs whose :func:`p_floor` reaches ``alpha``: 9 for 0.005, 13 for 0.005 / 15."""
    if not 0 < alpha <= 1:
        raise UserError(f"alpha: {alpha} is no level; use a number above 0, at most 1")
    n = 1
    while p_floor(n) > alpha:
        n += 1
    return n


def power(d_z: float, n: int, alpha: float) -> float:
    """The two-sided paired t-test's power at a true effect ``d_z`` on ``n`` pairs: ``pingouin.power_ttest``."""
    import pingouin  # about 5 s: here, not at the top

    return float(pingouin.power_ttest(d=d_z, n=n, alpha=alpha, contrast="paired"))


def effect_needed(n: int, alpha: float, power: float = 0.8) -> float:
    """The d_z that the paired t-test on ``n`` pairs finds with the given power: ``pingouin.power_ttest``."""
    import pingouin

    return float(pingouin.power_ttest(n=n, alpha=alpha, power=power, contrast="paired"))


def nested_dz(effect: float, sd_units: float, sd_seeds: float, seeds: int) -> float:
    """d_z of the units' seed means: effect / sqrt(sd_units^2 + sd_seeds^2 / seeds).

    More seeds shrink the second term alone: what differs between data sets, only more data sets average away.
    All in the metric's units.
    """
    if seeds < 1:
        raise UserError(f"seeds: {seeds} is too few; use at least 1")
    spread = math.hypot(sd_units, sd_seeds / math.sqrt(seeds))
    if spread <= 0:
        raise UserError("sd_units, sd_seeds: both are 0; at least one must be above 0")
    return effect / spread
