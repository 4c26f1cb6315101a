"""An executed notebook of a record, read as what it must be: what has another form is refused, not passed over."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BeforeValidator

from datalab.record import folder
from datalab.record.folder import Form, Strange

Text = Annotated[str, BeforeValidator(lambda v: "".join(v) if isinstance(v, list) else v)]  # a file has lines
INJECTED = "injected-parameters"  # papermill's tag of the cell of parameters that it adds
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
    def is_injected(self) -> bool:
        """Whether it is the cell of parameters that papermill adds."""
        return self.is_code and INJECTED in self.tags

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


class _Ran(Form):
    """What running it to its end adds to a cell's metadata: clocks and a status, and no words."""

    duration: float | None = None
    exception: Literal[False] | None = None
    status: Literal["completed"] = "completed"
    start_time: str | None = pydantic.Field(None, pattern=r"^[\d:.T+-]{0,40}$")
    end_time: str | None = pydantic.Field(None, pattern=r"^[\d:.T+-]{0,40}$")


_Clock = Annotated[str, pydantic.StringConstraints(pattern=r"^[\d:.TZ+-]{1,40}$")]
_Message = Literal["iopub.execute_input", "iopub.status.busy", "iopub.status.idle", "shell.execute_reply"]
_CLOCKS = pydantic.TypeAdapter(dict[_Message, _Clock])


class _Papermill(Form):
    default_parameters: dict[str, Any] = pydantic.Field({}, max_length=0)
    environment_variables: dict[str, Any] = pydantic.Field({}, max_length=0)
    parameters: dict[str, Any] = pydantic.Field({})
    duration: float | None = None
    version: str = pydantic.Field("", pattern=r"^(\d[\d.a-z+]{0,20})?$")


class _Language(Form):
    """The kernel's language, as ipykernel words it."""

    name: Literal["python"]
    codemirror_mode: dict[Literal["name", "version"], Literal["ipython", 3]] = pydantic.Field({})
    file_extension: Literal[".py"] = ".py"
    mimetype: Literal["text/x-python"] = "text/x-python"
    nbconvert_exporter: Literal["python"] = "python"
    pygments_lexer: Literal["ipython3"] = "ipython3"
    version: str = pydantic.Field("", pattern=r"^[\d.abrc+]{0,20}$")


def check_metadata(notebook: Notebook, source: Notebook, given: dict[str, Any]) -> None:
    """Raise :class:`Strange` for metadata that neither the source has nor running it with ``given`` parameters adds.

    The cells of both must be the same but for papermill's.
    """
    own = dict(notebook.metadata)
    papermill, language = own.pop("papermill", {}), own.pop("language_info", {"name": "python"})
    asked = {name: value for name, value in source.metadata.items() if name != "language_info"}
    if (own, notebook.nbformat_minor) != (asked, source.nbformat_minor):
        raise Strange("the notebook's metadata or format is not the source's")
    try:
        held = _Papermill.model_validate(papermill).parameters
        _Language.model_validate(language)
    except pydantic.ValidationError:
        raise Strange("the notebook's metadata is not the source's") from None
    if json.dumps(held, sort_keys=True) != json.dumps(given, sort_keys=True):
        raise Strange("the notebook's metadata on its parameters is not the section's")
    sources = iter(source.cells)
    for number, cell in enumerate(notebook.cells, 1):
        asked = {"tags": [INJECTED]} if cell.is_injected else next(sources).metadata
        held = {"tags": [], **cell.metadata}
        try:
            _Ran.model_validate(held.pop("papermill", {}))
            _CLOCKS.validate_python(held.pop("execution", {}), strict=True)
        except pydantic.ValidationError:
            raise Strange(f"cell {number}'s metadata is not the source's") from None
        if held != {"tags": [], **asked}:
            raise Strange(f"cell {number}'s metadata is not the source's")
