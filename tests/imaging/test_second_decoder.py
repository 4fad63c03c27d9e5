"""A corpus of modes, formats and tags, read by us and by Pillow or tifffile: equal pixels, or a refusal."""

import io
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile
from pictures import RGB, RGB16, SRGB, X, Y

from refusion.errors import ImageError
from refusion.imaging.formats import decode

SMOOTH = np.rint(255 * np.stack([X, Y, 1 - X], axis=2)).astype(np.uint8)
MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16"]


def picture(mode: str) -> PIL.Image.Image:
    if mode == "I;16":
        return PIL.Image.fromarray(RGB16[..., 0])
    if mode in ("LA", "RGBA", "PA"):
        alpha = PIL.Image.fromarray(RGB[..., 1])
        base = PIL.Image.fromarray(RGB)
        base.putalpha(alpha)
        return base.convert(mode)
    return PIL.Image.fromarray(RGB).convert(mode)


def tags() -> Iterator[tuple[str, dict[str, Any]]]:
    exif = PIL.Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    yield "plain", {}
    yield "orientation", {"exif": exif}
    yield "resolution", {"dpi": (300, 150)}
    yield "profile", {"icc_profile": SRGB}


LAYOUTS: dict[str, list[dict[str, Any]]] = {
    "PNG": [{}, {"bits": 4}, {"optimize": True}],
    "TIFF": [{"compression": name} for name in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits")]
    + [{"big_tiff": True}, {"tiffinfo": {317: 2}, "compression": "tiff_lzw"}, {"strip_size": 200}],
    "WEBP": [{"lossless": True, "exact": True}],
}


def corpus() -> Iterator[Any]:
    for form, layouts in LAYOUTS.items():
        for mode, layout, (label, tag) in itertools.product(MODES, layouts, tags()):
            stream = io.BytesIO()
            try:
                picture(mode).save(stream, form, **layout, **tag)
            except (OSError, ValueError, KeyError):
                continue  # Pillow cannot write it
            yield pytest.param(stream.getvalue(), id=f"{form}-{mode}-{layout}-{label}")


def by_pillow(data: bytes) -> np.ndarray:
    """RGBA in [0, 1], upright."""
    from PIL import ImageOps

    with PIL.Image.open(io.BytesIO(data)) as opened:
        turned = ImageOps.exif_transpose(opened)
    if turned.mode.startswith("I"):
        grey = np.asarray(turned).astype(np.float64)[..., None] / 65535
        return np.concatenate([grey, grey, grey, np.ones_like(grey)], axis=2)
    return np.asarray(turned.convert("RGBA")) / 255


def by_us(data: bytes) -> np.ndarray | None:
    try:
        image = decode(data)
    except ImageError:
        return None
    alpha = np.ones(image.pixels.shape[:2]) if image.alpha is None else image.alpha
    return np.dstack([image.pixels, alpha])


@pytest.mark.slow
def test_lossless_files_are_read_as_by_pillow() -> None:
    refused, count = [], 0
    for case in corpus():
        count += 1
        ours = by_us(case.values[0])
        if ours is None:
            refused.append(case.id)
        else:
            np.testing.assert_allclose(ours, by_pillow(case.values[0]), atol=1e-6, err_msg=str(case.id))
    assert count > 150
    assert not refused


@pytest.mark.parametrize("form", ["JPEG", "AVIF", "WEBP"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_lossy_files_are_read_nearly_as_by_pillow(form: str, mode: str, subsampling: str) -> None:
    if form == "JPEG" and mode == "RGBA":
        return
    for _, tag in tags():
        stream = io.BytesIO()
        options = {} if form == "WEBP" else {"subsampling": subsampling}
        smooth = PIL.Image.fromarray(SMOOTH)
        if mode == "RGBA":
            smooth.putalpha(PIL.Image.fromarray(SMOOTH[..., 2]))
        smooth.convert(mode).save(stream, form, quality=95, **options, **tag)
        ours = by_us(stream.getvalue())
        assert ours is not None
        np.testing.assert_allclose(ours, by_pillow(stream.getvalue()), atol=0.03)


KINDS = [
    {"photometric": photometric, "compression": compression, "byteorder": order, **layout}
    for photometric in ("minisblack", "miniswhite", "rgb")
    for compression in (None, "zlib", "lzw", "packbits")
    for order in "<>"
    for layout in (
        {},
        {"tile": (16, 32)},
        {"rowsperstrip": 7},
        {"planarconfig": "separate"},
        {"predictor": True},
    )
]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, bool])
def test_tiff_layouts_are_read_as_by_tifffile(dtype: type) -> None:
    count = 0
    for kind in KINDS:
        samples = {np.uint8: RGB, np.uint16: RGB16, np.float32: RGB.astype(np.float32) / 255}.get(
            dtype, RGB > 99
        )
        white = {np.uint8: 255, np.uint16: 65535}.get(dtype, 1)
        grey = kind["photometric"] != "rgb"
        chosen = samples[..., 0] if grey else samples
        if not grey and kind.get("planarconfig"):
            chosen = np.moveaxis(samples, 2, 0)
        stream = io.BytesIO()
        try:
            tifffile.imwrite(stream, chosen, metadata=None, **kind)
        except (ValueError, TypeError, KeyError, NotImplementedError, RuntimeError):
            continue  # tifffile cannot write it
        try:
            image = decode(stream.getvalue())
        except ImageError:
            assert dtype is bool or kind["photometric"] == "miniswhite" or kind.get("predictor"), kind
            continue
        count += 1
        expected = samples.astype(np.float64) / white
        expected = expected[..., :1].repeat(3, axis=2) if grey else expected
        if kind["photometric"] == "miniswhite":
            expected = 1 - expected
        np.testing.assert_allclose(image.pixels, expected, atol=1e-6, err_msg=str(kind))
    assert count >= 4
