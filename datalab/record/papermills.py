"""Raw papermill: the notebook that it has executed joins the record, where it says where it writes it."""

import atexit
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from datalab import atomic
from datalab.record import executed, folder, lock, transaction
from datalab.record.manifest import Manifest
from datalab.record.study import Study


def output() -> Path | None:
    """Where the papermill command that runs this kernel writes the notebook; ``None`` where none does."""
    with suppress(psutil.Error, AttributeError, KeyError, TypeError):
        parent = psutil.Process().parent()
        words = [Path(word).name for word in parent.cmdline()[:3]]
        if "papermill" in words:
            from papermill.cli import papermill

            given = parent.cmdline()[words.index("papermill") + 1 :]
            parsed = papermill.make_context("papermill", given, resilient_parsing=True)
            return Path(parent.cwd(), parsed.params["output_path"])
    return None


def keep_executed(record: Path, study: Study, stem: str, replaced: Mapping[str, str]) -> None:
    """When this kernel ends, papermill having written the last cell: put its notebook into the record.

    It is kept if its cells are the source's and all of them ran, so that `verify` can hold it to the raw rows. What
    its displays show of ``replaced`` is replaced: links hold from the record.
    """
    if path := output():
        ended = Manifest.load(record).sections[stem].ended
        atexit.register(_keep, record, study, stem, ended, path, replaced)


def _keep(record: Path, study: Study, stem: str, ended: str, path: Path, replaced: Mapping[str, str]) -> None:
    with suppress(OSError, ValueError, LookupError):  # where it can
        notebook, source = executed.read(path.parent, path.name), executed.read(study.notebooks, f"{stem}.ipynb")
        code = [cell for cell in notebook.cells if cell.is_code]
        own = [cell.source for cell in notebook.cells if executed.INJECTED not in cell.tags]
        counts = [cell.execution_count for cell in code]
        if own != [cell.source for cell in source.cells] or counts != list(range(1, len(code) + 1)):
            return
        for shown in (output for cell in code for output in cell.outputs if isinstance(output, executed.Display)):
            shown.data |= {kind: replaced.get(held, held) for kind, held in shown.data.items() if kind[:5] == "text/"}
        papermill = {name: notebook.metadata["papermill"][name] for name in ("parameters", "version")}
        notebook.metadata = source.metadata | {"papermill": papermill}
        lock.hold(record)
        try:
            manifest = Manifest.load(record)
            entry, kept = manifest.sections[stem], f"notebooks/{stem}.ipynb"
            if entry.ended != ended or not manifest.closed:
                return
            text = notebook.model_dump_json(indent=1, exclude_unset=True)
            atomic.write(folder.inside(record, kept), f"{text}\n")
            manifest.add_file(record, kept, section=stem, timing=True)
            entry.code_cells, entry.code_cells_ran, entry.reason = len(code), len(code), ""
            transaction.close(record, manifest, study)
        finally:
            lock.release(record)
