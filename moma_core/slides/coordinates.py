"""Where patches lie, in HDF5 files: TRIDENT's and CLAM's are read, TRIDENT's written.

TRIDENT: github.com/mahmoodlab/TRIDENT; CLAM: github.com/mahmoodlab/CLAM. Both keep the
corners in pixels of level 0 in `coords`; the size of the patches is in its attributes.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from moma_core.errors import DataError
from moma_core.slides.grid import PatchGrid
from moma_core.slides.slide import Slide, SlideLevel

_MOST_PATCHES = 50_000_000
_MICRONS_AT_1X = 10.0  # an objective of 20x gives half a micron


def read_coordinates(path: Path, levels: Sequence[SlideLevel]) -> PatchGrid:
    """Reads a file of TRIDENT or CLAM.

    Args:
        path: The HDF5 file.
        levels: Of its slide; CLAM names the level that its patches have.

    Raises:
        DataError: It cannot be read, has no coordinates, or they do not fit the slide.
    """
    try:
        with h5py.File(path, "r") as file:
            stored = file["coords"]
            if stored.ndim != 2 or stored.shape[1] != 2 or len(stored) > _MOST_PATCHES:
                raise DataError(
                    f"{path}: coords has the shape {stored.shape}, not N x 2"
                )
            corners = np.asarray(stored[:], dtype=np.int64)
            said = {**file.attrs, **stored.attrs}
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"cannot read the coordinates {path}: {error}") from None
    side_px, size_px = _sizes(said, levels, path)
    overlap_px = int(said.get("overlap", 0))
    _check_inside(corners, side_px, levels[0], path)
    return PatchGrid(corners, side_px, size_px, overlap_px)


def write_coordinates(
    path: Path,
    grid: PatchGrid,
    slide: Slide,
    name: str,
    data: Mapping[str, Iterable[NDArray[Any]]] | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Writes a file as TRIDENT does, whole or not at all.

    Args:
        path: The HDF5 file.
        grid: Its patches.
        slide: On which they lie.
        name: Of the slide.
        data: Further data sets with a row for each patch, by name, in blocks of rows.
        more: Further attributes of `coords`.

    Raises:
        OSError: It cannot be written.
    """
    draft = path.with_name(f".{path.name}.partial")
    with h5py.File(draft, "w") as file:
        coords = file.create_dataset("coords", data=grid.corners)
        coords.attrs.update({**_said(grid, slide, name, path), **(more or {})})
        for key, blocks in (data or {}).items():
            _append(file, key, blocks)
    draft.replace(path)


def _said(grid: PatchGrid, slide: Slide, name: str, path: Path) -> dict[str, Any]:
    """Returns the attributes of `coords`."""
    mpp = grid.resolution_mpp(slide.mpp)
    said: dict[str, Any] = {
        "patch_size": grid.size_px,
        "patch_size_level0": grid.side_px,
        "overlap": grid.overlap_px,
        "name": name,
        "savetodir": str(path.parent),
        "level0_width": slide.width_px,
        "level0_height": slide.height_px,
    }
    if mpp is not None and slide.mpp is not None:
        said["level0_magnification"] = round(_MICRONS_AT_1X / slide.mpp)
        said["target_magnification"] = round(_MICRONS_AT_1X / mpp, 3)
    return said


def _append(file: h5py.File, key: str, blocks: Iterable[NDArray[Any]]) -> None:
    """Writes a data set block by block, so that one block is held at a time."""
    for block in blocks:
        if key not in file:
            file.create_dataset(key, data=block, maxshape=(None, *block.shape[1:]))
            continue
        rows = len(file[key])
        file[key].resize(rows + len(block), axis=0)
        file[key][rows:] = block


def _sizes(
    said: Mapping[str, Any], levels: Sequence[SlideLevel], path: Path
) -> tuple[int, int]:
    """Returns the side of a patch in pixels of level 0, and as it is read."""
    try:
        size_px = int(said["patch_size"])
        if "patch_size_level0" in said:
            side_px = int(said["patch_size_level0"])
        else:  # CLAM
            level = int(said["patch_level"])
            side_px = round(size_px * levels[level].downsample)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: coords does not state the size of its patches ({error}): neither "
            f"TRIDENT nor CLAM wrote it"
        ) from None
    if not (0 < size_px <= 4096 and side_px > 0):
        raise DataError(f"{path}: a patch of {size_px} px cannot be meant")
    return side_px, size_px


def _check_inside(
    corners: NDArray[np.int64], side_px: int, level: SlideLevel, path: Path
) -> None:
    """Refuses coordinates of another slide."""
    if not len(corners):
        return
    far_x, far_y = corners.max(axis=0).tolist()
    if (
        min(corners.min() + side_px, level.width_px - far_x, level.height_px - far_y)
        <= 0
    ):
        raise DataError(
            f"{path}: a patch at {far_x}, {far_y} lies outside the slide of "
            f"{level.width_px} x {level.height_px} px: are they another slide's?"
        )
