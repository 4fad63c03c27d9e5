"""The models that are served, by name, and what a job must bring for each. In the worker's process only."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from refusion.errors import CheckpointError, hint
from refusion.imaging.arrays import from_array
from refusion.imaging.filetypes import is_picture
from refusion.imaging.lens import Lens, condition
from refusion.models.checkpoint import MODEL, Header, bundled_models, load, read_header
from refusion.models.checkpoint import Model as Loaded
from refusion.restoring.request import Options
from refusion.web.schema import MAX_KEPT_STEPS, JobOptions, Model, SamplingDefaults, Takes

HEAD = 512
"""First bytes of a file that tell its format."""
PASSED_ON = (
    "steps",
    "sampler",
    "eta",
    "seed",
    "texture",
    "sigma",
    "samples",
    "tile",
    "precision",
    "self_ensemble",
)
"""Options of a job that are those of a request."""


class Shelf:
    """The models that are served; the one that was used last stays loaded.

    Args:
        paths: of models beside the bundled ones: files, folders of training runs, or folders of files.
        device: see `refusion.load`.

    Raises:
        CheckpointError: a file is no model.
    """

    def __init__(self, paths: Iterable[Path], device: str | None) -> None:
        found = {path.stem: path for path in bundled_models()}
        for path in paths:
            found |= _models_in(path)
        self.headers = {name: read_header(path) for name, path in found.items()}
        self._device = device
        self._last: tuple[str, Loaded] | None = None

    def header(self, name: str) -> Header:
        """Return the header of a model.

        Raises:
            CheckpointError: no model of that name is served.
        """
        if name not in self.headers:
            names = ", ".join(self.headers)
            raise CheckpointError(f"{name}: no such model{hint(name, self.headers)}; there are {names}")
        return self.headers[name]

    def load(self, name: str) -> Loaded:
        """Return a model, loaded; the one before it is dropped first."""
        header = self.header(name)
        if self._last is None or self._last[0] != name:
            self._last = None
            self._last = (name, load(header, self._device))
        return self._last[1]

    def described(self) -> list[Model]:
        """Return what clients are told of each model."""
        return [_described(name, header) for name, header in self.headers.items()]


def _models_in(path: Path) -> dict[str, Path]:
    """Return the files of a file, a training run or a folder of files, by the names of their models."""
    if (path / MODEL).is_file():
        return {path.name: path / MODEL}
    return {file.stem: file for file in sorted(path.glob("*.safetensors")) or [path]}


def _described(name: str, header: Header) -> Model:
    spec, card = header.spec, header.card
    sampling, network = spec.sampling, spec.outline.network
    return Model(
        name=name,
        task=card.task,
        summary=card.summary,
        terms=card.terms,
        bytes=header.path.stat().st_size,
        takes=Takes(
            mask=spec.fill is not None,
            guide=network.num_guides > 0 and spec.fill is None,
            lens=network.num_conditions > 0,
            views=network.num_views,
            sigma=spec.outline.sde.needs_noise_std,
            texture=spec.mean is not None,
        ),
        enlarge=spec.enlarge.factor,
        sampling=SamplingDefaults(steps=sampling.steps, sampler=str(sampling.sampler), eta=sampling.eta),
        max_steps=spec.process.steps,
        metrics=card.metrics,
    )


def request_options(options: JobOptions) -> Options:
    """Return the options of a request.

    Raises:
        DataError: a lens is unknown.
    """
    values = options.model_dump(include=set(PASSED_ON), exclude_none=True)
    if options.lens is not None:
        source, target = Lens.parse(options.lens.source), Lens.parse(options.lens.target)
        values["condition"] = condition(source, target, options.lens.disparity)
    return values  # type: ignore[return-value]


def check_job(header: Header, options: JobOptions, parts: Sequence[str]) -> None:
    """Check that a model takes the options and files of a job, as restoring would find later.

    Args:
        header: of the model.
        options: of the job.
        parts: its files: picture, right, mask, guide.

    Raises:
        ValueError: it does not; or it would keep the pictures after too many steps.
        DataError: a lens is unknown.
    """
    outline = header.spec.outline
    side = np.zeros((8, 8), np.float32)
    views = [from_array(side) for part in ("picture", "right") if part in parts]
    chosen = request_options(options)
    if "mask" in parts:
        chosen["mask"] = side
    if "guide" in parts:
        chosen["guides"] = side[None]
    request = outline.request(*views, **chosen)
    outline.check(request)
    kept = request.sampling.steps * options.samples
    if options.trajectory and kept > MAX_KEPT_STEPS:
        raise ValueError(
            f"trajectory would keep {kept} pictures: give {MAX_KEPT_STEPS} steps at most, of all samples"
        )


def is_picture_file(path: Path) -> bool:
    """Return whether a file begins as a picture does; nothing is decoded."""
    with path.open("rb") as file:
        return is_picture(file.read(HEAD))
