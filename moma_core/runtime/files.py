"""Files for their owner only: written whole, added to line by line, watched."""

import errno
import fcntl
import json
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, Generic, NamedTuple, TypeVar

from moma_core.errors import ConfigError, DiskError
from moma_core.runtime.json_lines import json_object

_APPENDING = os.O_RDWR | os.O_APPEND | os.O_CREAT
_BLOCK_BYTES = 1 << 16

# What a file system says that knows no file without a name.
_NEEDS_NAMES = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)

_NOT_ALLOWED = "let this program's user write there, or name another folder"
_ADVICE: Final = {
    errno.ENOSPC: "free some space there, then start again",
    errno.EDQUOT: "free some space there, or have the quota raised, then start again",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f), then start again",
    errno.EROFS: "mount it for writing, or name another folder",
    errno.EACCES: _NOT_ALLOWED,
    errno.EPERM: _NOT_ALLOWED,
    errno.ENOENT: "make the folder that is missing",
    errno.EIO: "check the disk before anything is started again",
}

_IN_WORDS_OF_RUST = re.compile(r"\(os error (\d+)\)")

DISK_FAULTS: Final = frozenset(_ADVICE)
"""Numbers of the errors of a disk that an operator can mend."""


@contextmanager
def writing(path: Path, what: str = "", *also: type[Exception]) -> Iterator[None]:
    """Says in one sentence why a disk does not take what the block writes.

    Args:
        path: The file, or the folder that is made.
        what: What is written, for the sentence; for example "the checkpoint".
        also: What a library raises where a write fails, beside OSError.

    Raises:
        DiskError: The write failed.
    """
    failures: tuple[type[Exception], ...] = (OSError, *also)
    try:
        yield
    except failures as error:
        subject = f"{what} {path}".lstrip()
        raise DiskError(f"cannot write {subject}: {_reason(error)}") from error


def disk_fault(error: OSError, place: Path | None = None) -> str:
    """Returns the sentence on an error of a disk, of DISK_FAULTS, that nobody took."""
    return f"cannot use {place or error.filename or 'the disk'}: {_reason(error)}"


def _reason(error: BaseException) -> str:
    """Returns what the disk said, which a library may have put its own words over."""
    said: BaseException | None = error
    while said is not None and not isinstance(said, OSError):
        said = said.__cause__ or said.__context__
    number = said.errno if isinstance(said, OSError) else None
    if number is None and (quoted := _IN_WORDS_OF_RUST.search(str(error))):
        number = int(quoted[1])
    if number is None:
        return f"{error}; look whether the disk is full or read-only"
    advice = _ADVICE.get(number, "look at the disk and at the rights on the folder")
    return f"{os.strerror(number)}; {advice}"


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, if they are missing.

    Raises:
        DiskError: It cannot be made.
    """
    with writing(path, "into the folder"):
        path.mkdir(parents=True, exist_ok=True)


def write_private(path: Path, content: bytes, what: str = "") -> None:
    """Writes a file with mode 0600; a crash leaves the old file or the new one.

    Args:
        path: Its folder exists.
        content: For example a private key.
        what: What it is, for the sentence of an error.

    Raises:
        DiskError: The disk does not take it; the old file is as it was.
    """
    with replacing(path, what) as file:
        file.write(content)


@contextmanager
def replacing(path: Path, what: str = "", *also: type[Exception]) -> Iterator[BinaryIO]:
    """Yields a new file, mode 0600, that takes a path's place when the block ends.

    It has no name until it is whole, so that a kill leaves nothing of it. Where the
    file system wants a name for it, and in the moment before the name is the right one,
    a kill leaves a draft: the next write of the path removes that.

    Args:
        path: Its folder exists.
        what: What is written, for the sentence of an error.
        also: What a library raises where a write fails, beside OSError.

    Raises:
        DiskError: The disk does not take it; the old file is as it was.
    """
    with writing(path, what, *also):
        _sweep_drafts(path)
        draft = _new_draft(path)
        with os.fdopen(draft.handle, "wb") as file:
            try:
                yield file
                file.flush()
                os.fsync(draft.handle)
                if not draft.is_named:
                    os.link(
                        f"/proc/self/fd/{draft.handle}",
                        draft.path,
                        src_dir_fd=draft.handle,  # has Python follow the link
                        follow_symlinks=True,
                    )
                draft.path.replace(path)
            except BaseException:
                draft.path.unlink(missing_ok=True)
                raise
        _sync_folder(path.parent)


class _Draft(NamedTuple):
    handle: int
    path: Path
    is_named: bool


def _new_draft(path: Path) -> _Draft:
    """Returns an open file, locked: who finds it by its name sees that it is in use."""
    try:
        handle = os.open(path.parent, os.O_WRONLY | os.O_TMPFILE, 0o600)
    except OSError as error:
        if error.errno not in _NEEDS_NAMES:
            raise
    else:
        fcntl.flock(handle, fcntl.LOCK_EX)
        return _Draft(handle, path.with_name(_draft_name(path)), is_named=False)
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not was_moved(handle, Path(name)):
            return _Draft(handle, Path(name), is_named=True)
        os.close(handle)  # swept away before it was locked


def _draft_name(path: Path) -> str:
    return f".{path.name}.{secrets.token_hex(4)}"


def _sweep_drafts(path: Path) -> None:
    """Removes the drafts of a path whose writers were killed."""
    form = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}")
    for other in path.parent.iterdir():
        if form.fullmatch(other.name):
            _remove_if_left(other)


def _remove_if_left(draft: Path) -> None:
    try:
        handle = os.open(draft, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return  # it has its place by now, or is no draft of ours
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        draft.unlink(missing_ok=True)
    except BlockingIOError:
        return  # its writer is alive
    finally:
        os.close(handle)


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

    Raises:
        DiskError: The disk does not take it; of the line nothing counts.
    """
    with writing(path, "a line of"):
        _append(
            path,
            line,
            largest_bytes=largest_bytes,
            durable=durable,
            allows_symlink=allows_symlink,
        )


def _append(
    path: Path,
    line: bytes,
    *,
    largest_bytes: int | None,
    durable: bool,
    allows_symlink: bool,
) -> None:
    flags = _APPENDING if allows_symlink else _APPENDING | os.O_NOFOLLOW
    size, is_written = 0, False
    while not is_written:
        handle = os.open(path, flags, 0o600)
        with os.fdopen(handle, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = os.fstat(handle).st_size
            if was_moved(handle, path):
                continue  # by another process, while this one waited
            if size and largest_bytes and size + len(line) >= largest_bytes:
                path.replace(older_part(path))
                continue
            _cut_torn_line(handle)
            add_whole(handle, line + b"\n", durable=durable)
            is_written = True
    if durable and not size:
        _sync_folder(path.parent)


def add_whole(handle: int, content: bytes, *, durable: bool = True) -> None:
    """Adds to a file that is locked and open for appending, all or nothing.

    Raises:
        OSError: The disk does not take it.
    """
    size, rest = os.fstat(handle).st_size, content
    try:
        while rest:
            rest = rest[os.write(handle, rest) :]
        if durable:
            os.fsync(handle)
    except OSError:
        os.ftruncate(handle, size)  # a line without its end would be taken for whole
        raise


def append_json(path: Path, value: object, *, largest_bytes: int | None = None) -> None:
    """Adds a value as one line of JSON, see `append_line`."""
    append_line(path, json.dumps(value).encode(), largest_bytes=largest_bytes)


def older_part(path: Path) -> Path:
    """Returns where the lines of a bounded record lie that are older than its own."""
    return path.with_name(f"{path.name}.1")


def was_moved(handle: int, path: Path) -> bool:
    """Whether another file than the open one lies at a path by now, or none."""
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
    if whole < size and json_object(os.pread(handle, size - whole, whole)) is not None:
        os.write(handle, b"\n")  # only the line's end was missing
    elif whole < size:
        os.ftruncate(handle, whole)


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

    Raises:
        DiskError: The lock's file cannot be made.
    """
    with writing(folder / ".lock"):
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
