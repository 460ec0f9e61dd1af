"""Files that are followed: what they say is read anew when they are others."""

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

Stamp = tuple[tuple[int, int, int], ...]
"""Of each file inode, size and time of change: new at every change."""


def stamp_of(*paths: Path) -> Stamp:
    """Returns what tells files from those of before.

    Raises:
        OSError: One is missing, or cannot be looked at.
    """
    stats = [path.stat() for path in paths]
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)


class FollowedFile(Generic[T]):
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
        known_stamp, content = self._known
        if stamp is None or stamp != known_stamp:
            content = self._read(self._path)
            self._known = (stamp, content)
        return content

    def _stamp(self) -> Stamp | None:
        try:
            return stamp_of(self._path)
        except OSError:
            return None
