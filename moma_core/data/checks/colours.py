"""Whether pictures have the colours of stained tissue, or were inverted."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from moma_core.runtime.finding import Finding

_FEWEST = 20  # pictures, below which nothing is said
_NEARLY_ALL = 0.95
_MARGIN = 5.0  # levels of 255 by which a mean is clearly the highest


def is_green(pixels: NDArray[np.uint8]) -> bool:
    """Whether a picture, (H, W, 3), has more green than red or blue."""
    red, green, blue = pixels.mean(axis=(0, 1))
    return bool(green > max(red, blue) + _MARGIN)


def look_at_colours(are_green: Sequence[bool]) -> Iterator[Finding]:
    """Yields whether nearly all training pictures have the colours of a negative.

    Haematoxylin, eosin and DAB all take more green than they leave of red or blue, so
    that green is the highest mean of no such tissue, and of nearly all of it once it
    is inverted. Pictures that exchange red and blue look too much like others of
    another scanner to be told.

    Args:
        are_green: Of each training picture that was opened, as it was before any stain
            normalisation, which hides a negative.
    """
    opened, green = len(are_green), sum(are_green)
    if opened < _FEWEST or green < _NEARLY_ALL * opened:
        return
    text = (
        f"{green} of {opened} training pictures are more green than red or blue, which "
        f"no H&E or DAB is: they look inverted (a negative), or their channels are in "
        f"another order, or it is another stain, where that is right; a teacher and "
        f"ImageNet weights know RGB with a bright background"
    )
    yield Finding("pictures", "warning", text)
