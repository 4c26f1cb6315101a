"""Parameters out of range are refused in one line that names them, by the section that takes them."""

from typing import Any

import pytest

from datalab.errors import UserError
from datalab.record.parameters import resolve
from datalab.sections import STUDY


@pytest.mark.parametrize(
    ("section", "given", "words"),
    [
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
