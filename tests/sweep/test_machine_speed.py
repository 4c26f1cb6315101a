"""The pace of this machine is measured, not guessed, and not another program's doing."""

import time

import pytest

from datalab.sweep import machine_speed


def test_the_pace_is_measured_on_this_machine() -> None:
    assert 0 < machine_speed.seconds_per_step() < 0.01
    assert machine_speed.pace() == pytest.approx(machine_speed.seconds_per_step() / machine_speed.REFERENCE)


def test_time_in_which_another_program_runs_makes_no_core_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step waits, as on a busy machine: by the clock a second at least, by the process's own time nothing."""
    fit = machine_speed.fit_many

    def waiting(*given):
        time.sleep(0.1)
        return fit(*given)

    monkeypatch.setattr(machine_speed, "fit_many", waiting)
    measured = machine_speed.seconds_per_step.__wrapped__(size=1, steps=1)
    assert measured < 0.05
