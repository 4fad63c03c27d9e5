"""Arrays, tensors, PIL pictures and files are one kind of picture, or an error in one line."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from pictures import EVERY_16, RGB, RGB16, SMOOTH, said, same

from refusion.imaging.arrays import as_image, from_array
from refusion.imaging.formats import write


def test_array_types() -> None:
    as_float = RGB / 255
    for array in (as_float, as_float.astype(np.float32), RGB.astype(np.uint16) * 257):
        np.testing.assert_allclose(from_array(array).pixels, from_array(RGB).pixels, atol=1e-7)
        assert from_array(array).depth == 16
    assert from_array(RGB).depth == from_array(RGB > 99).depth == 8
    assert from_array(RGB > 99).pixels.max() == 1
    np.testing.assert_array_equal(
        from_array(RGB16.astype(">u2")[::-1]).pixels, from_array(RGB16).pixels[::-1]
    )
    image = from_array(RGB)
    assert from_array(image) is image


def test_an_image_does_not_share_its_array() -> None:
    array = SMOOTH.copy()
    image = from_array(array)
    array[:] = 0
    np.testing.assert_array_equal(image.pixels, SMOOTH)


def test_tensors() -> None:
    for tensor in (torch.from_numpy(RGB), torch.from_numpy(RGB) / 255):
        np.testing.assert_allclose(
            from_array(tensor.permute(2, 0, 1)).pixels, from_array(RGB).pixels, atol=1e-7
        )
    half = torch.rand(3, 4, 5, dtype=torch.bfloat16, requires_grad=True)
    np.testing.assert_array_equal(from_array(half).pixels, half.detach().float().permute(1, 2, 0).numpy())


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "RGBX", "RGBa", "La", "PA"])
def test_odd_pil_modes(mode: str) -> None:
    grey = mode == "La"
    source = PIL.Image.fromarray(RGB).convert("LA" if grey else "RGBA" if mode in ("RGBa", "PA") else "RGB")
    image = from_array(
        source.convert("RGB").convert("P").convert("PA") if mode == "PA" else source.convert(mode)
    )
    tolerance = {"HSV": 0.05, "YCbCr": 0.02, "PA": 1}.get(mode, 0)
    np.testing.assert_allclose(image.pixels, from_array(source).pixels, atol=tolerance)
    assert (image.grey, image.alpha is not None) == (grey, mode in ("RGBa", "La", "PA"))


def test_deep_pil_modes() -> None:
    deep = EVERY_16.copy()
    for source in (
        PIL.Image.fromarray(deep),
        PIL.Image.fromarray(deep.astype(">u2")),
        PIL.Image.fromarray(deep.astype(np.int32)),
        PIL.Image.fromarray(deep.astype(np.float32) / 65535),
    ):
        assert same(from_array(source), from_array(deep)), source.mode


class Linked:
    """A path of another library."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


@pytest.mark.parametrize("kind", [str, Path, Linked])
def test_the_path_of_a_file_is_the_picture_in_it(tmp_path: Path, kind: type) -> None:
    write(from_array(RGB16), tmp_path / "a.png")
    assert same(as_image(kind(tmp_path / "a.png")), from_array(RGB16))
    message = said(as_image, kind(tmp_path / "none.png"))
    assert message.startswith(f"{tmp_path / 'none.png'} does not exist")


def test_every_kind_of_picture_is_an_image() -> None:
    image = from_array(RGB)
    assert as_image(image) is image
    for picture in (RGB, PIL.Image.fromarray(RGB), torch.from_numpy(RGB).permute(2, 0, 1)):
        assert same(as_image(picture), image)
    assert "(3, 24, 40)" in said(as_image, RGB.transpose(2, 0, 1))


@pytest.mark.slow
def test_pil_is_not_imported() -> None:
    code = "import sys, refusion.imaging.arrays, refusion.imaging.formats; sys.exit('PIL' in sys.modules)"
    path = os.pathsep.join(entry for entry in sys.path if entry)
    assert (
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}).returncode == 0
    )


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (RGB.astype(np.float32), "spans 0 to 255: expected [0, 1]"),
        (np.full((4, 4), np.nan), "nan"),
        (SMOOTH - 1e-3, "spans -0.001"),
        (RGB.astype(np.int64), "int64"),
        (RGB.transpose(2, 0, 1), "(3, 24, 40)"),
        (np.zeros((2, 8, 8, 3), np.uint8), "(2, 8, 8, 3)"),
        (np.zeros((0, 8, 3), np.uint8), "(0, 8, 3)"),
        (np.uint8(3), "()"),
        ("photo.jpg", "<U9"),
        (torch.zeros(1, 3, 8, 8), "(1, 3, 8, 8)"),
        (torch.zeros(24, 40, 3), "(24, 40, 3)"),
        (PIL.Image.new("LAB", (8, 8)), "LAB"),
        (PIL.Image.fromarray(np.full((4, 4), 70000, np.int32)), "int32"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_strange_arrays(array: object, words: str) -> None:
    assert words in said(from_array, array)
