"""The teacher's end of the relay: dials out, stays linked, has its server called."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Protocol

from moma_core.errors import MomaError, TeacherUnavailableError
from moma_server.relay.limits import RelayBounds
from moma_server.relay.tunnel import FrameStream, in_time, tunnel

_logger = logging.getLogger(__name__)


class TeacherFrames(FrameStream, Protocol):
    """The stream of a link, by which the teacher can say that it leaves."""

    async def leave(self) -> None:
        """Asks for no new calls."""
        ...


Dial = Callable[[], AbstractAsyncContextManager[TeacherFrames]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkLimits:
    """How a teacher stays linked.

    Args:
        first_pause_seconds: Pause after a loss; each further one is twice as long, and
            all are shortened by chance, to at least half.
        longest_pause_seconds: Pause at which the doubling ends.
        age_seconds: Age of a link at which the next one is opened beside it, and takes
            the new calls: sooner than the coordinator ends the connection.
        grace_seconds: Time for the calls of a link that has been replaced.
    """

    first_pause_seconds: float = 0.5
    longest_pause_seconds: float = 30.0
    age_seconds: float = 2700.0
    grace_seconds: float = 600.0


class _OpenLink:
    """One link at the teacher's end, from its dialling to its end."""

    def __init__(self, dial: Dial, socket: Path, bounds: RelayBounds) -> None:
        self._bounds = bounds
        self._frames: TeacherFrames | None = None
        self.heard = asyncio.Event()  # set when the coordinator has greeted
        self.task = asyncio.create_task(self._run(dial, socket))

    async def _run(self, dial: Dial, socket: Path) -> None:
        async with dial() as frames, _connection(socket, self._bounds) as ends:
            if await in_time(frames.read(), self._bounds) is None:
                return
            self._frames = frames
            self.heard.set()
            await tunnel(frames, *ends, self._bounds)

    async def leave(self, seconds: float) -> None:
        """Takes no new calls, and waits for those that are open, but not for ever."""
        try:
            async with asyncio.timeout(seconds):
                if self._frames is not None:
                    await self._frames.leave()
                await asyncio.wait({self.task})
        except (MomaError, TimeoutError):
            pass  # it ends here, or has ended
        finally:
            await self.cut()

    async def cut(self) -> None:
        """Ends the link, and what calls are open."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def _connection(
    socket: Path, bounds: RelayBounds
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connects to the teacher's own server.

    Raises:
        TeacherUnavailableError: It does not serve.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(
            socket, limit=bounds.frame_bytes
        )
    except OSError as error:
        message = f"the teacher's own server does not answer: {error}"
        raise TeacherUnavailableError(message) from None
    try:
        yield reader, writer
    finally:
        writer.close()


class RelayAgent:
    """Keeps a teacher linked until it is stopped.

    Args:
        dial: Opens a stream to the coordinator.
        socket: Where the teacher's own server takes relayed calls; who may open it,
            its folder's mode says.
        bounds: What this end takes of a link.
        limits: Pauses between links, and how old one may become.
        random: Spreads the pauses, so that teachers do not come back all at once.

    Attributes:
        links: How many links were opened so far.
    """

    def __init__(
        self,
        dial: Dial,
        socket: Path,
        bounds: RelayBounds,
        limits: LinkLimits,
        random: Random,
    ) -> None:
        self._dial, self._socket = dial, socket
        self._bounds, self._limits, self._random = bounds, limits, random
        self._current: _OpenLink | None = None
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
            if self._current is not None:
                await self._current.cut()
            for task in self._retiring:
                task.cancel()
            await asyncio.gather(*self._retiring, return_exceptions=True)

    async def _stay_linked(self, stop: asyncio.Event) -> None:
        """Returns when the link is old, or the teacher stops.

        Raises:
            MomaError: The link could not be opened, or was lost.
        """
        link = _OpenLink(self._dial, self._socket, self._bounds)
        halt = asyncio.create_task(stop.wait())
        heard = asyncio.create_task(link.heard.wait())
        ended = {link.task, halt}
        try:
            await asyncio.wait({*ended, heard}, return_when=asyncio.FIRST_COMPLETED)
            if link.heard.is_set():
                self._replace(link)
                age = self._limits.age_seconds * self._random.uniform(0.8, 1)
                await asyncio.wait(
                    ended, timeout=age, return_when=asyncio.FIRST_COMPLETED
                )
            if link.task.done():
                self._current = None
                link.task.result()
                raise TeacherUnavailableError("the relay has ended the link")
        finally:
            halt.cancel()
            heard.cancel()
            if link is not self._current:
                await link.cut()

    def _replace(self, link: _OpenLink) -> None:
        _logger.info("linked to the relay")
        self._failures = 0
        self.links += 1
        self._retire(self._limits.grace_seconds)
        self._current = link

    def _retire(self, grace_seconds: float) -> None:
        """Lets the calls of the link that was current end, and then the link."""
        if self._current is None:
            return
        retiring = asyncio.create_task(self._current.leave(grace_seconds))
        self._current = None
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
