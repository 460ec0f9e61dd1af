"""At what resolution a student sees its patches."""

import numpy as np

from moma_core.data.patch import TRAIN, PatchSource
from moma_core.errors import DataError

_SAMPLE = 16
_SAME = 1.1  # a fifth of what parts one objective from the next, and rounding fits


def view_mpp(source: PatchSource, view_size_px: int) -> float | None:
    """Returns the microns a pixel of the views; None: unknown, or not one.

    A view is the whole patch, shrunk or stretched. Some patches are looked at, spread
    over the training split.

    Args:
        source: Patches of this site.
        view_size_px: Side of the views.
    """
    rows = source.index.rows(TRAIN)
    spread = np.linspace(0, len(rows) - 1, min(_SAMPLE, len(rows))).astype(int)
    found = []
    for row in rows[np.unique(spread)].tolist():
        try:
            patch = source.read(row)
        except DataError:
            continue  # training said so already
        if patch.resolution_mpp is None:
            return None
        found.append(patch.resolution_mpp * min(patch.pixels.shape[:2]) / view_size_px)
    if not found or max(found) > _SAME * min(found):
        return None
    return round(float(np.median(found)), 6)
