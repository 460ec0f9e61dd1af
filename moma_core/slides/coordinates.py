"""Where patches lie, in HDF5 files: TRIDENT's and CLAM's are read, TRIDENT's written.

TRIDENT: github.com/mahmoodlab/TRIDENT; CLAM: github.com/mahmoodlab/CLAM. Both keep the
corners in pixels of level 0 in `coords`; the size of the patches is in its attributes.
A file of others may hold what reads further files, or is far larger than it looks: only
a plain data set of numbers is read.
"""

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from moma_core.errors import DataError, first_line, printable_line
from moma_core.runtime.folders import is_special
from moma_core.slides.grid import MOST_PATCHES, PatchGrid
from moma_core.slides.slide import LARGEST_SIDE_PX, Slide, SlideLevel

_LARGEST_PATCH_PX = 4096
_LARGEST_CHUNK_BYTES = 64 << 20  # is held whole
_MOST_CHUNKS = 1_000_000  # that are compressed
_DEFLATE, _SHUFFLE, _CHECKSUM = 1, 2, 3  # filters, by HDF5's numbers
_CHECKSUM_BYTES = 4
_LONGEST_KIND = 80  # letters
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
        if is_special(path):
            raise DataError("it is a pipe or a device, and no file")
        with h5py.File(path, "r") as file:
            stored = _plain(file)
            side_px, size_px, overlap_px = _sizes(file, stored, levels)
            corners = stored[:]
        _check_corners(corners, side_px, levels[0])
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # noqa: BLE001  # h5py raises what it likes
        raise DataError(
            f"cannot read the coordinates {path}: {first_line(error)}"
        ) from None
    return PatchGrid(corners.astype(np.int64), side_px, size_px, overlap_px)


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


def _plain(file: h5py.File) -> h5py.Dataset:
    """Returns `coords`, where it is a table of numbers in the file itself."""
    link = file.get("coords", getlink=True)
    if link is None:
        raise DataError("it has no coords: neither TRIDENT nor CLAM wrote it")
    stored = file["coords"] if isinstance(link, h5py.HardLink) else None
    if not isinstance(stored, h5py.Dataset) or stored.is_virtual or stored.external:
        raise DataError(
            "coords lies in another place, or in other files, which stay shut: write "
            "the coordinates into the file"
        )
    if stored.ndim != 2 or stored.shape[1] != 2:
        raise DataError(f"coords has the shape {stored.shape}, not N x 2")
    if stored.dtype.kind not in "iuf" or stored.dtype.itemsize > 8:
        kind = printable_line(str(stored.dtype), _LONGEST_KIND)
        raise DataError(f"coords holds {kind}, expected whole numbers")
    if len(stored) > MOST_PATCHES:
        raise DataError(
            f"coords has {len(stored)} patches, a slide has at most {MOST_PATCHES}"
        )
    if len(stored) and not stored.id.get_storage_size():
        raise DataError(f"coords states {len(stored)} patches, and holds none")
    _check_chunks(stored)
    return stored


def _check_chunks(stored: h5py.Dataset) -> None:
    """Refuses chunks that are missing, or longer than they state: HDF5 takes both."""
    if stored.chunks is None:
        return
    size = math.prod(stored.chunks) * stored.dtype.itemsize
    made = stored.id.get_create_plist()
    filters = [made.get_filter(n)[0] for n in range(made.get_nfilters())]
    is_known = sorted(filters) == sorted({*filters} & {_DEFLATE, _SHUFFLE, _CHECKSUM})
    if size > _LARGEST_CHUNK_BYTES or not is_known:
        raise DataError(
            "coords is stored in huge chunks, or compressed in a way that is not read: "
            "write it anew with `h5repack -l CONTI`"
        )
    needed = [-(-n // m) for n, m in zip(stored.shape, stored.chunks, strict=True)]
    if stored.id.get_num_chunks() < math.prod(needed):
        raise DataError(f"coords states {len(stored)} patches, and holds fewer")
    if _DEFLATE in filters:
        _check_deflated(stored, filters.index(_DEFLATE), size + _CHECKSUM_BYTES)


def _check_deflated(stored: h5py.Dataset, place_of_filter: int, most: int) -> None:
    """Refuses a chunk that becomes more bytes than `most`."""
    if stored.id.get_num_chunks() > _MOST_CHUNKS:
        raise DataError("coords is compressed in too small chunks")
    places: list[tuple[int, ...]] = []
    stored.id.chunk_iter(lambda chunk: places.append(chunk.chunk_offset))
    for place in places:
        mask, packed = stored.id.read_direct_chunk(place)
        if mask & 1 << place_of_filter:
            continue  # it did not become shorter, and was left as it was
        if len(zlib.decompressobj().decompress(packed, most + 1)) > most:
            raise DataError("a chunk of coords is longer than it states")


def _sizes(
    file: h5py.File, stored: h5py.Dataset, levels: Sequence[SlideLevel]
) -> tuple[int, int, int]:
    """Returns the side of a patch in pixels of level 0, as it is read, and overlap."""
    size_px, side_px, level, overlap_px = (
        _stated(file, stored, key)
        for key in ("patch_size", "patch_size_level0", "patch_level", "overlap")
    )
    if size_px is None or (side_px is None and level is None):
        raise DataError(
            "coords does not state the size of its patches: neither TRIDENT nor CLAM "
            "wrote it"
        )
    if side_px is None and level is not None:  # CLAM
        if not 0 <= level < len(levels):
            raise DataError(
                f"its patches are of level {level}, and the slide has {len(levels)}"
            )
        side_px = round(size_px * levels[level].downsample)
    if side_px is None or not (
        0 < size_px <= _LARGEST_PATCH_PX and 0 < side_px <= LARGEST_SIDE_PX
    ):
        raise DataError(
            f"a patch of {size_px} px, {side_px} px of level 0, cannot be meant"
        )
    return side_px, size_px, overlap_px or 0


def _stated(file: h5py.File, stored: h5py.Dataset, key: str) -> int | None:
    """Returns a number in the attributes of `coords`, or else of its file."""
    holder = next((each for each in (stored, file) if key in each.attrs), None)
    if holder is None:
        return None
    kept = holder.attrs.get_id(key)
    if kept.dtype.kind not in "iuf" or math.prod(kept.shape) != 1:
        raise DataError(f"its {key} is no number")
    value = np.asarray(holder.attrs[key]).item()
    if not isinstance(value, int | float) or not 0 <= value <= LARGEST_SIDE_PX:
        raise DataError(f"its {key} is {value}, which cannot be meant")
    if value != int(value):
        raise DataError(f"its {key} is {value}, expected whole pixels")
    return int(value)


def _check_corners(corners: NDArray[Any], side_px: int, level: SlideLevel) -> None:
    """Refuses coordinates that are no pixels, or another slide's."""
    if corners.dtype.kind == "f":
        is_whole = corners == np.floor(corners)  # NaN is not
        if not is_whole.all():
            x, y = corners[np.argmin(is_whole.all(axis=1))].tolist()
            raise DataError(
                f"a patch lies at {x}, {y}, expected whole pixels of level 0"
            )
    edges = (level.width_px, level.height_px)
    is_outside = ((corners <= -side_px) | (corners >= edges)).any(axis=1)
    if is_outside.any():
        x, y = corners[np.argmax(is_outside)].tolist()
        raise DataError(
            f"a patch at {x}, {y} lies outside the slide of {edges[0]} x {edges[1]} "
            f"px: are they another slide's?"
        )
