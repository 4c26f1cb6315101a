"""The package's own reference: all public names, as their docstrings have them, and nothing of this machine."""

from pathlib import Path

import pytest

from datalab import metrics
from datalab.report import api


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    api.write(folder)
    return folder


def test_every_room_has_a_page_and_the_index_names_it(reference: Path) -> None:
    index = (reference / "index.html").read_text()
    names = {path.stem for path in reference.glob("*.html")} - {"index"}
    assert {"influence", "stats", "record", "pruning"} <= names
    assert all(f'href="{name}.html"' in index for name in names)


def test_a_page_has_signature_and_docstring_of_public_names_and_of_methods_and_no_private_ones(reference: Path) -> None:
    page = (reference / "metrics.html").read_text()
    public = [name for name, thing in vars(metrics).items() if getattr(thing, "__module__", "") == metrics.__name__]
    for name in public:
        assert (f"<code>{name}(" in page) == (not name.startswith("_")), name
    assert "<code>Estimator.self_influence(" in (reference / "influence.html").read_text()
    assert "<code>Task.key(" in (reference / "sweep.html").read_text()  # a cached property


def test_no_page_names_a_folder_of_this_machine(reference: Path) -> None:
    for path in reference.glob("*.html"):
        assert str(Path(__file__).parents[2]) not in path.read_text(), path.name
