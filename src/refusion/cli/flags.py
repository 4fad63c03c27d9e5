"""What several commands take, as typed values; each turns into what the package takes."""

import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from refusion.lens import Lens, condition
from refusion.restorer import SAMPLERS


@Parameter(name="*")
@dataclass(frozen=True)
class How:
    """How to sample. What is not given is the model's own default."""

    steps: int | None = None
    "Calls of the network, 1 to the number of training times."
    sampler: Annotated[str | None, Parameter(help=f"One of {', '.join(SAMPLERS)}.")] = None
    eta: float | None = None
    "0 (deterministic) to 1 (posterior), for the sampler posterior."
    seed: int | None = None
    "Seed of all noise."
    tile: int | None = None
    "Side in pixels of the tiles of a large picture; by default what free memory allows."
    sigma: str | None = None
    "Deviation of the noise, as 25/255, for models of Gaussian denoising; by default estimated."
    source_lens: str | None = None
    "For bokeh: what the picture was taken with, as Canon50mmf1.4BS."
    target_lens: str | None = None
    "For bokeh: what it should look like, as Sony50mmf16.0BS."
    disparity: float | None = None
    "For bokeh: how far the background is from what is in focus, about 10 to 90."

    def options(self) -> dict[str, Any]:
        given = _given(self)
        if self.sigma is not None:
            given["sigma"] = _number("sigma", self.sigma)
        lens = [given.pop(key, None) for key in ("source_lens", "target_lens", "disparity")]
        if any(value is not None for value in lens):
            source, target, disparity = lens
            if source is None or target is None or disparity is None:
                raise ValueError("give --source-lens, --target-lens and --disparity together")
            if not 0 <= disparity < math.inf:
                raise ValueError(f"disparity is {disparity}: give a number from 0")
            given["condition"] = condition(Lens.parse(source), Lens.parse(target), disparity)
        return given


@Parameter(name="*")
@dataclass(frozen=True)
class Extras:
    """What is done besides restoring each picture once."""

    samples: int = 1
    "Restore this many times with successive seeds and write the mean."
    uncertainty: Annotated[bool, Parameter(negative="")] = False
    "With --samples, also write NAME-uncertainty.png: the samples' deviation, white for a tenth of the range."
    trajectory: Path | None = None
    "Write the steps of a single picture as an animated GIF."
    mask: Path | None = None
    """For inpainting: a picture that is white where something is missing, of the size of the picture; or a
    folder with one for each picture, of the same name."""
    hole_colour: str | None = None
    """For inpainting: what is missing is painted over with this colour, as "#ff00ff"."""

    def check(self, jobs: int, views: int) -> None:
        """Refuse what does not go together."""
        if self.samples < 1:
            raise ValueError(f"--samples is {self.samples}: give at least 1")
        if self.uncertainty and self.samples < 2:
            raise ValueError("--uncertainty needs --samples of at least 2")
        if self.trajectory and jobs > 1:
            raise ValueError("--trajectory needs a single picture and a single sample")
        chosen = {
            "--samples": self.samples > 1,
            "--trajectory": self.trajectory,
            "--mask": self.mask,
            "--hole-colour": self.hole_colour,
            "a stereo model": views > 1,
        }
        if len(names := [name for name, given in chosen.items() if given]) > 1:
            raise ValueError(f"{' and '.join(names)} do not go together: give one")


@Parameter(name="*")
@dataclass(frozen=True)
class Known:
    """What weights do not tell. What is not given is as published for the task."""

    noise_level: str | None = None
    "lambda in units of the range [0, 1], as 50/255."
    steps: int | None = None
    "Training times T."
    delta: float | None = None
    "What is left of the residual at T."
    schedule: str | None = None
    "constant, linear or cosine."
    long_skip: bool | None = None
    "The first convolution's output is added before the last one."
    local: str | None = None
    "Channel attention over windows for training states of this height x width, as 128x128."
    enlarge: str | None = None
    "How pictures are enlarged before everything: nearest or bicubic."
    factor: int | None = None
    "By how much."

    def facts(self) -> dict[str, Any]:
        given = _given(self)
        if self.noise_level is not None:
            given["noise_level"] = _number("noise_level", self.noise_level)
        if self.local is not None:
            height, by, width = self.local.partition("x")
            if not (by and height.isdecimal() and width.isdecimal()):
                raise ValueError(f"local is {self.local!r}: give height and width, as 128x128")
            given["local"] = (int(height), int(width))
        names = {"enlarge": "mode", "factor": "enlarge"}
        return {names.get(key, key): value for key, value in given.items()}


def _given(options: How | Known) -> dict[str, Any]:
    return {key: value for key, value in asdict(options).items() if value is not None}


def _number(name: str, text: str) -> float:
    try:
        return float(Fraction(text))
    except (ValueError, ArithmeticError):
        raise ValueError(f"{name} is {text!r}: give a number or a fraction, as 25/255") from None
