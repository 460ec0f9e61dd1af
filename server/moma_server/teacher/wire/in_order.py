"""Works on several items of a stream at once, and gives the results in order."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


async def in_order(
    items: AsyncIterator[ItemT],
    work: Callable[[ItemT], Awaitable[ResultT]],
    *,
    window: int,
) -> AsyncGenerator[ResultT, None]:
    """Yields the result of each item, in the order of the items.

    Who stops taking results stops the source. An error of an item or of the source
    is raised in its turn. To cancel what is under way, close the generator.

    Args:
        items: The source, for example a stream of requests.
        work: Called for each item; several run at once.
        window: Items fetched and not yet yielded, at most.
    """
    begun: asyncio.Queue[asyncio.Future[ResultT] | None] = asyncio.Queue()
    places = asyncio.Semaphore(window)

    async def fetch() -> None:
        try:
            while await places.acquire():
                begun.put_nowait(asyncio.ensure_future(work(await anext(items))))
        except StopAsyncIteration:
            pass
        finally:
            begun.put_nowait(None)

    fetching = asyncio.create_task(fetch())
    current: asyncio.Future[ResultT] | None = None
    try:
        while (current := await begun.get()) is not None:
            yield await current
            places.release()
        await fetching
    finally:
        fetching.cancel()
        await asyncio.wait([fetching])
        rest = [begun.get_nowait() for _ in range(begun.qsize())]
        await _cancel([task for task in (current, *rest) if task is not None])


async def _cancel(tasks: list[asyncio.Future[ResultT]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
