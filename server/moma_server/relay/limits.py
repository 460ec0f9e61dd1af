"""What one end of the relay takes from the other, and what may be called through it."""

import asyncio
import math
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

from moma_core.errors import TeacherBusyError
from moma_core.teacher.card.bounds import LARGEST_REQUEST_BYTES

RELAYED_SERVICES = ("moma.v1.TeacherService", "moma.v1.AuditService")

_METHOD = re.compile(
    "/(?:" + "|".join(map(re.escape, RELAYED_SERVICES)) + ")/[A-Za-z]{1,64}"
)
_RETRY_SECONDS = 2.0
_IDLE_SECONDS = 2.0  # before a call may have to make room for another site's


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayBounds:
    """Sizes, counts and times of one end; the defaults are the wire's contract.

    Args:
        frame_bytes: Largest content of one frame of a link.
        window_bytes: Responses that gRPC holds of a call whose site does not read.
        message_bytes: Largest message; it is whole in memory while it passes.
        request_bytes: Largest message of a site. gRPC holds what has come of it before
            the relay sees it, so that so much is counted for each that is awaited.
        site_bytes: Held at once for one site, over all of its calls.
        held_bytes: Held at once for all sites. gRPC assembles a teacher's message
            before it is counted: up to `message_bytes` more for each open call.
        calls: Calls open at once on one link.
        keep_alive_seconds: Who had nothing to send for so long sends an empty frame.
        silence_seconds: Who sent nothing for so long counts as gone.
    """

    frame_bytes: int = 2**20
    window_bytes: int = 2**22
    message_bytes: int = 2**26
    request_bytes: int = LARGEST_REQUEST_BYTES
    site_bytes: int = 2**29
    held_bytes: int = 2**32
    calls: int = 64
    keep_alive_seconds: float = 10.0
    silence_seconds: float = 30.0


def is_relayed(method: str) -> bool:
    """Says whether a gRPC method, `/service/name`, may be called through the relay."""
    return _METHOD.fullmatch(method) is not None


class OpenCall:
    """A site's call, which may have to make room for another's while it is idle.

    Args:
        site: Name of the caller.
        link: What the call goes by.

    Attributes:
        limit: Ends the call.
        ended: Set when it holds nothing any more.
        unanswered: Messages of the site, less those of the teacher.
        awaited_since: Since when a message of the site is awaited, by the loop's
            clock; None: none is.
    """

    def __init__(self, site: str, link: object) -> None:
        self.site, self.link = site, link
        self.limit = asyncio.timeout(None)
        self.ended = asyncio.Event()
        self.unanswered = 0
        self.awaited_since: float | None = None

    def idle_since(self) -> float:
        """Returns since when neither end has anything to do; never: infinity."""
        if self.awaited_since is None or self.unanswered > 0:
            return math.inf
        return self.awaited_since


class OpenCalls:
    """The calls of all sites; an idle one of the site that has most makes room."""

    def __init__(self) -> None:
        self._calls: set[OpenCall] = set()

    @asynccontextmanager
    async def open(self, site: str, link: object) -> AsyncIterator[OpenCall]:
        """Counts a call as open while the block runs.

        Raises:
            TeacherBusyError: It was idle, and had to make room.
        """
        call = OpenCall(site, link)
        self._calls.add(call)
        try:
            async with call.limit:
                yield call
        except TimeoutError:
            if not call.limit.expired():
                raise
            message = "the call was idle while others waited for room"
            raise TeacherBusyError(message, _RETRY_SECONDS) from None
        finally:
            self._calls.discard(call)
            call.ended.set()

    async def make_room(self, wanting: OpenCall, link: object = None) -> bool:
        """Ends the call that was idle longest, of the site that has most calls.

        A site that has no more calls than the one that wants room keeps all of its.

        Args:
            wanting: The call that needs room.
            link: By which the other must go; None: by any.

        Returns:
            Whether there was one.
        """
        among = [call for call in self._calls if link is None or call.link is link]
        counts = Counter(call.site for call in among)
        now = asyncio.get_running_loop().time()
        idle = [
            call
            for call in among
            if counts[call.site] > counts[wanting.site]
            and call.idle_since() <= now - _IDLE_SECONDS
        ]
        if not idle:
            return False
        yielding = min(idle, key=lambda call: (-counts[call.site], call.idle_since()))
        yielding.awaited_since = None  # nobody else waits for its room
        yielding.limit.reschedule(now)
        await yielding.ended.wait()
        return True


class ByteQuota:
    """Bytes that may be held at once, and perhaps a larger quota that is shared.

    It refuses and never waits: half a message that waited for room could be what
    keeps the room from others.

    Args:
        limit: Bytes that may be held at once.
        shared: Quota of all, in which the same bytes are counted.

    Attributes:
        now: Bytes held at the moment.
        most: Bytes held at the worst moment so far.
    """

    def __init__(self, limit: int, shared: "ByteQuota | None" = None) -> None:
        self._limit = limit
        self._shared = shared
        self.now = 0
        self.most = 0

    def is_full_of_others(self, count: int) -> bool:
        """Whether there is no room for bytes because of what others hold."""
        shared = self._shared
        return shared is not None and shared.now + count > shared._limit

    @contextmanager
    def holding(self, count: int) -> Iterator[None]:
        """Counts bytes as held while the block runs.

        Raises:
            TeacherBusyError: There is no room for them; nothing was counted.
        """
        with ExitStack() as stack:
            if self.now + count > self._limit:
                raise TeacherBusyError("the relay holds too much", _RETRY_SECONDS)
            if self._shared is not None:
                stack.enter_context(self._shared.holding(count))
            self.now += count
            self.most = max(self.most, self.now)
            try:
                yield
            finally:
                self.now -= count
