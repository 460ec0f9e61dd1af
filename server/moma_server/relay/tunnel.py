"""Carries one connection of gRPC over a stream of frames, at either end of a link.

gRPC's own HTTP/2 is the multiplexer: it keeps the calls apart, holds a fast sender
back and tells of a cancelled call. Here its bytes are moved and not looked at.
"""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Coroutine
from typing import Any, Protocol, TypeVar

from moma_core.errors import MalformedRequestError, TeacherUnavailableError
from moma_server.relay.limits import RelayBounds

_T = TypeVar("_T")


class FrameStream(Protocol):
    """The stream underneath."""

    async def read(self) -> bytes | None:
        """Returns the content of the other end's next frame, None at the end."""
        ...

    async def write(self, content: bytes, /) -> None:
        """Returns when a frame is under way."""
        ...


async def tunnel(
    frames: FrameStream, reader: StreamReader, writer: StreamWriter, bounds: RelayBounds
) -> None:
    """Moves bytes between frames and a local connection until one of them ends.

    Raises:
        MalformedRequestError: The other end broke the rules.
        TeacherUnavailableError: It fell silent, or the local connection broke: gRPC
            hangs up on what is no HTTP/2.
    """
    try:
        await first_of(
            _from_frames(frames, writer, bounds), _to_frames(reader, frames, bounds)
        )
    except OSError as error:
        raise TeacherUnavailableError(f"the link's local end broke: {error}") from None


async def first_of(*steps: Coroutine[Any, Any, object]) -> None:
    """Runs steps until the first one ends or fails, and cancels the others."""
    tasks = [asyncio.create_task(step) for step in steps]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def in_time(step: Awaitable[_T], bounds: RelayBounds) -> _T:
    """Waits for the other end, but not for ever.

    Raises:
        TeacherUnavailableError: It fell silent.
    """
    try:
        async with asyncio.timeout(bounds.silence_seconds):
            return await step
    except TimeoutError:
        raise TeacherUnavailableError("the link's other end fell silent") from None


async def _from_frames(
    frames: FrameStream, writer: StreamWriter, bounds: RelayBounds
) -> None:
    while (content := await in_time(frames.read(), bounds)) is not None:
        if len(content) > bounds.frame_bytes:
            raise MalformedRequestError("a frame is too long")
        writer.write(content)
        await in_time(writer.drain(), bounds)


async def _to_frames(
    reader: StreamReader, frames: FrameStream, bounds: RelayBounds
) -> None:
    while True:
        content = b""  # says that this end is there
        try:
            async with asyncio.timeout(bounds.keep_alive_seconds):
                content = await reader.read(bounds.frame_bytes)
            if not content:
                return
        except TimeoutError:
            pass
        await in_time(frames.write(content), bounds)
