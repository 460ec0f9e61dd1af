"""Looks for bytes where a party could keep them: its memory, its disk, its wire."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from moma_server.relay.attaching import Dial
from moma_server.relay.lane import Frame
from moma_server.relay.link import Wire

_PIECE_BYTES = 2**22


def memory_holds(pid: int, pattern: bytes) -> bool:
    """Says whether a process has the bytes anywhere in its memory, freed or not."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for start, end in _readable(pid):
            tail = b""
            for at in range(start, end, _PIECE_BYTES):
                try:
                    memory.seek(at)
                    piece = memory.read(min(_PIECE_BYTES, end - at))
                except (OSError, ValueError):
                    break  # the kernel's own, or gone by now
                if pattern in tail + piece:
                    return True
                tail = piece[1 - len(pattern) :]
    return False


def _readable(pid: int) -> Iterator[tuple[int, int]]:
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, rights, *_ = line.split()
        if rights.startswith("r") and "[v" not in line:  # not the kernel's pages
            start, _, end = span.partition("-")
            yield int(start, 16), int(end, 16)


def files_holding(folder: Path, pattern: bytes) -> list[Path]:
    """Returns the files below a folder that have the bytes in them."""
    found = []
    for path in sorted(folder.rglob("*")):
        with suppress(OSError):
            if path.is_file() and pattern in path.read_bytes():
                found.append(path)
    return found


class RecordedWire:
    """An `Attach` stream that keeps what the coordinator sends and is sent.

    Args:
        wire: The stream itself.
        frames: Gets every frame, serialized.
    """

    def __init__(self, wire: Wire, frames: list[bytes]) -> None:
        self._wire, self._frames = wire, frames

    async def read(self) -> Frame | None:
        frame = await self._wire.read()
        if frame is not None:
            self._frames.append(frame.SerializeToString())
        return frame

    async def write(self, frame: Frame, /) -> None:
        self._frames.append(frame.SerializeToString())
        await self._wire.write(frame)


def recorded(dial: Dial, frames: list[bytes]) -> Dial:
    """Returns a way to dial whose streams are recorded."""

    @asynccontextmanager
    async def dialled() -> AsyncIterator[Wire]:
        async with dial() as wire:
            yield RecordedWire(wire, frames)

    return dialled
