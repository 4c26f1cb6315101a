"""One thread a process: on small problems two threads in contention take many times as long as one."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from datalab.record import Study

HERE = Path(__file__).resolve().parent
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")  # the machine may be: how long an example takes is no law
# A run has 200 processes that import the package: one compiles it, whatever its shell says of files with bytecode.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.pop("COLUMNS", None)  # xdist's: what the commands print is a log, whose lines are not wrapped


# Whole files go to the workers in this order: those that take longest first, so that none is left over at the end.
LONGEST = (
    *("test_notebooks.py", "test_faults.py", "test_reference.py", "test_estimators.py", "test_hostile_forgery.py"),
    *("test_runner.py", "test_version_1.py", "test_device.py", "test_architectures.py", "test_random_models.py"),
    "test_pages.py",
)


@pytest.hookimpl(optionalhook=True)  # without xdist nobody asks
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests of faults wait for one another's processes."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first; the others keep their order."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests counted (``record_property``): a count that nobody sees proves nothing."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture(scope="session", autouse=True)
def _kernels_know_the_fakes() -> Iterator[None]:
    """Kernels and workers that tests start can import what lies beside this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
        yield


@pytest.fixture(scope="module", autouse=True)
def _text_is_stored_as_pandas_would() -> None:
    """A kernel sets an option of pandas by which text that is no UTF-8 passes; which file ran before is no matter."""
    import pandas as pd

    pd.reset_option("mode.string_storage")


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> "Study":
    """Three small sections with their notebooks (:mod:`record_fakes`); a test that edits one puts it back."""
    import record_fakes  # after the threads are set: it loads the package

    return record_fakes.study(record_fakes.write_notebooks(tmp_path_factory.mktemp("study") / "notebooks"))


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """``made_once(name, make)``: this process's own copy of a folder that one process of the run makes for all.

    ``make`` is called with the folder, which is not there yet. Without xdist there is one process, and no copy.
    """

    def copy(name: str, make: Callable[[Path], object]) -> Path:
        own = tmp_path_factory.mktemp(name) / name
        if "PYTEST_XDIST_WORKER" not in os.environ:
            make(own)
            return own
        shared = tmp_path_factory.getbasetemp().parent / name
        with FileLock(f"{shared}.lock"):
            if not shared.exists():
                begun = shared.with_name(f"{name}.begun")
                shutil.rmtree(begun, ignore_errors=True)
                make(begun)
                begun.rename(shared)
        return Path(shutil.copytree(shared, own))

    return copy


@pytest.fixture(scope="session")
def made(study: "Study", made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A complete record of the small sections; copy it before changing it."""
    import record_fakes

    def make(record: Path) -> None:
        assert record_fakes.run(study, record) == 0

    return made_once("record", make)


@pytest.fixture
def record(made: Path, tmp_path: Path) -> Path:
    """A copy of :func:`made`."""
    return Path(shutil.copytree(made, tmp_path / "record"))
