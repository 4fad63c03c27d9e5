"""Groups of options that several commands share, and their conversion to values of the package."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from refusion.jobs.plan import Plan
    from refusion.jobs.run import Outcome
    from refusion.jobs.shard import Shard
    from refusion.restoring.request import Options

SAMPLERS_HELP = (
    "posterior, ode-1, ode-2, ode-3, sde-1, sde-2, sde-3, euler-maruyama, euler-ode, or one of your own."
)
ENGINE_HELP = (
    "What restores: this process, or workers of a Ray cluster: one for each accelerator or --threads."
)
Device = Annotated[str | None, Parameter(help="cpu, cuda, cuda:1, mps; by default the best there is.")]
Backend = Annotated[
    Literal["torch", "onnx"], Parameter(help="What runs the network: torch, or ONNX Runtime on the CPU.")
]
Out = Annotated[Path, Parameter(name=["--out", "-o"])]


@Parameter(name="*")
@dataclass(frozen=True)
class SamplingFlags:
    """Options of sampling; by default those of the model."""

    steps: int | None = None
    "Calls of the network, 1 to the number of training times."
    sampler: Annotated[str | None, Parameter(help=SAMPLERS_HELP)] = None
    eta: float | None = None
    "0 (deterministic) to 1 (posterior), for the sampler posterior."
    seed: int | None = None
    "Seed of all noise."
    texture: float | None = None
    "Of models with a mean stage: 0 (their mean, of the best PSNR) to 1 (a sample)."
    self_ensemble: Annotated[bool | None, Parameter(negative="")] = None
    """Restore the picture in its eight orientations and give the mean: eight times the time, a little better
    where up and down do not count; not for rain or shadows."""
    tile: int | None = None
    "Side in pixels of the tiles of a large picture; by default what free memory allows."
    precision: Literal["auto", "32", "bf16", "16"] | None = None
    "In which the network multiplies; by default what the device has instructions for."
    max_pixels: int | None = None
    "Refuse files of pictures with more pixels; by default 400 million."
    sigma: str | None = None
    "Standard deviation of the noise, as 25/255, for models of Gaussian denoising; by default estimated."
    source_lens: str | None = None
    "For bokeh: the lens that the picture was taken with, as Canon50mmf1.4BS."
    target_lens: str | None = None
    "For bokeh: the lens that it should look as if taken with, as Sony50mmf16.0BS."
    disparity: float | None = None
    "For bokeh: disparity of the background to the focal plane, about 10 to 90."

    def options(self) -> "Options":
        """Return the options of a request.

        Raises:
            ValueError: a value is not a number, or the lenses are incomplete.
        """
        from refusion.imaging.lens import Lens, condition

        options = _given(self)
        if self.sigma is not None:
            options["sigma"] = _level("sigma", self.sigma)
        for name in ("source_lens", "target_lens", "disparity"):
            options.pop(name, None)
        lens = (self.source_lens, self.target_lens, self.disparity)
        if lens == (None, None, None):
            return options  # type: ignore[return-value]
        if self.source_lens is None or self.target_lens is None or self.disparity is None:
            raise ValueError("give --source-lens, --target-lens and --disparity together")
        if not 0 <= self.disparity < math.inf:
            raise ValueError(f"disparity is {self.disparity}: give a number from 0")
        source, target = Lens.parse(self.source_lens), Lens.parse(self.target_lens)
        options["condition"] = condition(source, target, self.disparity)
        return options  # type: ignore[return-value]


@Parameter(name="*")
@dataclass(frozen=True)
class OutputFlags:
    """Options of the output and of inpainting."""

    samples: int = 1
    "Restore this many times with successive seeds and write the mean."
    uncertainty: Annotated[bool, Parameter(negative="")] = False
    "With --samples, also write NAME-uncertainty.png: the std of the samples, white for a tenth of the range."
    trajectory: Path | None = None
    "Write the steps of a single picture as an animated GIF."
    mask: str | None = None
    """For inpainting: a mask, white in the holes, of the size of the picture; or a folder with a mask of the
    same name for each picture."""
    guide: str | None = None
    """For models that take a guide: a grey map of the size of the picture; or a folder, as for --mask."""
    hole_colour: str | None = None
    """For inpainting: colour with which the holes are painted over, as "#ff00ff"."""
    strip: Annotated[bool, Parameter(negative="")] = False
    "Leave out EXIF, XMP and IPTC (dates, camera, place, copyright), and date the files now."

    def with_maps(self, planned: "Plan") -> "Plan":
        """Return the plan with the mask and the guide of each picture."""
        from refusion.remote import place

        if self.mask:
            planned = planned.with_masks(place(self.mask))
        return planned.with_guides(place(self.guide)) if self.guide else planned

    def check(self, pictures: int) -> None:
        """Check that the options are compatible.

        Args:
            pictures: number of pictures to restore.

        Raises:
            ValueError: two options exclude each other, or one needs another.
        """
        if self.samples < 1:
            raise ValueError(f"--samples is {self.samples}: give at least 1")
        if self.uncertainty and self.samples < 2:
            raise ValueError("--uncertainty needs --samples of at least 2")
        if self.trajectory and (pictures > 1 or self.samples > 1):
            raise ValueError("--trajectory needs a single picture and a single sample")
        if self.mask and self.hole_colour:
            raise ValueError("--mask and --hole-colour both tell what is missing: give one")


@Parameter(name="*")
@dataclass(frozen=True)
class ManyFlags:
    """Options of many pictures, on several machines."""

    shard: str | None = None
    """The share of this process in the work, as 3/16; by default that of RANK and WORLD_SIZE, or of a SLURM
    array."""
    report: Path | None = None
    """Add a row for each outcome to this CSV file; with a shard, to one of its own, as out-3-of-16.csv."""
    retry_failed: Annotated[bool, Parameter(negative="")] = False
    "Only what failed by the --report and those of its shards, and was restored by none of them."
    engine: Annotated[Literal["local", "ray"], Parameter(help=ENGINE_HELP)] = "local"
    address: str | None = None
    "Of the Ray cluster; auto is the one that this machine belongs to. By default one of this machine alone."

    def check(self) -> None:
        """Check that the options are compatible.

        Raises:
            ValueError: one needs another.
        """
        if self.address is not None and self.engine != "ray":
            raise ValueError("--address is that of a Ray cluster: add --engine ray")
        if self.retry_failed and self.report is None:
            raise ValueError("--retry-failed needs the --report of the run whose failures are meant")

    def share(self) -> "Shard":
        """Return the share of this process.

        Raises:
            ValueError: there is no such share, or the environment names none.
        """
        from refusion.jobs.shard import parse_shard, shard_of

        return shard_of(os.environ) if self.shard is None else parse_shard(self.shard)

    @contextlib.contextmanager
    def reporting(self, shard: "Shard", model: str, seed: int) -> "Iterator[Callable[[Outcome], object]]":
        """Yield what adds an outcome to the report, if there is one.

        Args:
            shard: of this process.
            model, seed: of all outcomes.

        Raises:
            OSError: the report cannot be written.
        """
        from refusion.jobs.report import Report, path_of

        if self.report is None:
            yield lambda outcome: None
            return
        with contextlib.closing(Report(path_of(self.report, shard), model, seed)) as report:
            yield report.add

    def chosen(self, planned: "Plan") -> "Plan":
        """Return what is to be restored of a plan.

        Raises:
            ImageError: failures are meant, and there is no report.
        """
        from refusion.jobs.report import failed_files

        if self.retry_failed and self.report is not None:
            return planned.only(failed_files(self.report))
        return planned


@Parameter(name="*")
@dataclass(frozen=True)
class PublishedOverrides:
    """Facts that weights do not determine; by default as published for the task."""

    noise_level: str | None = None
    "Noise level lambda in units of the range [0, 1], as 50/255."
    steps: int | None = None
    "Number of training times T."
    delta: float | None = None
    "Factor of the residual at T."
    schedule: str | None = None
    "Schedule: constant, linear or cosine."
    long_skip: bool | None = None
    "Add the output of the first convolution before the last one."
    local: str | None = None
    "Channel attention over windows for training states of this height x width, as 128x128."
    enlarge: str | None = None
    "Interpolation by which input pictures are enlarged: nearest or bicubic."
    factor: int | None = None
    "Factor by which input pictures are enlarged."

    def facts(self) -> dict[str, Any]:
        """Return the fields of `refusion.published.Facts` that are overridden."""
        facts = _given(self)
        if self.noise_level is not None:
            facts["noise_level"] = _level("noise_level", self.noise_level)
        if self.local is not None:
            height, separator, width = self.local.partition("x")
            if not (separator and height.isdecimal() and width.isdecimal()):
                raise ValueError(f"local is {self.local!r}: give height and width, as 128x128")
            facts["local"] = (int(height), int(width))
        names = {"enlarge": "mode", "factor": "enlarge"}
        return {names.get(key, key): value for key, value in facts.items()}


def _given(flags: SamplingFlags | PublishedOverrides) -> dict[str, Any]:
    return {key: value for key, value in asdict(flags).items() if value is not None}


def _level(name: str, text: str) -> float:
    from refusion.imaging.level import parse_level

    try:
        return parse_level(text)
    except ValueError as error:
        raise ValueError(f"{name} is {error}") from None
