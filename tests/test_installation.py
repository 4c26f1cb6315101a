"""Installed plainly, the package has all that it needs and works from any folder; a clone's name does not hide it."""

import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that `pip install .` makes of the committed and the new files, in a clone that is called "datalab"."""
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"][0].split(">=")
    setuptools = pytest.importorskip("setuptools")
    if int(setuptools.__version__.split(".")[0]) < int(needed[1]):
        pytest.skip(f"setuptools here is older than {needed[1]}, and none is fetched for a test")
    clone = tmp_path_factory.mktemp("parent") / "datalab"
    listed = ["git", "ls-files", "-co", "--exclude-standard", "-z", "datalab", "notebooks", "pyproject.toml"]
    listed += ["README.md", "LICENSE"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).exists():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_symlink():
                (clone / name).symlink_to(os.readlink(ROOT / name))
            else:
                (clone / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", ".", "--no-deps", "--no-build-isolation", "-w", ".."]
    subprocess.run(command, cwd=clone, check=True, capture_output=True)
    (made,) = clone.parent.glob("*.whl")
    return made


def test_the_wheel_holds_every_file_of_the_package_and_every_notebook(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("datalab/")}
    package = wheel.parent / "datalab" / "datalab"
    needed = {p.relative_to(package.parent).as_posix() for p in package.rglob("*") if p.is_file()}
    needed |= {f"datalab/notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert needed <= held, needed - held
    assert len([name for name in held if name.endswith(".ipynb")]) >= 15


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment into which the wheel is unpacked; all else it finds where this one does."""
    place = tmp_path_factory.mktemp("installed")
    venv.create(place, with_pip=False)
    (site,) = place.glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    others = [path for path in sys.path if "site-packages" in path]
    (site / "others.pth").write_text("\n".join(others) + "\n")
    return place / "bin" / "python"


def run(python: Path, here: Path, *command: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([str(python), *command], cwd=here, env=environment, capture_output=True, text=True)


PROGRAM = """
import datalab
from datalab import cli
from datalab.record import provenance
from datalab.sections import STUDY
assert all((STUDY.notebooks / f"{section.stem}.ipynb").is_file() for section in STUDY.sections)
print(datalab.__file__, STUDY.notebooks, provenance.home(), sep="\\n")
cli.main(["plan", "1", "--profile", "smoke"])
"""


def test_an_installed_package_has_its_notebooks_and_sends_records_where_it_is_called_from(
    installed: Path, tmp_path: Path
) -> None:
    (tmp_path / "notebooks").mkdir()  # a stranger's
    done = run(installed, tmp_path, "-c", PROGRAM)
    assert done.returncode == 0, done.stderr
    file, notebooks, home, *planned = done.stdout.splitlines()
    assert Path(file).is_relative_to(installed.parents[1])
    assert Path(notebooks) == Path(file).parent / "notebooks"
    assert Path(home) == tmp_path
    assert any("1_paper_audit" in line for line in planned)


def test_from_the_parent_of_a_clone_that_is_called_datalab_python_imports_the_package(
    wheel: Path, tmp_path: Path
) -> None:
    """An editable install is a path (.pth), for the clone's folder to lose against the package on it."""
    clone, place = wheel.parent / "datalab", tmp_path / "editable"
    venv.create(place, with_pip=False)
    (site,) = place.glob("lib/python*/site-packages")
    others = [path for path in sys.path if "site-packages" in path]
    (site / "others.pth").write_text("\n".join(others) + "\n")
    command = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--ignore-installed", "--target"]
    done = run(Path(sys.executable), clone, *command, str(tmp_path / "target"), "-e", ".")
    assert done.returncode == 0, done.stderr
    (path_file,) = (tmp_path / "target").glob("__editable__*")
    assert path_file.suffix == ".pth"
    assert Path(path_file.read_text().strip()).samefile(clone)
    (site / path_file.name).write_text(path_file.read_text())
    done = run(place / "bin" / "python", clone.parent, "-c", "import datalab; print(datalab.__file__)")
    assert done.stdout.strip() == str(clone / "datalab" / "__init__.py"), done.stderr
