"""What `datalab plan` promises: cells, models and hours, counted and measured rather than guessed."""

import dataclasses

import pytest

from datalab import cli, experiments, sweep, training
from datalab.sections.parameters import resolve
from datalab.sweep import machine_speed

CHEAP = {
    "0": ("cells", {"architecture": "mlp", "noise_kind": "instance"}, {}),
    "2": ("cells", {"refits": 3}, {"refits": 3, "retrain_seeds": 3}),
    "3.1": ("cells", {}, {}),
    "3.2": ("cells", {"architecture": "mlp"}, {}),
    "3.3": ("cells", {}, {"lambda2_sweep": [0.0, 1.0], "tau_sweep": [1.0]}),
    "4.1": ("cells", {}, {"main_rates": [0.2], "configurations": 2}),
    "4.2": ("cells", {}, {}),
    "4.4": ("cells", {}, {"scaling_sizes": [100, 200]}),
    "5.1": ("existing_cells", {}, {}),
    "5.3": ("cells", {}, {"main_rates": [0.2]}),
}


@pytest.mark.parametrize("number", CHEAP)
def test_a_cell_trains_as_many_models_as_its_plan_says(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, chosen, given = CHEAP[number]
    trained = []
    initialise = training.initialise
    monkeypatch.setattr(training, "initialise", lambda stack, seeds: (trained.extend(seeds), initialise(stack, seeds)))
    module = experiments.find(number).load()
    parameters = resolve(module.Parameters, {"profile": "smoke", **given}, number)
    fitting = [c for c in getattr(module, name)(parameters) if chosen.items() <= c.parameters.items()]
    cell = min(fitting, key=lambda one: one.cost)
    rows, _ = sweep.rows_of(cell)
    assert not isinstance(rows, str), rows
    assert len(trained) == cell.models > 0


def test_a_slower_core_makes_a_plan_longer_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(pace: float) -> float:
        monkeypatch.setattr("datalab.sections.parameters.pace", lambda: pace)
        module = experiments.find("4.1").load()
        return module.estimate(resolve(module.Parameters, {"profile": "quick"}, "4.1")).seconds

    assert seconds(2.0) == pytest.approx(2 * seconds(1.0))


def test_the_pace_is_measured_on_this_machine() -> None:
    assert 0 < machine_speed.seconds_per_step() < 0.01
    assert machine_speed.pace() == pytest.approx(machine_speed.seconds_per_step() / machine_speed.REFERENCE)


def test_plan_counts_a_shared_cell_once_and_gives_hours_of_core_and_gpu(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*names: str) -> list[str]:
        with pytest.raises(SystemExit) as exit_:
            cli.main(["plan", *names, "--profile", "smoke"])
        assert exit_.value.code == 0
        return capsys.readouterr().out.splitlines()[-2:]

    monkeypatch.setattr(machine_speed, "gpu", lambda: None)
    alone, both = said("4.1"), said("4.1", "4.3")
    assert alone == both  # the two sections read the same cells
    assert alone[0].startswith("Work: 6 different cells, ")
    assert "no CUDA device here" in alone[1]
    monkeypatch.setattr(machine_speed, "gpu", lambda: ("a card", 100.0))
    assert said("4.1")[1].endswith("on a card, which trains MLPs as fast as 100 cores here")


def test_cost_and_models_do_not_enter_a_cells_key() -> None:
    cell = sweep.Task("record_fakes:cell", {"index": 1})
    assert dataclasses.replace(cell, cost=9.0, models=7) == cell
