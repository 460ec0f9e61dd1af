"""Files for their owner only: written whole, added to line by line, watched."""

import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from moma_core.errors import ConfigError

_APPENDING = os.O_RDWR | os.O_APPEND | os.O_CREAT
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


def append_line(
    path: Path,
    line: bytes,
    *,
    largest_bytes: int | None = None,
    durable: bool = True,
    allows_symlink: bool = True,
) -> None:
    """Adds one line to a record with mode 0600; several processes may add at once.

    What a crash left behind the last whole line goes first.

    Args:
        path: Made if missing; its folder exists.
        line: Without a line break.
        largest_bytes: A file that would grow beyond it becomes the older part, and a
            new one begins; None: it grows.
        durable: Whether the line is on the disk when this returns.
        allows_symlink: Whether the path may be a symbolic link.
    """
    flags = _APPENDING if allows_symlink else _APPENDING | os.O_NOFOLLOW
    size, is_written = 0, False
    while not is_written:
        handle = os.open(path, flags, 0o600)
        with os.fdopen(handle, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = os.fstat(handle).st_size
            if _was_moved(handle, path):
                continue  # by another process, while this one waited
            if size and largest_bytes and size + len(line) >= largest_bytes:
                path.replace(older_part(path))
                continue
            _cut_torn_line(handle)
            file.write(line + b"\n")
            file.flush()
            if durable:
                os.fsync(handle)
            is_written = True
    if durable and not size:
        _sync_folder(path.parent)


def append_json(path: Path, value: object, *, largest_bytes: int | None = None) -> None:
    """Adds a value as one line of JSON, see `append_line`."""
    append_line(path, json.dumps(value).encode(), largest_bytes=largest_bytes)


def older_part(path: Path) -> Path:
    """Returns where the lines of a bounded record lie that are older than its own."""
    return path.with_name(f"{path.name}.1")


def _was_moved(handle: int, path: Path) -> bool:
    try:
        return not os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return True


def _cut_torn_line(handle: int) -> None:
    """Cuts off a torn line behind the last line break of a file that is locked."""
    size = end = os.fstat(handle).st_size
    whole = 0
    while end and not whole:
        begin = max(0, end - _BLOCK_BYTES)
        found = os.pread(handle, end - begin, begin).rfind(b"\n")
        whole = begin + found + 1 if found >= 0 else 0
        end = begin
    if whole < size and _is_whole(os.pread(handle, size - whole, whole)):
        os.write(handle, b"\n")  # only the line's end was missing
    elif whole < size:
        os.ftruncate(handle, whole)


def _is_whole(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def make_empty_folder(path: Path) -> None:
    """Makes a folder for results, and never writes over earlier ones.

    Raises:
        ConfigError: It holds something, or cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise ConfigError(f"{path} is not empty; name another folder")
    except OSError as error:
        raise ConfigError(f"cannot make {path}: {error}") from error


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
    """Returns what is another after every change of the files.

    Raises:
        OSError: One is missing, or cannot be looked at.
    """
    stats = [path.stat() for path in paths]
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)


class WatchedFile(Generic[T]):
    """What a file says now; a missing one is looked for each time. Thread-safe.

    Args:
        path: The file.
        read: Reads it; says what stands for one that is missing or damaged.
    """

    def __init__(self, path: Path, read: Callable[[Path], T]) -> None:
        self._path, self._read = path, read
        self._known: tuple[Stamp | None, T] = (self._fingerprint(), read(path))

    def content(self) -> T:
        """Returns what the file says, read anew only if it has changed."""
        fingerprint = self._fingerprint()
        known_fingerprint, content = self._known
        if fingerprint is None or fingerprint != known_fingerprint:
            content = self._read(self._path)
            self._known = (fingerprint, content)
        return content

    def _fingerprint(self) -> Stamp | None:
        try:
            return stat_fingerprint(self._path)
        except OSError:
            return None
