"""Colour that a file tells otherwise than by an ICC profile, as an ICC profile; conversion of grey profiles.

PNG: the chunks cICP, and gAMA and cHRM; AVIF: nclx, else the coded picture; EXIF: the tags of Adobe RGB. The
numbers of the picture stay as they are: the profile that is made says what they mean, and every format can
hold it.
"""

import struct
from collections.abc import Sequence

import numpy as np
import pyvips
from jaxtyping import Float, Shaped

from refusion.errors import ImageError
from refusion.imaging import containers, tiff
from refusion.imaging.av1 import sequence_colour
from refusion.imaging.tiff import Directory

Chromaticities = tuple[float, float, float, float, float, float, float, float]
"""x and y of red, green, blue and white."""

_D65 = (0.3127, 0.3290)
SRGB: Chromaticities = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, *_D65)
ADOBE: Chromaticities = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06, *_D65)
ADOBE_GAMMA = 563 / 256
_PRIMARIES: dict[int, Chromaticities] = {  # ITU-T H.273, table 2
    1: SRGB,
    4: (0.67, 0.33, 0.21, 0.71, 0.14, 0.08, 0.310, 0.316),
    5: (0.64, 0.33, 0.29, 0.60, 0.15, 0.06, *_D65),
    6: (0.63, 0.34, 0.31, 0.595, 0.155, 0.07, *_D65),
    7: (0.63, 0.34, 0.31, 0.595, 0.155, 0.07, *_D65),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, *_D65),
    11: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.314, 0.351),
    12: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, *_D65),
}
_VIDEO_CURVES = {1, 2, 6, 13, 14, 15}  # shown by viewers as sRGB's
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
_HDR = {16: "PQ", 18: "HLG"}
UNSPECIFIED = 2


def srgb_curve(values: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
    """Return the linear light of sRGB's values in [0, 1], IEC 61966-2-1."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def told_profile(
    data: bytes, exif: Directory | None, grey: bool, icc: bytes | None, name: str
) -> bytes | None:
    """Return the ICC profile that a file means: its own, or one made of what it tells; None for sRGB.

    Args:
        data: the file.
        exif: the directory of its EXIF.
        grey: whether the picture is grey.
        icc: the profile in the file.
        name: of the picture, for messages.

    Raises:
        ImageError: the file is coded for HDR displays, by PQ or HLG.
    """
    if data.startswith(b"\x89PNG"):
        return _png_profile(data, grey, icc, name)
    if data[4:8] == b"ftyp":
        nclx = avif_colour(data)
        return icc if icc or nclx is None else _code_profile(nclx[0], nclx[1], grey, name)
    return _exif_profile(exif, grey) if icc is None and exif is not None else icc


def avif_colour(data: bytes) -> tuple[int, int, bool] | None:
    """Return the numbers of primaries and curve of an AVIF file, and whether its range is full.

    They stand in a box nclx, else in the coded picture; None if they are in neither.
    """
    for kind, content in containers.avif_properties(data):
        if kind == b"colr" and content[:4] == b"nclx" and len(content) >= 11:
            primaries, curve = struct.unpack_from(">HH", content, 4)
            return primaries, curve, bool(content[10] & 0x80)
    return sequence_colour(data)


def is_monochrome(data: bytes) -> bool:
    """Return whether the first picture of an AVIF file is coded without colour."""
    codec = next((content for kind, content in containers.avif_properties(data) if kind == b"av1C"), b"")
    return len(codec) > 2 and bool(codec[2] & 0x10)


def _png_profile(data: bytes, grey: bool, icc: bytes | None, name: str) -> bytes | None:
    chunks: dict[bytes, bytes] = {}
    for kind, content in containers.png_chunks(data):
        if kind == b"IDAT":
            break
        chunks.setdefault(kind, content)
    cicp = chunks.get(b"cICP", b"")
    if len(cicp) == 4:
        return _code_profile(cicp[0], cicp[1], grey, name)
    if icc or b"sRGB" in chunks or len(chunks.get(b"gAMA", b"")) != 4:
        return icc
    gamma = int.from_bytes(chunks[b"gAMA"], "big") / 100000
    if not 0.1 <= gamma <= 10:
        return None
    primaries = SRGB
    if len(chunks.get(b"cHRM", b"")) == 32:
        white_x, white_y, *rest = (value / 100000 for value in struct.unpack(">8I", chunks[b"cHRM"]))
        primaries = (*rest, white_x, white_y)  # type: ignore[assignment]
    is_srgb = max(abs(a - b) for a, b in zip(primaries, SRGB, strict=True)) < 0.005
    if abs(gamma - 0.45455) < 0.005 and (grey or is_srgb):
        return None
    return made_profile(primaries, 1 / gamma, grey)


def _code_profile(primaries: int, curve: int, grey: bool, name: str) -> bytes | None:
    if curve in _HDR:
        raise ImageError(f"{name} is coded for HDR displays ({_HDR[curve]}): convert it to SDR first")
    gamma = None if curve in _VIDEO_CURVES else _GAMMAS.get(curve)
    chromaticities = _PRIMARIES.get(primaries, SRGB)
    if gamma is None and (grey or chromaticities == SRGB):
        return None
    return made_profile(chromaticities, gamma, grey)


def _exif_profile(exif: Directory, grey: bool) -> bytes | None:
    camera = exif.inner.get(tiff.EXIF)
    if camera is None:
        return None
    space = camera.number(0xA001, 1)
    interoperability = camera.inner.get(tiff.INTEROPERABILITY)
    index = interoperability.entries.get(1) if interoperability else None
    r03 = index is not None and index.value.startswith(b"R03")
    return made_profile(ADOBE, ADOBE_GAMMA, grey) if space == 2 or (space != 1 and r03) else None


def made_profile(primaries: Chromaticities, gamma: float | None, grey: bool) -> bytes | None:
    """Return an ICC profile (version 2.4) of primaries and a curve.

    Args:
        primaries: chromaticities of red, green, blue and white; only white counts for grey.
        gamma: the exponent of linear light; None for sRGB's curve.
        grey: whether it is for a grey picture.

    Returns:
        The profile; None if the primaries are no triangle.
    """
    if gamma is None:
        table = np.rint(srgb_curve(np.linspace(0, 1, 1024)) * 65535).astype(">u2").tobytes()
        curve = b"curv" + struct.pack(">II", 0, 1024) + table
    elif gamma == 1:
        curve = b"curv" + struct.pack(">II", 0, 0)
    else:
        # One number of 8.8 bits is too coarse for 1 / 0.45: a table, unless it is exact.
        exact = (gamma * 256).is_integer()
        table = np.rint(np.linspace(0, 1, 4096) ** gamma * 65535).astype(">u2").tobytes()
        if exact:
            curve = b"curv" + struct.pack(">IIH", 0, 1, int(gamma * 256))
        else:
            curve = b"curv" + struct.pack(">II", 0, 4096) + table
    white = (0.9642, 1.0, 0.8249)
    if grey:
        return _profile(b"GRAY", {b"wtpt": _xyz(white), b"kTRC": curve})
    colorants = _colorants(primaries)
    if colorants is None:
        return None
    tags = {b"wtpt": _xyz(white)}
    for channel, colorant in zip(b"rgb", colorants.T, strict=True):
        tags[bytes([channel]) + b"XYZ"] = _xyz(colorant)
        tags[bytes([channel]) + b"TRC"] = curve
    return _profile(b"RGB ", tags)


def _colorants(primaries: Chromaticities) -> Float[np.ndarray, "3 3"] | None:
    """Return XYZ of red, green and blue as columns, adapted to D50 by Bradford's matrix."""
    x, y = np.array(primaries[0::2]), np.array(primaries[1::2])
    if min(y) <= 0:
        return None
    xyz = np.stack([x / y, np.ones(4), (1 - x - y) / y])
    if abs(np.linalg.det(xyz[:, :3])) < 1e-6:
        return None
    scales = np.linalg.solve(xyz[:, :3], xyz[:, 3])
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    ratio = (bradford @ np.array([0.9642, 1, 0.8249])) / (bradford @ xyz[:, 3])
    adapted: Float[np.ndarray, "3 3"] = (
        np.linalg.solve(bradford, ratio[:, None] * bradford) @ xyz[:, :3] * scales
    )
    return adapted


def _xyz(values: Sequence[float] | Float[np.ndarray, " 3"]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(float(value) * 65536) for value in values))


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    title = b"Colour as the file told it\0"
    text = b"desc" + struct.pack(">II", 0, len(title)) + title + bytes(78)
    parts = {b"desc": text, b"cprt": b"text" + bytes(4) + b"No copyright\0", **tags}
    table, body = struct.pack(">I", len(parts)), b""
    start = 128 + 4 + 12 * len(parts)
    places: dict[bytes, int] = {}
    for tag, content in parts.items():
        if content not in places:
            places[content] = start + len(body)
            body += content + bytes(-len(content) % 4)
        table += tag + struct.pack(">II", places[content], len(content))
    head = struct.pack(">I4xI4s4s4s", 128 + len(table + body), 0x02400000, b"mntr", space, b"XYZ ")
    head += (
        struct.pack(">6H", 2026, 1, 1, 0, 0, 0)
        + b"acsp"
        + bytes(28)
        + struct.pack(">3i", 63190, 65536, 54061)
    )
    return head.ljust(128, b"\0") + table + body


def grey_as_srgb(values: Float[np.ndarray, "h w"], icc: bytes) -> Float[np.ndarray, "h w"] | None:
    """Return grey values in [0, 1] of a grey profile as sRGB's; None if the profile is damaged."""
    samples = np.rint(values * 65535).astype(np.uint16)
    picture = pyvips.Image.new_from_array(samples, interpretation="grey16").copy()
    picture.set_type(pyvips.GValue.blob_type, "icc-profile-data", icc)
    try:
        colour: Shaped[np.ndarray, "h w c"] = picture.icc_transform(
            "srgb", embedded=True, intent="relative", depth=16
        ).numpy()
    except pyvips.Error:
        return None
    converted: Float[np.ndarray, "h w"] = colour.reshape(*values.shape, -1)[..., 1].astype(np.float32)
    converted /= np.float32(65535)
    return converted
