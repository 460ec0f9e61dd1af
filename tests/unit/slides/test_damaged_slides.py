"""What of a damaged slide can be read, and what it costs to find out."""

from pathlib import Path

import pytest

from moma_core.errors import DataError
from moma_core.slides import openslide_file, slide
from moma_core.slides.open import open_slide
from moma_core.slides.slide import Pixels, Slide, SlideLevel
from tests.support.slides.pictures import damage_level, painted, write_tiff


class _Unreadable(Slide):
    """A slide that counts the parts that are asked for, and has none."""

    def __init__(self, width_px: int, height_px: int) -> None:
        super().__init__(Path("a.svs"), (SlideLevel(width_px, height_px, 1.0),), 0.5)
        self.asked: list[tuple[int, int, int, int]] = []

    def close(self) -> None:
        """It is never open."""

    def read_region(
        self, x_px: int, y_px: int, *, level: int, width_px: int, height_px: int
    ) -> Pixels:
        """Counts, and refuses."""
        self.asked.append((x_px, y_px, width_px, height_px))
        raise DataError("a part of the slide is damaged")


def _files_opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    opened: list[Path] = []
    really = openslide_file._opened
    monkeypatch.setattr(
        openslide_file, "_opened", lambda path: (opened.append(path), really(path))[1]
    )
    return opened


@pytest.mark.parametrize("size", [(1600, 1200), (1201, 1003), (1003, 1201)])
def test_a_slide_of_any_size_that_is_damaged_throughout_says_so(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    path = write_tiff(tmp_path / "a.tif", painted(*size), 0.5)
    damage_level(path, 0)
    damage_level(path, 1)

    with open_slide(path) as opened, pytest.raises(DataError, match="no part of the"):
        opened.overview(400)


def test_the_last_pixel_of_an_odd_slide_is_damaged_like_the_others(
    tmp_path: Path,
) -> None:
    path = write_tiff(tmp_path / "a.tif", painted(1201, 1003), 0.5)
    damage_level(path, 0, parts=5)  # the upper 256 px
    damage_level(path, 1)

    with open_slide(path) as opened:
        damaged = opened.overview(401).damaged

    assert damaged[:85].all()
    assert not damaged[88:].any()


def test_parts_of_a_block_that_cannot_be_read_do_not_leave_it() -> None:
    unreadable = _Unreadable(4001, 4000)

    with pytest.raises(DataError, match="no part of the slide can be read"):
        unreadable.overview(40)

    asked_px = sum(width * height for *_, width, height in unreadable.asked)
    assert asked_px == 2 * 4001 * 4000  # in blocks, and each once more in parts


def test_a_large_slide_without_a_readable_part_is_given_up_soon() -> None:
    unreadable = _Unreadable(40_000, 40_000)

    with pytest.raises(DataError, match="no part of the slide can be read"):
        unreadable.overview(2048)

    assert len(unreadable.asked) < 7500


def test_damaged_blocks_are_looked_into_as_long_as_that_finds_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slide, "_MOST_FRUITLESS", 1)
    path = write_tiff(tmp_path / "a.tif", painted(), 0.5)
    damage_level(path, 0, parts=3)
    damage_level(path, 1)

    with open_slide(path) as opened:
        damaged = opened.overview(400).damaged

    assert damaged[:64, :128].all()  # of the first block, what cannot be read
    assert damaged[:64, 128:192].all()  # and of the second one
    assert not damaged[64:].any()


def test_a_read_that_nobody_disturbs_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiff(tmp_path / "a.tif", painted(), 0.5)
    damage_level(path, 0, parts=1)
    opened = _files_opened(monkeypatch)

    with open_slide(path) as damaged:
        for corner in (0, 300, 0, 300):
            try:
                damaged.read_region(corner, 0, level=0, width_px=64, height_px=64)
            except DataError:
                assert corner == 0

    assert len(opened) == 3  # once, and again after each failure


def test_a_file_that_could_not_be_opened_anew_costs_no_other_part(
    tmp_path: Path,
) -> None:
    path = write_tiff(tmp_path / "a.tif", painted(), 0.5)
    damage_level(path, 0, parts=1)
    away = tmp_path / "away.tif"

    with open_slide(path) as damaged:
        path.rename(away)
        with pytest.raises(DataError):
            damaged.read_region(0, 0, level=0, width_px=64, height_px=64)
        away.rename(path)

        part = damaged.read_region(300, 0, level=0, width_px=64, height_px=64)

    assert part.shape == (64, 64, 3)
