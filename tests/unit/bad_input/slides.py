"""Whole slides, and where patches lie on them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pydicom
import tifffile
from pydicom.uid import DeflatedExplicitVRLittleEndian

from moma_core.slides.coordinates import read_coordinates
from moma_core.slides.open import open_slide
from moma_core.slides.slide import SlideLevel
from tests.support.slides.hostile import (
    longer_than_stated,
    looped,
    small_ome,
    with_tags,
)
from tests.support.slides.pictures import painted, write_dicom
from tests.unit.bad_input.table import BadInput, written

LEVELS = (SlideLevel(1600, 1200, 1.0), SlideLevel(400, 300, 4.0))
_ELSEWHERE = (
    "./c.h5: coords lies in another place, or in other files, which stay shut: write "
    "the coordinates into the file"
)

_OUTSIDE = " lies outside the slide of 1600 x 1200 px: are they another slide's?"


def _coordinates(
    name: str, write: Callable[[h5py.File], object], says: str
) -> BadInput:
    def read(folder: Path) -> object:
        path = folder / "c.h5"
        with h5py.File(path, "w") as file:
            write(file)
        return read_coordinates(path, LEVELS)

    return BadInput(name, read, says)


def _corners(
    name: str, says: str, corners: Any = ((0, 0),), **attributes: Any
) -> BadInput:
    def write(file: h5py.File) -> None:
        stored = file.create_dataset("coords", data=corners)
        said = {"patch_size": 64, "patch_size_level0": 128} | attributes
        stored.attrs.update({k: v for k, v in said.items() if v is not None})

    return _coordinates(name, write, says)


def _declared(file: h5py.File, rows: int, **settings: Any) -> h5py.Dataset:
    stored = file.create_dataset("coords", (rows, 2), "<i8", **settings)
    stored.attrs.update(patch_size=64, patch_size_level0=128)
    return stored


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((2, 2), "<i8")
    layout[:] = h5py.VirtualSource("/etc/hostname", "coords", (2, 2))
    file.create_virtual_dataset("coords", layout)


def _linked(link: h5py.SoftLink | h5py.ExternalLink) -> Callable[[h5py.File], None]:
    def write(file: h5py.File) -> None:
        file["other"] = [[0, 0]]
        file["coords"] = link

    return write


def _references(file: h5py.File) -> None:
    file.create_dataset("coords", data=[[file.ref] * 2], dtype=h5py.ref_dtype)


def _packed(file: h5py.File) -> None:
    settings = {"chunks": (1024, 2), "compression": "gzip"}
    longer_than_stated(_declared(file, 1024, **settings))


COORDINATES = (
    BadInput(
        "coordinates that are no HDF5",
        written(lambda path: read_coordinates(path, LEVELS), "c.h5", b"no HDF5" * 99),
        "cannot read the coordinates ./c.h5: Unable to synchronously open file (file "
        "signature not found)",
    ),
    _coordinates(
        "an HDF5 file without coordinates",
        lambda file: file.create_dataset("features", data=[[1.0]]),
        "./c.h5: it has no coords: neither TRIDENT nor CLAM wrote it",
    ),
    _coordinates(
        "a group of coordinates", lambda f: f.create_group("coords"), _ELSEWHERE
    ),
    _coordinates(
        "coordinates behind a soft link", _linked(h5py.SoftLink("/other")), _ELSEWHERE
    ),
    _coordinates(
        "coordinates behind an external link",
        _linked(h5py.ExternalLink("/etc/hostname", "/coords")),
        _ELSEWHERE,
    ),
    _coordinates("coordinates that are put together", _virtual, _ELSEWHERE),
    _coordinates(
        "coordinates that are the bytes of another file",
        lambda file: _declared(file, 1, external=[("/etc/hostname", 0, 16)]),
        _ELSEWHERE,
    ),
    _coordinates(
        "references in the place of coordinates",
        _references,
        "./c.h5: coords holds object, expected whole numbers",
    ),
    _coordinates(
        "far too many coordinates",
        lambda file: _declared(file, 1 << 40, chunks=(1024, 2)),
        "./c.h5: coords has 1099511627776 patches, a slide has at most 10000000",
    ),
    _coordinates(
        "coordinates without bytes",
        lambda file: _declared(file, 10_000_000),
        "./c.h5: coords states 10000000 patches, and holds none",
    ),
    _coordinates(
        "coordinates of which most are missing",
        lambda file: _declared(file, 10_000_000, chunks=(64, 2)).__setitem__(0, 0),
        "./c.h5: coords states 10000000 patches, and holds fewer",
    ),
    _coordinates(
        "coordinates in one huge chunk",
        lambda file: _declared(
            file, 1, chunks=(1 << 24, 2), maxshape=(None, 2)
        ).id.write_direct_chunk((0, 0), bytes(1 << 28)),
        "./c.h5: coords is stored in huge chunks, or compressed in a way that is not "
        "read: write it anew with `h5repack -l CONTI`",
    ),
    _coordinates(
        "coordinates that unpack to far more than they state",
        _packed,
        "./c.h5: a chunk of coords is longer than it states",
    ),
    _corners(
        "coordinates of three columns",
        "./c.h5: coords has the shape (2, 3), not N x 2",
        np.zeros((2, 3)),
    ),
    _corners(
        "coordinates that are text",
        "./c.h5: coords holds object, expected whole numbers",
        [[b"10", b"20"]],
    ),
    _corners(
        "coordinates that are NaN",
        "./c.h5: a patch lies at nan, 5.0, expected whole pixels of level 0",
        [[0.0, 0.0], [np.nan, 5.0]],
    ),
    _corners(
        "coordinates that are infinite",
        "./c.h5: a patch at inf, 5.0" + _OUTSIDE,
        [[np.inf, 5.0]],
    ),
    _corners(
        "coordinates in microns",
        "./c.h5: a patch lies at 12.5, 5.0, expected whole pixels of level 0",
        [[12.5, 5.0]],
    ),
    _corners(
        "coordinates of another slide",
        "./c.h5: a patch at 90000, 5" + _OUTSIDE,
        [[0, 0], [90_000, 5]],
    ),
    _corners(
        "coordinates before the slide",
        "./c.h5: a patch at -128, 5" + _OUTSIDE,
        [[700, 700], [-128, 5]],
    ),
    _corners(
        "coordinates that are too large to be any",
        "./c.h5: a patch at 18446744073709551611, 5" + _OUTSIDE,
        np.array([[2**64 - 5, 5]], np.uint64),
    ),
    _corners(
        "a size of patches that is text",
        "./c.h5: its patch_size is no number",
        patch_size="64",
    ),
    _corners(
        "a size of patches that is NaN",
        "./c.h5: its patch_size is nan, which cannot be meant",
        patch_size=np.nan,
    ),
    _corners(
        "a size of patches that is infinite",
        "./c.h5: its patch_size_level0 is inf, which cannot be meant",
        patch_size_level0=np.inf,
    ),
    _corners(
        "a size of patches in parts of a pixel",
        "./c.h5: its patch_size_level0 is 127.5, expected whole pixels",
        patch_size_level0=127.5,
    ),
    _corners(
        "a patch of no size",
        "./c.h5: a patch of 0 px, 128 px of level 0, cannot be meant",
        patch_size=0,
    ),
    _corners(
        "a size of patches that is a list",
        "./c.h5: its patch_size is no number",
        patch_size=[64, 64],
    ),
    _corners(
        "an overlap that is negative",
        "./c.h5: its overlap is -1, which cannot be meant",
        overlap=-1,
    ),
    _corners(
        "patches of a level that the slide has not",
        "./c.h5: its patches are of level 2, and the slide has 2",
        patch_level=2,
        patch_size_level0=None,
    ),
    _corners(
        "coordinates that do not say how large a patch is",
        "./c.h5: coords does not state the size of its patches: neither TRIDENT nor "
        "CLAM wrote it",
        patch_size=None,
    ),
)


def _slide(
    name: str, write: Callable[[Path], object], says: str, file: str = "s.ome.tif"
) -> BadInput:
    def read(folder: Path) -> object:
        write(folder / file)
        return open_slide(folder / file)

    return BadInput(name, read, f"cannot open the slide ./{file}: {says}")


def _deflated(path: Path) -> None:
    slide = pydicom.dcmread(write_dicom(path, painted(256, 256)))
    slide.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    del slide.PixelData
    slide.save_as(path, enforce_file_format=True)


_HUGE = 1 << 31
_MANY_PAGES = (
    "the TIFF has more than 256 pages, a slide has one a level: save the picture that "
    "is meant alone"
)

SLIDES = (
    _slide(
        "a slide that is no TIFF",
        lambda path: path.write_bytes(b"no slide"),
        "this is no TIFF: not a TIFF file: header=b'no s'",
    ),
    _slide(
        "a slide of 2^31 pixels a side",
        lambda path: with_tags(small_ome(path), ImageWidth=_HUGE, ImageLength=_HUGE),
        "it states 2147483648 x 2147483648 px, and a slide has at most 1048576 a side: "
        "the file is damaged",
    ),
    _slide(
        "a slide in one tile of 2^31 pixels a side",
        lambda path: with_tags(small_ome(path), TileWidth=_HUGE, TileLength=_HUGE),
        "the TIFF holds 13194139533312 MiB in one piece: save it with tiles, such as a "
        "pyramid of vips or bfconvert",
    ),
    _slide(
        "a slide whose page leads to itself", lambda path: looped(path, 1), _MANY_PAGES
    ),
    _slide(
        "a slide whose pages lead in a circle",
        lambda path: looped(path, 150),
        _MANY_PAGES,
    ),
    _slide(
        "a slide in grey",
        lambda path: tifffile.imwrite(path, np.zeros((64, 64), np.uint8)),
        "the TIFF has one sample a pixel, expected 8-bit RGB",
    ),
    _slide(
        "a slide in DICOM that is deflated",
        _deflated,
        "s.dcm is deflated as a whole, which is not read: save it with JPEG frames",
        "s.dcm",
    ),
)
