"""The teacher's end of the relay: dials out, stays linked, serves what is asked."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from random import Random

from moma_core.errors import (
    MalformedRequestError,
    MomaError,
    PolicyError,
    TeacherBusyError,
    TeacherUnavailableError,
)
from moma_proto.v1 import relay_pb2 as pb
from moma_server.relay.limits import HeldBytes, RelayBounds, is_relayed
from moma_server.relay.local_calls import LocalCalls, failure_status
from moma_server.relay.mux import Link, Wire
from moma_server.relay.mux_stream import Frame, Lane

_logger = logging.getLogger(__name__)

_INTERNAL = 13  # of gRPC
_LEAVING_SECONDS = 0.5  # in which a call may cross with the word that none is taken
_POLL_SECONDS = 0.05

Dial = Callable[[], AbstractAsyncContextManager[Wire]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachLimits:
    """How a teacher stays linked.

    Args:
        first_pause_seconds: After a loss; each further pause is twice as long, and all
            are shortened by chance, to at least half.
        longest_pause_seconds: The doubling ends here.
        age_seconds: Of a link, after which the next one is opened beside it, and
            takes the new calls: sooner than the coordinator's connection ends.
        grace_seconds: For the calls of a link that has been replaced.
    """

    first_pause_seconds: float = 0.5
    longest_pause_seconds: float = 30.0
    age_seconds: float = 2700.0
    grace_seconds: float = 600.0

    def __post_init__(self) -> None:
        if not 0 < self.first_pause_seconds <= self.longest_pause_seconds:
            raise ValueError(f"pauses must be positive and grow, got {self}")


class TeacherEnd:
    """One link, seen from the teacher: what comes is checked, and called.

    Args:
        bounds: Of this end.
        calls: The teacher's own server.
        held: What this process holds for the relay.
    """

    def __init__(self, bounds: RelayBounds, calls: LocalCalls, held: HeldBytes) -> None:
        self._calls, self._held = calls, held
        self._link = Link(
            pb.TeacherFrame, bounds, on_part=self._take, on_busy=self._refuse
        )
        self._newest_id = 0
        self._serving: dict[Lane, asyncio.Task[None]] = {}

    @property
    def heard(self) -> asyncio.Event:
        """Set when the coordinator has said something."""
        return self._link.heard

    async def run(self, wire: Wire) -> None:
        """Serves until the link ends; raises as `Link.run` does."""
        try:
            await self._link.run(wire)
        finally:
            tasks = list(self._serving.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def leave(self, seconds: float) -> None:
        """Takes no new calls, and waits for those that are open, but not for ever."""
        self._link.say(pb.TeacherFrame(leaving=pb.RelayLeaving()))
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.sleep(min(seconds, _LEAVING_SECONDS))
                while self._link.calls:
                    await asyncio.sleep(_POLL_SECONDS)

    def _take(self, lane: Lane | None, frame: Frame) -> None:
        if not isinstance(frame, pb.RelayFrame):
            raise MalformedRequestError("a frame goes the wrong way")
        match frame.WhichOneof("part"):
            case "open":
                self._open(frame.call_id, frame.open)
            case "half_close" if lane is not None:
                lane.incoming.close()
            case "cancel" if lane is not None:
                lane.end(None)
                self._serving[lane].cancel()

    def _open(self, call_id: int, opening: pb.RelayOpen) -> None:
        if call_id <= self._newest_id:
            raise MalformedRequestError(f"call {call_id} was opened before")
        self._newest_id = call_id
        try:
            lane = self._link.add(call_id, self._held)
        except TeacherBusyError as busy:
            self._link.say(_end_frame(call_id, failure_status(busy)))
            return
        if not is_relayed(opening.method):
            refusal = PolicyError("this method is not for the relay")
            lane.end(_end_frame(call_id, failure_status(refusal)))
            return
        task = asyncio.create_task(self._serve(lane, opening))
        self._serving[lane] = task
        task.add_done_callback(lambda _: self._serving.pop(lane, None))

    async def _serve(self, lane: Lane, opening: pb.RelayOpen) -> None:
        status = pb.RelayStatus(code=_INTERNAL, details="internal error")
        try:
            status = await self._calls.serve(lane, opening)
        finally:
            lane.end(_end_frame(lane.call_id, status))

    def _refuse(self, lane: Lane, error: TeacherBusyError) -> None:
        lane.end(_end_frame(lane.call_id, failure_status(error)), error)
        self._serving[lane].cancel()


def _end_frame(call_id: int, status: pb.RelayStatus) -> pb.TeacherFrame:
    return pb.TeacherFrame(call_id=call_id, status=status)


class Attaching:
    """Keeps a teacher linked until it is stopped.

    Args:
        dial: Opens a stream.
        calls: The teacher's own server.
        bounds: Of this end.
        limits: How stubborn it is.
        random: Spreads the pauses, so that teachers do not come back all at once.

    Attributes:
        links: How many streams were opened so far.
    """

    def __init__(
        self,
        dial: Dial,
        calls: LocalCalls,
        bounds: RelayBounds,
        limits: AttachLimits,
        random: Random,
    ) -> None:
        self._dial, self._calls = dial, calls
        self._bounds, self._limits, self._random = bounds, limits, random
        self._held = HeldBytes(bounds.held_bytes)
        self._current: tuple[TeacherEnd, asyncio.Task[None]] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._failures = 0
        self.links = 0

    async def run(self, stop: asyncio.Event, grace_seconds: float = 5.0) -> None:
        """Links and links again until `stop`; then calls have a while to end."""
        try:
            while not stop.is_set():
                try:
                    await self._stay_linked(stop)
                except MomaError as error:
                    await self._pause(error, stop)
            self._retire(grace_seconds)
            if self._retiring:
                await asyncio.wait(self._retiring, timeout=grace_seconds)
        finally:
            for task in self._retiring:
                task.cancel()
            await asyncio.gather(*self._retiring, return_exceptions=True)

    async def _stay_linked(self, stop: asyncio.Event) -> None:
        """Returns when the link is old, or the teacher stops.

        Raises:
            MomaError: The link could not be opened, or was lost.
        """
        end = TeacherEnd(self._bounds, self._calls, self._held)
        task = asyncio.create_task(self._live(end))
        halt = asyncio.create_task(stop.wait())
        heard = asyncio.create_task(end.heard.wait())
        try:
            await asyncio.wait({task, halt, heard}, return_when=asyncio.FIRST_COMPLETED)
            if end.heard.is_set():
                _logger.info("linked to the relay")
                self._failures = 0
                self.links += 1
                self._retire(self._limits.grace_seconds)
                self._current = (end, task)
                await asyncio.wait(
                    {task, halt},
                    timeout=self._limits.age_seconds * self._random.uniform(0.8, 1),
                    return_when=asyncio.FIRST_COMPLETED,
                )
            if task.done():
                self._current = None
                task.result()
                raise TeacherUnavailableError("the relay has closed the link")
        finally:
            halt.cancel()
            heard.cancel()
            if not end.heard.is_set():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _live(self, end: TeacherEnd) -> None:
        async with self._dial() as wire:
            await end.run(wire)

    def _retire(self, grace_seconds: float) -> None:
        """Lets the calls of the link that was current end, and then the link."""
        if self._current is None:
            return
        end, task = self._current
        self._current = None

        async def leave() -> None:
            try:
                await end.leave(grace_seconds)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        retiring = asyncio.create_task(leave())
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)

    async def _pause(self, error: MomaError, stop: asyncio.Event) -> None:
        pause = self._limits.first_pause_seconds * 2 ** min(self._failures, 30)
        pause = min(pause, self._limits.longest_pause_seconds)
        pause *= self._random.uniform(0.5, 1)
        self._failures += 1
        _logger.warning("linking to the relay again in %.1f s: %s", pause, error)
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause)
