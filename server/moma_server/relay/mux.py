"""Many calls over one stream, at either end of it: in turns, bounded, kept alive."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from moma_core.errors import (
    MalformedRequestError,
    TeacherBusyError,
    TeacherError,
    TeacherUnavailableError,
)
from moma_proto.v1 import relay_pb2 as pb
from moma_server.relay.limits import HeldBytes, RelayBounds
from moma_server.relay.mux_stream import Frame, FrameKind, Lane

_T = TypeVar("_T")

_RETRY_SECONDS = 1.0


class Wire(Protocol):
    """The stream underneath."""

    async def read(self) -> Frame | None:
        """Returns the next frame of the other end, None at the end."""
        ...

    async def write(self, frame: Frame, /) -> None:
        """Returns when the frame is under way."""
        ...


class Link:
    """One end of an `Attach` stream.

    Args:
        kind: Of the frames that this end sends.
        bounds: Of this end.
        on_part: Given what is not common to both ends: the call id, its lane if the
            call is open, and the frame. It raises MalformedRequestError where the
            frame breaks the rules, which ends the stream.
        on_busy: Ends a call for which this end has no room.

    Attributes:
        heard: Set when the other end has said something.
    """

    def __init__(
        self,
        kind: FrameKind,
        bounds: RelayBounds,
        *,
        on_part: Callable[[Lane | None, Frame], None],
        on_busy: Callable[[Lane, TeacherBusyError], None],
    ) -> None:
        self._kind, self._bounds = kind, bounds
        self._on_part, self._on_busy = on_part, on_busy
        self._lanes: dict[int, Lane] = {}
        self._turns: deque[Lane] = deque()
        self._loose: deque[Frame] = deque()
        self._wake = asyncio.Event()
        self._is_lost = False
        self.heard = asyncio.Event()

    @property
    def calls(self) -> int:
        """How many calls are open, or not told to be over."""
        return sum(not lane.is_done for lane in self._turns)

    def add(self, call_id: int, account: HeldBytes) -> Lane:
        """Returns the lane of a new call.

        Raises:
            TeacherBusyError: As many are open as may be.
            TeacherUnavailableError: The stream has ended.
        """
        if self._is_lost:
            raise _lost()
        if len(self._turns) >= self._bounds.calls:
            self._forget_done()
        if len(self._turns) >= self._bounds.calls:
            raise TeacherBusyError("the relay has too many calls open", _RETRY_SECONDS)
        lane = Lane(call_id, self._kind, self._bounds, account, self._wake.set)
        self._lanes[call_id] = lane
        self._turns.append(lane)
        return lane

    def say(self, frame: Frame) -> None:
        """Sends a frame of no open call.

        Raises:
            MalformedRequestError: The other end asks for answers and takes none.
        """
        if len(self._loose) > self._bounds.calls:
            raise MalformedRequestError("too many calls were opened")
        self._loose.append(frame)
        self._wake.set()

    def _forget_done(self) -> None:
        for lane in self._turns:
            if lane.is_done:
                self._lanes.pop(lane.call_id, None)
        self._turns = deque(lane for lane in self._turns if not lane.is_done)

    async def run(self, wire: Wire) -> None:
        """Serves the calls until the stream ends; then none is left.

        Raises:
            MalformedRequestError: The other end broke the rules.
            TeacherUnavailableError: It fell silent.
        """
        tasks = [
            asyncio.create_task(self._read_all(wire)),
            asyncio.create_task(self._write_all(wire)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._is_lost = True
            for lane in list(self._turns):
                lane.end(None, _lost())
            self._turns.clear()
            self._lanes.clear()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _read_all(self, wire: Wire) -> None:
        while (frame := await self._in_time(wire.read())) is not None:
            self.heard.set()
            self._take(frame)

    async def _write_all(self, wire: Wire) -> None:
        while True:
            frame = self._next_frame()
            if frame is None:
                frame = await self._pause()
            if frame is not None:
                await self._in_time(wire.write(frame))

    async def _pause(self) -> Frame | None:
        """Waits for something to say; returns what is said when nothing comes."""
        self._wake.clear()
        try:
            async with asyncio.timeout(self._bounds.keep_alive_seconds):
                await self._wake.wait()
        except TimeoutError:
            return self._kind(keep_alive=pb.RelayKeepAlive())
        return None

    async def _in_time(self, step: Awaitable[_T]) -> _T:
        try:
            async with asyncio.timeout(self._bounds.silence_seconds):
                return await step
        except TimeoutError:
            raise TeacherUnavailableError("the relay's other end fell silent") from None

    def _next_frame(self) -> Frame | None:
        """Returns a frame of the call whose turn it is."""
        if self._loose:
            return self._loose.popleft()
        for _ in range(len(self._turns)):
            lane = self._turns.popleft()
            frame = lane.next_frame()
            if lane.is_over:
                self._lanes.pop(lane.call_id, None)
            if not lane.is_done:
                self._turns.append(lane)
            if frame is not None:
                return frame
        return None

    def _take(self, frame: Frame) -> None:
        lane = self._lanes.get(frame.call_id)
        if lane is not None and lane.is_over:
            lane = None
        match frame.WhichOneof("part"):
            case "keep_alive":
                return
            case "chunk" | "credit" if lane is None:
                return  # it crossed with the end of its call
            case "chunk" if lane is not None:
                try:
                    lane.incoming.push(frame.chunk)
                except TeacherBusyError as error:
                    self._on_busy(lane, error)
            case "credit" if lane is not None:
                lane.outgoing.give_room(frame.credit.bytes)
            case None:
                raise MalformedRequestError("a frame says nothing")
            case _:
                self._on_part(lane, frame)


def _lost() -> TeacherError:
    return TeacherUnavailableError("the link between teacher and relay was lost")
