"""The property that the influence code is for: every score is right, or there is none."""

import pytest
from influence_random_models import FAULTS, verdicts


@pytest.mark.parametrize("start", range(0, 40, 5))
def test_every_estimator_is_right_or_refuses_and_refuses_nothing_that_is_well(start):
    for seed in range(start, start + 5):
        fault, found = verdicts(seed)
        assert "WRONG" not in found.values(), (seed, fault, found)
        if fault is None:
            assert set(found.values()) == {"right"}, (seed, found)
        else:
            assert fault in FAULTS
            assert any(verdict != "right" for verdict in found.values()), (seed, fault)
