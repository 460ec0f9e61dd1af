"""What one site sends takes one thread at a time, and so much memory."""

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import Callable
from functools import partial

import pytest

from moma_server.rpc.places import SiteBytes, SitePlaces
from tests.support.machine.waiting import WAIT_SECONDS, until


class Clock:
    """Gives the seconds that a test sets."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def pass_by(self, seconds: float) -> None:
        """Moves on."""
        self.seconds += seconds


class HeldWork:
    """Work of a site that a thread does until the test ends it.

    Args:
        last: What it does then.

    Attributes:
        begun: It runs.
        end: The test sets it.
    """

    def __init__(self, last: Callable[[], None] = lambda: None) -> None:
        self._last = last
        self.begun, self.end = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.end.wait(WAIT_SECONDS)
        self._last()

    async def done(self, places: SitePlaces) -> None:
        """Does it in the place of the site."""
        async with places.take("site-b") as place:
            await place.run(self)

    async def given_up(self, places: SitePlaces) -> None:
        """Begins it, and gives up the request while the thread works on."""
        request = asyncio.create_task(self.done(places))
        await until(self.begun.is_set)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request


def test_a_site_takes_its_places_in_order_and_no_other_waits_for_it() -> None:
    taken: list[str] = []

    async def scenario() -> None:
        places, first_done = SitePlaces(), asyncio.Event()

        async def held(site: str, name: str) -> None:
            async with places.take(site):
                taken.append(name)
                if name == "first":
                    await first_done.wait()

        greedy = [
            asyncio.create_task(held("site-b", name))
            for name in ("first", "second", "third")
        ]
        await until(lambda: taken == ["first"])
        await held("site-a", "another's")
        first_done.set()
        await asyncio.gather(*greedy)

    asyncio.run(scenario())

    assert taken == ["first", "another's", "second", "third"]


def test_a_request_that_is_given_up_keeps_its_place_until_its_thread_has_ended() -> (
    None
):
    async def scenario() -> None:
        places, work = SitePlaces(), HeldWork()
        await work.given_up(places)
        work.begun.clear()
        following = asyncio.create_task(work.done(places))
        await asyncio.sleep(0.05)

        assert not work.begun.is_set()
        work.end.set()
        await following
        assert work.begun.is_set()

    asyncio.run(scenario())


def test_a_place_holds_nothing_of_work_that_failed() -> None:
    """Else the pixels of a refused query stay until the garbage collector comes."""

    class Asked:
        """Stands for a request, which the work refuses."""

    async def scenario() -> None:
        async with SitePlaces().take("site-b") as place:
            asked = Asked()
            asked.place = place  # type: ignore[attr-defined]  # as a request has it
            kept = weakref.ref(asked)

            def refuse(asked: Asked = asked) -> None:
                raise ValueError

            with contextlib.suppress(ValueError):
                await place.run(refuse)
            del asked, refuse
            await until(lambda: kept() is None)  # the thread lets go a moment later
            assert kept() is None

    gc.disable()
    try:
        asyncio.run(scenario())
    finally:
        gc.enable()


def test_a_refused_request_keeps_its_place_for_as_long_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rests: list[float] = []
    clock = Clock()

    async def noted(seconds: float) -> None:
        rests.append(seconds)

    async def scenario() -> None:
        async with SitePlaces(clock).take("site-b") as place:
            await place.run(partial(clock.pass_by, 1.0))
            monkeypatch.setattr(asyncio, "sleep", noted)
            await place.rest()
            place.leave()
            await place.rest()

    asyncio.run(scenario())

    assert rests == [pytest.approx(1.02)]


def _rests(
    monkeypatch: pytest.MonkeyPatch, requests: list[tuple[str, float]]
) -> list[float]:
    """Returns how long a site rested after each request, which took so many seconds."""
    clock, rests = Clock(), list[float]()

    async def scenario() -> None:
        def rest(seconds: float, release: Callable[[], None]) -> None:
            rests[-1] = seconds
            release()

        monkeypatch.setattr(asyncio.get_running_loop(), "call_later", rest)
        places = SitePlaces(clock)
        for site, seconds in requests:
            rests.append(0.0)
            async with places.take(site) as place:
                await place.run(partial(clock.pass_by, seconds))
                place.leave(is_charged=True)

    asyncio.run(scenario())
    return rests


def test_a_site_rests_for_what_it_works_beyond_twice_the_least_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = [
        ("site-b", 0.25),  # alone
        ("site-a", 0.0625),
        ("site-b", 0.25),
        ("site-a", 0.0625),
        ("site-c", 0.125),
        ("site-b", 0.0),  # a small request of it
        ("site-c", 0.125),
    ]

    rests = _rests(monkeypatch, asked)

    assert rests == [0.0, 0.0, 3 * 0.125, 0.0, 0.0, 0.0, 3 * 0.125]


def test_sites_whose_requests_are_as_much_work_rest_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not any(_rests(monkeypatch, [("site-a", 0.5), ("site-b", 1.0)] * 3))


def test_a_rest_has_an_end_and_a_site_that_is_gone_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = [("site-a", 0.0), ("site-b", 3.0), ("site-b", 3.0), ("site-b", 3.0)]

    assert _rests(monkeypatch, asked) == [0.0, 2.0, 0.0, 0.0]


def test_the_next_request_of_a_site_waits_for_its_rest_and_no_other_sites_does() -> (
    None
):
    clock, ends = Clock(), list[Callable[[], None]]()

    async def scenario() -> None:
        def kept(_seconds: float, release: Callable[[], None]) -> None:
            ends.append(release)

        asyncio.get_running_loop().call_later = kept  # type: ignore[method-assign,assignment]
        places = SitePlaces(clock)
        for site, seconds in (("site-a", 0.0), ("site-b", 1.0)):
            async with places.take(site) as place:
                await place.run(partial(clock.pass_by, seconds))
                place.leave(is_charged=True)
        taken = asyncio.Event()

        async def take(site: str) -> None:
            async with places.take(site):
                taken.set()

        following = asyncio.create_task(take("site-b"))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not taken.is_set()
        await take("site-a")
        taken.clear()
        ends.pop()()
        await following
        assert taken.is_set()

    asyncio.run(scenario())

    assert not ends


def test_what_is_not_charged_makes_no_other_site_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rests = list[float]()

    async def scenario() -> None:
        def rest(seconds: float, release: Callable[[], None]) -> None:
            rests.append(seconds)
            release()

        clock = Clock()
        monkeypatch.setattr(asyncio.get_running_loop(), "call_later", rest)
        places = SitePlaces(clock)
        for site, seconds in (("site-a", 0.0), ("site-b", 1.0)):
            async with places.take(site) as place:
                await place.run(partial(clock.pass_by, seconds))

    asyncio.run(scenario())

    assert rests == []


def test_work_that_was_given_up_is_rested_for_to_its_end() -> None:
    rests = list[float]()

    async def scenario() -> None:
        clock = Clock()
        places = SitePlaces(clock)
        async with places.take("site-a") as place:
            place.leave(is_charged=True)

        work = HeldWork(partial(clock.pass_by, 0.5))
        await work.given_up(places)

        def rest(seconds: float, release: Callable[[], None]) -> None:
            rests.append(seconds)
            release()

        loop = asyncio.get_running_loop()
        later = loop.call_later
        loop.call_later = rest  # type: ignore[method-assign,assignment]
        work.end.set()
        while not rests:
            await asyncio.sleep(0)
        loop.call_later = later  # type: ignore[method-assign]

    asyncio.run(asyncio.wait_for(scenario(), WAIT_SECONDS))

    assert rests == [1.5]


def test_who_takes_places_more_often_than_allowed_waits_and_no_other_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    clock = Clock()

    async def passed(seconds: float) -> None:
        waits.append(seconds)
        clock.seconds += seconds

    async def scenario() -> None:
        monkeypatch.setattr(asyncio, "sleep", passed)
        places = SitePlaces(clock, per_minute=2)
        for site in ("site-b", "site-b", "site-a", "site-b", "site-a"):
            async with places.take(site):
                pass

    asyncio.run(scenario())

    assert waits == [30.0]


def test_bytes_beyond_a_sites_bound_wait_until_others_of_it_are_freed() -> None:
    async def scenario() -> None:
        held = SiteBytes(10)
        await held.hold("site-b", 7)
        waiting = asyncio.create_task(held.hold("site-b", 4))
        await held.hold("site-a", 12)  # alone, it may be larger
        await asyncio.sleep(0)

        assert not waiting.done()
        held.free("site-b", 7)
        await asyncio.wait_for(waiting, WAIT_SECONDS)

    asyncio.run(scenario())
