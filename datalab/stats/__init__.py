"""The statistical protocol (paper section 3.4): intervals and tests on paired differences, crossovers, planning.

One convention runs through it all. A *unit* is a data set; its difference ``d`` is score(method) - score(comparator),
averaged over the unit's seeds. Units vary, so every interval and test speaks of the population of data sets these
were drawn from, at the given seeds' average; none speaks of new seeds on one fixed data set, unless the caller passes
one difference per seed, and then it speaks of nothing else. Arrays have the units on the last axis, ``(..., n)``;
leading axes are independent problems, answered together. What scipy.stats or pingouin has is called, not rewritten.
"""

from datalab.stats.bootstrap import resampled_means
from datalab.stats.clustered_f1 import clustered_f1, clustered_f1_lead, f1, outcomes
from datalab.stats.correlation import clustered_correlation, mean_correlation, moments, pearson
from datalab.stats.crossover import (
    crossover,
    crossover_bootstrap,
    crossover_label,
    crossovers_apart,
    crossovers_without,
    isotonic,
)
from datalab.stats.decision import SIDES, decide, near, outside, refuting_p
from datalab.stats.measurement import EffectSize, Measurement, Share, guarded, jackknifed
from datalab.stats.multiplicity import bonferroni, holm
from datalab.stats.paired import (
    Interval,
    cohens_dz,
    guarded_interval,
    paired_bootstrap,
    paired_summary,
    sign_flip_test,
    t_interval,
    t_test,
    wilcoxon,
)
from datalab.stats.planning import effect_needed, nested_dz, p_floor, p_floor_unpaired, power, seeds_needed
from datalab.stats.resampled import Simultaneous, corrected_resampled_t
from datalab.stats.reversal import clearest_reversal
from datalab.stats.variance import common_share, common_share_measured, levels_exchanged, sums_of_squares

__all__ = ["SIDES", "EffectSize", "Interval", "Measurement", "Share", "Simultaneous", "bonferroni",
           "clearest_reversal", "clustered_correlation", "clustered_f1", "clustered_f1_lead", "cohens_dz",
           "common_share", "common_share_measured", "corrected_resampled_t", "crossover", "crossover_bootstrap",
           "crossover_label", "crossovers_apart", "crossovers_without", "decide", "effect_needed", "f1", "guarded",
           "guarded_interval", "holm", "isotonic", "jackknifed", "levels_exchanged", "mean_correlation", "moments",
           "near", "nested_dz", "outcomes", "outside", "p_floor", "p_floor_unpaired", "paired_bootstrap",
           "paired_summary", "pearson", "power", "refuting_p", "resampled_means", "seeds_needed", "sign_flip_test",
           "sums_of_squares", "t_interval", "t_test", "wilcoxon"]  # fmt: skip
