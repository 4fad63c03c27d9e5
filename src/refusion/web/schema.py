"""The values that the HTTP API takes and gives."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

State = Literal["waiting", "running", "done", "failed", "cancelled"]
MAX_SAMPLES = 64
MAX_KEPT_STEPS = 100
"""Most steps of a job, of all its samples, that keeps the picture after each."""


class Value(BaseModel):
    """Base of all values: frozen, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LensChange(Value):
    """For bokeh: the lens of the picture, the lens that it should look as if taken with, and disparity."""

    source: str
    target: str
    disparity: Annotated[float, Field(ge=0)]


class JobOptions(Value):
    """The settings of a restoration; what is left out is the model's own."""

    model: str
    batch: Annotated[str, Field(max_length=64)] | None = None
    steps: Annotated[int, Field(ge=1, le=65536)] | None = None
    sampler: str | None = None
    eta: float | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    texture: float | None = None
    samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] = 1
    sigma: float | None = None
    lens: LensChange | None = None
    tile: Annotated[int, Field(ge=1, le=2**16)] | None = None
    precision: str | None = None
    crop: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=4, max_length=4)] | None = (
        None
    )
    trajectory: bool = False
    self_ensemble: bool = False
    suffix: str | None = None

    @property
    def restorations(self) -> int:
        """How often the picture is restored: once for each sample, or in each of its eight orientations."""
        return 8 if self.self_ensemble else self.samples


class Has(Value):
    """The pictures of a job that can be asked for; `steps` counts those kept after steps."""

    input: bool = True
    result: bool = False
    uncertainty: bool = False
    steps: int = 0
    mask: bool = False


class Job(Value):
    """A restoration of one picture, or of the two views of a scene."""

    id: str
    name: str
    batch: str | None
    state: State
    position: int | None
    step: int
    steps: int
    seconds: float
    seconds_left: float | None
    error: str | None
    notices: list[str]
    width: int | None
    height: int | None
    megapixels: float | None
    created: float
    options: JobOptions
    has: Has
    previews: int


class Jobs(Value):
    """All jobs, the newest first."""

    jobs: list[Job]


class Takes(Value):
    """What a model takes beside one picture."""

    mask: bool
    guide: bool
    lens: bool
    views: int
    sigma: bool
    texture: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """The files that a job may bring, by the names of their parts."""
        beside = {"right": self.views > 1, "mask": self.mask, "guide": self.guide}
        return ("picture", *(part for part, taken in beside.items() if taken))


class SamplingDefaults(Value):
    """The sampling of a model where a job does not say otherwise."""

    steps: int
    sampler: str
    eta: float


class Example(Value):
    """Addresses of an example of a model's work."""

    before: str
    after: str


class Model(Value):
    """A model that is served, as its card describes it."""

    name: str
    task: str
    summary: str
    terms: str
    bytes: int
    takes: Takes
    enlarge: int
    sampling: SamplingDefaults
    max_steps: int
    metrics: dict[str, float]
    example: Example | None = None


class QueueState(Value):
    """Jobs that wait, and how many may."""

    waiting: int
    limit: int


class ServiceState(Value):
    """The service, its limits, and the names that options may have."""

    version: str
    models_default: str
    max_pixels: int
    max_bytes: int
    keep_seconds: float
    queue: QueueState
    lenses: list[str]
    samplers: list[str]
    formats: list[str]


class CancelledCount(Value):
    """How many jobs were cancelled."""

    cancelled: int


class DeletedCount(Value):
    """How many jobs were deleted."""

    deleted: int


class ErrorLine(Value):
    """Why a request was refused, in one line."""

    detail: str


def one_line(errors: list[Any]) -> str:
    """Return the errors of a validation by pydantic as one line: keys, what is wrong, and the values."""
    return "; ".join(_clause(error) for error in errors)


def _clause(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"] if part not in ("body", "query", "path"))
    if error["type"] == "extra_forbidden":
        return f"unknown key {key}"
    if error["type"] == "missing":
        return f"{key} is missing"
    message = error["msg"].replace("Input should be", "it should be")
    value = error["input"]
    shown = f" is {value!r:.60}" if isinstance(value, str | int | float) else ""
    return f"{key}{shown}: {message}" if key else message
