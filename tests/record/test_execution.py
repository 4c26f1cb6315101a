"""A notebook's kernel computes with the package that its driver runs, whichever one is installed."""

from pathlib import Path

import nbformat
import pytest

from datalab.record import provenance
from datalab.record.execution import Execution


def test_a_kernel_imports_the_package_of_the_checkout_that_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    other = tmp_path / "another checkout"
    for name in ("datalab", "notebooks"):
        (other / name).mkdir(parents=True)
    (other / "pyproject.toml").touch()
    (other / "datalab/__init__.py").touch()
    source = tmp_path / "notebook.ipynb"
    cell = nbformat.v4.new_code_cell("import datalab\n\nprint(datalab.__file__)")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), source)
    monkeypatch.setattr(provenance, "PACKAGE", other / "datalab")
    execution = Execution(source, {}, tmp_path / "executed.ipynb", {}, timeout=60)
    execution.start()
    execution.join()
    assert execution.notebook.cells[-1].outputs[0].text.strip() == str(other / "datalab/__init__.py")
