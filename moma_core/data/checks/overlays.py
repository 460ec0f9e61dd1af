"""Bars, scales and captions that are burnt into the pictures of one class or split.

A block of pixels that is the same in every picture of a class was drawn by a program:
no tissue repeats itself so, and a student needs nothing else to know the class.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from moma_core.data.checks.samples import joined
from moma_core.data.patch import NO_LABEL, SPLITS
from moma_core.runtime.finding import Finding

_LOOKED_AT_PX = 128  # a side: of larger pictures each second pixel, or third
_FEWEST = 8  # pictures, so that no place of tissue is the same in all of them
_SAME = 2  # grey levels: what JPEG leaves of one colour
_GLASS = 220  # what is lighter may be the same because there is nothing
_LEAST_PX, _LEAST_SHARE = 16, 0.0025  # of a picture: less is no bar
_MOST_CLASSES = 100  # of more, which may be names of patches, none is looked at


class _Range:
    """The darkest and lightest of each pixel in the pictures of one class or split.

    Args:
        first: (H, W, 3), the first picture.
    """

    def __init__(self, first: NDArray[np.uint8]) -> None:
        self.least, self.most = first.copy(), first.copy()
        self.count, self.is_of_one_size = 1, True

    def add(self, picture: NDArray[np.uint8]) -> None:
        self.count += 1
        if picture.shape != self.least.shape:
            self.is_of_one_size = False
            return
        np.minimum(self.least, picture, out=self.least)
        np.maximum(self.most, picture, out=self.most)

    def constant(self) -> NDArray[np.bool_]:
        """Returns which pixels, (H, W), are the same in all, and no glass."""
        is_dark: NDArray[np.bool_] = self.least.min(axis=2) < _GLASS
        return is_dark & self.shares(self)

    def shares(self, other: "_Range") -> NDArray[np.bool_]:
        """Returns which pixels, (H, W), are the same in all of both."""
        if not other.is_of_one_size or self.least.shape != other.least.shape:
            return np.zeros(self.least.shape[:2], dtype=np.bool_)
        most = np.maximum(self.most, other.most)
        least = np.minimum(self.least, other.least)
        is_same: NDArray[np.bool_] = (most - least).max(axis=2) <= _SAME
        return is_same


class Overlays:
    """What is the same in the pictures of each class, and of each split.

    Args:
        classes: How many the set has; of very many, splits alone are kept.

    Attributes:
        of_class: By class index.
        of_split: By index into SPLITS.
    """

    def __init__(self, classes: int) -> None:
        self.of_class: dict[int, _Range] = {}
        self.of_split: dict[int, _Range] = {}
        self._is_by_class = classes <= _MOST_CLASSES

    def add(self, label: int, split: int, pixels: NDArray[np.uint8]) -> None:
        """Takes a picture that shows something.

        Args:
            label: Class index, or NO_LABEL.
            split: Index into SPLITS.
            pixels: (H, W, 3).
        """
        step = -(-max(pixels.shape[:2]) // _LOOKED_AT_PX)
        picture = pixels[::step, ::step]
        groups = [(self.of_split, split)]
        if label != NO_LABEL and self._is_by_class:
            groups.append((self.of_class, label))
        for ranges, code in groups:
            if code in ranges:
                ranges[code].add(picture)
            else:
                ranges[code] = _Range(picture)


def look_at_overlays(overlays: Overlays, names: Sequence[str]) -> Iterator[Finding]:
    """Yields the classes and splits whose pictures share what others lack.

    Args:
        overlays: Of the pictures that were opened.
        names: Of the classes, by index.
    """
    drawn: defaultdict[str, list[str]] = defaultdict(list)
    for label, share in _drawn(overlays.of_class):
        drawn["class"].append(f"class {names[label]!r} ({share:.1%} of each)")
    for split, share in _drawn(overlays.of_split):
        drawn["split"].append(f"the {SPLITS[split]} split ({share:.1%} of each)")
    for noun, found in drawn.items():
        text = (
            f"a block of pixels is the same in every picture of {joined(found)}, and "
            f"not in other pictures: a bar, scale or caption that is burnt in tells "
            f"the {noun} without its tissue; export the pictures without it, or cut it "
            f"off in all"
        )
        yield Finding("pictures", "warning", text)


def _drawn(ranges: dict[int, _Range]) -> Iterator[tuple[int, float]]:
    """Yields each group with a block that another one lacks, and the block's share."""
    for code, own in ranges.items():
        if own.count < _FEWEST or not own.is_of_one_size or len(ranges) < 2:
            continue
        block = own.constant()
        least = max(_LEAST_PX, _LEAST_SHARE * block.size)
        if block.sum() < least:
            continue  # as tissue has none, it is seldom compared
        others = (other for key, other in ranges.items() if key != code)
        in_all = np.logical_and.reduce([own.shares(other) for other in others])
        block &= ~in_all
        if block.sum() >= least:
            yield code, float(block.mean())
