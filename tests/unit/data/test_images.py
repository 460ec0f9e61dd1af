import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moma_core.data.images import check_size, decode_rgb
from moma_core.errors import DataError
from tests.support.machine.pictures import noise, write_picture


def test_a_lossless_image_comes_back_pixel_by_pixel(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.png", seed=3)

    assert np.array_equal(decode_rgb(path), noise(3))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK"])
def test_any_eight_bit_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(noise(0)).convert(mode if mode != "LA" else "L").convert(mode).save(
        path
    )

    pixels = decode_rgb(path)

    assert pixels.shape == (16, 16, 3)
    assert pixels.dtype == np.uint8


def test_an_orientation_in_the_exif_data_is_dropped(tmp_path: Path) -> None:
    pixels = noise(0, height_px=16, width_px=24)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter when shown
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)

    assert np.array_equal(decode_rgb(tmp_path / "a.png"), pixels)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("hidden", [(0, 0, 0), (255, 0, 0)])
def test_transparent_pixels_are_white_and_opaque_ones_as_they_are(
    tmp_path: Path, suffix: str, hidden: tuple[int, int, int]
) -> None:
    pixels = np.dstack([noise(0), np.full((16, 16), 255, np.uint8)])
    pixels[:8] = (*hidden, 0)  # (0, 0, 0, 0) is what OpenSlide gives for no tissue
    path = tmp_path / f"a{suffix}"
    Image.fromarray(pixels).save(path, lossless=True)

    found = decode_rgb(path)

    assert (found[:8] == 255).all()
    assert np.array_equal(found[8:], noise(0)[8:])


def test_half_transparent_pixels_are_half_white(tmp_path: Path) -> None:
    Image.new("RGBA", (16, 16), (0, 100, 200, 128)).save(tmp_path / "a.png")

    assert decode_rgb(tmp_path / "a.png")[0, 0].tolist() == [127, 177, 227]


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_colour_that_stands_for_transparent_is_white(
    tmp_path: Path, mode: str
) -> None:
    black = (0, 0, 0) if mode == "RGB" else 0
    image = Image.new(mode, (16, 16), black)
    if mode == "P":
        image.putpalette([0, 0, 0, 9, 9, 9])
    image.save(tmp_path / "a.png", transparency=black)

    assert (decode_rgb(tmp_path / "a.png") == 255).all()


def test_a_palette_gives_its_colours(tmp_path: Path) -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.save(tmp_path / "a.png")

    assert (decode_rgb(tmp_path / "a.png") == (200, 100, 50)).all()


def test_cmyk_becomes_rgb_without_its_profile(tmp_path: Path) -> None:
    image = Image.new("CMYK", (16, 16), (0, 128, 0, 0))
    image.save(tmp_path / "a.tif", icc_profile=b"of some printer")

    assert (decode_rgb(tmp_path / "a.tif") == (255, 127, 255)).all()


def test_a_tiled_tiff_is_read(tmp_path: Path) -> None:
    pixels = noise(0, height_px=64, width_px=64)
    tifffile = pytest.importorskip(
        "tifffile", reason="writes tiles; comes with skimage"
    )
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(32, 32), photometric="rgb")

    assert np.array_equal(decode_rgb(tmp_path / "a.tif"), pixels)


@pytest.mark.parametrize("suffix", [".tif", ".png", ".webp"])
def test_pages_and_frames_are_refused(tmp_path: Path, suffix: str) -> None:
    first, *others = (Image.fromarray(noise(seed)) for seed in range(3))
    first.save(tmp_path / f"a{suffix}", save_all=True, append_images=others)

    with pytest.raises(DataError, match="has 3 pages or frames, a patch is one"):
        decode_rgb(tmp_path / f"a{suffix}")


def _sixteen_bit_png(colour_type: int, channels: int) -> bytes:
    """Returns a PNG as Pillow reads it and does not write it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", 16, 16, 16, colour_type, 0, 0, 0)
    lines = (b"\0" + bytes(16 * channels * 2)) * 16
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_in_a_png_are_refused(
    tmp_path: Path, colour_type: int, channels: int
) -> None:
    (tmp_path / "a.png").write_bytes(_sixteen_bit_png(colour_type, channels))

    with pytest.raises(DataError, match="16 bits a channel, expected 8-bit RGB"):
        decode_rgb(tmp_path / "a.png")


@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 3)])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_sixteen_bits_in_a_tiff_are_refused(
    tmp_path: Path, shape: tuple[int, ...], compression: str | None
) -> None:
    tifffile = pytest.importorskip("tifffile", reason="writes 16 bits; with skimage")
    photometric = "rgb" if len(shape) == 3 else "minisblack"
    pixels = np.full(shape, 4000, np.uint16)
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, photometric=photometric, compression=compression
    )

    with pytest.raises(DataError, match="16 bits a channel, expected 8-bit RGB"):
        decode_rgb(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("1", "one bit a pixel"),
        ("F", "floating-point"),
        ("I", "32 bits"),
        ("LAB", "LAB"),
    ],
)
def test_other_pixels_are_refused_by_their_kind(
    tmp_path: Path, mode: str, message: str
) -> None:
    Image.new(mode, (16, 16)).save(tmp_path / "a.tif")

    with pytest.raises(DataError, match=message):
        decode_rgb(tmp_path / "a.tif")


@pytest.mark.parametrize("keep_bytes", [0, 10, 200])
def test_a_damaged_image_is_refused_without_its_name(
    tmp_path: Path, keep_bytes: int
) -> None:
    path = write_picture(tmp_path / "patient-7.png")
    path.write_bytes(path.read_bytes()[:keep_bytes])

    with pytest.raises(DataError) as caught:
        decode_rgb(path)

    assert "patient-7" not in str(caught.value)


def test_a_missing_image_is_refused_without_its_name(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        decode_rgb(tmp_path / "patient-7.png")

    assert "patient-7" not in str(caught.value)


@pytest.mark.parametrize("factor", [1.5, 3.0])
def test_a_decompression_bomb_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    path = write_picture(tmp_path / "a.png", side_px=60)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(3600 / factor))

    with pytest.raises(DataError, match="far more pixels than a patch"):
        decode_rgb(path)


def test_an_image_larger_than_any_patch_is_refused_before_decoding(
    tmp_path: Path,
) -> None:
    Image.new("L", (5000, 10)).save(tmp_path / "a.png")

    with pytest.raises(DataError, match="5000x10 px"):
        decode_rgb(tmp_path / "a.png")


def test_a_format_beyond_the_list_is_refused(tmp_path: Path) -> None:
    Image.fromarray(noise(0)).save(tmp_path / "a.png", format="GIF")

    with pytest.raises(DataError, match="no image of a known format"):
        decode_rgb(tmp_path / "a.png")


def test_a_patch_of_another_size_than_expected_is_refused() -> None:
    with pytest.raises(DataError, match="24x16 px, expected 16x16"):
        check_size(16, 24, 16)
