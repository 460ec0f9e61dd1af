"""Pictures with the colours of a negative, and those of stains."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from moma_core.data.augment.stain import DENSITY_FROM_STAINS
from moma_core.data.checks.colours import look_at_colours
from moma_core.data.patch import Patch, PatchIndex, PatchSource
from moma_core.data.sources.demo_tissue import EmbeddedSource

HAEMATOXYLIN_AND_EOSIN, HAEMATOXYLIN_AND_DAB = (0, 1), (0, 2)


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
    return [finding.text for finding in look_at_colours(source, sample=60)]


def test_inverted_pictures_are_told_with_their_number() -> None:
    stained = _stained(HAEMATOXYLIN_AND_EOSIN)

    (text,) = _said(_Pictures(lambda row: 255 - stained(row)))

    assert "60 of 60 training pictures are more green than red or blue" in text
    assert "they look inverted" in text


@pytest.mark.parametrize("stains", [HAEMATOXYLIN_AND_EOSIN, HAEMATOXYLIN_AND_DAB])
def test_stained_tissue_is_not(stains: tuple[int, int]) -> None:
    assert _said(_Pictures(_stained(stains))) == []


@pytest.mark.parametrize("part", ["site-a", "site-b"])
def test_the_embedded_tissue_with_its_brown_and_blue_is_not(part: str) -> None:
    assert _said(EmbeddedSource(part)) == []


def test_blue_tissue_with_hardly_any_brown_is_not() -> None:
    pixels = np.full((16, 16, 3), (150, 165, 190), np.uint8)

    assert _said(_Pictures(lambda _: pixels)) == []
