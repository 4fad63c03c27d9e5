"""What the service and its worker say to each other: JSON, a line for each message."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter

from refusion.web.schema import JobOptions, Model


class Check(BaseModel):
    """Ask whether a model takes the options and files of a job, see `Restore`; it is answered at once."""

    kind: Literal["check"] = "check"
    number: int
    folder: str
    names: dict[str, str]
    options: JobOptions


class Restore(BaseModel):
    """Ask for the restoration of a job.

    Args:
        id: of the job.
        folder: of its files.
        names: what the client calls each of the uploaded files, by the names that they have in the folder.
        options: of the job.
    """

    kind: Literal["restore"] = "restore"
    id: str
    folder: str
    names: dict[str, str]
    options: JobOptions


class Cancel(BaseModel):
    """Ask to end the restoration of a job before its next step."""

    kind: Literal["cancel"] = "cancel"
    id: str


class View(BaseModel):
    """Ask for a picture that browsers show.

    Args:
        number: of the question.
        source: a file of a picture.
        name: what the client calls it.
        target: the file to write, JPEG or PNG.
        side: longest side in pixels; by default that of the picture.
    """

    kind: Literal["view"] = "view"
    number: int
    source: str
    name: str
    target: str
    side: int | None = None


class Ready(BaseModel):
    """The worker has started: the models that it can load, and what else depends on the installation."""

    kind: Literal["ready"] = "ready"
    models: list[Model]
    samplers: list[str]
    formats: list[str]


class Answer(BaseModel):
    """The answer to `Check` and `View`: a status as of HTTP, and a line if it is not 200."""

    kind: Literal["answer"] = "answer"
    number: int
    status: int = 200
    error: str = ""


class Stepped(BaseModel):
    """A step of a job is done.

    Args:
        id: of the job.
        step, steps: done, and of all samples.
        previews: versions of the preview so far.
        kept: pictures after steps that are kept.
    """

    kind: Literal["stepped"] = "stepped"
    id: str
    step: int
    steps: int
    previews: int
    kept: int


class Restored(BaseModel):
    """A job is done and its files are written."""

    kind: Literal["restored"] = "restored"
    id: str
    suffix: str
    width: int
    height: int
    megapixels: float
    notices: list[str]
    uncertainty: bool


class Failed(BaseModel):
    """A job has failed."""

    kind: Literal["failed"] = "failed"
    id: str
    error: str


class Stopped(BaseModel):
    """A job was cancelled."""

    kind: Literal["stopped"] = "stopped"
    id: str


Command = Check | Restore | Cancel | View
Report = Ready | Answer | Stepped | Restored | Failed | Stopped
COMMANDS: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="kind")])
REPORTS: TypeAdapter[Report] = TypeAdapter(Annotated[Report, Field(discriminator="kind")])
MAX_LINE = 2**22
"""Bytes of the longest message."""
