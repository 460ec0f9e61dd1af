"""What one site may have under way at once: one place, and bytes.

Threads and memory are shared and are given to whoever comes, so whoever hands in most
would have most of them. A site has one place, which its requests take in the order in
which they come: then threads serve the sites in turn, whatever one of them sends. A
site whose requests are more work than another's rests between them while both ask, so
that the other does not always find the processor taken.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar, cast
from weakref import WeakValueDictionary

from moma_core.policy.token_bucket import TokenBucket

T = TypeVar("T")

_SHORTEST_REST_SECONDS = 0.02  # a small request costs more than its thread's time
_LONGEST_REST_SECONDS = 2.0  # a refusal is said after it, also by a server that stops
_OF_EXCESS = 3  # times: a large request is received and answered outside its place, too
_ALIKE = 2  # times as much work is of the same kind
_ACTIVE_SECONDS = 5.0  # so long after its request a site counts as one that asks


class Place:
    """A site's place, taken by one request.

    Args:
        give: Gives the place to the site's next request; told the seconds of work, and
            whether they were a charged query's.
        clock: Returns seconds, and never goes back.
    """

    def __init__(
        self, give: Callable[[float, bool], None], clock: Callable[[], float]
    ) -> None:
        self._give, self._clock = give, clock
        self._worked_seconds = 0.0
        self._is_left = self._is_charged = False
        self._working: asyncio.Future[object] | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """Does work in a thread; the place stays taken until that has ended.

        A caller that goes away does not end a thread, and could else have one after the
        other for requests that it gives up.
        """

        def timed() -> T:
            begin = self._clock()
            try:
                return work()
            finally:  # also of a request that was given up
                self._worked_seconds += self._clock() - begin

        working = asyncio.ensure_future(asyncio.to_thread(timed))
        self._working = cast("asyncio.Future[object]", working)
        try:
            return await asyncio.shield(working)
        finally:
            if working.done():
                # its error holds the frames of the work, and so what was asked
                self._working = None
            del working

    async def rest(self) -> None:
        """Keeps the place for as long again as its work took, two seconds at most.

        So a site that is only ever refused has half of the time of its place.
        """
        if not self._is_left:
            rest = _SHORTEST_REST_SECONDS + self._worked_seconds
            self._worked_seconds = 0.0  # or it would rest twice
            await asyncio.sleep(min(rest, _LONGEST_REST_SECONDS))

    def leave(self, *, is_charged: bool = False) -> None:
        """Gives the place to the site's next request; once, however often called.

        Args:
            is_charged: It is a query that was charged: only beside those others rest.
        """
        if self._is_left:
            return
        self._is_left = True
        self._is_charged = is_charged
        if self._working is None or self._working.done():
            self._give(self._worked_seconds, self._is_charged)
        else:
            self._working.add_done_callback(self._leave_late)

    def _leave_late(self, working: asyncio.Future[object]) -> None:
        self._give(self._worked_seconds, self._is_charged)
        if not working.cancelled():
            working.exception()  # of a request that was given up


class SitePlaces:
    """Gives each site one place; used by the event loop alone.

    Args:
        clock: Returns seconds, and never goes back.
        per_minute: Times that a site takes its place, and as many after a rest; who
            comes more often waits. None: as often as it likes.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        per_minute: float | None = None,
    ) -> None:
        self._clock = clock
        self._pace = None if per_minute is None else TokenBucket(per_minute, clock)
        # a name costs memory only while it has a request under way
        self._sites = WeakValueDictionary[str, asyncio.Lock]()
        self._worked: dict[str, tuple[float, float]] = {}  # when, and for how long

    @asynccontextmanager
    async def take(self, site: str) -> AsyncIterator[Place]:
        """Yields the place of a site, which is left with the block at the latest."""
        lock = self._sites.get(site)
        if lock is None:
            lock = self._sites[site] = asyncio.Lock()
        await lock.acquire()
        place = Place(partial(self._give, site, lock), self._clock)
        try:
            while self._pace is not None and (wait := self._pace.take(site)):
                await asyncio.sleep(wait)
            yield place
        finally:
            place.leave()

    def _give(
        self, site: str, lock: asyncio.Lock, worked_seconds: float, is_charged: bool
    ) -> None:
        """Gives a place to the next request, after the site's rest."""
        now = self._clock()
        self._worked = {
            name: (at, seconds)
            for name, (at, seconds) in self._worked.items()
            if at >= now - _ACTIVE_SECONDS
        }
        rest = self._rest_seconds(site, worked_seconds)
        if is_charged:
            self._worked[site] = (now, worked_seconds)
        if rest:
            asyncio.get_running_loop().call_later(rest, lock.release)
        else:
            lock.release()

    def _rest_seconds(self, site: str, worked_seconds: float) -> float:
        """Returns three times what it worked beyond twice the least beside it.

        Up to twice is no excess: times differ, and sites of one kind share.
        """
        others = [each for name, (_, each) in self._worked.items() if name != site]
        least = min(others, default=worked_seconds)
        excess = max(0.0, worked_seconds - _ALIKE * least)
        return min(_OF_EXCESS * excess, _LONGEST_REST_SECONDS)


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
