"""The two directions of one relayed call: messages in chunks, within a window.

Back-pressure reaches from end to end: a chunk leaves only where the other end has room
for it, room comes back only as the other end's messages are taken, and the next
message is taken from the caller only when the one before has left.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from moma_core.errors import (
    MalformedRequestError,
    OversizedError,
    TeacherError,
)
from moma_proto.v1 import relay_pb2 as pb
from moma_server.relay.limits import CHUNK_COST_BYTES, HeldBytes, RelayBounds


class Outgoing:
    """What one call has to send.

    Args:
        bounds: Of this end.
        account: Is charged for the message that is under way.
        wake: Called when there is something to send.
    """

    def __init__(
        self, bounds: RelayBounds, account: HeldBytes, wake: Callable[[], None]
    ) -> None:
        self._bounds, self._account, self._wake = bounds, account, wake
        self._room = bounds.window_bytes
        self._rest: memoryview | None = None
        self._left: asyncio.Future[None] | None = None
        self._error: TeacherError | None = None

    async def send(self, message: bytes) -> None:
        """Returns when the whole message has left; one at a time.

        Raises:
            OversizedError: It is too long for the relay.
            TeacherError: The call is over, or there is no room for the message.
        """
        if len(message) > self._bounds.message_bytes:
            raise _oversized(len(message))
        if self._error is not None:
            raise self._error
        self._account.take(len(message))
        self._rest = memoryview(message)
        self._left = asyncio.get_running_loop().create_future()
        self._wake()
        try:
            await self._left
        finally:
            self._rest = self._left = None
            self._account.give(len(message))

    @property
    def is_empty(self) -> bool:
        """Whether no part of a message waits."""
        return self._rest is None

    def next_chunk(self) -> pb.RelayChunk | None:
        """Returns what may leave now, if anything may."""
        if self._rest is None or self._left is None:
            return None
        size = min(len(self._rest), self._bounds.chunk_bytes)
        if size + CHUNK_COST_BYTES > self._room:
            return None
        self._room -= size + CHUNK_COST_BYTES
        content, self._rest = bytes(self._rest[:size]), self._rest[size:]
        is_last = not self._rest
        if is_last:
            self._rest = None
            if not self._left.done():
                self._left.set_result(None)
        return pb.RelayChunk(content=content, is_last=is_last)

    def give_room(self, count: int) -> None:
        """Takes a credit.

        Raises:
            MalformedRequestError: It is for more than was sent.
        """
        self._room += count
        if self._room > self._bounds.window_bytes:
            raise MalformedRequestError("the other end gave credit for nothing")
        self._wake()

    def stop(self, error: TeacherError) -> None:
        """Ends what is under way, and all that would follow."""
        self._error = self._error or error
        self._rest = None
        if self._left is not None and not self._left.done():
            self._left.set_exception(error)


class Incoming:
    """What has come for one call and was not taken yet.

    Args:
        bounds: Of this end.
        account: Is charged for the bytes until they have been used.
        wake: Called when a credit is due.
    """

    def __init__(
        self, bounds: RelayBounds, account: HeldBytes, wake: Callable[[], None]
    ) -> None:
        self._bounds, self._account, self._wake = bounds, account, wake
        self._chunks: deque[pb.RelayChunk] = deque()
        self._outstanding = 0  # of the window
        self._due = 0  # of it, taken and not given back yet
        self._held = 0  # bytes, on the account
        self._handed = 0  # of them, given out and perhaps still in use
        self._arrived = asyncio.Event()
        self._is_closed = False
        self._error: TeacherError | None = None

    def push(self, chunk: pb.RelayChunk) -> None:
        """Takes a chunk from the wire.

        Raises:
            MalformedRequestError: It breaks the rules of the stream.
            TeacherBusyError: This end holds too much.
        """
        size = len(chunk.content)
        self._outstanding += size + CHUNK_COST_BYTES
        if size > self._bounds.chunk_bytes or self._is_closed:
            raise MalformedRequestError("a chunk is too long, or comes too late")
        if self._outstanding > self._bounds.window_bytes:
            raise MalformedRequestError("the other end overran its window")
        self._account.take(size)
        self._held += size
        self._chunks.append(chunk)
        self._arrived.set()

    async def receive(self) -> bytes | None:
        """Returns the next message, None after the last; the one before is done with.

        Raises:
            OversizedError: The message is too long for the relay.
            TeacherError: The call is over.
        """
        self._give(self._handed)
        self._handed = 0
        parts: list[bytes] = []
        size = 0
        while (chunk := await self._next_chunk()) is not None:
            size += len(chunk.content)
            if size > self._bounds.message_bytes:
                raise _oversized(size)
            parts.append(chunk.content)
            if chunk.is_last:
                self._handed = size
                return b"".join(parts)
        if parts:
            raise MalformedRequestError("a message broke off in its middle")
        return None

    async def _next_chunk(self) -> pb.RelayChunk | None:
        while not self._chunks or self._error is not None:
            if self._error is not None:
                raise self._error
            if self._is_closed:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        chunk = self._chunks.popleft()
        self._due += len(chunk.content) + CHUNK_COST_BYTES
        self._wake()
        return chunk

    def credit_due(self) -> int:
        """Returns what is to be given back to the sender now, often 0."""
        due = self._due
        if self._is_closed or due < self._bounds.window_bytes // 4:
            return 0
        self._outstanding -= due
        self._due = 0
        return due

    def close(self) -> None:
        """Notes that nothing follows; what is here can still be taken."""
        self._is_closed = True
        self._arrived.set()

    def stop(self, error: TeacherError) -> None:
        """Drops what is here; who waits for more is told the error."""
        self._error = self._error or error
        self._chunks.clear()
        self._give(self._held)
        self._handed = 0
        self._arrived.set()

    def _give(self, count: int) -> None:
        count = min(count, self._held)
        self._held -= count
        self._account.give(count)


def _oversized(size: int) -> OversizedError:
    return OversizedError(f"a message of {size} bytes is too long for the relay")
