"""PSNR and SSIM of what a user has without any training, beside the bundled model on the same pictures.

    pip install opencv-python-headless bm3d scikit-image
    python benchmarks/classical.py MODEL PAIRS

PAIRS is as for `refusion evaluate`: a folder with lq/ and gt/, or clean pictures for a model of a synthetic
degradation. A method that has a parameter is given the value that is best on these pictures, or is told the
truth, as the deviation of the noise: the comparison is kind to it. The table is Markdown.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import bm3d
import cv2
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from skimage.restoration import denoise_nl_means, denoise_wavelet, inpaint_biharmonic

import refusion
from refusion.evaluation.evaluate import Scores, mean_scores, scene_options, score
from refusion.imaging.arrays import from_array
from refusion.imaging.fill import harmonic_fill
from refusion.models.checkpoint import load, read_header, resolve
from refusion.training.recipe import pairs_of

Array = np.ndarray
Method = Callable[[Array, Array, Array], Array]
"""Of a degraded picture, enlarged if the model enlarges, the clean one, which only tells parameters, and the
mask of holes."""


def noise_std(lq: Array, gt: Array) -> float:
    return float((lq - gt).std())


def block_matching(lq: Array, gt: Array, holes: Array) -> Array:
    """BM3D for colour pictures (Dabov et al. 2007)."""
    return np.asarray(bm3d.bm3d_rgb(lq, noise_std(lq, gt)))


def non_local_means(lq: Array, gt: Array, holes: Array) -> Array:
    sigma = noise_std(lq, gt)
    options = {"patch_size": 5, "patch_distance": 6, "fast_mode": True}
    return np.asarray(denoise_nl_means(lq, h=0.6 * sigma, sigma=sigma, channel_axis=2, **options))


def wavelets(lq: Array, gt: Array, holes: Array) -> Array:
    return np.asarray(denoise_wavelet(lq, noise_std(lq, gt), channel_axis=2, convert2ycbcr=True))


def bilateral(lq: Array, gt: Array, holes: Array) -> Array:
    return best(gt, (cv2.bilateralFilter(lq, 5, colour, 1.5) for colour in (0.02, 0.04, 0.08, 0.16, 0.32)))


def median(lq: Array, gt: Array, holes: Array) -> Array:
    return cv2.medianBlur(as_bytes(lq), 5) / 255


def opening(lq: Array, gt: Array, holes: Array) -> Array:
    """Bright streaks that are narrower than the window vanish."""
    windows = [np.ones(shape, np.uint8) for shape in ((1, 3), (1, 5), (1, 7), (3, 3), (5, 5))]
    return best(gt, (cv2.morphologyEx(lq, cv2.MORPH_OPEN, window) for window in windows))


def unsharp(lq: Array, gt: Array, holes: Array) -> Array:
    settings = [(sigma, amount) for sigma in (1, 2, 3) for amount in (0.3, 0.6, 1.0)]
    return best(gt, (lq + a * (lq - cv2.GaussianBlur(lq, (0, 0), s)) for s, a in settings))


def gamma(lq: Array, gt: Array, holes: Array) -> Array:
    """The exponent that makes the mean 0.45."""
    low, high = 0.02, 2.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if (lq**middle).mean() > 0.45 else (low, middle)
    return lq**low


def equalised(lq: Array, gt: Array, holes: Array) -> Array:
    """Contrast-limited adaptive histogram equalisation of the lightness."""
    lab = cv2.cvtColor(as_bytes(lq), cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(2.0, (8, 8)).apply(lab[..., 0])
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB) / 255


def dark_channel(lq: Array, gt: Array, holes: Array) -> Array:
    """The dark channel prior (He et al. 2009) with a guided filter (He et al. 2010)."""

    def darkest(x: Array) -> Array:
        return cv2.erode(x.min(axis=2), np.ones((15, 15), np.uint8))

    dark = darkest(lq)
    haziest = dark.ravel().argsort()[-max(1, dark.size // 1000) :]
    airlight = lq.reshape(-1, 3)[haziest].mean(axis=0)
    transmission = guided(lq.mean(axis=2), 1 - 0.95 * darkest(lq / airlight), 40, 1e-3)
    return (lq - airlight) / np.maximum(transmission, 0.1)[..., None] + airlight


def guided(guide: Array, values: Array, radius: int, epsilon: float) -> Array:
    def mean(x: Array) -> Array:
        return cv2.blur(x, (2 * radius + 1, 2 * radius + 1))

    slope = (mean(guide * values) - mean(guide) * mean(values)) / (
        mean(guide**2) - mean(guide) ** 2 + epsilon
    )
    return mean(slope) * guide + mean(mean(values) - slope * mean(guide))


def filled(algorithm: int) -> Method:
    def method(lq: Array, gt: Array, holes: Array) -> Array:
        return cv2.inpaint(as_bytes(lq), holes.astype(np.uint8), 3, algorithm) / 255

    return method


def nearest(lq: Array, gt: Array, holes: Array) -> Array:
    at = distance_transform_edt(holes, return_distances=False, return_indices=True)
    return lq[tuple(at)]


def biharmonic(lq: Array, gt: Array, holes: Array) -> Array:
    return np.asarray(inpaint_biharmonic(lq, holes, split_into_regions=True, channel_axis=2))


def harmonic(lq: Array, gt: Array, holes: Array) -> Array:
    """Laplace's equation in the holes, which is where the bundled model starts."""
    mask = torch.from_numpy(holes)[None].float()
    return harmonic_fill(from_array(lq).tensor(), mask).movedim(0, -1).numpy()


def disc(lq: Array, gt: Array, holes: Array) -> Array:
    """The whole picture out of focus."""

    def blurred(radius: int) -> Array:
        window = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        return cv2.filter2D(lq, -1, window / window.sum())

    return best(gt, (blurred(radius) for radius in (1, 2, 3, 5, 8)))


METHODS: Mapping[str, Mapping[str, Method]] = {
    "gaussian-denoising": {
        "BM3D": block_matching,
        "non-local means": non_local_means,
        "wavelets": wavelets,
        "bilateral": bilateral,
    },
    "real-denoising": {"BM3D": block_matching, "non-local means": non_local_means, "bilateral": bilateral},
    "inpainting": {
        "Navier-Stokes": filled(cv2.INPAINT_NS),
        "Telea": filled(cv2.INPAINT_TELEA),
        "nearest known pixel": nearest,
        "biharmonic": biharmonic,
        "harmonic fill": harmonic,
    },
    "deraining": {"opening": opening, "median": median},
    "super-resolution": {},
    "stereo-super-resolution": {},
    "deblurring": {"unsharp mask": unsharp},
    "low-light": {"gamma": gamma, "CLAHE": equalised},
    "dehazing": {"dark channel prior": dark_channel, "CLAHE": equalised},
    "shadow-removal": {"CLAHE": equalised},
    "bokeh": {"all out of focus": disc},
}
"""Of a model that enlarges, the input row is the bicubic enlargement."""


def as_bytes(x: Array) -> Array:
    return np.round(x.clip(0, 1) * 255).astype(np.uint8)


def best(gt: Array, candidates: Iterator[Array]) -> Array:
    """Return the candidate with the least squared error."""
    return min(candidates, key=lambda x: float(((x.clip(0, 1) - gt) ** 2).mean()))


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    header = read_header(resolve(name))
    pairs = pairs_of(header, folder)
    restorer = load(header, "cpu")
    scores: dict[str, list[Scores]] = {}
    for pair in pairs:
        scene = pair.read()
        result = restorer.run(restorer.request(*scene.lq, **scene_options(restorer, scene, {})))
        for lq, gt, restored in zip(scene.lq, scene.gt, result.images, strict=True):
            entered = restorer.upscale_input(lq)
            holes = (
                np.zeros(lq.pixels.shape[:2], bool)
                if scene.guides is None
                else scene.guides[0, 0].numpy() > 0
            )
            rows: dict[str, refusion.Image] = {"input": entered}
            for method, run in METHODS[name].items():
                rows[method] = from_array(run(entered.pixels, gt.pixels, holes).clip(0, 1).astype(np.float32))
            for row, image in {**rows, f"`{name}`": restored}.items():
                scores.setdefault(row, []).append(score(image, gt))
    print("| | PSNR | SSIM |\n|---|---|---|")
    for row, values in scores.items():
        mean = mean_scores(values)
        print(f"| {row} | {mean.psnr:.2f} | {mean.ssim:.4f} |")


if __name__ == "__main__":
    main()
