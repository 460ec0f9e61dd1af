"""Which rows are one file on the disk, found by listing folders, not by opening files.

A listing gives each file's inode for nothing, so that a million patches cost one look
at each folder. Links, files that a listing spells otherwise (on a disk where case does
not count), and rows that seem to be one file are looked at one by one.
"""

import os
import posixpath
import stat
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_NOWHERE = 2**64 - 1  # stands for the device of files that are not there
_MOST_KEPT = 1_000_000  # names in listings


class FileIdentities(NamedTuple):
    """What the disk says of the files of N rows.

    Args:
        codes: (N,) int32, equal where two rows are one file; files that are not there
            are compared by their paths.
        missing: Rows whose file is not there, ascending.
    """

    codes: NDArray[np.int32]
    missing: NDArray[np.int64]


def identify_files(root: Path, paths: Sequence[str]) -> FileIdentities:
    """Returns which of `paths`, below `root`, lead to one file."""
    disk, keys = _Disk(root), array("Q")
    for path in paths:
        keys.extend(disk.key(path))
    table = np.frombuffer(keys, dtype=np.uint64).reshape(-1, 2)  # (N, 2)
    _, first, inverse = np.unique(table, axis=0, return_index=True, return_inverse=True)
    codes = inverse.reshape(-1).astype(np.int32)
    _part_strangers(root, paths, codes, first)
    return FileIdentities(codes, np.flatnonzero(table[:, 0] == _NOWHERE))


class _Disk:
    """Device and inode of files, mostly from listings that are kept."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listings: dict[str, dict[str, tuple[int, int]]] = {}
        self._kept = 0
        self._absent: dict[str, int] = {}

    def key(self, path: str) -> tuple[int, int]:
        """Returns device and inode; a number for each path where nothing is."""
        if "//" in path or "./" in path:
            path = posixpath.normpath(path)
        folder, _, name = path.rpartition("/")
        listing = self._listings.get(folder)
        if listing is None:
            listing = self._list(folder)
        key = listing.get(name) or _looked_up(f"{self._root}/{path}")
        return key or (_NOWHERE, self._absent.setdefault(path, len(self._absent)))

    def _list(self, folder: str) -> dict[str, tuple[int, int]]:
        """Returns the files in a folder, links left out."""
        if self._kept > _MOST_KEPT:
            self._listings, self._kept = {}, 0
        listing = _listed(self._root / folder)
        self._listings[folder] = listing
        self._kept += len(listing)
        return listing


def _listed(folder: Path) -> dict[str, tuple[int, int]]:
    try:
        device = folder.stat().st_dev
        with os.scandir(folder) as entries:
            return {
                entry.name: (device, entry.inode())
                for entry in entries
                if entry.is_file(follow_symlinks=False)
            }
    except OSError:
        return {}


def _looked_up(path: str) -> tuple[int, int] | None:
    """Returns device and inode; `path` is a text, since `Path` keeps its parts."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):  # a path with a NUL is a ValueError
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def _part_strangers(
    root: Path,
    paths: Sequence[str],
    codes: NDArray[np.int32],
    first: NDArray[np.int64],
) -> None:
    """Gives a code of its own to a row that a closer look tells from its code's first.

    A listing's inodes are a hint alone on some network disks.
    """
    fresh = len(first)
    for row in np.flatnonzero(first[codes] != np.arange(len(codes))).tolist():
        ours, other = paths[row], paths[int(first[codes[row]])]
        if posixpath.normpath(ours) == posixpath.normpath(other):
            continue
        if not _is_one_file(root / ours, root / other):
            codes[row] = fresh
            fresh += 1


def _is_one_file(one: Path, other: Path) -> bool:
    try:
        a, b = one.stat(), other.stat()
    except OSError:
        return False
    return a.st_ino != 0 and os.path.samestat(a, b) and a.st_size == b.st_size
