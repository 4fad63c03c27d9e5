"""Make pictures of the README and the docs anew: python examples/figures.py [NAME ...]

A NAME is that of a bundled model or of one of `OTHERS`; without any, all pictures are made. All photographs
come with scikit-image; what is wrong with them is rendered. Methods without training are those of
benchmarks/classical.py, which needs

    pip install opencv-python-headless bm3d
"""

import runpy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyvips
import torch
from demo import cast_shadow, pavement
from skimage import data

import refusion
from refusion.data.bokeh import Bokeh
from refusion.data.camera import GaussianNoise, MotionBlur, SensorNoise, compressed
from refusion.data.degradation import Degradation, Downscale, Example, Haze, Holes, Rain
from refusion.evaluation.metrics import psnr
from refusion.imaging.arrays import from_array
from refusion.imaging.lens import Lens, condition
from refusion.models.spec import Process
from refusion.restoring.walk import noise_source

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
CLASSICAL = ROOT / "benchmarks" / "classical.py"
QUALITY = 86
WIDTH, SIDE, GAP = 736, 240, 8
"""Pixels: width of the text on a page of the docs, where figures are shown at 100 %; a crop's height; the
white between crops."""

Array = np.ndarray
Versions = dict[str, Array]
"""Versions of one picture by name: before, without training, after, with a guide, truth."""


@dataclass(frozen=True, eq=False)
class Case:
    """A scene of one view or two, what goes wrong with it, and the crops of the first view.

    Args:
        views: (h, w) or (h, w, 3).
        degrade: the same for each view.
        crops: their left and top, in pixels of the restored picture.
    """

    views: tuple[Array, ...]
    degrade: Degradation
    crops: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Figure:
    """What the page of a model shows: crops, and photographs that the model was never meant for.

    Args:
        cases: their crops are shown side by side.
        unmeant: their crops are shown below each other; none has a truth beside its input, or each.
        classical: a method of benchmarks/classical.py, if one does without training what the model does.
    """

    cases: tuple[Case, ...]
    unmeant: tuple[Case, ...]
    classical: str | None = None


def row(*pictures: Array) -> Array:
    """Return pictures (h, w, 3) of one height side by side, with a white gap."""
    gap = np.ones((pictures[0].shape[0], GAP, 3), np.float32)
    return np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], axis=1)


def column(*pictures: Array) -> Array:
    """Return pictures (h, w, 3) of one width below each other, with a white gap."""
    return row(*(picture.swapaxes(0, 1) for picture in pictures)).swapaxes(0, 1)


def save(name: str, pixels: Array) -> None:
    samples = np.rint(255 * pixels.clip(0, 1)).astype(np.uint8)
    picture = pyvips.Image.new_from_array(samples, interpretation="srgb")
    picture.jpegsave(str(IMAGES / name), Q=QUALITY, optimize_coding=True, subsample_mode="off", keep="none")


def untouched(clean: torch.Tensor, rng: np.random.Generator) -> Example:
    return Example(clean, clean)


def night(clean: torch.Tensor, rng: np.random.Generator) -> Example:
    """A short exposure: a fifteenth of the light, and its noise."""
    light = clean**2.2 / 15
    noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
    return Example((light + (0.0004 + 0.0006 * light.sqrt()) * noise).clamp(0, 1) ** (1 / 2.2), clean)


def grain(clean: torch.Tensor, rng: np.random.Generator) -> Example:
    """The noise of a sensor: more where there is more light."""
    noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
    return Example((clean + (0.006 + 0.02 * clean.sqrt()) * noise).clamp(0, 1), clean)


def film(clean: torch.Tensor, rng: np.random.Generator) -> Example:
    """Grain of film: grey, and as coarse as three pixels."""
    noise = torch.from_numpy(rng.standard_normal((1, *clean.shape[1:]), dtype=np.float32))
    coarse = 3 * torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1)
    return Example((clean + 25 / 255 * coarse).clamp(0, 1), clean)


def blocks(clean: torch.Tensor, rng: np.random.Generator) -> Example:
    return Example(compressed(clean, quality=10), clean)


def small_blocks(clean: torch.Tensor, rng: np.random.Generator) -> Example:
    """A picture of a quarter of the pixels on each side, as a JPEG holds it."""
    small = Downscale(factor=4)(clean, rng)
    return Example(compressed(small.lq, quality=40), small.gt)


def shadow(clean: torch.Tensor, rng: np.random.Generator) -> Example:
    shadowed = cast_shadow(clean.permute(1, 2, 0).numpy())
    return Example(torch.from_numpy(shadowed).permute(2, 0, 1), clean)


def large_hole(clean: torch.Tensor, rng: np.random.Generator) -> Example:
    """A hole of half the height and half the width."""
    holes = torch.zeros(1, *clean.shape[1:])
    height, width = clean.shape[1:]
    holes[:, height // 4 : -(height // 4), width // 4 : -(width // 4)] = 1
    return Example(torch.where(holes > 0, 1.0, clean), clean, guides=holes)


def wide_open(clean: torch.Tensor, rng: np.random.Generator) -> Example:
    """A flat picture, to be seen by a wide aperture: all is at one distance, so nothing should change."""
    lenses = Lens.parse("Canon50mmf16.0BS"), Lens.parse("Sony50mmf1.4BS")
    return Example(clean, clean, condition(*lenses, disparity=50))


def white_noise(levels: float) -> Degradation:
    return GaussianNoise(weakest=levels / 255, strongest=levels / 255)


MOTORCYCLE = tuple(view[:480, :720] for view in data.stereo_motorcycle()[:2])
CUP, CAT, FACE, ROCKET = data.coffee(), data.chelsea(), data.astronaut(), data.rocket()
OPEN, STOPPED = ("Sony50mmf1.4BS",), ("Canon50mmf16.0BS",)

FIGURES: dict[str, Figure] = {
    "bokeh": Figure(
        (
            Case((CUP,), Bokeh(sources=STOPPED, targets=OPEN), ((60, 40), (330, 120))),
            Case((CAT,), Bokeh(sources=OPEN, targets=STOPPED), ((100, 30),)),
        ),
        (Case((data.page(),), wide_open, ((0, 0),)),),
        "all out of focus",
    ),
    "deblurring": Figure(
        (
            Case((ROCKET[100:, 100:580],), MotionBlur(shortest=10, longest=16), ((60, 80),)),
            Case((FACE,), MotionBlur(shortest=6, longest=9), ((150, 260),)),
            Case((MOTORCYCLE[0],), MotionBlur(shortest=18, longest=20), ((470, 180),)),
        ),
        (Case((CAT,), untouched, ((40, 30),)),),
        "unsharp mask",
    ),
    "dehazing": Figure(
        (
            Case((MOTORCYCLE[0][:400, :512],), Haze(thin=1.2, thick=1.2, uneven=0.6), ((190, 140),)),
            Case((ROCKET,), Haze(thin=1.2, thick=1.2), ((230, 170),)),
            Case((FACE,), Haze(thin=2.5, thick=2.5), ((130, 20),)),
        ),
        (Case((CUP,), untouched, ((50, 130),)),),
        "dark channel prior",
    ),
    "deraining": Figure(
        (
            Case((ROCKET[100:, 100:580],), Rain(dense=0.03), ((60, 80),)),
            Case((CAT,), Rain(dense=0.03), ((60, 60),)),
            Case((MOTORCYCLE[0],), Rain(), ((470, 180),)),
        ),
        (Case((data.grass(),), untouched, ((130, 130),)),),
        "opening",
    ),
    "gaussian-denoising": Figure(
        (
            Case((FACE[:256, 100:420],), white_noise(25), ((40, 8),)),
            Case((data.grass()[:256, :256],), white_noise(25), ((8, 8),)),
            Case((ROCKET[180:427, 280:560],), white_noise(60), ((20, 4),)),
        ),
        (Case((FACE[:256, 100:420],), film, ((40, 8),)),),
        "BM3D",
    ),
    "inpainting": Figure(
        (
            Case((CAT[:, 40:],), Holes(most=4, thickest=0.05), ((60, 40),)),
            Case((FACE,), Holes(), ((190, 150),)),
            Case((MOTORCYCLE[0],), Holes(), ((470, 180),)),
        ),
        (Case((FACE[:320, 60:380],), large_hole, ((40, 40),)),),
        "Navier-Stokes",
    ),
    "low-light": Figure(
        (
            Case((CUP,), night, ((180, 130),)),
            Case((FACE,), night, ((130, 20),)),
            Case((CAT,), night, ((60, 30),)),
        ),
        (Case((CUP,), untouched, ((50, 10),)),),
        "gamma",
    ),
    "real-denoising": Figure(
        (
            Case((FACE[:256, 100:420],), grain, ((40, 8),)),
            Case((CAT,), SensorNoise(least=3e-3), ((100, 30),)),
            Case((ROCKET[180:427, 280:560],), SensorNoise(least=2.9e-3), ((20, 4),)),
        ),
        (Case((FACE[:256, 100:420],), blocks, ((40, 8),)),),
        "non-local means",
    ),
    "shadow-removal": Figure(
        (
            Case((pavement(),), shadow, ((170, 30),)),
            Case((data.gravel(),), shadow, ((170, 30),)),
            Case((CUP[:300, :400],), shadow, ((120, 30),)),
        ),
        (
            Case((data.camera(),), untouched, ((110, 80),)),
            Case((data.clock(),), untouched, ((30, 55),)),
        ),
        "CLAHE",
    ),
    "stereo-super-resolution": Figure(
        (Case(MOTORCYCLE, Downscale(factor=4), ((60, 180), (300, 180), (440, 20))),),
        (Case((MOTORCYCLE[0][:400, :600], CUP), Downscale(factor=4), ((300, 150),)),),
    ),
    "super-resolution": Figure(
        (
            Case((FACE,), Downscale(factor=4), ((110, 20), (80, 268))),
            Case((data.grass(),), Downscale(factor=4), ((130, 130),)),
        ),
        (Case((FACE[:320, 60:460],), small_blocks, ((80, 20),)),),
    ),
}
"""What the page of each bundled model shows."""


def pixels(tensor: torch.Tensor) -> Array:
    """Return a picture (3, h, w) as (h, w, 3) in [0, 1]."""
    return tensor.clamp(0, 1).permute(1, 2, 0).numpy()


def versions(name: str, case: Case, method: str | None = None) -> Versions:
    """Return the versions of the first view of a case, and print their PSNR."""
    restore = refusion.load(name, "cpu")
    clean = [from_array(view).tensor() for view in case.views]
    examples = [case.degrade(view, np.random.default_rng(3)) for view in clean]
    lqs = [from_array(pixels(example.lq)) for example in examples]
    truth = pixels(examples[0].gt)
    told = examples[0].condition
    guides = None if examples[0].guides is None else examples[0].guides.numpy()
    mask = guides[0] if guides is not None and restore.fill else None
    found = {"before": restore.upscale_input(lqs[0]).pixels}
    if method:
        holes = np.zeros(truth.shape[:2], bool) if mask is None else mask > 0
        methods = runpy.run_path(str(CLASSICAL))["METHODS"][name]
        found[method] = methods[method](found["before"], truth, holes)
    found["after"] = restore.restore_views(lqs, condition=told, mask=mask)[0].pixels
    if guides is not None and mask is None:
        found["with the guide"] = restore.restore_views(lqs, condition=told, guides=guides)[0].pixels
    found = {version: np.float32(picture).clip(0, 1) for version, picture in found.items()}
    scores = ", ".join(f"{version} {psnr(picture, truth):.2f}" for version, picture in found.items())
    print(f"{name}, {truth.shape[1]} x {truth.shape[0]}: {scores} dB")
    return found if np.array_equal(truth, found["before"]) else {**found, "truth": truth}


def crops(case: Case, found: Versions, count: int) -> Iterator[list[Array]]:
    """Yield the versions of each crop, `count` of which fill a page's width: never enlarged or reduced."""
    width = (WIDTH + GAP) // count - GAP
    for left, top in case.crops:
        yield [picture[top : top + SIDE, left : left + width] for picture in found.values()]


def figure(name: str) -> None:
    """Draw the figures of a model: a crop is a column, and a row if the model is not meant for it."""
    shown = FIGURES[name]
    count = sum(len(case.crops) for case in shown.cases)
    columns = []
    for case in shown.cases:
        columns += crops(case, versions(name, case, shown.classical), count)
    save(f"{name}.jpg", row(*(column(*parts) for parts in columns)))
    rows = []
    for case in shown.unmeant:
        found = versions(name, case)
        rows += crops(case, found, len(found))
    save(f"{name}-unmeant.jpg", column(*(row(*parts) for parts in rows)))


def coloured(states: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """States (b, c, h, w) as pictures (b, *size, 3): their three strongest components, enlarged."""
    pixels = states.movedim(1, -1).flatten(0, 2)
    pixels = pixels - pixels.mean(0)
    colours = pixels @ torch.linalg.svd(pixels, full_matrices=False).Vh[:3].mT
    colours = 0.5 + colours / (4 * colours.std(0))
    maps = colours.reshape(len(states), *states.shape[-2:], 3).movedim(-1, 1)
    large = torch.nn.functional.interpolate(maps, size, mode="nearest").movedim(1, -1)
    return large.clamp(0, 1).numpy()


@torch.inference_mode()
def latents() -> None:
    """What the latent holds, and what the skips do: rendered haze on two photographs."""
    restore = refusion.load("dehazing", "cpu")
    clean = [from_array(view[:400, :512]).tensor() for view in (MOTORCYCLE[0], CUP)]
    haze = Haze(thin=1.2, thick=1.2, uneven=0.6)
    hazy = [haze(z, np.random.default_rng(3)).lq for z in clean]
    as_rows = [pixels(z) for z in (*hazy, *clean)]
    restored = restore(as_rows[0]).pixels
    save("dehazed.jpg", row(as_rows[0], restored))
    encoded = [restore.codec.encode(z[None]) for z in (*hazy, *clean)]
    size = encoded[0].size
    colours = coloured(torch.cat([encoded[0].mu, encoded[2].mu]), size)
    save("latent.jpg", row(as_rows[0], colours[0], colours[1], as_rows[2]))

    def decoded(latent: int, skips: int) -> np.ndarray:
        return pixels(restore.codec.decode(encoded[latent].mu, encoded[skips].features, size)[0])

    save("latent-replaced.jpg", row(as_rows[0], decoded(2, 0), as_rows[2]))
    save("latent-crossed.jpg", row(as_rows[2], as_rows[3], decoded(3, 2), decoded(2, 3)))


def shadows() -> None:
    """The README's shadow, and the uncertainty of its removal beside the true error."""
    restore = refusion.load("shadow-removal", "cpu")
    shadowed = cast_shadow(pavement())
    save("before-after.jpg", row(shadowed, restore(shadowed).pixels))
    drawn = restore.run(restore.request(shadowed, samples=8, steps=10))
    error = np.abs(drawn.image.pixels - pavement()).mean(-1)
    maps = [np.repeat((10 * z[..., None]).clip(0, 1), 3, axis=2) for z in (drawn.stds[0], error)]
    save("uncertainty.jpg", row(drawn.image.pixels, *maps))


def forward() -> None:
    """How a picture turns into its shadowed version plus noise."""
    x0, mu = (from_array(z).tensor()[None] for z in (pavement(), cast_shadow(pavement())))
    sde = Process(noise_level=50 / 255).build()
    states = list(sde.forward(x0, mu, noise_source(mu, 0)))
    film = [torch.nn.functional.interpolate(states[t], scale_factor=0.5)[0] for t in (0, 25, 50, 75, 100)]
    save("forward.jpg", row(*(pixels(z) for z in film)))


OTHERS: dict[str, Callable[[], None]] = {"latents": latents, "shadows": shadows, "forward": forward}
"""Pictures that are not of one model's page."""


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    for name in sys.argv[1:] or (*FIGURES, *OTHERS):
        if name in OTHERS:
            OTHERS[name]()
        else:
            figure(name)


if __name__ == "__main__":
    main()
