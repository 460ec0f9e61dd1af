"""Whether pictures have the colours of stained tissue, or were inverted."""

from collections.abc import Iterator

import numpy as np

from moma_core.data.patch import TRAIN, PatchSource
from moma_core.errors import DataError
from moma_core.runtime.finding import Finding

_FEWEST = 20  # pictures, below which nothing is said
_NEARLY_ALL = 0.95
_MARGIN = 5.0  # levels of 255 by which a mean is clearly the highest


def look_at_colours(source: PatchSource, *, sample: int) -> Iterator[Finding]:
    """Yields whether nearly all training pictures have the colours of a negative.

    Haematoxylin, eosin and DAB all take more green than they leave of red or blue, so
    that green is the highest mean of no such tissue, and of nearly all of it once it
    is inverted. Pictures that exchange red and blue look too much like others of
    another scanner to be told.

    Args:
        source: The set, as `open_source` opens it.
        sample: Number of pictures that are opened, evenly spread.
    """
    rows = source.index.rows(TRAIN)
    if len(rows) > sample:
        rows = rows[np.linspace(0, len(rows) - 1, sample).astype(np.int64)]
    opened = green = 0
    for row in rows.tolist():
        try:
            red, middle, blue = source.read(row).pixels.mean(axis=(0, 1))
        except DataError:
            continue  # the check of pictures tells it
        opened += 1
        green += bool(middle > max(red, blue) + _MARGIN)
    if opened < _FEWEST or green < _NEARLY_ALL * opened:
        return
    text = (
        f"{green} of {opened} training pictures are more green than red or blue, which "
        f"no H&E or DAB is: they look inverted (a negative), or their channels are in "
        f"another order; a teacher and ImageNet weights know RGB with a bright "
        f"background"
    )
    yield Finding("pictures", "warning", text)
