from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moma_core.data.images import check_size, decode_rgb
from moma_core.data.listing import list_images
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
    image = Image.fromarray(noise(0, height_px=16, width_px=24))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter when shown
    image.save(tmp_path / "a.png", exif=exif)

    assert decode_rgb(tmp_path / "a.png").shape == (16, 24, 3)


def test_sixteen_bit_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((16, 16), np.uint16)).save(tmp_path / "a.png")

    with pytest.raises(DataError, match="expected 8-bit RGB"):
        decode_rgb(tmp_path / "a.png")


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


def test_images_are_listed_sorted_without_hidden_and_other_files(
    tmp_path: Path,
) -> None:
    for name in ("b/2.png", "b/1.JPG", "a.tif", ".hidden.png", ".dir/x.png", "n.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    assert list(list_images(tmp_path)) == ["a.tif", "b/1.JPG", "b/2.png"]
