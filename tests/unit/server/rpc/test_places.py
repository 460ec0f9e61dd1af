"""What one site sends takes one thread at a time, and so much memory."""

import asyncio
import contextlib
import gc
import threading
import weakref

import pytest

from moma_server.rpc.places import SiteBytes, SitePlaces
from tests.support.machine.waiting import WAIT_SECONDS, until


class Clock:
    """Gives the seconds that a test sets."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


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
    begun, end = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert end.wait(WAIT_SECONDS)

    async def scenario() -> None:
        places = SitePlaces()

        async def worked() -> None:
            async with places.take("site-b") as place:
                await place.run(work)

        given_up = asyncio.create_task(worked())
        await until(begun.is_set)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        following = asyncio.create_task(worked())
        begun.clear()
        await asyncio.sleep(0.05)

        assert not begun.is_set()
        end.set()
        await following
        assert begun.is_set()

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

    def work() -> None:
        clock.seconds += 1.0

    async def noted(seconds: float) -> None:
        rests.append(seconds)

    async def scenario() -> None:
        async with SitePlaces(clock).take("site-b") as place:
            await place.run(work)
            monkeypatch.setattr(asyncio, "sleep", noted)
            await place.rest()
            place.leave()
            await place.rest()

    asyncio.run(scenario())

    assert rests == [pytest.approx(1.02)]


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
