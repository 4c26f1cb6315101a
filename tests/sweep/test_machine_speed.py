"""The pace of this machine is measured, not guessed."""

import pytest

from datalab.sweep import machine_speed


def test_the_pace_is_measured_on_this_machine() -> None:
    assert 0 < machine_speed.seconds_per_step() < 0.01
    assert machine_speed.pace() == pytest.approx(machine_speed.seconds_per_step() / machine_speed.REFERENCE)
