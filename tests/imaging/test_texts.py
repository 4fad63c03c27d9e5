"""Texts in PNG and comments in JPEG: kept where they can be, as they are, and told where they cannot."""

import io
import struct
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest
from pictures import RGB, same

from refusion.imaging.arrays import from_array
from refusion.imaging.containers import jpeg_segments, png_chunks
from refusion.imaging.formats import SUFFIXES, decode, encode, unkept
from refusion.imaging.metadata import Metadata, embed

TEXTS = {"Title": "Dawn", "Author": "Zoë", "Copyright": "(c) 2020", "Comment": "long " * 400}


def png_of_texts() -> bytes:
    texts = PIL.PngImagePlugin.PngInfo()
    for number, (key, value) in enumerate(TEXTS.items()):
        texts.add_text(key, value, zip=number == 3)
    texts.add_itxt("Description", "Ζωή", lang="el", zip=True)
    stream = io.BytesIO()
    PIL.Image.fromarray(RGB).save(stream, "PNG", pnginfo=texts)
    return stream.getvalue()


def jpeg_of_comments(*comments: bytes) -> bytes:
    data = encode(from_array(RGB), ".jpg")
    parts = (b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment for comment in comments)
    return data[:2] + b"".join(parts) + data[2:]


def test_texts_of_png_are_kept() -> None:
    image = decode(png_of_texts())
    written = encode(image, ".png")
    with PIL.Image.open(io.BytesIO(written)) as opened:
        opened.load()
        assert opened.text == {**TEXTS, "Description": "Ζωή"}  # type: ignore[attr-defined]
    again = decode(written)
    assert same(again, image)
    assert again.metadata == image.metadata
    assert unkept(image, ".PNG") == ()


def test_comments_of_jpeg_are_kept() -> None:
    comments = (b"by Ann", b"caf\xe9 \0\xff" + bytes(1000), b"x" * 65533)
    image = decode(jpeg_of_comments(*comments))
    written = encode(image, ".jpg")
    assert tuple(content for marker, content in jpeg_segments(written) if marker == 0xFE) == comments
    with PIL.Image.open(io.BytesIO(written)) as opened:
        opened.load()
    assert decode(written).metadata == image.metadata
    assert unkept(image, ".jpeg") == ()


@pytest.mark.parametrize("target", SUFFIXES)
def test_what_cannot_be_kept_is_told_and_strip_removes_all(target: str) -> None:
    for data, kept in ((png_of_texts(), (".png",)), (jpeg_of_comments(b"by Ann"), (".jpg", ".jpeg"))):
        image = decode(data)
        again = decode(encode(image, target)).metadata
        if target in kept:
            assert again == image.metadata
            assert unkept(image, target) == ()
        else:
            assert again == Metadata()
            (notice,) = unkept(image, target)
            assert notice.key == "metadata-lost"
            assert notice.text.endswith(f"{kept[0]} can hold all")
        stripped = replace(image, metadata=image.metadata.stripped())
        assert decode(encode(stripped, target)).metadata == Metadata()
        assert unkept(stripped, target) == ()


def test_packed_texts_are_never_unpacked() -> None:
    bomb = b"Comment\0\0" + zlib.compress(bytes(2**24), 9)
    data = encode(from_array(RGB), ".png")
    chunk = struct.pack(">I", len(bomb)) + b"zTXt" + bomb + struct.pack(">I", zlib.crc32(b"zTXt" + bomb))
    data = data[:33] + 4 * chunk + data[33:]
    tracemalloc.start()
    image = decode(data)
    written = encode(image, ".png")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert [content for kind, content in png_chunks(written) if kind == b"zTXt"] == 4 * [bomb]


def test_blocks_that_programs_hide_in_texts_are_left_out() -> None:
    texts = PIL.PngImagePlugin.PngInfo()
    texts.add_text("Raw profile type exif", "\nexif\n 8\n4949 2a00", zip=True)
    texts.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>")
    stream = io.BytesIO()
    PIL.Image.fromarray(RGB).save(stream, "PNG", pnginfo=texts)
    metadata = decode(stream.getvalue()).metadata
    assert metadata.texts == ()
    assert metadata.xmp == b"<x:xmpmeta/>"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_an_encoder_returned_is_not_copied(suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (160, 256, 3), dtype=np.uint8)
    image = from_array(noise)
    data = encode(image, suffix)
    assert len(data) > 2**15
    with PIL.Image.open(io.BytesIO(png_of_texts())) as opened:
        exif = opened.getexif()
        exif[271] = "Maker"
    metadata = Metadata(exif.tobytes().removeprefix(b"Exif\0\0"), texts=((b"tEXt", b"a\0b"),))
    tracemalloc.start()
    parts = embed(data, metadata, suffix, image.size, False)
    assert tracemalloc.get_traced_memory()[1] < 2**14
    tracemalloc.stop()
    assert same(decode(b"".join(parts)), decode(data))
