"""Records with pages: of the fake sections over the paper's own ledger, and the committed one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import record_fakes

from datalab import ledger
from datalab.record import Study


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The small sections over the paper's ledger, whose statements the pages tell of."""
    notebooks = record_fakes.write_notebooks(tmp_path_factory.mktemp("study") / "notebooks")
    return Study(record_fakes.SECTIONS, ledger, notebooks)


@pytest.fixture(scope="session")
def made(study: Study, made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A complete record of the small sections; copy it before changing it."""

    def make(record: Path) -> None:
        assert record_fakes.run(study, record) == 0

    return made_once("record-of-the-paper", make)
