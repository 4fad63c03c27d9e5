"""Make every picture of the README and the docs anew: python examples/figures.py

All photographs come with scikit-image; what is wrong with them is rendered.
"""

from pathlib import Path

import numpy as np
import torch
from demo import cast_shadow, pavement
from skimage import data

import refusion
from refusion.data.bokeh import Bokeh
from refusion.data.camera import GaussianNoise, MotionBlur
from refusion.data.degradation import Degradation, Downscale, Example, Haze, Holes, Rain
from refusion.imaging.arrays import from_array
from refusion.models.spec import Process
from refusion.restoring.walk import noise_source

IMAGES = Path(__file__).parents[1] / "docs" / "images"


def row(*pictures: np.ndarray) -> np.ndarray:
    """Pictures (h, w, 3) of one height side by side, with a white gap."""
    gap = np.ones((pictures[0].shape[0], 8, 3), np.float32)
    return np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], axis=1)


def save(name: str, pixels: np.ndarray) -> None:
    refusion.write(from_array(pixels.astype(np.float32).clip(0, 1)), IMAGES / name)


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
    motorcycle, cup = data.stereo_motorcycle()[0][:400, :512] / 255, data.coffee()[:400, :512] / 255
    clean = [from_array(z.astype(np.float32)).tensor() for z in (motorcycle, cup)]
    haze = Haze(thin=1.2, thick=1.2, uneven=0.6)
    hazy = [haze(z, np.random.default_rng(3)).lq for z in clean]
    as_rows = [z.permute(1, 2, 0).numpy() for z in (*hazy, *clean)]
    restored = restore(as_rows[0]).pixels
    save("dehazed.jpg", row(as_rows[0], restored))
    encoded = [restore.codec.encode(z[None]) for z in (*hazy, *clean)]
    size = encoded[0].size
    colours = coloured(torch.cat([encoded[0].mu, encoded[2].mu]), size)
    save("latent.jpg", row(as_rows[0], colours[0], colours[1], as_rows[2]))

    def decoded(latent: int, skips: int) -> np.ndarray:
        picture = restore.codec.decode(encoded[latent].mu, encoded[skips].features, size)
        return picture[0].permute(1, 2, 0).numpy()

    save("latent-replaced.jpg", row(as_rows[0], decoded(2, 0), as_rows[2]))
    save("latent-crossed.jpg", row(as_rows[2], as_rows[3], decoded(3, 2), decoded(2, 3)))


def night(clean: torch.Tensor, rng: np.random.Generator) -> Example:
    """A short exposure: a fifteenth of the light, and its noise."""
    light = clean**2.2 / 15
    noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
    return Example((light + (0.0004 + 0.0006 * light.sqrt()) * noise).clamp(0, 1) ** (1 / 2.2), clean)


def grain(clean: torch.Tensor, rng: np.random.Generator) -> Example:
    """The noise of a sensor: more where there is more light."""
    noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
    return Example((clean + (0.006 + 0.02 * clean.sqrt()) * noise).clamp(0, 1), clean)


TASKS: dict[str, tuple[Degradation, np.ndarray]] = {
    "low-light": (night, data.coffee()),
    "deraining": (Rain(dense=0.03), data.rocket()[100:, 100:580]),
    "real-denoising": (grain, data.astronaut()[:256, 100:420]),
    "super-resolution": (Downscale(factor=4), data.astronaut()[:320, 60:460]),
    "inpainting": (Holes(most=4, thickest=0.05), data.chelsea()[:, 40:]),
    "gaussian-denoising": (
        GaussianNoise(weakest=25 / 255, strongest=25 / 255),
        data.astronaut()[:256, 100:420],
    ),
    "deblurring": (MotionBlur(shortest=10, longest=16), data.rocket()[100:, 100:580]),
    "bokeh": (Bokeh(sources=("Canon50mmf16.0BS",), targets=("Sony50mmf1.4BS",)), data.coffee()),
}
"""What goes wrong with which photograph, for each bundled model of one view without a figure of its own."""


def tasks() -> None:
    """For each task a row: what goes in, what comes out, also with a guide if there is one, the truth."""
    for name, (degrade, photograph) in TASKS.items():
        clean = from_array(photograph.astype(np.float32) / 255).tensor()
        lq, gt, condition, guides = degrade(clean, np.random.default_rng(3))
        restore = refusion.load(name, "cpu")
        before = from_array(lq.permute(1, 2, 0).clamp(0, 1).numpy())
        mask = guides[0].numpy() if guides is not None and restore.fill else None
        after = restore(before, condition=condition, mask=mask)
        shown = [restore.upscale_input(before).pixels, after.pixels, gt.permute(1, 2, 0).numpy()]
        if guides is not None and restore.network.num_guides and not restore.fill:
            shown.insert(2, restore(before, condition=condition, guides=guides.numpy()).pixels)
        save(f"{name}.jpg", row(*(z[: after.size[1], : after.size[0]] for z in shown)))
    restore = refusion.load("stereo-super-resolution", "cpu")
    left, right, _ = data.stereo_motorcycle()
    clean = [from_array(z[:480, :720].astype(np.float32) / 255).tensor() for z in (left, right)]
    rng = np.random.default_rng(0)
    views = [from_array(Downscale(factor=4)(z, rng).lq.permute(1, 2, 0).numpy()) for z in clean]
    afters = restore.restore_views(views)
    part = (slice(140, 380), slice(160, 480))
    save(
        "stereo-super-resolution.jpg",
        row(
            restore.upscale_input(views[0]).pixels[part],
            afters[0].pixels[part],
            clean[0].permute(1, 2, 0).numpy()[part],
        ),
    )


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    tasks()
    latents()
    restore = refusion.load("shadow-removal", "cpu")
    shadowed = cast_shadow(pavement())
    save("before-after.jpg", row(shadowed, restore(shadowed).pixels))

    failures = []
    for photograph in (data.coffee(), data.chelsea()[:, :450]):
        before = cast_shadow(photograph[:300, :400] / 255)
        failures.append(row(before, restore(before).pixels))
    save("failures.jpg", np.concatenate(failures))

    drawn = restore.run(restore.request(shadowed, samples=8, steps=10))
    error = np.abs(drawn.image.pixels - pavement()).mean(-1)
    maps = [np.repeat((10 * z[..., None]).clip(0, 1), 3, axis=2) for z in (drawn.stds[0], error)]
    save("uncertainty.jpg", row(drawn.image.pixels, *maps))

    x0, mu = (from_array(z.astype(np.float32)).tensor()[None] for z in (pavement(), shadowed))
    sde = Process(noise_level=50 / 255).build()
    states = list(sde.forward(x0, mu, noise_source(mu, 0)))
    film = [torch.nn.functional.interpolate(states[t], scale_factor=0.5)[0] for t in (0, 25, 50, 75, 100)]
    save("forward.jpg", row(*(z.permute(1, 2, 0).numpy() for z in film)))


if __name__ == "__main__":
    main()
