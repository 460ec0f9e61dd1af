"""Where the patches of a slide lie: over its tissue, at one resolution."""

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from moma_core.config import Section
from moma_core.errors import DataError
from moma_core.slides.open import require
from moma_core.slides.slide import Pixels, Slide

THUMBNAIL_PX = 2048
"""Longer side of the picture in which tissue is looked for."""

MOST_PATCHES = 10_000_000
"""Of one slide: 75 x 50 mm of glass have 230,000 of 256 px at 0.5 microns a pixel."""

_LEAST_SATURATION, _MOST_SATURATION = 0.04, 0.15
"""Otsu's threshold is kept between them: on an empty slide it would part noise, and
on a slide full of tissue it would part pale tissue from dark."""

_BLUR_PX = 1.5
_FAT_CELL_UM2 = 8_000  # holes up to this size are tissue: the inside of fat cells


class PatchGridSection(Section):
    """How a slide is cut into patches."""

    mpp: float = Field(
        default=0.5, gt=0.02, le=50, description="Microns a pixel of the patches."
    )
    patch_size_px: int = Field(
        default=256, ge=16, le=4096, description="Side of the patches, at that mpp."
    )
    overlap_px: int = Field(
        default=0, ge=0, description="Of neighbours, in pixels of the patches."
    )
    min_tissue: float = Field(
        default=0.25, ge=0, le=1, description="Share of a patch that must be tissue."
    )
    min_tissue_area_um2: float = Field(
        default=20_000,
        ge=0,
        description="Smaller pieces of tissue are dirt; in square microns.",
    )
    edge: Literal["drop", "pad"] = Field(
        default="drop",
        description="Patches over the slide's edge: left out, or filled with white.",
    )

    @model_validator(mode="after")
    def _patches_move_on(self) -> Self:
        if self.overlap_px >= self.patch_size_px:
            raise ValueError(
                f"overlap_px {self.overlap_px} must be less than patch_size_px "
                f"{self.patch_size_px}"
            )
        return self


@dataclass(frozen=True, slots=True)
class PatchGrid:
    """The patches of one slide.

    Args:
        corners: (N, 2) int64, left and upper edge in pixels of level 0.
        side_px: Side in pixels of level 0.
        size_px: Side that a patch is read at.
        overlap_px: Of neighbours, at that size.
        damaged: (N,), whether nobody knows if a patch shows tissue, since the slide
            cannot be read there; None: no patch is.
    """

    corners: NDArray[np.int64]
    side_px: int
    size_px: int
    overlap_px: int = 0
    damaged: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.corners)

    def resolution_mpp(self, mpp: float | None) -> float | None:
        """Returns the microns a pixel of the patches, from those of level 0."""
        return None if mpp is None else mpp * self.side_px / self.size_px


def lay_grid(
    slide: Slide,
    thumbnail: Pixels,
    section: PatchGridSection,
    damaged: NDArray[np.bool_] | None = None,
) -> PatchGrid:
    """Returns the patches of a slide that hold enough tissue, row by row.

    Args:
        slide: Whose mpp is known.
        thumbnail: Of the slide, (H, W, 3) uint8.
        section: How the slide is cut.
        damaged: (H, W), what of the thumbnail cannot be read: patches that may hold
            enough tissue there are returned as well. None: they are left out.

    Raises:
        DataError: The slide's mpp is not known, or too coarse for such patches; or
            there are too many of them.
    """
    ratio = section.mpp / needed_mpp(slide)
    side_px = round(section.patch_size_px * ratio)
    step_px = max(1, round((section.patch_size_px - section.overlap_px) * ratio))
    if side_px < section.patch_size_px / 2:
        raise DataError(
            f"the slide {slide.path} has {slide.mpp:g} microns a pixel, too coarse for "
            f"patches at {section.mpp:g}"
        )
    corners = _corners(slide, side_px, step_px, pads=section.edge == "pad")
    sizes = (side_px, section.patch_size_px, section.overlap_px)
    if section.min_tissue <= 0 or not len(corners):
        return PatchGrid(corners, *sizes)
    downsample = slide.width_px / thumbnail.shape[1]
    mpp = needed_mpp(slide) * downsample
    mask = tissue_mask(thumbnail, mpp, section.min_tissue_area_um2)
    holds = _share_of(mask, corners, side_px, downsample) >= section.min_tissue
    if damaged is None or not damaged.any():
        return PatchGrid(corners[holds], *sizes)
    share = _share_of(mask | damaged, corners, side_px, downsample)
    may_hold = share >= section.min_tissue
    return PatchGrid(corners[may_hold], *sizes, ~holds[may_hold])


def tissue_mask(
    thumbnail: Pixels, mpp: float, min_area_um2: float
) -> NDArray[np.bool_]:
    """Returns where a thumbnail shows tissue, (H, W).

    Tissue is more saturated than glass: the threshold is Otsu's.

    Args:
        thumbnail: (H, W, 3) uint8.
        mpp: Microns a pixel of the thumbnail.
        min_area_um2: Smaller pieces are left out.
    """
    require("skimage")
    from skimage.filters import gaussian, threshold_otsu

    most = thumbnail.max(axis=2).astype(np.float32)
    least = thumbnail.min(axis=2)
    saturation = gaussian((most - least) / np.maximum(most, 1), _BLUR_PX)
    threshold = float(threshold_otsu(saturation))
    threshold = min(max(threshold, _LEAST_SATURATION), _MOST_SATURATION)
    glass = _without_small(~(saturation > threshold), _FAT_CELL_UM2 / mpp**2)
    return _without_small(~glass, min_area_um2 / mpp**2)


def _without_small(mask: NDArray[np.bool_], least_px: float) -> NDArray[np.bool_]:
    from skimage.measure import label

    pieces = label(mask, connectivity=1)
    is_kept = np.bincount(pieces.ravel()) >= least_px
    is_kept[0] = False
    kept: NDArray[np.bool_] = is_kept[pieces]
    return kept


def _corners(
    slide: Slide, side_px: int, step_px: int, *, pads: bool
) -> NDArray[np.int64]:
    def starts(length_px: int) -> NDArray[np.int64]:
        end = length_px if pads else length_px - side_px + 1
        return np.arange(0, max(end, 0), step_px, dtype=np.int64)

    rows, columns = starts(slide.height_px), starts(slide.width_px)
    if len(rows) * len(columns) > MOST_PATCHES:
        raise DataError(
            f"the slide {slide.path} of {slide.width_px} x {slide.height_px} px would "
            f"be cut into {len(rows) * len(columns)} patches, expected at most "
            f"{MOST_PATCHES}: overlap them less, or take larger ones"
        )
    y, x = np.meshgrid(rows, columns, indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=1)


def _share_of(
    mask: NDArray[np.bool_],
    corners: NDArray[np.int64],
    side_px: int,
    downsample: float,
) -> NDArray[np.float64]:
    """Returns the share of each patch that the mask has, (N,), by its summed area."""
    total = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    total[1:, 1:] = mask.cumsum(0).cumsum(1)
    first = np.floor(corners / downsample).astype(np.int64)
    last = np.ceil((corners + side_px) / downsample).astype(np.int64)
    area = (last - first).prod(axis=1)
    limit = (mask.shape[1], mask.shape[0])
    (left, top), (right, bottom) = (np.minimum(at, limit).T for at in (first, last))
    inside = total[bottom, right] - total[top, right]
    inside = inside - total[bottom, left] + total[top, left]
    share: NDArray[np.float64] = inside / area
    return share


def needed_mpp(slide: Slide) -> float:
    """Returns the microns a pixel of level 0.

    Raises:
        DataError: Nobody stated them.
    """
    if slide.mpp is None:
        raise DataError(
            f"the slide {slide.path} does not state its microns a pixel: say them"
        )
    return slide.mpp
