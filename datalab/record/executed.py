"""An executed notebook of a record, read as what it must be: what has another form is refused, not passed over."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BeforeValidator

from datalab.record import folder
from datalab.record.folder import Form, Strange

Text = Annotated[str, BeforeValidator(lambda v: "".join(v) if isinstance(v, list) else v)]  # a file has lines
# A text by its media type; what is no text (JSON) stays what it is.
Data = dict[str, Text | dict[str, Any]]


class Stream(Form):
    """What a cell printed."""

    output_type: Literal["stream"]
    name: Literal["stdout", "stderr"]
    text: Text


class Display(Form):
    """What a cell showed, or gave."""

    output_type: Literal["display_data", "execute_result"]
    data: Data
    metadata: dict[str, Any]
    execution_count: int | None = None


class Raised(Form):
    """The error a cell ended in."""

    output_type: Literal["error"]
    ename: str
    evalue: str
    traceback: list[str]


Output = Annotated[Stream | Display | Raised, pydantic.Field(discriminator="output_type")]


class Cell(Form):
    """One cell; attachments, which no notebook of a study has, are refused."""

    cell_type: Literal["code", "markdown", "raw"]
    source: Text
    metadata: dict[str, Any]
    id: str = pydantic.Field("", pattern=r"^[A-Za-z0-9_-]{0,64}$")
    outputs: list[Output] = pydantic.Field([])
    execution_count: int | None = None

    @property
    def tags(self) -> list[str]:
        """The cell's tags."""
        return self.metadata.get("tags", [])

    @property
    def is_code(self) -> bool:
        """Whether it is a code cell that holds something: one that runs."""
        return self.cell_type == "code" and bool(self.source.strip())

    @property
    def shows(self) -> bool:
        """Whether it has what only a cell that ran has; prose has not even a place for it."""
        place = self.cell_type != "code" and not self.model_fields_set.isdisjoint(("outputs", "execution_count"))
        return place or bool(self.outputs) or self.execution_count is not None


class Notebook(Form):
    """A notebook of format 4."""

    cells: list[Cell]
    metadata: dict[str, Any]
    nbformat: Literal[4]
    nbformat_minor: int


def read(record: Path, path: str) -> Notebook:
    """The notebook at ``path``. Raises ``FileNotFoundError``, and :class:`Strange` for what is no notebook."""
    try:
        return Notebook.model_validate(folder.read_json(record, path))
    except ValueError as error:
        raise Strange(f"is no executed notebook ({folder.misfit(error)})") from None


# What running a notebook adds to its metadata and its cells', beside numbers: these words, clocks and versions.
_OF_A_RUN = re.compile(
    r"duration|exception|status|completed|start_time|end_time|default_parameters|environment_variables|version|name"
    r"|codemirror_mode|i?python3?|file_extension|\.py|mimetype|text/x-python|nbconvert_exporter|pygments_lexer"
    r"|iopub\.execute_input|iopub\.status\.(busy|idle)|shell\.execute_reply|[\d:.TZabrc+-]{0,40}",
    re.ASCII,
)


def check_metadata(notebook: Notebook, source: Notebook, given: dict[str, Any]) -> None:
    """Raise :class:`Strange` for metadata that neither the source has nor running it with ``given`` parameters adds.

    The cells of both must be the same but for papermill's.
    """
    own, asked = dict(notebook.metadata), dict(source.metadata)
    language, papermill = own.pop("language_info", {}), own.pop("papermill", {})
    asked.pop("language_info", None)
    if (own, notebook.nbformat_minor) != (asked, source.nbformat_minor):
        raise Strange("the notebook's metadata or format is not the source's")
    match papermill:
        case {"parameters": held, **added} if json.dumps(held, sort_keys=True) == json.dumps(given, sort_keys=True):
            if not _is_of_a_run([language, added]):
                raise Strange("the notebook's metadata is not the source's")
        case _:
            raise Strange("the notebook's metadata on its parameters is not the section's")
    sources = iter(source.cells)
    for number, cell in enumerate(notebook.cells, 1):
        injected = "injected-parameters" in cell.tags and cell.cell_type == "code"
        asked = {"tags": ["injected-parameters"]} if injected else next(sources).metadata
        held = {"tags": [], **cell.metadata}
        added = [held.pop(name, None) for name in ("papermill", "execution")]
        if held != {"tags": [], **asked} or not _is_of_a_run(added):
            raise Strange(f"cell {number}'s metadata is not the source's")


def _is_of_a_run(added: Any) -> bool:
    """Whether this says no more than running a notebook to its end does."""
    match added:
        case dict():
            return _is_of_a_run([*added, *added.values()])
        case list():
            return all(map(_is_of_a_run, added))
        case str():
            return _OF_A_RUN.fullmatch(added) is not None
    return added is not True
