"""Looks for bytes where a party could keep them: its memory, its disk, its wire."""

import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import numpy as np

from moma_server.relay.agent import Dial, TeacherFrames

_PIECE_BYTES = 2**22
_PAGE_BYTES = resource.getpagesize()


def memory_holds(pid: int, pattern: bytes) -> bool:
    """Says whether a process has the bytes anywhere in its memory, freed or not."""
    return any(pattern in piece for piece in memory_pieces(pid, len(pattern)))


def memory_pieces(pid: int, overlap: int) -> Iterator[bytes]:
    """Yields a process' memory, in order.

    Args:
        pid: The process.
        overlap: Bytes that each piece has of the one before, rounded up to four, so
            that what is no longer is whole in one of them.
    """
    overlap += -overlap % 4
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for start, end in _readable(pid):
            tail = b""
            for at in range(start, end, _PIECE_BYTES):
                try:
                    memory.seek(at)
                    piece = tail + memory.read(min(_PIECE_BYTES, end - at))
                except (OSError, ValueError):
                    break  # the kernel's own, or gone by now
                yield piece
                tail = piece[-overlap:]


def _readable(pid: int) -> Iterator[tuple[int, int]]:
    """Yields where something is that is not the kernel's, or a file's to read."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, rights, *rest = line.split()
        is_a_file_s = "w" not in rights and rest[-1].startswith("/")
        if rights.startswith("r") and "[v" not in line and not is_a_file_s:
            start, _, end = span.partition("-")
            yield from _touched(pid, int(start, 16), int(end, 16))


def _touched(pid: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yields the parts of a span that were ever written: most of a stack never was.

    Source: proc(5), /proc/PID/pagemap.
    """
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pages:
        pages.seek(start // _PAGE_BYTES * 8)
        flags = np.frombuffer(pages.read((end - start) // _PAGE_BYTES * 8), "<u8")
    is_there = flags >> np.uint64(62) != 0  # in memory, or swapped out
    edges = np.flatnonzero(np.diff(is_there, prepend=False, append=False))
    for first, behind in edges.reshape(-1, 2).tolist():
        yield start + first * _PAGE_BYTES, start + behind * _PAGE_BYTES


def files_holding(folder: Path, pattern: bytes) -> list[Path]:
    """Returns the files below a folder that have the bytes in them."""
    found = []
    for path in sorted(folder.rglob("*")):
        with suppress(OSError):
            if path.is_file() and pattern in path.read_bytes():
                found.append(path)
    return found


class RecordedFrames:
    """The stream of a link that keeps what the coordinator sends and is sent.

    Args:
        stream: The stream itself.
        frames: Gets the content of every frame.
    """

    def __init__(self, stream: TeacherFrames, frames: list[bytes]) -> None:
        self._stream, self._frames = stream, frames

    async def read(self) -> bytes | None:
        content = await self._stream.read()
        if content:
            self._frames.append(content)
        return content

    async def write(self, content: bytes, /) -> None:
        self._frames.append(content)
        await self._stream.write(content)

    async def leave(self) -> None:
        await self._stream.leave()


def recorded(dial: Dial, frames: list[bytes]) -> Dial:
    """Returns a way to dial whose streams are recorded."""

    @asynccontextmanager
    async def dialled() -> AsyncIterator[TeacherFrames]:
        async with dial() as stream:
            yield RecordedFrames(stream, frames)

    return dialled
