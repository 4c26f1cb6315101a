"""The project's files hold together: the environment's four files, the notebooks' template."""

import ast
import datetime
import re
import subprocess
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement

from datalab.protocol import protocol
from datalab.record.parameters import SectionParameters
from datalab.sections import STUDY

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def constraints():
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    return [Requirement(line) for line in lines if line]


def test_every_direct_dependency_is_locked_and_constrained_within_its_range():
    extras = PROJECT["optional-dependencies"].values()
    pinned = {}
    for requirement in constraints():
        pinned.setdefault(requirement.name, []).append(str(requirement.specifier).removeprefix("=="))
    for text in [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]:
        wanted = Requirement(text)
        assert all(wanted.specifier.contains(version) for version in pinned[wanted.name]), text


def test_the_constraints_are_the_locks_export():
    locked = {(package["name"], package["version"]) for package in LOCK if "version" in package}
    named = {(r.name, str(r.specifier).removeprefix("==")) for r in constraints()}
    assert named <= locked
    installable = {name for name, _ in locked} - {PROJECT["name"]}
    assert {name for name, _ in named} == installable


def test_the_locks_own_entry_lists_the_projects_dependencies():
    own = next(package for package in LOCK if package["name"] == PROJECT["name"])
    listed = {entry["name"] for entry in own["metadata"]["requires-dist"] if "marker" not in entry}
    assert listed == {Requirement(text).name for text in PROJECT["dependencies"]}


def test_the_lock_names_no_local_folder():
    assert not re.search(r"file:|find-links|\bpath = ", (ROOT / "uv.lock").read_text())


def test_the_conda_environment_only_wraps_pip_over_the_constraints():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, nested = environment["dependencies"]
    assert python.startswith("python=3.")
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python.removeprefix("python=") + ".0")
    assert pip == "pip"
    assert nested == {"pip": ["-c constraints.txt", '-e ".[test]"']}


def test_only_the_designed_entries_stand_at_the_top_level():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    allowed = {
        "notebooks",
        "datalab",
        "runs",
        "tests",
        "Dockerfile",
        "environment.yml",
        "pyproject.toml",
        "uv.lock",
        ".ci",
    }
    allowed |= {"constraints.txt", "Makefile", "README.md", "CHANGELOG.md", "LICENSE", "CITATION.cff", ".gitignore"}
    assert {line.split("/")[0] for line in listed.splitlines()} <= allowed


def git(*words: str) -> str:
    """What git prints; nothing where it fails."""
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True).stdout.strip()


def test_a_change_of_the_protocol_names_commits_that_were_made_by_its_date():
    if git("rev-parse", "--is-shallow-repository") != "false":
        pytest.skip("not a clone with its history")
    wrong, named = [], 0
    for change in protocol().changes:
        commits = change.get("commit") or []
        for commit in [commits] if isinstance(commits, str) else commits:
            named += 1
            made = git("show", "--no-patch", "--format=%ct", f"{commit}^{{commit}}")
            day = (
                datetime.datetime.fromtimestamp(int(made), datetime.UTC).date().isoformat()
                if made
                else "no such commit"
            )
            if day > change["date"] or git("merge-base", commit, "HEAD") != git("rev-parse", commit):  # or of no past
                wrong.append((change["date"], commit, day))
    assert named > 0
    assert wrong == []


def test_every_section_has_its_notebook_and_every_notebook_its_section():
    assert {section.stem for section in STUDY.sections} == {path.stem for path in NOTEBOOKS}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return request.param.stem, nbformat.read(request.param, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def test_a_notebook_is_committed_without_outputs(notebook):
    _, opened = notebook
    assert all(not cell.outputs and cell.execution_count is None for cell in code(opened))
    nbformat.validate(opened)


def test_a_notebook_opens_with_what_the_paper_says_and_what_is_measured(notebook):
    _, opened = notebook
    first = opened.cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    for word in ("**The paper", "inputs", "outputs", "time", "smoke", "quick"):
        assert word.lower() in first.source.lower(), word


def test_a_notebooks_parameters_are_its_models_fields_as_commented_literals(notebook):
    stem, opened = notebook
    tagged = [cell for cell in opened.cells if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == [code(opened)[0]]
    tree = ast.parse(tagged[0].source)
    assert all(isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant) for line in tree.body)
    assert all("#" in line for line in tagged[0].source.splitlines())
    names = [line.targets[0].id for line in tree.body]
    model = STUDY.find(stem).load().Parameters
    assert issubclass(model, SectionParameters)
    assert sorted(names) == sorted(model.model_fields)
    assert ast.literal_eval(tree.body[0].value) == "smoke"
    assert all(ast.literal_eval(line.value) is None for line in tree.body[1:])


def test_a_notebooks_second_code_cell_starts_its_section_and_the_last_one_finishes_it(notebook):
    stem, opened = notebook
    assert f'section = start("{stem}", globals())' in code(opened)[1].source
    assert "section.finish()" in code(opened)[-1].source


def test_a_code_cell_is_short_and_a_result_is_led_and_followed_by_prose(notebook):
    _, opened = notebook
    assert all(len(cell.source.splitlines()) <= 15 for cell in code(opened)[1:])
    words = sum(len(cell.source.split()) for cell in prose(opened))
    lines = sum(len(cell.source.split()) for cell in code(opened)[2:])
    assert words / lines > 0.7, f"{words} words of prose to {lines} of code"


def test_a_notebook_ends_with_its_deviations_and_the_next_one(notebook):
    _, opened = notebook
    last = opened.cells[-1]
    assert last.cell_type == "markdown"
    assert "Deviations" in last.source
    stems = [section.stem for section in STUDY.sections]
    for link in re.findall(r"\]\((\w+)\.ipynb\)", last.source):
        assert link in stems


def test_no_notebook_names_a_machines_path(notebook):
    _, opened = notebook
    assert not any(re.search(r"/(home|Users|tmp|root|opt|work)/", cell.source) for cell in opened.cells)
