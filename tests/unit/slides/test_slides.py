"""Opening whole slides, whatever wrote them, and reading patches from them."""

import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moma_core.data.resolution import look_at_mpp
from moma_core.errors import ConfigError, DataError
from moma_core.slides.grid import PatchGrid
from moma_core.slides.open import is_slide, list_slides, open_slide, slide_name
from moma_core.slides.pool import SlidePool
from moma_core.slides.tiff_file import TiffFile
from tests.support.slides.pictures import (
    GLASS,
    STROMA,
    TUMOUR,
    damage_level,
    painted,
    write_dicom,
    write_ome,
    write_tiff,
)

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "slides"


def _real(name: str) -> Path:
    if not (REAL / name).is_file():
        pytest.skip(f"{name} is not in shared/data/slides")
    return REAL / name


def _is(pixels: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(pixels.reshape(-1, 3).mean(0) - colour).max() < 6)


def test_an_aperio_slide_states_its_size_and_microns() -> None:
    with open_slide(_real("CMU-1-Small-Region.svs")) as slide:
        picture = slide.thumbnail(300)

        assert (slide.width_px, slide.height_px, slide.mpp) == (2220, 2967, 0.499)
        assert picture.shape == (300, 225, 3)
        assert slide.read_square(900, 1500, 512, 224).shape == (224, 224, 3)


def test_a_slide_in_jpeg_2000_without_microns_takes_those_it_is_given() -> None:
    path = _real("TCGA-CR-7395-01A-01-TS1.svs")

    with open_slide(path) as slide:
        assert slide.mpp is None
        assert len(slide.levels) == 2
    with open_slide(path, 0.25) as slide:
        assert slide.mpp == 0.25


@pytest.mark.parametrize("write", [write_ome, write_tiff])
def test_a_patch_is_the_same_from_every_level(tmp_path: Path, write: object) -> None:
    path = tmp_path / "a.ome.tif" if write is write_ome else tmp_path / "a.tif"
    write(path, painted(), 0.5)  # type: ignore[operator]

    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(0.5)
        assert [round(level.downsample) for level in slide.levels] == [1, 4]
        for side, size in ((256, 256), (512, 64), (300, 128)):
            patch = slide.read_square(850, 300, side, size)
            assert patch.shape == (size, size, 3)
            assert _is(patch, TUMOUR)


def test_what_lies_outside_a_slide_is_white(tmp_path: Path) -> None:
    for path in (
        write_ome(tmp_path / "a.ome.tif", painted()),
        write_tiff(tmp_path / "b.tif", painted()),
    ):
        with open_slide(path) as slide:
            patch = slide.read_square(-100, -100, 200, 200)

        assert (patch[:100] == 255).all()
        assert _is(patch[100:, 100:], GLASS)


def test_a_folder_of_dicom_is_one_slide_and_so_is_its_file(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    file = write_dicom(folder / "1.dcm", painted())

    for path in (folder, file):
        with open_slide(path) as slide:
            assert (slide.width_px, slide.height_px, slide.mpp) == (1600, 1200, 0.5)
            assert _is(slide.read_square(850, 300, 256, 64), TUMOUR)
            assert (slide.read_square(-200, -200, 200, 50) == 255).all()
            assert slide.thumbnail(400).shape == (300, 400, 3)


def test_an_ome_tiff_without_microns_has_none(tmp_path: Path) -> None:
    with open_slide(write_ome(tmp_path / "a.ome.tiff", painted(), None)) as slide:
        assert slide.mpp is None


def test_a_resolution_that_no_microscope_has_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"  # of OME the metadata decide

    with TiffFile.open(write_tiff(path, painted(), 25_400 / 72)) as slide:
        assert slide.mpp is None


def test_what_training_warns_of_is_believed_of_a_file(tmp_path: Path) -> None:
    assert list(look_at_mpp("patches state", 10))  # a lens's magnification

    with TiffFile.open(write_tiff(tmp_path / "a.tif", painted(), 10)) as slide:
        assert slide.mpp == pytest.approx(10)


def test_a_damaged_level_is_passed_over_for_a_larger_one(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", painted(), 0.5)
    damage_level(path, 1)

    with open_slide(path) as slide:
        with pytest.raises(DataError, match="damaged"):
            slide.read_region(0, 0, level=1, width_px=300, height_px=300)
        assert _is(slide.read_square(900, 300, 512, 64), TUMOUR)
        assert _is(slide.thumbnail(400)[40:200, 40:180], STROMA)


def test_a_damaged_part_costs_no_other_thread_what_it_reads(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", painted(), 0.5)
    damage_level(path, 0, parts=7)  # the upper 256 px
    corners = [(x, y) for y in (300, 0, 600, 10) for x in range(0, 1300, 60)]

    with open_slide(path) as slide, ThreadPoolExecutor(8) as threads:

        def can_read(corner: tuple[int, int]) -> bool:
            try:
                slide.read_square(*corner, 64, 64)
            except DataError:
                return False
            return True

        found = list(threads.map(can_read, corners))

    assert found == [y >= 256 for _, y in corners]


def test_an_overview_says_what_of_the_slide_cannot_be_read(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", painted(), 0.5)
    damage_level(path, 0, parts=3)
    with open_slide(path) as slide:
        assert not slide.overview(400).damaged.any()  # the smaller level is whole
    damage_level(path, 1)

    with open_slide(path) as slide:
        pixels, damaged = slide.overview(400)

    assert pixels.shape == (300, 400, 3)
    assert damaged[:64, :192].all()
    assert not damaged[65:].any()
    assert not damaged[:, 193:].any()


def test_a_slide_that_is_damaged_throughout_says_so(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", painted(), 0.5)
    damage_level(path, 0)
    damage_level(path, 1)

    with open_slide(path) as slide:
        with pytest.raises(DataError, match="damaged"):
            slide.read_square(0, 0, 300, 300)
        with pytest.raises(DataError, match="no part of the slide"):
            slide.thumbnail(400)


@pytest.mark.parametrize("name", ["a.svs", "a.tif", "a.ome.tif", "a.dcm"])
def test_a_file_that_is_no_slide_is_named_with_its_reason(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"no slide" * 100)

    with pytest.raises(DataError, match=f"cannot open the slide .*{name}: "):
        open_slide(tmp_path / name)


def test_a_grey_ome_tiff_is_refused(tmp_path: Path) -> None:
    import tifffile

    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, np.zeros((3, 64, 64), np.uint16), photometric="minisblack")

    with pytest.raises(DataError, match="expected 8-bit RGB"):
        open_slide(path)


def test_a_missing_package_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.svs").touch()
    monkeypatch.setitem(__import__("sys").modules, "openslide", None)

    with pytest.raises(ConfigError, match=r"pip install 'moma-service\[slides\]'"):
        open_slide(tmp_path / "a.svs")


def test_slides_and_patches_of_a_folder_are_told_apart(tmp_path: Path) -> None:
    write_tiff(tmp_path / "slide.tif", painted(), 0.5)
    write_ome(tmp_path / "b.ome.tiff", painted())
    Image.fromarray(painted(64, 64)).save(tmp_path / "patch.tif")
    Image.fromarray(painted(64, 64)).save(tmp_path / "patch.png")
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1.dcm").touch()

    found = [slide_name(path) for path in list_slides(tmp_path)]

    assert found == ["series", "b", "slide"]
    assert not is_slide(tmp_path / "patch.tif")


@pytest.mark.parametrize(
    ("side_px", "is_one"), [(224, False), (1024, False), (1025, True)]
)
def test_a_tiff_in_tiles_is_a_slide_where_it_is_larger_than_a_patch(
    tmp_path: Path, side_px: int, is_one: bool
) -> None:
    path = write_tiff(tmp_path / "a.tif", painted(side_px, 224))

    assert is_slide(path) is is_one
    assert (path in list_slides(tmp_path)) is is_one


def test_a_pool_keeps_few_slides_open_and_opens_them_anew_elsewhere(
    tmp_path: Path,
) -> None:
    paths = [write_ome(tmp_path / f"{n}.ome.tif", painted()) for n in range(4)]
    pool = SlidePool(paths, most_open=2)
    grid = PatchGrid(np.array([[900, 300]]), side_px=256, size_px=64)

    for number in (0, 1, 2, 3, 0):
        assert _is(pool.read(number, grid, 0), TUMOUR)
        assert pool.open_slides <= 2
    copy = pickle.loads(pickle.dumps(pool))

    assert copy.open_slides == 0
    assert _is(copy.read(3, grid, 0), TUMOUR)


def test_a_forked_process_opens_slides_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = SlidePool([write_ome(tmp_path / "a.ome.tif", painted())])
    grid = PatchGrid(np.array([[900, 300]]), side_px=256, size_px=64)
    pool.read(0, grid, 0)
    before = pool._open

    monkeypatch.setattr(os, "getpid", lambda: -1)
    pool.read(0, grid, 0)

    assert pool._open is not before


@pytest.mark.parametrize("name", ["a.ome.tif", "a.tif"])
def test_several_threads_read_one_slide(tmp_path: Path, name: str) -> None:
    write = write_ome if name == "a.ome.tif" else write_tiff
    colours = []

    def read() -> None:
        for _ in range(10):
            colours.append(_is(slide.read_square(850, 300, 512, 128), TUMOUR))

    with open_slide(write(tmp_path / name, painted())) as slide:
        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert colours == [True] * 40
