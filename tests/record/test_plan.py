"""What a call asks for is checked before anything runs."""

import json
from pathlib import Path

import pytest
import record_fakes

from datalab.errors import UserError
from datalab.record import Study, plan, provenance
from datalab.sections import STUDY


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """The small sections with notebooks that this test may edit."""
    return record_fakes.study(record_fakes.write_notebooks(tmp_path / "notebooks"))


def test_a_parameter_goes_to_the_sections_that_have_it_and_must_belong_to_one(study: Study) -> None:
    jobs = plan.jobs(study, ["0", "3.4"], "smoke", {"count": 7})
    assert [job.parameters.count for job in jobs] == [7, 7]
    with pytest.raises(UserError, match="unknown parameter 'sedes'; did you mean 'seeds'"):
        plan.jobs(study, ["0"], "smoke", {"sedes": 5})
    with pytest.raises(UserError, match="noise_rates"):
        plan.jobs(study, ["0"], "smoke", {"noise_rates": [-0.1]})
    with pytest.raises(UserError, match="set by --to"):
        plan.jobs(study, ["0"], "smoke", {"record": "x"})


def test_sections_run_in_the_registrys_order_whatever_the_order_asked_for(study: Study) -> None:
    assert [job.section.number for job in plan.jobs(study, ["6", "0"], "smoke", {})] == ["0", "6"]
    assert [job.section.number for job in plan.jobs(study, [], "smoke", {})] == ["0", "3.4", "6"]


def test_a_parameter_the_notebook_would_drop_in_silence_is_refused(study: Study) -> None:
    path = study.notebooks / "0_alpha.ipynb"
    path.write_text(path.read_text().replace("count = None", "other = None"))
    with pytest.raises(UserError, match="does not name 'count'"):
        plan.jobs(study, ["0"], "smoke", {"count": 7})


def test_saving_a_notebook_with_outputs_does_not_change_its_source_hash(study: Study) -> None:
    path = study.notebooks / "0_alpha.ipynb"
    before = provenance.notebook_sha256(path)
    notebook = json.loads(path.read_text())
    notebook["cells"][1]["execution_count"] = 5
    notebook["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["x"]}]
    path.write_text(json.dumps(notebook))
    assert provenance.notebook_sha256(path) == before
    notebook["cells"][1]["source"] = ["x = 1"]
    path.write_text(json.dumps(notebook))
    assert provenance.notebook_sha256(path) != before


def test_a_task_that_two_sections_read_counts_once_in_the_time_of_all() -> None:
    """Section 4.3 reads tasks of section 4.1: it has them for nothing."""
    first = plan.jobs(STUDY, ["4.1"], "smoke", {"workers": 1})
    both = plan.jobs(STUDY, ["4.1", "4.3"], "smoke", {"workers": 1})
    read_twice = {task.key for task in both[1].estimate.tasks}
    shared = sum(task.cost for task in first[0].estimate.tasks if task.key in read_twice)
    assert shared > 0
    assert plan.seconds(first) == pytest.approx(first[0].estimate.seconds)
    assert plan.seconds(both) == pytest.approx(sum(job.estimate.seconds for job in both) - shared)
