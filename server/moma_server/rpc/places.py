"""What one site may have under way at once: places, and bytes.

Threads and memory are shared and are given to whoever comes, so whoever hands in most
would have most of them. A site has few places, which its requests take in the order in
which they come: then threads serve the sites in turn, whatever one of them sends.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar, cast
from weakref import WeakValueDictionary

from moma_core.policy.token_bucket import TokenBucket

T = TypeVar("T")

_SHORTEST_REST_SECONDS = 0.02  # a small request costs more than its thread's time
_LONGEST_REST_SECONDS = 2.0  # a refusal is said after it, also by a server that stops


class Place:
    """One place of a site, taken by one request.

    Args:
        places: All places of the site; one of them is taken.
        clock: Returns seconds, and never goes back.
    """

    def __init__(self, places: asyncio.Semaphore, clock: Callable[[], float]) -> None:
        self._places, self._clock = places, clock
        self._worked_seconds = _SHORTEST_REST_SECONDS
        self._is_left = False
        self._working: asyncio.Future[object] | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """Does work in a thread; the place stays taken until that has ended.

        A caller that goes away does not end a thread, and could else have one after the
        other for requests that it gives up.
        """
        begin = self._clock()
        working = asyncio.ensure_future(asyncio.to_thread(work))
        self._working = cast("asyncio.Future[object]", working)
        try:
            return await asyncio.shield(working)
        finally:
            self._worked_seconds += self._clock() - begin
            if working.done():
                # its error holds the frames of the work, and so what was asked
                self._working = None
            del working

    async def rest(self) -> None:
        """Keeps the place for as long again as its work took, two seconds at most.

        So a site that is only ever refused has half of the time of its places.
        """
        if not self._is_left:
            await asyncio.sleep(min(self._worked_seconds, _LONGEST_REST_SECONDS))

    def leave(self) -> None:
        """Gives the place to the site's next request; once, however often called."""
        if self._is_left:
            return
        self._is_left = True
        if self._working is None or self._working.done():
            self._places.release()
        else:
            self._working.add_done_callback(self._leave_late)

    def _leave_late(self, working: asyncio.Future[object]) -> None:
        self._places.release()
        if not working.cancelled():
            working.exception()  # of a request that was given up


class SitePlaces:
    """Gives each site its places; used by the event loop alone.

    Args:
        of_one: Places of one site.
        clock: Returns seconds, and never goes back.
        per_minute: Times that a site takes one, and as many after a rest; who comes
            more often waits. None: as often as it likes.
    """

    def __init__(
        self,
        of_one: int,
        clock: Callable[[], float] = time.monotonic,
        per_minute: float | None = None,
    ) -> None:
        self._of_one, self._clock = of_one, clock
        self._pace = None if per_minute is None else TokenBucket(per_minute, clock)
        # a name costs memory only while it has a request under way
        self._sites = WeakValueDictionary[str, asyncio.Semaphore]()

    @asynccontextmanager
    async def take(self, site: str) -> AsyncIterator[Place]:
        """Yields a place of a site, which is left with the block at the latest."""
        places = self._sites.get(site)
        if places is None:
            places = self._sites[site] = asyncio.Semaphore(self._of_one)
        await places.acquire()
        place = Place(places, self._clock)
        try:
            while self._pace is not None and (wait := self._pace.take(site)):
                await asyncio.sleep(wait)
            yield place
        finally:
            place.leave()


class SiteBytes:
    """Bounds the bytes that are held for each site; used by the event loop alone.

    Args:
        of_one: Bytes of one site, at most; a larger request is held alone.
    """

    def __init__(self, of_one: int) -> None:
        self._of_one = of_one
        self._held: Counter[str] = Counter()
        self._freed = asyncio.Event()

    async def hold(self, site: str, count: int) -> None:
        """Waits until the site's bytes have room for so many more, and counts them."""
        while self._held[site] and self._held[site] + count > self._of_one:
            self._freed.clear()
            await self._freed.wait()
        self._held[site] += count

    def free(self, site: str, count: int) -> None:
        """Counts bytes as held no longer."""
        self._held[site] -= count
        self._held = +self._held  # sites cost no memory once they are gone
        self._freed.set()
