"""A link's bytes: how they are cut into frames, and what ends a link."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from moma_core.errors import MalformedRequestError, TeacherUnavailableError
from moma_server.relay.limits import RelayBounds
from moma_server.relay.tunnel import tunnel

WAIT_SECONDS = 20.0
BOUNDS = RelayBounds(frame_bytes=1000, keep_alive_seconds=0.1, silence_seconds=1.0)


class OtherEnd:
    """Sends what a test wants, without a network.

    Args:
        frames: Sent one after the other; then the stream stays open, silent.
    """

    def __init__(self, *frames: bytes | None) -> None:
        self._frames = list(frames)
        self.heard: list[bytes] = []

    async def read(self) -> bytes | None:
        if self._frames:
            return self._frames.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def write(self, content: bytes, /) -> None:
        self.heard.append(content)


@asynccontextmanager
async def echo_server(path: Path) -> AsyncIterator[None]:
    """Runs a server of bytes that sends back what it gets."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while content := await reader.read(2**16):
            writer.write(content)
        writer.close()

    server = await asyncio.start_unix_server(echo, path)
    try:
        yield
    finally:
        server.close()


def carry(folder: Path, other: OtherEnd) -> None:
    """Carries bytes between an other end and a server until the link is over."""

    async def scenario() -> None:
        path = folder / "echo.sock"
        async with echo_server(path):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    await tunnel(other, reader, writer, BOUNDS)
            finally:
                writer.close()
                await writer.wait_closed()

    asyncio.run(scenario())


def test_bytes_go_both_ways_in_frames_of_bounded_length(tmp_path: Path) -> None:
    sent = [bytes([number]) * 1000 for number in range(20)]
    other = OtherEnd(*sent)

    with pytest.raises(TeacherUnavailableError):  # it says nothing more
        carry(tmp_path, other)

    assert b"".join(other.heard) == b"".join(sent)
    assert max(map(len, other.heard)) <= 1000


def test_who_is_silent_counts_as_gone_and_is_sent_empty_frames(tmp_path: Path) -> None:
    other = OtherEnd()

    with pytest.raises(TeacherUnavailableError, match="fell silent"):
        carry(tmp_path, other)

    assert 3 <= len(other.heard) <= 10
    assert set(other.heard) == {b""}


def test_a_frame_that_is_too_long_ends_the_link(tmp_path: Path) -> None:
    with pytest.raises(MalformedRequestError, match="too long"):
        carry(tmp_path, OtherEnd(b"x" * 1001))


def test_the_end_of_the_stream_ends_the_link(tmp_path: Path) -> None:
    other = OtherEnd(b"x", None)

    carry(tmp_path, other)

    assert other.heard in ([], [b"x"])  # over, whether or not the echo was quick


@pytest.mark.parametrize("sent", [1, 200])
def test_a_local_end_that_hangs_up_ends_the_link_and_nothing_else(
    tmp_path: Path, sent: int
) -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async def scenario() -> None:
        path = tmp_path / "rude.sock"
        server = await asyncio.start_unix_server(hang_up, path)
        reader, writer = await asyncio.open_unix_connection(path)
        other = OtherEnd(*[bytes(1000)] * sent)
        with suppress(TeacherUnavailableError):  # no OSError, whenever it is seen
            async with asyncio.timeout(WAIT_SECONDS):
                await tunnel(other, reader, writer, BOUNDS)
        writer.close()
        server.close()
        assert other.heard in ([], [b""])

    asyncio.run(scenario())
