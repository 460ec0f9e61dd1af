"""What is said of pictures by their pixels, and that sound tissue is not warned of."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage.data import immunohistochemistry

from moma_core.data.checks.layout import look_at_files
from moma_core.data.checks.pictures import look_at_pictures
from moma_core.data.sources.factory import ImageFolderSection, open_source
from moma_core.data.sources.image_folder import list_image_folder
from moma_core.runtime.finding import Finding

_SIDE_PX = 64
_SPLITS = ("train", "unseen")
_CLASSES = ("gland", "stroma")

Pixels = NDArray[np.uint8]
Change = Callable[[Pixels], Pixels]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Returns a folder of 64 tiles of real tissue, no two of one place.

    Neighbours come to lie in two classes and, each second row, in two splits.
    """
    for number, tile in enumerate(_tissue()):
        split, label = _SPLITS[number // 8 % 2], _CLASSES[number % 2]
        folder = tmp_path / split / label
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tile).save(folder / f"p{number:02}.png")
    return tmp_path


def _tissue() -> Iterator[Pixels]:
    picture = immunohistochemistry()
    for top in range(0, 512, _SIDE_PX):
        for left in range(0, 512, _SIDE_PX):
            yield picture[top : top + _SIDE_PX, left : left + _SIDE_PX]


def _look(root: Path) -> list[str]:
    files = list_image_folder(root).patches()
    found: list[Finding] = list(
        look_at_pictures(files, files, view_size_px=_SIDE_PX, max_unreadable=0)
    )
    return [f"{each.state}: {each.text}" for each in found if each.state != "ok"]


def _change(root: Path, where: str, change: Change, **options: Any) -> None:
    """Saves the pictures of some folders anew."""
    for path in sorted(root.glob(f"{where}/*.png")):
        pixels = np.asarray(Image.open(path))
        Image.fromarray(change(pixels)).save(path, **options)


def _in_mode(root: Path, where: str, mode: str, suffix: str = ".png") -> None:
    for path in sorted(root.glob(f"{where}/*.png")):
        picture = Image.open(path).convert(mode)
        path.unlink()
        picture.save(path.with_suffix(suffix))


def _grey(pixels: Pixels) -> Pixels:
    grey = pixels.mean(axis=2, keepdims=True).astype(np.uint8)
    return np.repeat(grey, 3, axis=2)


def _larger(pixels: Pixels) -> Pixels:
    return pixels.repeat(2, axis=0).repeat(2, axis=1)


def _with_bar(pixels: Pixels) -> Pixels:
    barred = pixels.copy()
    barred[-6:-2, 4:24] = 0
    return barred


def test_sound_tissue_is_not_warned_of(root: Path) -> None:
    assert _look(root) == []


def test_the_embedded_tissue_is_not_warned_of() -> None:
    section = {"kind": "embedded", "part": "site-a"}
    source = open_source(section)

    found = look_at_pictures(source, None, view_size_px=32, max_unreadable=0)

    assert [each.text for each in found if each.state != "ok"] == []


# -------------------------------------------------- one class or split looks unlike


@pytest.mark.parametrize(
    ("where", "change", "said"),
    [
        ("*/gland", _grey, "32 of 32 pictures of class 'gland' are grey"),
        ("unseen/*", _grey, "32 of 32 pictures of the unseen split are grey"),
        ("unseen/*", _larger, "those of the unseen split 128"),
        ("*/gland", _with_bar, "every picture of class 'gland' (2.0% of each)"),
        ("unseen/*", _with_bar, "every picture of the unseen split (2.0% of each)"),
    ],
)
def test_a_class_or_split_that_looks_unlike_the_others_is_a_warning(
    root: Path, where: str, change: Change, said: str
) -> None:
    _change(root, where, change)

    (warned,) = _look(root)

    assert warned.startswith("warning: ")
    assert said in warned


@pytest.mark.parametrize(
    ("where", "mode", "suffix", "said"),
    [
        ("*/gland", "CMYK", ".tif", "class 'gland' alone has pictures of mode CMYK"),
        ("*/stroma", "P", ".png", "class 'stroma' alone has pictures of mode P"),
        ("unseen/*", "RGBA", ".png", "the unseen split alone has pictures of mode RG"),
        ("unseen/*", "RGB", ".bmp", "split alone has files of kind"),
    ],
)
def test_a_class_or_split_that_was_saved_in_another_way_is_a_warning(
    root: Path, where: str, mode: str, suffix: str, said: str
) -> None:
    _in_mode(root, where, mode, suffix)

    warned = _look(root)

    assert any(said in each for each in warned), warned


@pytest.mark.parametrize("change", [_grey, _larger, _with_bar])
def test_what_every_class_and_split_has_tells_none_apart(
    root: Path, change: Change
) -> None:
    _change(root, "*/*", change)

    assert not [each for each in _look(root) if "alike" in each or "block" in each]


def test_a_few_grey_pictures_tell_no_class(root: Path) -> None:
    for where in ("*/gland", "*/stroma"):
        for path in sorted(root.glob(f"{where}/*.png"))[:4]:
            Image.open(path).convert("L").save(path)

    assert not [each for each in _look(root) if "grey" in each]


def test_two_spellings_of_one_ending_are_one_kind(root: Path) -> None:
    _in_mode(root, "*/gland", "RGB", ".tif")
    _in_mode(root, "*/stroma", "RGB", ".tiff")

    assert _look(root) == []


def test_white_corners_of_glass_are_no_caption(root: Path) -> None:
    def empty_corner(pixels: Pixels) -> Pixels:
        changed = pixels.copy()
        changed[:12, :12] = 244
        return changed

    _change(root, "*/gland", empty_corner)

    assert _look(root) == []


@pytest.mark.parametrize(("side_px", "is_told"), [(10, True), (28, False)])
def test_pictures_of_ten_pixels_may_be_thumbnails(
    root: Path, side_px: int, is_told: bool
) -> None:
    for path in root.glob("*/*/*.png"):
        Image.open(path).resize((side_px, side_px)).save(path)

    told = [each for each in _look(root) if "they may be thumbnails" in each]

    assert bool(told) is is_told


# ------------------------------------------------------------- masks among patches


def test_pictures_of_two_grey_levels_are_masks(root: Path) -> None:
    for path in sorted(root.glob("train/gland/*.png"))[:3]:
        mask = np.asarray(Image.open(path).convert("L")) > 150
        Image.fromarray(mask.astype(np.uint8) * 255).save(path)

    (warned,) = _look(root)

    assert "3 of 64 have two grey levels and nothing between" in warned
    assert "move masks out" in warned


@pytest.mark.parametrize("suffix", ["_mask", "-labelled", "_seg", ".labels"])
def test_names_of_masks_beside_their_pictures_are_a_warning(
    root: Path, suffix: str
) -> None:
    for path in sorted(root.glob("train/gland/*.png"))[:2]:
        shutil.copy(path, path.with_name(f"{path.stem}{suffix}.png"))

    (found,) = _look_at_files(root)

    assert found.state == "warning"
    assert "2 pictures are named as the mask or the drawing of another" in found.text
    assert found.more[0] == f"train/gland/p00{suffix}.png"


def test_a_name_like_a_mask_without_its_picture_is_a_name(root: Path) -> None:
    for path in sorted(root.glob("train/gland/*.png"))[:2]:
        path.rename(path.with_name(f"{path.stem}_seg.png"))

    assert _look_at_files(root) == []


def _look_at_files(root: Path) -> list[Finding]:
    section = ImageFolderSection(kind="image_folder", root=root)
    return list(look_at_files(section, list_image_folder(root).patches()))


# -------------------------------------------------------------------- empty pictures


def _glass(pixels: Pixels) -> Pixels:
    """Returns what a scanner sees where there is no tissue, 238 to 245."""
    random = np.random.default_rng(int(pixels.sum()))
    return random.integers(238, 246, pixels.shape).astype(np.uint8)


def test_a_class_of_glass_is_a_warning(root: Path) -> None:
    _change(root, "*/gland", _glass)

    (warned,) = _look(root)

    assert "32 of 64 are of one colour, among them all of 'gland'" in warned
    assert "take them out, or call their class background" in warned


@pytest.mark.parametrize("name", ["BACK", "08_EMPTY", "background", "no tissue"])
def test_a_class_that_is_called_background_may_be_glass(root: Path, name: str) -> None:
    _change(root, "*/gland", _glass)
    for split in _SPLITS:
        (root / split / "gland").rename(root / split / name)

    assert _look(root) == []


def test_some_patches_of_glass_are_usual(root: Path) -> None:
    for path in sorted(root.glob("*/gland/*.png"))[:6]:
        Image.fromarray(_glass(np.asarray(Image.open(path)))).save(path)

    assert _look(root) == []


# ------------------------------------------------------------- pictures saved again


@pytest.mark.parametrize(
    ("quality", "side_px"), [(95, _SIDE_PX), (75, _SIDE_PX), (30, _SIDE_PX), (75, 48)]
)
def test_a_training_picture_that_was_saved_again_in_another_split_is_found(
    root: Path, quality: int, side_px: int
) -> None:
    first = root / "train/gland/p00.png"
    again = Image.open(first).resize((side_px, side_px), Image.Resampling.BICUBIC)
    again.save(root / "unseen/gland/other.jpg", quality=quality)

    (warned,) = _look(root)

    assert "1 picture is in two splits, it seems, saved again" in warned


def test_a_picture_that_was_saved_again_in_its_split_is_no_leak(root: Path) -> None:
    first = root / "train/gland/p00.png"
    Image.open(first).save(root / "train/gland/other.jpg")

    assert _look(root) == []


def test_overlapping_tissue_in_two_splits_is_not_taken_for_a_copy(root: Path) -> None:
    shifted = immunohistochemistry()[8 : 8 + _SIDE_PX, 8 : 8 + _SIDE_PX]
    Image.fromarray(shifted).save(root / "unseen/gland/other.png")

    assert _look(root) == []


@pytest.mark.parametrize(("fall_off", "side_px"), [(25, 224), (60, _SIDE_PX)])
def test_glass_under_one_microscope_is_no_copy(
    root: Path, fall_off: int, side_px: int
) -> None:
    across = np.linspace(-1, 1, side_px)
    distance = (across[:, None] ** 2 + across**2) / 2
    light = (235 - fall_off * distance)[..., None]
    random = np.random.default_rng(0)
    for split in _SPLITS:
        for path in sorted(root.glob(f"{split}/gland/*.png"))[:6]:
            glass = light + random.normal(0, 2, (side_px, side_px, 3))
            Image.fromarray(glass.astype(np.uint8)).save(path)

    assert _look(root) == []


def test_pictures_of_glass_are_no_copies_of_one_another(root: Path) -> None:
    for split in _SPLITS:
        for path in sorted(root.glob(f"{split}/gland/*.png"))[:3]:
            Image.fromarray(_glass(np.asarray(Image.open(path)))).save(path)

    assert _look(root) == []
