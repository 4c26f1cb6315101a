"""What `datalab plan` promises: tasks, models and hours, counted and measured rather than guessed."""

import pytest

from datalab import cli, training
from datalab.record.parameters import resolve
from datalab.sections import STUDY
from datalab.sweep import machine_speed

CHEAP = {
    "0": ({"architecture": "mlp", "noise_kind": "instance"}, {}),
    "2": ({"refits": 3}, {"refits": 3, "retrain_seeds": 3}),
    "3.1": ({}, {}),
    "3.2": ({"architecture": "mlp"}, {}),
    "3.3": ({}, {"lambda2_sweep": [0.0, 1.0], "tau_sweep": [1.0]}),
    "4.1": ({}, {"main_rates": [0.2]}),
    "4.2": ({}, {}),
    "4.4": ({}, {"scaling_sizes": [100, 200]}),
    "5.1": ({}, {}),
    "5.3": ({}, {"main_rates": [0.2]}),
}


@pytest.mark.parametrize("number", CHEAP)
def test_a_task_trains_as_many_models_as_its_plan_says(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, given = CHEAP[number]
    trained = []
    initialise = training.initialise
    monkeypatch.setattr(training, "initialise", lambda stack, seeds: (trained.extend(seeds), initialise(stack, seeds)))
    module = STUDY.find(number).load()
    parameters = resolve(module.Parameters, {"profile": "smoke", **given}, number)
    fitting = [task for task in module.tasks(parameters) if chosen.items() <= task.parameters.items()]
    task = min(fitting, key=lambda task: task.cost)
    rows, _ = task.rows()
    assert not isinstance(rows, str), rows
    assert len(trained) == task.models > 0


def test_a_slower_core_makes_a_plan_longer_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(pace: float) -> float:
        monkeypatch.setattr("datalab.sections.parameters.pace", lambda: pace)
        module = STUDY.find("4.1").load()
        return module.estimate(resolve(module.Parameters, {"profile": "quick"}, "4.1")).seconds

    assert seconds(2.0) == pytest.approx(2 * seconds(1.0))


def test_plan_counts_a_shared_task_once_and_gives_hours_of_core_and_gpu(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def printed(*names: str) -> list[str]:
        with pytest.raises(SystemExit) as exit_:
            cli.main(["plan", *names, "--profile", "smoke"])
        assert exit_.value.code == 0
        return capsys.readouterr().out.splitlines()[-2:]

    monkeypatch.setattr(machine_speed, "gpu", lambda: None)
    alone, both = printed("4.1"), printed("4.1", "4.3")
    assert alone == both  # the two sections read the same tasks
    module = STUDY.find("4.1").load()
    listed = module.estimate(resolve(module.Parameters, {}, "notebook x")).tasks
    assert len(listed) == len({task.key for task in listed}) == 6  # which it lists twice where it names no others
    assert alone[0].startswith("Work: 6 different tasks, ")
    assert "no CUDA device here" in alone[1]
    monkeypatch.setattr(machine_speed, "gpu", lambda: ("a card", 100.0))
    assert printed("4.1")[1].endswith("on a card, which trains MLPs as fast as 100 cores here")
