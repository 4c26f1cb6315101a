"""Section 4.5: every configuration in every round, ratios within rounds, and what is timed is what the model says."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from datalab import ledger
from datalab.protocol import protocol
from datalab.record.checks import retrain
from datalab.sections import s4_5_overhead as s4_5
from datalab.sections.trials.trial import Trial

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
CAPS = {"train": 120, "validation": 60, "test": 120}


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    given = {"dataset": "wine", "root_seed": 7, "caps": CAPS, "encoder": "fast", "device": "cpu"}
    return pd.DataFrame(s4_5.run_task(repetitions=3, **given))


def test_every_configuration_is_timed_in_every_round(rows):
    counts = rows.groupby(["variant", "configuration"]).size()
    assert (counts == 3).all()
    assert len(counts) == 2 * len(s4_5.CONFIGURATIONS) + 1
    memory = rows.groupby(["variant", "configuration"]).memory.nunique(dropna=False)
    assert (memory == 1).all()


def test_whatever_is_measured_here_is_known_as_that_where_tasks_are_trained_anew(rows):
    """Before: the seconds of plain training beside the scoring were taken for a result, which differs in every run."""
    assert {name for name in rows if rows[name].dtype == float} | {"memory"} <= retrain.MEASURED


def test_weights_cost_memory_in_training_and_a_penalty_none(rows):
    held = rows[rows.variant == "paper"].groupby("configuration").memory.first()
    assert held["Adaptive Weighting"] > held["baseline"]
    assert held["Regularization"] == held["Adaptive Weighting"]
    assert held["Total"] > held["Feature Extraction"]


def test_an_overhead_is_the_median_of_ratios_within_rounds():
    rows = pd.DataFrame(
        [
            {"dataset": name, "repetition": i, "configuration": configuration, "train": slow * value}
            for name, by in (("a", 1.2), ("b", 1.4))
            for i, (slow, luck) in enumerate(((1.0, 1.0), (3.0, 1.5), (10.0, 0.5)))  # a slow round is slow for all
            for configuration, value in (("baseline", 1.0), ("Total", by * luck))
        ]
    ).assign(variant="paper")
    assert list(s4_5.overhead(rows, "paper", "Total", "train")) == pytest.approx([0.2, 0.4])


def test_what_is_timed_at_inference_is_what_the_model_says():
    study = Trial("wine", "mlp", 0, 7, (0.2,), CAPS, "fast", "cpu")
    stack = s4_5.training(study, "label-aware", "Total", 5)()
    model = stack.model(0)
    deployed = torch.nn.Sequential(model.project, model.classifier).eval()
    torch.testing.assert_close(deployed(study.x_test), stack(study.x_test)[0])
    assert s4_5.inference_seconds(model, study.x_test) > 0


def test_modest_is_read_with_the_cost_of_scoring_and_every_cell_has_its_statement(rows):
    twice = pd.concat([rows, rows.assign(dataset="digits")])
    statements = {statement.id: statement for statement in s4_5.verdicts(twice)}
    assert len(statements) == 12 + 2 + 2
    assert all(ledger.find(claim_id).id == claim_id for claim_id in statements)
    total = s4_5.overhead(rows, "paper", "Total", "train") + s4_5.overhead(rows, "paper", s4_5.SCORING, "train")
    assert statements["S4.5.modest"].measured == pytest.approx(100 * total.mean())
    assert statements["S4.5.modest"].low <= statements["S4.5.modest"].measured <= statements["S4.5.modest"].high


def test_an_overhead_above_0_has_the_papers_direction_however_far_from_its_figure(rows):
    """Before, 41 % against a printed 5.82 was "opposite", and 0 against a printed 7.46 "direction reproduced"."""
    part, sets = rows[rows.configuration != s4_5.SCORING], ("digits", "wine", "breast_cancer", "optdigits")
    factor = {
        "Adaptive Weighting": 1.4,
        "Regularization": 1.4,
        "Total": 1.5,
        "Feature Extraction": 1.1,
        "baseline": 1.0,
    }
    same = part.assign(train=part.configuration.map(factor), memory=part.configuration.map(factor))
    other = rows[rows.configuration == s4_5.SCORING]
    many = [pd.concat([same, other]).assign(dataset=name) for name in sets]
    for i, frame in enumerate(many):
        baseline = frame.configuration == "baseline"
        frame.loc[~baseline, ["train", "memory"]] += 1e-4 * i
        frame.loc[frame.configuration == "Regularization", "memory"] = 1.4 + 1e-4 * i
    statements = {statement.id: statement for statement in s4_5.verdicts(pd.concat(many))}
    assert statements["T5.aw.train"].verdict == ledger.DIRECTION
    assert statements["T5.aw.train"].excluded == "yes"
    assert statements["T5.reg.mem"].verdict == ledger.SHOWN  # the paper prints 7.46 %, no more than would matter
    assert statements["T5.total.mem"].verdict == ledger.DIRECTION


@pytest.mark.parametrize(
    ("overheads", "verdict"), [((0.45, 0.50, 0.55), ledger.OPPOSITE), ((0.20, 0.30, 0.40), ledger.INCONCLUSIVE)]
)
def test_an_overhead_exceeds_what_is_modest_only_where_all_its_limits_lie_above_that(overheads, verdict):
    """Before, 236 % without limits was said to exceed 25 %. The notebook has the word, and says when it is used."""
    parts = [
        {"dataset": f"set{i}", "repetition": 0, "variant": "paper", "configuration": name}
        | dict.fromkeys(s4_5.COLUMNS, 1.0 + (overhead if name == "Total" else 0.0))
        for i, overhead in enumerate(overheads)
        for name in (*s4_5.COMPONENTS, "baseline")
    ]
    scoring = [
        {"dataset": f"set{i}", "repetition": 0, "variant": "both", "configuration": s4_5.SCORING}
        | {"train": 1.01, "base": 1.0}
        for i in range(len(overheads))
    ]
    of = {statement.id: statement for statement in s4_5.verdicts(pd.DataFrame(parts + scoring))}["S4.5.modest"]
    limit = 100 * protocol().overhead["modest"]
    assert of.measured == pytest.approx(100 * np.mean(overheads) + 1)
    assert of.measured > limit  # whatever its limits
    assert of.verdict == verdict
    assert (of.low > limit) == (verdict == ledger.OPPOSITE)
    notebook = json.loads((NOTEBOOKS / "4_5_overhead.ipynb").read_text(encoding="utf-8"))
    words = " ".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    said = re.findall(r"[^.]*\bexceeds\b[^.]*", words)
    assert said
    assert all("lower limit" in sentence for sentence in said)


def test_the_deployed_model_has_the_projection_that_an_objective_alone_would_not_add():
    statement = s4_5.architecture_change()
    assert (statement.measured, statement.verdict) == (2, ledger.OPPOSITE)
    assert ledger.find("S5.1.no_arch_change").by_construction
