"""Files that hold secrets: written whole or not at all, for their owner only."""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

_BLOCK_BYTES = 1 << 16


def write_private(path: Path, content: bytes) -> None:
    """Writes a file with mode 0600; a crash leaves the old file or the new one.

    Args:
        path: Its folder exists.
        content: For example a private key.
    """
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def append_private(path: Path, line: bytes) -> None:
    """Adds one line to a record with mode 0600, and makes it durable.

    Args:
        path: Made if missing; its folder exists.
        line: Without a line break; several processes may add at once.
    """
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(handle, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        is_new = os.fstat(handle).st_size == 0
        cut_torn_line(handle)
        file.write(line + b"\n")
        file.flush()
        os.fsync(handle)
    if is_new:
        _sync_folder(path.parent)


def cut_torn_line(handle: int) -> None:
    """Takes off what a crash left behind the last whole line of a file.

    Else the next line would be written into the torn one, and both were lost.

    Args:
        handle: Open for reading and writing, and locked.
    """
    size = end = os.fstat(handle).st_size
    whole = 0
    while end and not whole:
        begin = max(0, end - _BLOCK_BYTES)
        found = os.pread(handle, end - begin, begin).rfind(b"\n")
        whole = begin + found + 1 if found >= 0 else 0
        end = begin
    if whole < size:
        os.ftruncate(handle, whole)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a folder's lock, so that nothing is lost between two writers.

    Whoever can open a file can lock it, so what is locked is a file that others on the
    machine cannot open.

    Args:
        folder: Exists. One process must not hold its lock twice.
    """
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable: the new name is in the folder, not in the file."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


T = TypeVar("T")

Stamp = tuple[tuple[int, int, int], ...]
"""Of each file inode, size and time of change: new at every change."""


def stat_fingerprint(*paths: Path) -> Stamp:
    """Returns what tells files from those of before.

    Raises:
        OSError: One is missing, or cannot be looked at.
    """
    stats = [path.stat() for path in paths]
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)


class WatchedFile(Generic[T]):
    """What a file says now; one that is missing is looked for at every question.

    Safe to ask from several threads.

    Args:
        path: The file.
        read: Reads it; says what stands for one that is missing or damaged.
    """

    def __init__(self, path: Path, read: Callable[[Path], T]) -> None:
        self._path, self._read = path, read
        self._known: tuple[Stamp | None, T] = (self._stamp(), read(path))

    def content(self) -> T:
        """Returns it."""
        stamp = self._stamp()
        known_fingerprint, content = self._known
        if stamp is None or stamp != known_fingerprint:
            content = self._read(self._path)
            self._known = (stamp, content)
        return content

    def _stamp(self) -> Stamp | None:
        try:
            return stat_fingerprint(self._path)
        except OSError:
            return None
