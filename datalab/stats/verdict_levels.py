"""How often each rule by which a verdict is read says what is wrong, in simulated studies whose truth is known.

:func:`rule_levels` and :func:`title_levels` are tasks of section 3.4, as those of :mod:`datalab.stats.simulation` are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datalab.seeds import generator
from datalab.stats.clustered_f1 import clustered_f1_lead
from datalab.stats.correlation import mean_correlation, moments
from datalab.stats.crossover import crossover
from datalab.stats.decision import DIFFERENCE, HOLDS, NULL, OPPOSITE, decide, near, outside, refuting_p
from datalab.stats.measurement import EffectSize, Measurement, guarded, jackknifed
from datalab.stats.multiplicity import holm
from datalab.stats.paired import guarded_interval, t_interval
from datalab.stats.reversal import clearest_reversal
from datalab.stats.simulation import CONFIDENCE, draw, in_batches, in_common
from datalab.stats.variance import common_share_measured

REPRODUCED, EXCLUDED = "reproduced", "printed excluded"  # what is said of a printed value, beside what is decided
ALPHA, HALF, TAIL = "alpha", "alpha / 2", "one equivalence tail"  # how often a wrong word may be said
Effects = tuple[Measurement, ...]  # of one simulated study
SYSTEMS, TARGETS = 9, 8  # as in section 3.1


@dataclass(frozen=True)
class Rule:
    """How the verdicts of one kind are read.

    drawn:  a study's effects, of a case's truths, its spread, the number of units and a generator; ``None``: one mean
            of differences each.
    alpha:  the level, where it is not the protocol's. ``tests``: from how many claims this one was picked.
    sized:  whether an effect must be larger than the smallest of interest.
    few:    whether it is read on a handful of units too: seeds, timed data sets, streams.
    """

    drawn: Callable[[np.ndarray, float, int, np.random.Generator], Effects] | None = None
    alpha: float | None = None
    tests: int = 1
    sized: bool = True
    few: bool = False


@dataclass(frozen=True)
class Case:
    """A truth, and what it would be wrong to say of it.

    side:    what is claimed (:func:`~datalab.stats.decision.decide`).
    truths:  the true effects in smallest effects of interest; several: a claim that all must hold.
    spread:  their standard deviation over the units, in the same; where effects are ``drawn``, as that says.
    wrong:   the wrong words, each with how often it may be said.
    printed: the figure that the paper prints, in smallest effects of interest.
    """

    side: str
    truths: tuple[float, ...]
    spread: float
    wrong: Mapping[str, str]
    printed: float = np.nan


def _share(truths: np.ndarray, spread: float, units: int, rng: np.random.Generator) -> Effects:
    """Of F1 of 2 runs at 5 levels: data sets differ by .18, runs by .02; ``spread`` is of each set's own pattern."""
    levels = np.arange(5) - 2.0
    patterns = rng.normal(size=(units, 2)) @ np.stack([levels, levels**2 - 2]) * spread / np.sqrt(2)
    (truth,) = truths
    common = np.sqrt(truth / (1 - truth) * (0.18**2 + 0.02**2 + 2.4 * spread**2) / 2) * levels
    y = rng.normal(0, 0.18, (units, 1, 1)) + patterns[:, None] + common + rng.normal(0, 0.02, (units, 2, 5))
    return (common_share_measured(y),)


def _lead(truths: np.ndarray, spread: float, units: int, rng: np.random.Generator) -> Effects:
    """Of two rules that guess, of 15 cases a set (the truth is 0); with ``spread`` the sets' failures differ."""
    share = rng.beta(2, 2, (units, 1)) if spread else 0.5
    fails, *guesses = (rng.random((units, 15)) < chance for chance in (share, 0.5, 0.5))
    counts = [np.stack([(g & fails).sum(1), (g & ~fails).sum(1), (~g & fails).sum(1)], 1) for g in guesses]
    return (clustered_f1_lead(*counts),)


def _gain(truths: np.ndarray, spread: float, units: int, rng: np.random.Generator) -> Effects:
    """A relative gain times the mean .7 that it is relative to: in F1, as the truth is. Data sets differ by .18."""
    base = 0.7 + 0.18 * rng.uniform(-1.5, 1.5, units)
    ours = base + truths[0] + 0.01 * spread * rng.normal(size=units)
    return (jackknifed(lambda some, others: 0.7 * (some.mean() / others.mean() - 1), ours, base),)


def _correlation(truths: np.ndarray, spread: float, units: int, rng: np.random.Generator) -> Effects:
    """Of 10 independent pairs a data set (the truth is 0), as two runs at five levels are."""
    return (mean_correlation([moments(*pairs) for pairs in rng.normal(size=(units, 2, 10))]),)


def _weaker(truths: np.ndarray, spread: float, units: int, rng: np.random.Generator) -> Effects:
    """How much closer to 0 one of two such correlations is, set by set; the levels and half the variance are shared."""
    level, shared, *own = rng.normal(size=(4, units, 10))
    sizes = [
        np.abs(mean_correlation([moments(*pair) for pair in zip(level, shared + of, strict=True)]).values) for of in own
    ]
    return (Measurement(sizes[0] - sizes[1], bounds=(-1, 1)),)


def _auroc(truths: np.ndarray, spread: float, units: int, rng: np.random.Generator) -> Effects:
    values = np.clip(0.5 + truths[0] + spread * rng.normal(size=units), 0, 1)
    return (Measurement(values, bounds=(0, 1), against=0.5),)


def _effect_size(truths: np.ndarray, spread: float, units: int, rng: np.random.Generator) -> Effects:
    return (EffectSize(truths[0] + spread * rng.normal(size=units)),)


def _reversal(truths: np.ndarray, spread: float, units: int, rng: np.random.Generator) -> Effects:
    """Of systems that one score does not tell apart and the others order, each ahead of the next by the truth."""
    first = 0.01 * spread * rng.normal(size=(SYSTEMS, units))
    others = truths[0] * np.arange(SYSTEMS)[:, None] + 0.01 * spread * rng.normal(size=(TARGETS, SYSTEMS, units))
    of, a, b = clearest_reversal(first, others)
    return Measurement(first[a] - first[b]), Measurement(others[of, b] - others[of, a])


PAIRS = TARGETS * SYSTEMS * (SYSTEMS - 1) // 2
BOTH, WIDE = {HOLDS: HALF, OPPOSITE: HALF}, {EXCLUDED: ALPHA}
RULES = {
    "a difference": Rule(few=True),
    "either side": Rule(),
    "no difference": Rule(),
    "not greater": Rule(),
    "all of two": Rule(few=True),
    "all of four": Rule(few=True),
    "all of fifteen": Rule(few=True),
    "none of four less": Rule(),
    "printed value": Rule(),
    "share of variance": Rule(_share),
    "lead in F1": Rule(_lead),
    "relative gain": Rule(_gain, few=True),
    "effect size": Rule(_effect_size, sized=False),
    "mean correlation": Rule(_correlation, sized=False),
    "weaker correlation": Rule(_weaker, sized=False),
    "AUROC against 0.5": Rule(_auroc, sized=False, few=True),
    "below a limit, at 5 %": Rule(alpha=0.05, sized=False, few=True),
    f"clearest of {PAIRS} pairs": Rule(_reversal, tests=PAIRS, sized=False),
}
CASES = {
    ("a difference", "null"): Case("greater", (0,), 2, BOTH),
    ("a difference", "null, skewed"): Case("greater", (0,), 2, BOTH),
    ("a difference", "boundary"): Case("greater", (1,), 1, {NULL: TAIL}),
    ("a difference", "boundary, skewed"): Case("greater", (1,), 1, {NULL: TAIL}),
    ("either side", "null"): Case("either", (0,), 2, {HOLDS: ALPHA}),
    ("either side", "null, skewed"): Case("either", (0,), 2, {HOLDS: ALPHA}),
    ("either side", "boundary"): Case("either", (1,), 1, {NULL: TAIL}),
    ("no difference", "null"): Case("none", (0,), 2, {DIFFERENCE: ALPHA}),
    ("no difference", "boundary"): Case("none", (1,), 1, {HOLDS: TAIL}),
    ("not greater", "null"): Case("not_greater", (0,), 2, {OPPOSITE: HALF}),
    ("not greater", "null, skewed down"): Case("not_greater", (0,), -2, {OPPOSITE: HALF}),
    ("not greater", "boundary"): Case("not_greater", (1,), 2, {HOLDS: HALF}),
    ("not greater", "boundary, skewed"): Case("not_greater", (1,), 2, {HOLDS: HALF}),
    **{
        case: made
        for words, count in {"two": 2, "four": 4, "fifteen": 15}.items()
        for case, made in {
            (f"all of {words}", "one null"): Case("greater", (0, *[10] * (count - 1)), 2, {HOLDS: HALF}),
            (f"all of {words}", "all null"): Case("greater", (0,) * count, 2, {OPPOSITE: HALF}),
            (f"all of {words}", "all null, skewed"): Case("greater", (0,) * count, 2, {OPPOSITE: HALF}),
            (f"all of {words}", "boundary"): Case("greater", (1,) * count, 1, {NULL: TAIL}),
        }.items()
    },
    ("none of four less", "one boundary"): Case("not_less", (-1, 10, 10, 10), 2, {HOLDS: HALF}),
    ("none of four less", "four nulls"): Case("not_less", (0, 0, 0, 0), 2, {OPPOSITE: HALF}),
    ("printed value", "true"): Case("greater", (3,), 2, WIDE, printed=3),
    ("printed value", "true, skewed"): Case("greater", (3,), 2, WIDE, printed=3),
    ("printed value", "off by the tolerance"): Case("greater", (5,), 1, {REPRODUCED: TAIL}, printed=3),
    ("share of variance", "null"): Case("greater", (0,), 0, {HOLDS: HALF}),
    ("share of variance", "null, interaction"): Case("greater", (0,), 0.05, {HOLDS: HALF}),
    ("share of variance", "boundary, interaction"): Case("greater", (1,), 0.05, {NULL: TAIL}),
    ("lead in F1", "null"): Case("greater", (0,), 0, BOTH),
    ("lead in F1", "null, sets differ"): Case("greater", (0,), 1, BOTH),
    ("relative gain", "null"): Case("greater", (0,), 2, BOTH),
    ("relative gain", "boundary"): Case("greater", (1,), 1, {NULL: TAIL}),
    ("relative gain", "printed value true"): Case("greater", (2,), 2, WIDE, printed=2),
    ("effect size", "null"): Case("greater", (0,), 1, BOTH),
    ("effect size", "printed value true"): Case("greater", (50,), 1, WIDE, printed=50),
    ("mean correlation", "null"): Case("less", (0,), 0, BOTH),
    ("weaker correlation", "null"): Case("greater", (0,), 0, BOTH),
    ("AUROC against 0.5", "null"): Case("greater", (0,), 0.15, BOTH),
    ("below a limit, at 5 %", "at the limit"): Case("less", (0,), 20, BOTH),
    ("below a limit, at 5 %", "at the limit, skewed"): Case("less", (0,), 20, BOTH),
    (f"clearest of {PAIRS} pairs", "nothing differs"): Case("greater", (0,), 2, BOTH),
    (f"clearest of {PAIRS} pairs", "no order reversed"): Case("greater", (10,), 2, {HOLDS: HALF}),
}


def rule_levels(
    rule: str, units: list[int], alpha: float, equivalence: float, small: float, tolerance: float, simulations: int,
    root_seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """:func:`verdict_level` of every case of a rule, on each number of units."""
    how = alpha, equivalence, small, tolerance, simulations, root_seed
    cases = [case for of, case in CASES if of == rule]
    return [row for case in cases for count in units for row in verdict_level(rule, case, count, *how)]


def verdict_level(
    rule: str, case: str, units: int, alpha: float, equivalence: float, small: float, tolerance: float,
    simulations: int, root_seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """How often a rule of :data:`RULES` says what is wrong in a case, beside the level that it promises.

    ``small`` is the smallest effect of interest, ``tolerance`` how far from a printed value a reproduced one may lie,
    both in F1. What refutes a claim of several effects is picked from all of them, and read by Bonferroni, as in the
    study (:func:`datalab.ledger.judge_all`).
    """
    of, made = RULES[rule], CASES[rule, case]
    studies = drawn(rule, case, units, small, simulations, generator(root_seed, "verdict", rule, case, units))
    alpha = of.alpha or alpha
    how = made.side, small if of.sized else 0.0
    tails = alpha / of.tests, (1 - equivalence) / of.tests
    alone, wide, narrow = decided(studies, *tails, *how)
    effects = alone.shape[1]
    picked = alone if effects == 1 else decided(studies, *(tail / effects for tail in tails), *how)[0]
    holds, value = (alone == HOLDS).all(axis=1), small * made.printed
    hits = {
        HOLDS: holds,
        REPRODUCED: holds & [all(near(limits, value, tolerance) for limits in study) for study in narrow],
        EXCLUDED: [any(outside(limits, value, value) for limits in study) for study in wide],
    }
    row = {"what": "verdict", "rule": rule, "case": case, "units": units, "simulations": simulations}
    promised = {ALPHA: alpha, HALF: alpha / 2, TAIL: (1 - equivalence) / 2}
    return [
        row
        | {"wrongly said": word, "promised": promised[level]}
        | {"hits": int(np.sum(hits.get(word, (picked == word).any(axis=1))))}
        for word, level in made.wrong.items()
    ]


def drawn(
    rule: str, case: str, units: int, small: float, simulations: int, rng: np.random.Generator
) -> np.ndarray | Sequence[Effects]:
    """Simulated studies of a case: differences (studies, effects, units), or as many effects as measured."""
    make, made = RULES[rule].drawn, CASES[rule, case]
    truths = small * np.array(made.truths, dtype=float)
    if make is not None:
        return [make(truths, made.spread, units, rng) for _ in range(simulations)]
    shape = "skewed" if "skewed" in case else "normal"
    return truths[:, None] + small * made.spread * draw(shape, rng, (simulations, len(truths), units))


def decided(
    studies: np.ndarray | Sequence[Effects], alpha: float, tail: float, side: str, small: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is decided (studies, effects) of :func:`drawn` studies.

    Beside it the limits of direction and of equivalence (studies, effects, 2) that it is read on.
    """
    wide, narrow = (_limits(studies, 1 - level) for level in (alpha, tail))
    of_effect = zip(wide.reshape(-1, 3), narrow.reshape(-1, 3), strict=True)
    words = [decide(w[0], (w[1], w[2]), (n[1], n[2]), side, small) for w, n in of_effect]
    return np.array(words).reshape(wide.shape[:2]), wide[..., 1:], narrow[..., 1:]


def _limits(studies: np.ndarray | Sequence[Effects], confidence: float) -> np.ndarray:
    """Estimates and guarded limits (studies, effects, 3) of the distance to what each is compared with."""
    if isinstance(studies, np.ndarray):
        return np.stack(guarded_interval(studies, confidence)[:3], -1)
    return np.array([[np.subtract(guarded(of, confidence)[:3], of.against) for of in study] for study in studies])


# The title's rules in four worlds: the slope and the crossover of every reading's d (0: no effect at any rate), and
# what it would be wrong to say there.
TITLE = {
    "no effect": (0.0, 0.0, "refuted"),
    "a threshold at 15 %": (0.15, 0.15, "refuted"),
    "a crossover at 5 %": (0.15, 0.05, "reproduced"),
    "a crossover at 30 %": (0.15, 0.30, "reproduced"),
}


def title_levels(
    version: int, truth: str, shape: str, units: list[int], rates: list[float], rule: dict[str, Any], small: float,
    readings: int, simulations: int, root_seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """:func:`title_level` on each number of units."""
    how = rates, rule, small, readings, simulations, root_seed
    return [row for count in units for row in title_level(version, truth, shape, count, *how)]


def title_level(
    version: int, truth: str, shape: str, units: int, rates: list[float], rule: dict[str, Any], small: float,
    readings: int, simulations: int, root_seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """How often a version's rule of the title (``rule``, the protocol's) says what is wrong: ``truth`` is a case of
    :data:`TITLE`.

    ``promised`` is Holm's level (version 2), one side of the crossover's interval ("reproduced"), or what the 95 %
    limits of version 1 leave, although it reads several rates. ``reproduced`` is how often that is said, rightly or
    not. Data sets vary and readings agree as the study's balanced ones do.
    """
    slope, crosses, wrong = TITLE[truth]
    rng, grid, said = generator(root_seed, "title", version, truth, shape, units), np.asarray(rates), []
    for size in in_batches(simulations):
        sets = in_common(shape, rng, (size, readings, units), len(grid), (0.011, 0.020), 0.85)
        said.append(title_words(version, slope * (grid - crosses) + sets, grid, rule, small))
    words = np.concatenate(said)
    promised = (1 - CONFIDENCE) / 2 if wrong == "reproduced" else 1 - CONFIDENCE
    if version == 2 and wrong == "refuted":
        promised = rule["refuted"]["alpha"]
    row = {"what": "verdict", "rule": f"the title, version {version}", "units": units, "simulations": simulations}
    row |= {"case": f"{truth}, skewed" if shape == "skewed" else truth, "wrongly said": wrong, "promised": promised}
    return [row | {"hits": int(np.sum(words == wrong)), "reproduced": int(np.sum(words == "reproduced"))}]


def title_words(version: int, d: np.ndarray, rates: np.ndarray, rule: dict[str, Any], small: float) -> np.ndarray:
    """What the title's rule says (studies,) of d (studies, readings, sets, rates): the ledger's words, many at once."""
    by_rate = np.moveaxis(d, 2, -1)  # (studies, readings, rates, sets)
    limits = t_interval(by_rate, CONFIDENCE)
    low, high = crossover(rates, limits.high), crossover(rates, limits.low)

    def up_to(bound: float) -> np.ndarray:
        return rates <= bound + 1e-9

    def from_(bound: float) -> np.ndarray:
        return rates >= bound - 1e-9

    refuted, reproduced = rule["refuted"], rule["reproduced"]
    target, (least, most) = reproduced["crossover_interval_contains"], reproduced["crossover_interval_inside"]
    holds = ((low <= target) & (target <= high) & (low > least) & (high < most)).all(axis=1)
    if version == 1:
        early, late = refuted["lower_limit_above_0_at_rate_at_most"], refuted["upper_limit_below_0_at_rate_at_least"]
        ahead, behind = limits.low[..., up_to(early)] > 0, limits.high[..., from_(late)] < 0
        against = ahead.any((1, 2)) | behind.any((1, 2))
        flat = limits.high[..., up_to(reproduced["upper_limit_below_sesoi_at_rate_at_most"])] < small
        clear = limits.low[..., from_(reproduced["lower_limit_above_0_at_rate_at_least"])] > 0
        holds &= flat.all((1, 2)) & clear.all((1, 2))
    else:
        early, late = up_to(refuted["ahead_at_rate_at_most"]), from_(refuted["behind_at_rate_at_least"])
        p = refuting_p(np.concatenate([by_rate[..., early, :], -by_rate[..., late, :]], axis=-2))
        against = (holm(p) < refuted["alpha"]).any(axis=-1)
    return np.where(against, "refuted", np.where(holds, "reproduced", rule["otherwise"]))
