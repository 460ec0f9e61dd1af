"""Pictures with the colours of a negative, and those of stains."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from moma_core.data.augment.stain import DENSITY_FROM_STAINS
from moma_core.data.checks.pictures import look_at_pictures
from moma_core.data.patch import NO_LABEL, TRAIN, Patch, PatchIndex, PatchSource
from moma_core.data.sources.demo_tissue import EmbeddedSource
from moma_core.data.sources.fault_tolerant import TolerantSource
from moma_core.data.splits import ReindexedSource, hide_labels
from moma_core.data.stain_normalisation import (
    StainNormalisationSection,
    StainNormalisedSource,
    stain_target,
)
from moma_core.errors import DataError

HAEMATOXYLIN_AND_EOSIN, HAEMATOXYLIN_AND_DAB = (0, 1), (0, 2)
TRAINED = len(EmbeddedSource("site-a").index.rows(TRAIN))


Pixels = NDArray[np.uint8]


class _Pictures:
    """The embedded patches, with other pixels."""

    class_names = EmbeddedSource.class_names

    def __init__(self, pixels: Callable[[int], Pixels]) -> None:
        self.index: PatchIndex = EmbeddedSource("site-a").index
        self._pixels = pixels

    def read(self, row: int) -> Patch:
        return Patch(self._pixels(row), None, None, None, None)


def _stained(stains: tuple[int, int]) -> Callable[[int], Pixels]:
    """Returns what draws the amounts of two stains for each pixel."""

    def pixels(row: int) -> Pixels:
        amounts = np.zeros((16, 16, 3))
        amounts[..., list(stains)] = np.random.default_rng(row).random((16, 16, 2))
        return (255 * np.exp(-amounts @ DENSITY_FROM_STAINS)).astype(np.uint8)

    return pixels


def _said(source: PatchSource) -> list[str]:
    found = look_at_pictures(
        source,
        None,
        view_size_px=16,
        max_unreadable=100,
        are_stained=True,
        sample=None,
    )
    return [each.text for each in found if "more green" in each.text]


def _inverted(row: int) -> Pixels:
    return 255 - _stained(HAEMATOXYLIN_AND_EOSIN)(row)


def test_inverted_pictures_are_told_with_their_number() -> None:
    (text,) = _said(_Pictures(_inverted))

    assert text.startswith(f"{TRAINED} of {TRAINED} training pictures are more green")
    assert "they look inverted" in text
    assert "or it is another stain, where that is right" in text


def test_a_negative_is_told_whose_stains_are_normalised() -> None:
    target = stain_target(StainNormalisationSection(method="macenko"))
    normalised = StainNormalisedSource(_Pictures(_inverted), target)

    assert _said(ReindexedSource(normalised, normalised.index))
    assert not _said(_Pictures(lambda row: normalised.read(row).pixels))


def test_what_stands_in_for_a_broken_picture_is_not_counted() -> None:
    def pixels(row: int) -> Pixels:
        if row % 2:
            raise DataError("damaged")
        return _inverted(row)

    (text,) = _said(TolerantSource(_Pictures(pixels), 1000))

    even = int((_Pictures(pixels).index.rows(TRAIN) % 2 == 0).sum())
    assert text.startswith(f"{even} of {even} training pictures")


def test_blank_pictures_count_for_the_labels_that_training_sees() -> None:
    whole = PatchIndex(
        np.repeat([0, 1], 20).astype(np.int16),
        np.zeros(40, np.uint8),
        np.full(40, -1, np.int32),
    )
    index = hide_labels(whole, keep_labelled=6, seed=0)
    glass = np.flatnonzero((whole.labels == 0) & (index.labels == NO_LABEL))[:3]
    tissue = _stained(HAEMATOXYLIN_AND_EOSIN)

    def pixels(row: int) -> Pixels:
        return np.full((16, 16, 3), 240, np.uint8) if row in glass else tissue(row)

    pictures = _Pictures(pixels)
    pictures.index = whole
    target = stain_target(StainNormalisationSection(method="macenko"))
    source = ReindexedSource(StainNormalisedSource(pictures, target), index)

    found = look_at_pictures(source, None, view_size_px=16, max_unreadable=0)

    assert int((index.labels == 0).sum()) == len(glass)
    assert not [each for each in found if "among them all of" in each.text]


def test_classes_that_may_be_colours_are_not_looked_at() -> None:
    found = look_at_pictures(
        _Pictures(_inverted), None, view_size_px=16, max_unreadable=0
    )

    assert not [each for each in found if "more green" in each.text]


@pytest.mark.parametrize("stains", [HAEMATOXYLIN_AND_EOSIN, HAEMATOXYLIN_AND_DAB])
def test_stained_tissue_is_not(stains: tuple[int, int]) -> None:
    assert _said(_Pictures(_stained(stains))) == []


@pytest.mark.parametrize("part", ["site-a", "site-b"])
def test_the_embedded_tissue_with_its_brown_and_blue_is_not(part: str) -> None:
    assert _said(EmbeddedSource(part)) == []


def test_blue_tissue_with_hardly_any_brown_is_not() -> None:
    pixels = np.full((16, 16, 3), (150, 165, 190), np.uint8)

    assert _said(_Pictures(lambda _: pixels)) == []
