"""What every whole slide offers, whatever library reads its file."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moma_core.errors import DataError

LARGEST_SIDE_PX = 1 << 20
"""Of a slide that is believed: at 0.1 microns a pixel it is longer than the glass."""

LARGEST_PART_BYTES = 256 * 2**20
"""Of a tile or strip, decoded: it is decoded whole for each patch in it."""

Pixels = NDArray[np.uint8]

_Box = tuple[int, int, int, int]  # left, top, right, bottom

_logger = logging.getLogger(__name__)

_BLOCK_PX = 1024
_TOLERANT_BLOCK_PX = 512
_LOST_BLOCK_PX = 256  # so much is lost around a damaged part
_MOST_FRUITLESS = 200  # looks into damaged blocks of which nothing could be read
_LARGEST_READ_PX = 8192
_DOWNSAMPLE_SLACK = 1.01  # levels are rarely an exact power of two
_BELIEVED_MPP = (0.02, 50.0)  # of a file; training warns of more than these
_WHITE = 255


class SlideLevel(NamedTuple):
    """One resolution of a slide.

    Args:
        width_px: Of the whole level.
        height_px: Of the whole level.
        downsample: Pixels of level 0 a pixel, along one side.
    """

    width_px: int
    height_px: int
    downsample: float


class Overview(NamedTuple):
    """A whole slide in small.

    Args:
        pixels: (H, W, 3) uint8, white where it cannot be read.
        damaged: (H, W), whether this part of the slide cannot be read.
    """

    pixels: Pixels
    damaged: NDArray[np.bool_]


class Slide(ABC):
    """A slide that is open; `close` it, or use it in a `with`.

    Several threads may read from it.

    Args:
        path: File or folder of the slide.
        levels: From the largest to the smallest.
        mpp: Microns a pixel of level 0; None: the file does not say.

    Raises:
        DataError: It has no level, or one of a size that cannot be.
    """

    def __init__(
        self, path: Path, levels: tuple[SlideLevel, ...], mpp: float | None
    ) -> None:
        _check_levels(levels)
        self.path, self.levels, self.mpp = path, levels, mpp

    @property
    def width_px(self) -> int:
        """Of level 0."""
        return self.levels[0].width_px

    @property
    def height_px(self) -> int:
        """Of level 0."""
        return self.levels[0].height_px

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(AttributeError):  # it never was open
            self.close()

    @abstractmethod
    def close(self) -> None:
        """Closes the file; a second call does nothing."""

    @abstractmethod
    def read_region(
        self, x_px: int, y_px: int, *, level: int, width_px: int, height_px: int
    ) -> Pixels:
        """Returns (height_px, width_px, 3) uint8, white where there is no slide.

        Args:
            x_px: Left edge, in pixels of level 0.
            y_px: Upper edge, in pixels of level 0.
            level: Place in `levels`.
            width_px: In pixels of the level.
            height_px: In pixels of the level.

        Raises:
            DataError: This part of the file is damaged.
        """

    def read_square(self, x_px: int, y_px: int, side_px: int, size_px: int) -> Pixels:
        """Returns a square patch, (size_px, size_px, 3) uint8.

        It is read from the smallest level that has its detail; where that one is
        damaged, from a larger one.

        Args:
            x_px: Left edge, in pixels of level 0.
            y_px: Upper edge, in pixels of level 0.
            side_px: Side, in pixels of level 0.
            size_px: Side of what is returned.

        Raises:
            DataError: No level can be read there.
        """
        fault = DataError("the slide has no level")
        for number in self._from_smallest(side_px / size_px):
            read_px = max(1, round(side_px / self.levels[number].downsample))
            if read_px > _LARGEST_READ_PX:
                break
            try:
                pixels = self.read_region(
                    x_px, y_px, level=number, width_px=read_px, height_px=read_px
                )
            except DataError as error:
                fault = error
                continue
            return _resized(pixels, size_px, size_px)
        raise fault

    def thumbnail(self, longest_px: int) -> Pixels:
        """Returns the pixels of `overview`, (H, W, 3) uint8."""
        return self.overview(longest_px).pixels

    def overview(self, longest_px: int) -> Overview:
        """Returns the whole slide, its longer side of at most `longest_px`.

        It is put together from blocks, so that a slide of one level needs no more
        memory than another. Where every level is damaged, it is the largest one, and
        says what of it cannot be read.

        Raises:
            DataError: Nothing can be read.
        """
        longest = max(self.width_px, self.height_px)
        numbers = list(self._from_smallest(longest / longest_px))
        for number in numbers:
            found = self._reduced(number, longest_px, tolerates=number == 0)
            if found is not None:
                height, width = found.pixels.shape[:2]
                scale = min(1.0, longest_px / max(height, width))
                size = max(1, round(width * scale)), max(1, round(height * scale))
                damaged = _resized(found.damaged.astype(np.uint8) * 255, *size) > 0
                return Overview(_resized(found.pixels, *size), damaged)
        raise DataError("no part of the slide can be read: the file is damaged")

    def _from_smallest(self, downsample: float) -> Iterator[int]:
        """Yields levels with at least this detail, the one with the least first."""
        for number in range(len(self.levels) - 1, -1, -1):
            fits = self.levels[number].downsample <= downsample * _DOWNSAMPLE_SLACK
            if fits or number == 0:
                yield number

    def _reduced(
        self, number: int, longest_px: int, *, tolerates: bool
    ) -> Overview | None:
        """Returns a level, shrunk by a whole factor; None: it cannot be read."""
        level = self.levels[number]
        factor = max(1, max(level.width_px, level.height_px) // longest_px)
        shape = -(-level.height_px // factor), -(-level.width_px // factor)
        picture = np.full((*shape, 3), _WHITE, np.uint8)
        damaged = np.zeros(shape, np.bool_)
        whole = (0, 0, level.width_px, level.height_px)
        if not tolerates:
            unread = self._paste(picture, number, factor, whole, _BLOCK_PX)
            return None if any(unread) else Overview(picture, damaged)
        lost_px = 0
        for left, top, right, bottom in self._lost(picture, number, factor):
            lost_px += (right - left) * (bottom - top)
            rows = slice(top // factor, -(-bottom // factor))
            damaged[rows, left // factor : -(-right // factor)] = True
        share = lost_px / (level.width_px * level.height_px)
        if lost_px:
            _logger.warning("%.1f %% of a slide is damaged", 100 * share)
        return None if share == 1 else Overview(picture, damaged)

    def _lost(self, picture: Pixels, number: int, factor: int) -> Iterator[_Box]:
        """Puts a level into its shrunk picture; yields the parts that cannot be read.

        Each costs time: after many looks into blocks of which nothing can be read, all
        of a damaged one counts as lost.
        """
        level = self.levels[number]
        whole = (0, 0, level.width_px, level.height_px)
        blocks = self._paste(picture, number, factor, whole, _TOLERANT_BLOCK_PX)
        fruitless = 0
        for block in blocks:
            if fruitless >= _MOST_FRUITLESS:
                yield block
                continue
            lost = list(self._paste(picture, number, factor, block, _LOST_BLOCK_PX))
            fruitless += sum(map(_area, lost)) == _area(block)
            yield from lost

    def _paste(
        self, picture: Pixels, number: int, factor: int, box: _Box, side_px: int
    ) -> Iterator[_Box]:
        """Puts blocks of a level into its shrunk picture; yields those that it cannot.

        Args:
            picture: Of the whole level.
            number: Of the level.
            factor: By which it is shrunk.
            box: What is read, in pixels of the level, at whole factors or its edges.
            side_px: Of a block, about.
        """
        step = factor * max(1, side_px // factor)
        for top, left in product(
            range(box[1], box[3], step), range(box[0], box[2], step)
        ):
            right, bottom = min(left + step, box[2]), min(top + step, box[3])
            try:
                block = self._block(number, left, top, right, bottom)
            except DataError:
                yield left, top, right, bottom
                continue
            small = np.asarray(Image.fromarray(block).reduce(factor))
            y, x = top // factor, left // factor
            picture[y : y + small.shape[0], x : x + small.shape[1]] = small

    def _block(
        self, number: int, left: int, top: int, right: int, bottom: int
    ) -> Pixels:
        """Returns a part of a level, in its pixels."""
        level = self.levels[number]
        return self.read_region(
            round(left * level.downsample),
            round(top * level.downsample),
            level=number,
            width_px=right - left,
            height_px=bottom - top,
        )


class ClippedSlide(Slide):
    """A slide whose library reads nothing but what lies inside a level."""

    @abstractmethod
    def _read_inside(
        self, level: int, left: int, top: int, width: int, height: int
    ) -> Pixels:
        """Returns (height, width, 3) uint8 of a part of a level, in its pixels.

        Raises:
            DataError: This part of the file is damaged.
        """

    def read_region(
        self, x_px: int, y_px: int, *, level: int, width_px: int, height_px: int
    ) -> Pixels:
        """Returns (height_px, width_px, 3) uint8, as `Slide.read_region`."""
        whole = self.levels[level]
        left, top = round(x_px / whole.downsample), round(y_px / whole.downsample)
        first_x, first_y = max(left, 0), max(top, 0)
        last_x = min(left + width_px, whole.width_px)
        last_y = min(top + height_px, whole.height_px)
        pixels = np.full((height_px, width_px, 3), _WHITE, np.uint8)
        if last_x > first_x and last_y > first_y:
            pixels[first_y - top : last_y - top, first_x - left : last_x - left] = (
                self._read_inside(
                    level, first_x, first_y, last_x - first_x, last_y - first_y
                )
            )
        return pixels


def _check_levels(levels: tuple[SlideLevel, ...]) -> None:
    if not levels:
        raise DataError("it holds no picture")
    for level in levels:
        low, high = sorted((level.width_px, level.height_px))
        if not (0 < low <= high <= LARGEST_SIDE_PX and level.downsample > 0):
            raise DataError(
                f"it states {level.width_px} x {level.height_px} px, and a slide has "
                f"at most {LARGEST_SIDE_PX} a side: the file is damaged"
            )


def believed_mpp(*sides: float | None) -> float | None:
    """Returns the microns a pixel that a file states; None where it cannot be meant.

    Many programs write 72 dpi into any TIFF.

    Args:
        sides: Microns a pixel in x and in y.

    Raises:
        DataError: The pixels are far from square.
    """
    known = [side for side in sides if side is not None]
    low, high = _BELIEVED_MPP
    if len(known) != len(sides) or not all(low <= side <= high for side in known):
        return None
    if max(known) > 1.1 * min(known):
        shown = " x ".join(f"{side:g}" for side in known)
        raise DataError(f"the slide's pixels are not square: {shown} microns")
    return sum(known) / len(known)


def _resized(pixels: Pixels, width_px: int, height_px: int) -> Pixels:
    if pixels.shape[:2] == (height_px, width_px):
        return pixels
    picture = Image.fromarray(pixels)
    # Pillow's bilinear filter averages over what one pixel covers
    return np.asarray(picture.resize((width_px, height_px), Image.Resampling.BILINEAR))


def _area(box: _Box) -> int:
    left, top, right, bottom = box
    return (right - left) * (bottom - top)
