"""JupyterLab on copies of the notebooks: running and saving them changes no file of the checkout."""

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from jupyter_server.services.contents.filecheckpoints import AsyncFileCheckpoints

from datalab.record import provenance
from datalab.record.study import Study

PLACE = Path("runs", "lab")
SETTINGS = {
    "@jupyterlab/docmanager-extension:plugin": {"defaultViewers": {"markdown": "Markdown Preview"}},
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
}
NOTE = """> These are copies, in `{place}`: run, change and save them as you like; the originals stay as they are.
> A copy that you have changed stays until its original changes; then it is kept as `.old.ipynb`. Records go to `runs/`.

"""


class Checkpoints(AsyncFileCheckpoints):
    """JupyterLab keeps one of each file it opens. In a record that would be a file which the record does not list."""

    def checkpoint_path(self, checkpoint_id: str, path: str) -> str:
        """Beside the copies, whatever folder the file is in."""
        folder = Path(self.parent.root_dir, PLACE, ".checkpoints")
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder / f"{hashlib.sha256(path.encode()).hexdigest()}-{checkpoint_id}")


def copy(study: Study, root: Path) -> Path:
    """Bring the copies in ``root / PLACE`` up to date and return their reading guide."""
    place = root / PLACE
    (place / "notebooks").mkdir(parents=True, exist_ok=True)
    for section in study.sections:
        source = study.notebooks / f"{section.stem}.ipynb"
        target = place / "notebooks" / source.name
        if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
            if target.exists():
                target.rename(target.with_suffix(".old.ipynb"))
            shutil.copyfile(source, target)
    guide = place / "README.md"
    guide.write_text(NOTE.format(place=PLACE) + _guide(study), encoding="utf-8")
    (place / ".settings").mkdir(exist_ok=True)
    (place / ".settings/overrides.json").write_text(json.dumps(SETTINGS))
    return guide


def command(study: Study, options: Sequence[str]) -> list[str]:
    """The command that opens JupyterLab at the copies, for root (in a container) too."""
    root = provenance.home()
    guide = copy(study, root)
    given = [f"--ServerApp.root_dir={root}", f"--LabApp.app_settings_dir={guide.parent / '.settings'}"]
    given += [f"--ContentsManager.checkpoints_class={__name__}.{Checkpoints.__name__}"]
    given += ["--allow-root"] if os.geteuid() == 0 else []
    return [sys.executable, "-m", "jupyterlab", str(guide), *given, *options]


def _guide(study: Study) -> str:
    """The project's README, whose links hold from the copies; a list of the notebooks where there is none."""
    if (project := provenance.project()) is None:
        return "\n".join(f"- [{s.number}: {s.title}](notebooks/{s.stem}.ipynb)" for s in study.sections)
    text = (project / "README.md").read_text(encoding="utf-8")
    text = text.replace("](notebooks)", f"](notebooks/{study.sections[0].stem}.ipynb)")
    return re.sub(r"\]\((?!https?:|notebooks/|#)", f"]({'../' * len(PLACE.parts)}", text)
