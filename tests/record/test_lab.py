"""JupyterLab opens copies: whatever is run and saved there, no file of the checkout changes."""

import json
import os
from pathlib import Path

import pytest
from jupyter_server.services.contents.filemanager import AsyncFileContentsManager

from datalab.record import Study, lab, provenance


def cells(path: Path) -> str:
    return json.dumps(json.loads(path.read_text())["cells"])


def edit(path: Path, text: str, seconds: int) -> None:
    """Change the first cell of a notebook, as if so many seconds after now."""
    notebook = json.loads(path.read_text())
    notebook["cells"][0]["source"] = text
    path.write_text(json.dumps(notebook))
    os.utime(path, (path.stat().st_mtime + seconds,) * 2)


def test_a_changed_copy_stays_until_its_original_changes_and_is_then_kept_beside(study: Study, tmp_path: Path) -> None:
    source = study.notebooks / "0_alpha.ipynb"
    before = source.read_text()
    guide = lab.copy(study, tmp_path)
    copied = guide.parent / "notebooks/0_alpha.ipynb"
    assert cells(copied) == cells(source)
    edit(copied, "mine", 10)
    lab.copy(study, tmp_path)
    assert '"mine"' in cells(copied)
    assert source.read_text() == before
    try:
        edit(source, "theirs", 20)
        lab.copy(study, tmp_path)
        assert '"theirs"' in cells(copied)
        assert '"mine"' in cells(copied.with_suffix(".old.ipynb"))
    finally:
        source.write_text(before)


def test_the_guide_says_on_top_that_these_are_copies_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    from datalab.sections import STUDY

    guide = lab.copy(STUDY, tmp_path)
    text = guide.read_text()
    assert text.startswith("> These are copies, in `runs/lab`")
    links = [part.split(")")[0].split("#")[0] for part in text.split("](")[1:]]
    links = [link for link in links if not link.startswith("http")]
    here = [link for link in links if link.startswith("notebooks/")]
    assert len(here) >= len(STUDY.sections)
    assert all((guide.parent / link).is_file() for link in here)
    root = provenance.project()
    others = [root / link.removeprefix("../../") for link in links if link not in here]
    assert others
    assert all(path.exists() for path in others), [str(path) for path in others if not path.exists()]


def test_root_in_a_container_may_open_it_and_no_news_pops_up(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for user, allowed in ((0, True), (1000, False)):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        command = lab.command(study, ["--no-browser"])
        assert ("--allow-root" in command) == allowed
        assert command[-1] == "--no-browser"
    settings = json.loads((tmp_path / "runs/lab/.settings/overrides.json").read_text())
    assert settings["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"


def test_a_checkpoint_of_a_records_file_is_not_in_the_record_and_two_of_one_name_are_apart(tmp_path: Path) -> None:
    manager = AsyncFileContentsManager(root_dir=str(tmp_path), checkpoints_class=lab.Checkpoints)
    paths = {manager.checkpoints.checkpoint_path("checkpoint", f"runs/{name}/claims.csv") for name in "ab"}
    assert len(paths) == 2
    assert {Path(path).parent for path in paths} == {tmp_path / "runs/lab/.checkpoints"}
