"""A row of the table of bad input."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class BadInput(NamedTuple):
    """Something that somebody hands in, and what the operator reads of it.

    Args:
        name: What it is.
        read: Hands it in; the folder is empty, and the row's alone.
        says: All of the sentence; the folder is written `.` in it.
    """

    name: str
    read: Callable[[Path], object]
    says: str


def written(
    read: Callable[[Path], object], name: str, content: bytes | str
) -> Callable[[Path], object]:
    """Returns what reads a file with this content."""

    def write_and_read(folder: Path) -> object:
        path = folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(0o600)
        return read(path)

    return write_and_read
