"""What a network test begins with: the data sets it needs, or a skip that says why they cannot be had."""

import pytest

from datalab import data
from datalab.errors import UserError


def fetched(*names: str) -> None:
    """Download ``names`` once into the cache; skip the test when that is not possible here."""
    try:
        data.fetch(names)
    except UserError as error:
        pytest.skip(f"cannot be downloaded here: {error}")
