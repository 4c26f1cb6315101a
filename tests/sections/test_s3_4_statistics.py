"""Section 3.4: rates and readings follow from the counts; the notebook's loop finds what the simulation finds."""

import ast
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from datalab.errors import UserError
from datalab.protocol import protocol
from datalab.record.parameters import resolve
from datalab.sections import s3_4_statistics as s3_4
from datalab.stats import simulation, verdict_levels
from datalab.sweep import reach

PROJECT = Path(__file__).parents[2]
NOTEBOOKS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in PROJECT.glob("notebooks/*.ipynb")}
# What sections read off quantiles, in which function: none of it is an interval.
NO_INTERVAL = {
    ("s5_1_monitoring.py", "stream_task"),  # the threshold of an alarm, of windows
    ("s3_1_problem_formulation.py", "run_task"),  # strata of examples, cut by rank
}


def parameters(**given) -> s3_4.Parameters:
    return resolve(s3_4.Parameters, given, "notebook 3_4_statistics")


@pytest.fixture(scope="module")
def calibrated() -> pd.DataFrame:
    return pd.DataFrame(simulation.calibration("normal", 12, 4000, 1999, [0.05], root_seed=1))


def test_the_t_test_and_interval_hold_their_promise_on_normal_differences_and_the_percentile_interval_does_not(
    calibrated,
):
    level = s3_4.rates(calibrated, "calibration").set_index("method")["rate"]
    assert level["t"] == pytest.approx(5, abs=4 * 0.345)
    assert (level < 5 + 4 * 0.345).all()
    covered = s3_4.rates(calibrated, "coverage").set_index("method")["rate"]
    assert covered[["t", "d_z"]].to_numpy() == pytest.approx([95, 95], abs=4 * 0.345)
    assert covered["percentile"] < 93 < covered["bootstrap"]


def test_the_notebooks_loop_rejects_as_often_as_the_simulation(shown, calibrated):
    names = shown("3_4_statistics", "c14", p=SimpleNamespace(root_seed=2024))
    rate = 100 * names["rejected"] / names["studies"]
    simulated = s3_4.rates(calibrated, "calibration").set_index("method").loc["t", "rate"]
    assert rate == pytest.approx(simulated, abs=4 * 0.6)  # four standard errors of the difference


def test_uncorrected_families_err_as_often_as_the_binomial_says_and_corrected_ones_at_the_level():
    rows = pd.DataFrame(simulation.family("independent", 0, 15, 9, 4000, [0.05], root_seed=1))
    rate = s3_4.rates(rows, "family").set_index("method")["rate"]
    assert rate["none"] == pytest.approx(100 * (1 - 0.95**15), abs=3.2)
    assert rate["Bonferroni"] == rate["Holm"] == pytest.approx(5, abs=1.4)


def test_simulated_power_meets_the_formula_and_five_seeds_have_none_by_permutation():
    p = parameters(simulations=2000, resamples=1999, seed_counts=[5], seed_sds=[0.01])
    rows = pd.DataFrame(simulation.power(5, 0.01, p.effect, 2000, 1999, p.levels, root_seed=1))
    table = s3_4.powers(rows, p).set_index(["method", "alpha"])
    assert table.loc[("t", 0.05), "rate"] == pytest.approx(table.loc[("t", 0.05), "formula"], abs=4.5)
    assert (table.loc[["sign-flip", "Wilcoxon"], "rate"] == 0).all()
    assert table.loc[["sign-flip", "Wilcoxon"], "formula"].isna().all()


def test_every_task_of_the_grid_is_a_function_called_with_its_parameters(monkeypatch):
    monkeypatch.setattr("datalab.sections.parameters.pace", lambda: 1.0)
    grid = s3_4.tasks(parameters(profile="quick"))
    assert len({task.key for task in grid}) == len(grid) == 86
    modules = {module.__name__: module for module in (simulation, verdict_levels)}
    for task in grid:
        module, _, name = task.function.partition(":")
        code = getattr(modules[module], name).__code__
        assert set(task.parameters) == set(code.co_varnames[: code.co_argcount])
    assert 5 < s3_4.estimate(parameters(profile="smoke")).seconds < 25
    assert s3_4.estimate(parameters(profile="quick", workers=1)).seconds < 220


@pytest.mark.parametrize(("file", "changes"), [("stats/paired.py", True), ("stats/clustered_f1.py", False)])
def test_a_task_has_another_key_once_the_statistics_that_it_tests_have_changed(monkeypatch, tmp_path, file, changes):
    copy = shutil.copytree(reach.ROOT, tmp_path / "datalab", ignore=shutil.ignore_patterns("__pycache__", "report"))
    before = reach.code_hash(f"{simulation.__name__}:power")
    monkeypatch.setattr(reach, "ROOT", copy)
    source = (copy / file).read_text(encoding="utf-8")
    (copy / file).write_text(source.replace("    n = ", "    n = 0 + "), encoding="utf-8")
    caches = [cached for cached in vars(reach).values() if hasattr(cached, "cache_clear")]
    try:
        for cached in caches:
            cached.cache_clear()
        assert (reach.code_hash(f"{simulation.__name__}:power") != before) == changes
    finally:
        for cached in caches:
            cached.cache_clear()


def test_a_rate_is_called_off_only_when_its_whole_interval_is():
    rows = pd.DataFrame({"hits": [50, 20, 90, 55], "simulations": [1000] * 4})
    table = s3_4.rated(rows, 0.05, ("conservative", "liberal"))
    assert table["reading"].tolist() == ["holds", "conservative", "liberal", "holds"]
    assert (table["low"] < table["rate"]).all()
    assert (table["rate"] < table["high"]).all()


def counts(methods: dict[str, int]) -> pd.DataFrame:
    row = {"what": "calibration", "shape": "normal", "units": 12, "alpha": 0.05, "simulations": 1000}
    return pd.DataFrame([row | {"method": method, "hits": hits} for method, hits in methods.items()])


def test_rates_by_units_stand_side_by_side_with_the_numbers_at_which_one_is_off():
    rows = pd.DataFrame({"units": [15, 40, 3, 15], "rule": ["a", "a", "b", "b"], "rate": [9.0, 1.0, 2.0, 3.0]})
    rows["reading"] = ["liberal", "holds", "liberal", "liberal"]
    table = s3_4.by_units(rows, ["rule"], "liberal").set_index("rule")
    assert list(table) == ["3 units", "15 units", "40 units", "liberal"]
    assert table.liberal.to_dict() == {"a": "15", "b": "3, 15"}
    assert table.loc["a", "15 units"] == 9
    assert pd.isna(table.loc["b", "40 units"])


def test_a_setting_is_shown_with_the_rate_that_it_gives():
    p = parameters(units=[12])
    alpha = protocol().statistics["alpha"]
    levels = s3_4.rates(counts({"t": 4, "sign-flip": 30}).assign(alpha=alpha), "calibration")
    coverage = s3_4.rates(counts({"bootstrap": 950}).assign(what="coverage"), "coverage")
    nulls = {"what": "family", "dependence": "independent", "true_effects": 0, "alpha": alpha}
    family = s3_4.rates(counts({"Bonferroni": 5}).assign(**nulls), "family")
    made = {statement.id: statement for statement in s3_4.verdicts(levels, coverage, family, p)}
    assert made["S3.4.bootstrap"].measured == 0.95
    assert made["S3.4.permutation"].measured == 0.03
    assert made["S3.4.permutation"].row == f"normal 12 sign-flip {alpha}"
    assert made["S3.4.permutation"].why.endswith("where 0.5 % is promised: liberal")
    assert (made["S3.4.alpha"].measured, made["S3.4.alpha"].low) == (alpha, None)
    assert made["S3.4.alpha"].why.endswith("where 0.5 % is promised: holds")
    assert made["S3.4.bonferroni"].measured == p.benchmarks
    assert made["S3.4.min_p"].measured == 0.0625


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"simulations": 3}, "simulations"),
        ({"units": [3]}, "units"),
        ({"seed_sds": [0.0]}, "seed_sds"),
        ({"resamples": 10}, "resamples"),
        ({"seeds": 5}, "seeds"),
    ],
)
def test_a_parameter_out_of_range_is_refused_by_name(given, named):
    with pytest.raises(UserError, match=named):
        parameters(**given)


def test_a_table_without_a_rule_for_the_title_says_so(shown):
    levels = pd.DataFrame({name: ["x"] for name in ("rule", "case", "wrongly said", "reading")})
    assert "no rule" in shown("3_4_statistics", "c46", verdict_levels=levels)["power"]


def uses(source: str) -> Iterator[tuple[str, str]]:
    """Where a file's code names quantiles, percentiles or a bootstrap's draws: the outermost function, and the name."""
    for outer in ast.parse(source).body:
        for node in ast.walk(outer):
            name = getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "arg", None)
            imported = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            for word in [name, *imported]:
                draws = isinstance(node, ast.Attribute) and word == "draws"
                if draws or re.search("quantile|percentile|^bootstrap$|^BCa$", str(word)):
                    yield getattr(outer, "name", ""), word


def test_no_section_and_no_notebook_reads_an_interval_off_percentiles_as_notebook_3_4_says():
    """Before, the crossover and 4.1's, 4.2's, 4.3's and 5.1's tables did, which covers less than 95 %."""
    files = sorted((PROJECT / "datalab" / "sections").rglob("*.py"))
    known = {(path.name, function) for path in files for function, _ in uses(path.read_text(encoding="utf-8"))}
    for stem, notebook in NOTEBOOKS.items():
        cells = ("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
        known |= {(stem, name) for source in cells for _, name in uses(source)}
    assert known == NO_INTERVAL
    words = " ".join("".join(cell["source"]) for cell in NOTEBOOKS["3_4_statistics"]["cells"])
    assert "The study reads none off percentiles or BCa." in words
