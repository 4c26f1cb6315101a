"""The Dockerfile's steps in a fresh folder, as far as they go offline: no image is pulled, no package is fetched."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A Python that makes environments out of the one at hand, and notes what pip is asked for.
PYTHON = """#!/bin/sh
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip install "*) echo "$*" >> "{log}" ;;
  *) PYTHONPATH="$PWD" exec "{python}" "$@" ;;
esac
"""


def steps(name: str) -> list[str]:
    """What the Dockerfile's lines of one instruction say."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    return [line.removeprefix(name).strip() for line in lines if line.startswith(f"{name} ")]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The user's folder after COPY: the repository's ``.git``, and no file of it."""
    clone = ["git", "clone", "--quiet", "--no-checkout", "--shared", str(ROOT), str(tmp_path / "home")]
    subprocess.run(clone, check=True, capture_output=True)
    return tmp_path / "home"


def test_its_steps_give_a_folder_in_which_both_commands_are_ready_to_run(home: Path, tmp_path: Path) -> None:
    tools, log = tmp_path / "tools", tmp_path / "log"
    tools.mkdir()
    for name in ("apt-get", "useradd", "rm"):  # root's
        (tools / name).write_text(f'#!/bin/sh\necho "{name} $*" >> "{log}"\n')
    (tools / "python3").write_text(PYTHON.format(log=log, python=sys.executable))
    for tool in tools.iterdir():
        tool.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_", "MAKE"))}
    environment = kept | {"PATH": f"{tools}:{os.environ['PATH']}"}

    def shell(step: str) -> str:
        done = subprocess.run(["sh", "-c", step], cwd=home, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for step in steps("RUN"):
        shell(step)
    asked = log.read_text()
    assert "apt-get install -y --no-install-recommends git make" in asked
    assert "useradd --create-home datalab" in asked
    assert "--extra-index-url https://download.pytorch.org/whl/cpu -c constraints.txt -e .[test,dask]" in asked
    (command,) = map(json.loads, steps("CMD"))
    assert "-m datalab run --profile quick" in shell(f"{' '.join(command)} -n")
    assert "-m pytest --nbmake -n auto" in shell("make test -n")
    assert "pip install" not in shell("make -n reproduce test")  # all is there
    assert shell(".venv/bin/python -m datalab --version").startswith("datalab, version ")
    assert shell("git status --porcelain") == ""


def test_nothing_runs_as_root_and_nothing_of_the_builders_folder_but_the_repository_is_copied() -> None:
    assert steps("USER") == ["datalab"]
    assert steps("COPY") == ["--chown=datalab .git .git"]
    text = (ROOT / "Dockerfile").read_text()
    assert text.index("\nUSER") < text.index("\nCOPY") < text.index("make CPU=1")


def test_without_cpu_make_adds_no_index() -> None:
    done = subprocess.run(["make", "-n", "-B", "install"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "-m pip install" in done.stdout
    assert "index-url" not in done.stdout
