"""One thread a process: on small problems two threads in contention take many times as long as one."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests counted (``record_property``): a count that nobody sees proves nothing."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A complete record of the small sections; copy it before changing it. Their notebooks lie beside it."""
    import record_fakes  # after the threads are set: it loads the package

    folder = tmp_path_factory.mktemp("made")
    with record_fakes.installed(record_fakes.write_notebooks(folder / "notebooks")):
        assert record_fakes.run(folder / "record") == 0
        yield folder / "record"


@pytest.fixture
def record(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "record"))
