"""Patches as pictures: nothing but pixels leaves, nothing but pixels is taken."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from moma_core.errors import MalformedRequestError
from moma_core.teacher.pixel_encoding import RAW, PixelEncoding, read_pictures

SIDE = 24


def _patches(count: int = 2, side: int = SIDE) -> NDArray[np.uint8]:
    draws = np.random.default_rng(0)
    return draws.integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def _saved(image: Image.Image, name: str, **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **settings)
    return file.getvalue()


@pytest.mark.parametrize("text", ["raw", "png", "webp", "jpeg:1", "jpeg:95"])
def test_an_encoding_reads_what_it_writes(text: str) -> None:
    assert str(PixelEncoding.parse(text)) == text
    assert PixelEncoding.parse(text).is_lossy == text.startswith("jpeg")


@pytest.mark.parametrize(
    "text", ["", "gif", "jpeg", "jpeg:0", "jpeg:101", "jpeg:9.5", "png:3", "jpeg:090"]
)
def test_what_is_no_encoding_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no encoding"):
        PixelEncoding.parse(text)


@pytest.mark.parametrize("cores", [1, 6])
@pytest.mark.parametrize("text", ["png", "webp"])
def test_a_lossless_picture_holds_the_very_pixels(
    text: str, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    encoding, pixels = PixelEncoding.parse(text), _patches()

    read = read_pictures(encoding.pictures(pixels), encoding.kind, SIDE)

    np.testing.assert_array_equal(read, pixels)


def test_a_jpeg_is_close_to_its_pixels_and_the_same_every_time() -> None:
    smooth = np.broadcast_to(
        np.linspace(0, 255, SIDE, dtype=np.uint8)[:, None, None], (1, SIDE, SIDE, 3)
    )
    encoding = PixelEncoding("jpeg", 95)

    read = read_pictures(encoding.pictures(smooth), "jpeg", SIDE)

    assert np.abs(read.astype(int) - smooth).max() < 6
    assert encoding.pictures(smooth) == encoding.pictures(smooth)


def test_a_plain_array_is_no_picture() -> None:
    with pytest.raises(ValueError, match="no picture"):
        RAW.pictures(_patches())


def test_a_png_has_no_chunk_but_size_pixels_and_end() -> None:
    (picture,) = PixelEncoding("png").pictures(_patches(1))

    names, place = [], 8
    while place < len(picture):
        (length,) = struct.unpack(">I", picture[place : place + 4])
        names.append(picture[place + 4 : place + 8])
        place += 12 + length

    assert set(names) == {b"IHDR", b"IDAT", b"IEND"}


def test_a_webp_has_no_chunk_but_its_pixels() -> None:
    (picture,) = PixelEncoding("webp").pictures(_patches(1))

    assert picture[8:16] == b"WEBPVP8L"
    (length,) = struct.unpack("<I", picture[16:20])
    assert 20 + length + length % 2 == len(picture)


def test_a_jpeg_has_no_metadata_but_the_fixed_jfif_head() -> None:
    (picture,) = PixelEncoding("jpeg", 90).pictures(_patches(1))

    markers, place = [], 2
    while picture[place + 1] != 0xDA:  # start of the pixels
        markers.append(picture[place + 1])
        (length,) = struct.unpack(">H", picture[place + 2 : place + 4])
        place += 2 + length

    assert set(markers) <= {0xE0, 0xDB, 0xC0, 0xC4}  # JFIF, tables, size, tables
    assert picture[6:11] == b"JFIF\x00"


def _bomb() -> bytes:
    """A PNG of a few hundred bytes that says it has 2 gigapixels."""
    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = b""
    for name, body in ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(100)))):
        crc = zlib.crc32(name + body)
        chunks += struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc)
    return b"\x89PNG\r\n\x1a\n" + chunks


def _with_text() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("c", "x" * 60_000_000, zip=True)
    return _saved(Image.fromarray(_patches(1)[0]), "PNG", pnginfo=info)


def _animated() -> bytes:
    frames = [Image.fromarray(patch) for patch in _patches(2)]
    return _saved(frames[0], "PNG", save_all=True, append_images=frames[1:])


def _damaged() -> bytes:
    (picture,) = PixelEncoding("png").pictures(_patches(1))
    return picture[:-80]


WRONG: dict[str, Callable[[], bytes]] = {
    "a bomb": _bomb,
    "damaged": _damaged,
    "animated": _animated,
    "a bomb of text": _with_text,
    "nothing": lambda: b"",
    "no picture": lambda: b"/data/patients/p-0042",
    "of another size": lambda: PixelEncoding("png").pictures(_patches(1, 16))[0],
    "of another kind": lambda: PixelEncoding("webp").pictures(_patches(1))[0],
    "grey": lambda: _saved(Image.new("L", (SIDE, SIDE)), "PNG"),
    "with transparency": lambda: _saved(Image.new("RGBA", (SIDE, SIDE)), "PNG"),
    "with a palette": lambda: _saved(Image.new("P", (SIDE, SIDE)), "PNG"),
    "of 16 bits": lambda: _saved(Image.new("I;16", (SIDE, SIDE)), "PNG"),
    "with a tail": lambda: (
        PixelEncoding("png").pictures(_patches(1))[0] + bytes(10_000)
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_picture_that_breaks_the_contract_is_refused_in_our_words(name: str) -> None:
    good = PixelEncoding("png").pictures(_patches(1))

    with pytest.raises(MalformedRequestError) as error:
        read_pictures([*good, WRONG[name]()], "png", SIDE)

    assert str(error.value).startswith(("a PNG picture", "patches are", "a picture is"))
    assert "p-0042" not in str(error.value)
