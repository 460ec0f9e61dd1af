"""Decoded pixels, kept for the next epoch, the next student and the next round.

One file of slots, which all loading processes map: on a disk, or in a memory file
system for as long as the program lives. A slot is used where path, size and time of the
picture's file are those of when it was kept, and its checksum is right.
"""

import atexit
import hashlib
import logging
import mmap
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from moma_core.data.images import DECODING

_logger = logging.getLogger(__name__)

CacheKind = Literal["none", "ram", "disk"]
Pixels = NDArray[np.uint8]

_MEMORY = Path("/dev/shm")  # noqa: S108 - the files there have a mode of their own
_MAGIC = b"MOMAPIX1"
_HEADER = struct.Struct("<8sQ")  # magic, bytes of a slot
_SLOT = struct.Struct("<16sIHH")  # key, CRC-32, height, width; then the pixels
_DIGEST_CHARACTERS = 24


class PixelCache:
    """Keeps the pixels of a source's rows, the first ones if not all fit.

    What it cannot do, such as on a full disk, is a warning and costs speed alone.

    Args:
        path: The file; made for the first picture.
        rows: Of the source.
        limit_bytes: Of the file, at most.
    """

    def __init__(self, path: Path, rows: int, limit_bytes: int) -> None:
        self._path, self._rows, self._limit_bytes = path, rows, limit_bytes
        self._map: mmap.mmap | None = None
        self._slot_bytes, self._is_off = 0, False

    def pixels(self, row: int, file: Path, decode: Callable[[Path], Pixels]) -> Pixels:
        """Returns a picture's pixels, (H, W, 3), decoded once.

        Args:
            row: Of the source.
            file: The picture.
            decode: Reads one; what it raises is passed on, and nothing is kept.
        """
        key = _key(file)
        found = self._kept(row, key)
        if found is not None:
            return found
        pixels = decode(file)
        self._keep(row, key, pixels)
        return pixels

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the map behind: a loading process makes its own."""
        return {**self.__dict__, "_map": None}

    def _kept(self, row: int, key: bytes) -> Pixels | None:
        if self._is_off or (self._map is None and not self._open(None)):
            return None
        start = self._start(row)
        if start is None or self._map is None:
            return None
        found, checksum, height, width = _SLOT.unpack_from(self._map, start)
        size = height * width * 3
        if found != key or size > self._slot_bytes:
            return None
        content = self._map[start + _SLOT.size : start + _SLOT.size + size]
        if zlib.crc32(content) != checksum:
            return None
        return np.frombuffer(bytearray(content), np.uint8).reshape(height, width, 3)

    def _keep(self, row: int, key: bytes, pixels: Pixels) -> None:
        content = pixels.tobytes()
        if self._is_off or (self._map is None and not self._open(len(content))):
            return
        start = self._start(row)
        if start is None or self._map is None or len(content) > self._slot_bytes:
            return
        head = _SLOT.pack(key, zlib.crc32(content), *pixels.shape[:2])
        self._map[start : start + _SLOT.size + len(content)] = head + content

    def _start(self, row: int) -> int | None:
        """Returns where a row's slot begins; None: it has none."""
        whole = _SLOT.size + self._slot_bytes
        start = _HEADER.size + row * whole
        has_slot = self._map is not None and start + whole <= len(self._map)
        return start if has_slot else None

    def _open(self, slot_bytes: int | None) -> bool:
        """Maps the file; makes it first where the bytes of a slot are known."""
        try:
            if slot_bytes is not None and not self._is_usable():
                self._make(slot_bytes)
            if not self._is_usable():
                return False
            with self._path.open("r+b") as file:
                self._map = mmap.mmap(file.fileno(), 0)
        except OSError as error:
            self._is_off = True
            _logger.warning(
                "decoded patches are not kept in %s: %s", self._path, error.strerror
            )
            return False
        _, self._slot_bytes = _HEADER.unpack_from(self._map)
        return True

    def _is_usable(self) -> bool:
        try:
            with self._path.open("rb") as file:
                head = file.read(_HEADER.size)
        except FileNotFoundError:
            return False
        small_enough = self._path.stat().st_size <= self._limit_bytes
        return len(head) == _HEADER.size and head[:8] == _MAGIC and small_enough

    def _make(self, slot_bytes: int) -> None:
        """Reserves all of the file's bytes: a map over a hole ends the process."""
        whole = _SLOT.size + slot_bytes
        slots = min(self._rows, (self._limit_bytes - _HEADER.size) // whole)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(f".{os.getpid()}.partial")
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        try:
            descriptor = os.open(partial, flags, 0o600)
            try:
                os.write(descriptor, _HEADER.pack(_MAGIC, slot_bytes))
                os.posix_fallocate(descriptor, 0, _HEADER.size + max(0, slots) * whole)
            finally:
                os.close(descriptor)
            partial.replace(self._path)
        finally:
            partial.unlink(missing_ok=True)


def pixel_cache(
    kind: CacheKind, folder: Path | None, name: str, rows: int, limit_bytes: int
) -> PixelCache | None:
    """Returns the cache of a source; the same one for the same name, None for `none`.

    Args:
        kind: Where it lies. In memory it is this process's, and ends with it.
        folder: For `disk`.
        name: Of the source, such as its folder.
        rows: Of the source.
        limit_bytes: Of the file, at most.
    """
    digest = hashlib.sha256(f"{name}\0{rows}".encode()).hexdigest()[:_DIGEST_CHARACTERS]
    if kind == "disk" and folder is not None:
        return PixelCache(folder / f"{digest}.pixels", rows, limit_bytes)
    if kind != "ram":
        return None
    own = f"moma-{os.getuid()}-{os.getpid()}-"
    _remove_left_behind(f"moma-{os.getuid()}-")
    path = _MEMORY / f"{own}{digest}.pixels"
    atexit.register(path.unlink, missing_ok=True)
    return PixelCache(path, rows, limit_bytes)


def _remove_left_behind(prefix: str) -> None:
    """Removes what processes left in memory that were killed."""
    for path in _MEMORY.glob(f"{prefix}*.pixels"):
        owner = path.name.removeprefix(prefix).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            path.unlink(missing_ok=True)


def _key(file: Path) -> bytes:
    """Names a picture's file as it is now, in 16 bytes."""
    try:
        found = file.stat()
    except OSError:
        return b""  # nothing is kept under it, and decoding says why
    text = f"{DECODING}\0{file}\0{found.st_size}\0{found.st_mtime_ns}"
    return hashlib.blake2b(
        text.encode(errors="surrogateescape"), digest_size=16
    ).digest()
