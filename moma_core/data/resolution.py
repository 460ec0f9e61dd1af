"""At what resolution patches were cut, and a student sees them."""

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from moma_core.data.patch import TRAIN, PatchSource
from moma_core.errors import DataError
from moma_core.runtime.finding import Finding

LARGEST_MPP = 100
"""Microns a pixel at most, of patches and on cards; above stand nanometres."""

_SAMPLE = 16
_SAME = 1.1  # a fifth of what parts one objective from the next, and rounding fits
_FINEST_MPP, _COARSEST_MPP = 0.05, 5.0  # beyond, another unit is meant
_OTHER = 1.25  # magnifications differ by two; half of that is no rounding


class PatchScale(NamedTuple):
    """At which size and resolution a student's patches are read.

    Args:
        size_px: Shorter side of the patches; None: they differ, or none can be read.
        view_mpp: Microns a pixel of the views; None: unknown, or not one.
    """

    size_px: int | None
    view_mpp: float | None


def patch_scale(source: PatchSource, view_size_px: int) -> PatchScale:
    """Returns the scale of some patches, spread over the training split.

    A view is the whole patch, shrunk or stretched.

    Args:
        source: Patches of this site.
        view_size_px: Side of the views.
    """
    rows = source.index.rows(TRAIN)
    spread = np.linspace(0, len(rows) - 1, min(_SAMPLE, len(rows))).astype(int)
    sides, resolutions = [], []
    for row in rows[np.unique(spread)].tolist():
        try:
            patch = source.read(row)
        except DataError:
            continue  # training said so already
        sides.append(min(patch.pixels.shape[:2]))
        resolutions.append(patch.resolution_mpp)
    return PatchScale(
        sides[0] if len(set(sides)) == 1 else None,
        _view_mpp(sides, resolutions, view_size_px),
    )


def _view_mpp(
    sides: list[int], resolutions: list[float | None], view_size_px: int
) -> float | None:
    known = [mpp for mpp in resolutions if mpp is not None]
    if not known or len(known) < len(resolutions):
        return None
    found = [mpp * side / view_size_px for mpp, side in zip(known, sides, strict=True)]
    if max(found) > _SAME * min(found):
        return None
    return round(float(np.median(found)), 6)


def stated_mpp(source: PatchSource) -> float | None:
    """Returns the microns a pixel that training patches state; None: they state none.

    A few are looked at; what is wrong with broken ones is said of the pictures.
    """
    found = []
    with suppress(DataError):
        for row in source.index.rows(TRAIN)[:_SAMPLE].tolist():
            found.append(source.read(row).resolution_mpp)
    known = [mpp for mpp in found if mpp is not None]
    return float(np.median(known)) if known else None


def is_other_mpp(own: float, other: float) -> bool:
    """Whether two resolutions are more than rounding apart."""
    return max(own / other, other / own) >= _OTHER


def look_at_mpp(place: str, mpp: float | None) -> Iterator[Finding]:
    """Yields whether it can be microns a pixel, and not a lens's magnification.

    Args:
        place: Who states it, to begin a sentence, such as "patches state".
        mpp: Microns a pixel, as it is stated; None: it is not.
    """
    if mpp is not None and not _FINEST_MPP <= mpp < _COARSEST_MPP:
        text = (
            f"{place} {mpp:g} microns a pixel: is that a lens's magnification, or "
            f"another unit? Where a scanner says 20x, 0.5 is usual, and 0.25 for 40x"
        )
        yield Finding("resolution", "warning", text)
