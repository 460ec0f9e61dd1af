import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moma_server.teacher.wire.servicer import ordered_map


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


@given(st.lists(st.integers(0, 3), max_size=12), st.integers(1, 4))
def test_results_come_in_order_and_the_window_holds(
    delays: list[int], window: int
) -> None:
    running, most = 0, 0

    async def work(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(delays[number]):
            await asyncio.sleep(0)
        running -= 1
        return number

    async def scenario() -> list[int]:
        results = ordered_map(numbers(len(delays)), work, window=window)
        return [result async for result in results]

    assert asyncio.run(scenario()) == list(range(len(delays)))
    assert most <= window


def test_a_consumer_that_stops_taking_stops_the_source() -> None:
    fetched = []

    async def source() -> AsyncIterator[int]:
        for number in range(100):
            fetched.append(number)
            yield number

    async def work(number: int) -> int:
        return number

    async def scenario() -> None:
        async with aclosing(ordered_map(source(), work, window=3)) as results:
            assert await anext(results) == 0
            await asyncio.sleep(0.05)

    asyncio.run(scenario())

    assert len(fetched) == 3


def test_an_error_comes_in_its_turn_and_cancels_what_was_begun_after_it() -> None:
    cancelled = []

    async def work(number: int) -> int:
        if number == 1:
            raise ValueError("one")
        try:
            await asyncio.sleep(0 if number == 0 else 60)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        return number

    async def scenario() -> None:
        async with aclosing(ordered_map(numbers(9), work, window=4)) as results:
            assert await anext(results) == 0
            with pytest.raises(ValueError, match="one"):
                await anext(results)

    asyncio.run(scenario())

    assert cancelled == [2, 3]


def test_an_error_of_the_source_comes_after_what_it_gave() -> None:
    async def source() -> AsyncIterator[int]:
        yield 0
        raise ValueError("the source broke")

    async def work(number: int) -> int:
        await asyncio.sleep(0.01)
        return number

    async def scenario() -> None:
        async with aclosing(ordered_map(source(), work, window=4)) as results:
            assert await anext(results) == 0
            with pytest.raises(ValueError, match="the source broke"):
                await anext(results)

    asyncio.run(scenario())
