from itertools import combinations

import numpy as np
import pytest

from moma_core.data.patch import SPLITS, TRAIN, UNSEEN, VALIDATION
from moma_core.data.sources.demo_tissue import (
    CLASS_BOUNDS,
    CLASS_NAMES,
    PARTS,
    PATCH_SIZE_PX,
    POSITIVE_DAB,
    EmbeddedSource,
)
from moma_core.errors import ConfigError

skimage_data = pytest.importorskip("skimage.data", reason="the extra `demo` is absent")


@pytest.fixture(scope="module")
def sources() -> dict[str, EmbeddedSource]:
    return {part: EmbeddedSource(part) for part in PARTS}


def _covered(source: EmbeddedSource, split: str) -> np.ndarray:
    mask = np.zeros((512, 512), dtype=bool)
    for row in source.index.rows(split):
        top, left = source.corners[row]
        mask[top : top + PATCH_SIZE_PX, left : left + PATCH_SIZE_PX] = True
    return mask


def test_no_pixel_is_in_two_splits_or_with_two_institutions(
    sources: dict[str, EmbeddedSource],
) -> None:
    masks = [
        _covered(source, split)
        for source in sources.values()
        for split in (TRAIN, VALIDATION)
    ]
    masks.append(_covered(sources["teacher"], UNSEEN))

    for first, second in combinations(masks, 2):
        assert not (first & second).any()


def test_all_parts_share_the_unseen_patches(sources: dict[str, EmbeddedSource]) -> None:
    unseen = {
        tuple(source.corners[row] for row in source.index.rows(UNSEEN))
        for source in sources.values()
    }

    assert len(unseen) == 1


@pytest.mark.parametrize(
    ("part", "counts"),
    [("teacher", (153, 45, 72)), ("site-a", (108, 45, 72)), ("site-b", (108, 45, 72))],
)
def test_every_part_has_its_patches(
    sources: dict[str, EmbeddedSource], part: str, counts: tuple[int, ...]
) -> None:
    index = sources[part].index

    assert tuple(len(index.rows(split)) for split in SPLITS) == counts


def test_classes_are_roughly_balanced_in_every_split(
    sources: dict[str, EmbeddedSource],
) -> None:
    for source in sources.values():
        for split in SPLITS:
            labels = source.index.labels[source.index.rows(split)]
            shares = np.bincount(labels, minlength=len(CLASS_NAMES)) / len(labels)
            assert shares.min() >= 0.18
            assert shares.max() <= 0.35


def test_labels_equal_those_of_another_deconvolution(
    sources: dict[str, EmbeddedSource],
) -> None:
    from skimage.color import rgb2hed

    picture = skimage_data.immunohistochemistry()
    # rgb2hed's unit is the logarithm to the base of 1e-6
    positive = rgb2hed(picture)[..., 2] * -np.log(1e-6) > POSITIVE_DAB

    for source in sources.values():
        for row, (top, left) in enumerate(source.corners):
            cut = positive[top : top + PATCH_SIZE_PX, left : left + PATCH_SIZE_PX]
            assert source.index.labels[row] == np.digitize(cut.mean(), CLASS_BOUNDS)


def test_a_patch_is_cut_from_the_picture(sources: dict[str, EmbeddedSource]) -> None:
    picture = skimage_data.immunohistochemistry()
    top, left = sources["site-a"].corners[50]

    patch = sources["site-a"].read(50)

    assert np.array_equal(patch.pixels, picture[top : top + 32, left : left + 32])
    assert patch.label == sources["site-a"].index.labels[50]


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ConfigError, match="no part 'site-c'"):
        EmbeddedSource("site-c")


def test_a_missing_package_is_told_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "skimage.data", None)

    with pytest.raises(ConfigError, match="needs scikit-image: pip install"):
        EmbeddedSource("teacher")
