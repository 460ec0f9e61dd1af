"""Slides and coordinates that state what they are not."""

import struct
import zlib
from pathlib import Path

import h5py
import tifffile

from tests.support.slides.pictures import painted, write_ome, write_tiff


def longer_than_stated(stored: h5py.Dataset, length_bytes: int = 1 << 24) -> None:
    """Gives a compressed data set of one chunk zeros that HDF5 would unpack."""
    stored.id.write_direct_chunk((0, 0), zlib.compress(bytes(length_bytes)))


def small_ome(path: Path) -> Path:
    """Writes an OME-TIFF of two levels in some kilobytes, without noise."""
    return write_ome(path, painted(512, 512) // 70 * 70)


def with_tags(path: Path, **tags: object) -> Path:
    """Overwrites tags of the first page."""
    with tifffile.TiffFile(path, mode="r+") as file:
        for name, value in tags.items():
            file.pages[0].tags[name].overwrite(value)
    return path


def looped(path: Path, pages: int) -> Path:
    """Writes a TIFF whose last page leads back to its first."""
    page_bytes = 2 + 12 + 4
    content = struct.pack("<2sHI", b"II", 42, 8)
    for number in range(pages):
        following = 8 + (number + 1) % pages * page_bytes
        tag = struct.pack("<HHII", 256, 4, 1, 64)  # ImageWidth
        content += struct.pack("<H", 1) + tag + struct.pack("<I", following)
    path.write_bytes(content)
    return path


def with_part(path: Path, part: bytes) -> Path:
    """Writes a JPEG pyramid whose first tile is other bytes."""
    write_tiff(path, painted(512, 512))
    with tifffile.TiffFile(path, mode="r+") as file:
        page = file.pages[0]
        offsets, counts = list(page.dataoffsets), list(page.databytecounts)
        offsets[0], counts[0] = path.stat().st_size, len(part)
        page.tags["TileOffsets"].overwrite(offsets)
        page.tags["TileByteCounts"].overwrite(counts)
    content = bytearray(path.read_bytes())
    content[offsets[0] : offsets[0]] = part
    path.write_bytes(content)
    return path
