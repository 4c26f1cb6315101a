"""Parameters out of range are refused in one line that names them, by the section that takes them."""

import importlib
import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from datalab.errors import UserError
from datalab.record.parameters import resolve
from datalab.sections import STUDY

CAPS = ("train", "validation", "test")


@pytest.mark.parametrize(
    ("section", "given", "words"),
    [
        ("3.2", {"noise_kinds": []}, "'noise_kinds': .* at least 1"),
        ("3.3", {"tau_sweep": [0.0]}, "'tau_sweep"),
        ("3.3", {"lambda2_sweep": [1.0]}, "'lambda2_sweep'"),
        ("3.3", {"framework_datasets": ["adultt"]}, "did you mean 'adult'"),
        ("4.1", {"main_rates": [0.0, 0.4]}, "must include 0.2"),
        ("4.1", {"configurations": 1}, "'configurations'"),
        ("4.1", {"main_architectures": ["rnn"]}, "'main_architectures"),
        ("4.2", {"seeds": 0}, "'seeds'"),
        ("4.4", {"scaling_sizes": [10, 100]}, "'scaling_sizes"),
        ("4.4", {"scaling_seeds": 0}, "'scaling_seeds'"),
        ("4.5", {"overhead_repetitions": 1}, "'overhead_repetitions'"),
        ("5.1", {"monitor_datasets": ["wine"]}, "has no stream"),
        ("5.1", {"monitor_datasets": ["smartwach"]}, "did you mean 'smartwatch'"),
    ],
)
def test_parameters_out_of_range_are_refused(section: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        resolve(STUDY.find(section).load().Parameters, given, "notebook x")


@pytest.mark.parametrize(
    ("section", "given", "words"),
    [
        ("2", {"mislabel_rates": [0.001]}, "'mislabel_rates': 0.001 of .* 'breast_cancer' rounds to 0 wrong labels"),
        ("2", {"mislabel_rates": [0.89], "datasets": ["leaves"], "caps": dict.fromkeys(CAPS, 64)}, "rounds to 2 wrong"),
        ("3.2", {"architecture_datasets": ["digits"]}, "'architecture_datasets': 'digits' is not among 'datasets'"),
        ("4.4", {"scaling_datasets": ["wine"], "scaling_sizes": [200, 300]}, "'scaling_sizes': 'wine' has some 106 "),
        ("7_your_data", {"label": "y"}, "'label': a column of no file"),
        ("7_your_data", {"id": "row"}, "'id': a column of no file"),
        ("7_your_data", {"path": __file__, "label": "y"}, "'path': file .* save it as .csv"),
        ("7_your_data", {"path": "nosuch.csv", "label": "y"}, "'path': .* there is no such file"),
    ],
)
def test_what_cannot_be_run_is_unfit_before_anything_runs(section: str, given: dict[str, Any], words: str) -> None:
    assert re.search(words, resolve(STUDY.find(section).load().Parameters, given, "notebook x").unfit)


def test_a_column_that_the_file_does_not_have_is_unfit(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("a,y\n" + "1,b\n2,c\n" * 20)
    fits = [parameters_of("7_your_data", path=str(tmp_path / "mine.csv"), label=name).unfit for name in ("y", "z")]
    assert not fits[0]
    assert "label 'z': no such column" in fits[1]


@pytest.mark.parametrize(
    ("section", "given"),
    [
        ("2", {"caps": dict.fromkeys(CAPS, 60)}),
        ("3.2", {"datasets": ["digits", "breast_cancer"]}),  # the profile's choice gives way
        ("4.4", {"scaling_sizes": [1000, 5000]}),  # digits have 1,078 rows to train on
    ],
)
def test_what_can_be_run_is_not(section: str, given: dict[str, Any]) -> None:
    assert not resolve(STUDY.find(section).load().Parameters, given, "notebook x").unfit


def parameters_of(stem: str, **given: Any) -> Any:
    return resolve(STUDY.find(stem).load().Parameters, given, f"notebook {stem}")


@pytest.mark.parametrize(
    ("stem", "seeds"),
    [("3_1_problem_formulation", 1), ("4_1_main_results", 2), ("4_2_influence_level", 1), ("5_3_negative_results", 1)],
)
def test_the_primary_training_is_stopped_early_on_every_data_set(stem, seeds):
    module = importlib.import_module(f"datalab.sections.s{stem}")
    names = ["mnist5k", "satimage", "adult"]
    p = parameters_of(stem, datasets=names, stopped_lengths=[10, 30], seeds=2)
    tasks = [task.parameters for task in module.tasks(p)]
    assert all(task["lengths"] == [10, 30] for task in tasks)
    assert [(task["dataset"], task["seed"]) for task in tasks] == list(itertools.product(names, range(seeds)))


@pytest.mark.parametrize("stem", ["4_1_main_results", "4_2_influence_level"])
def test_other_architectures_are_trained_apart_and_the_main_ones_stand_in_where_none_is_named(stem):
    module = importlib.import_module(f"datalab.sections.s{stem}")
    p = parameters_of(stem, other_architectures=["cnn", "vit"], framework_datasets=["wine"])
    assert [
        (t.parameters["dataset"], t.parameters["architecture"], t.parameters["seed"])
        for t in module.architecture_tasks(p)
    ] == [("wine", "cnn", 0), ("wine", "vit", 0)]
    none = module.architecture_tasks(parameters_of(stem))
    assert {task.parameters["architecture"] for task in none} == set(parameters_of(stem).main_architectures)
