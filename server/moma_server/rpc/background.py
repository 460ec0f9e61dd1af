"""What a server does beside its calls."""

import asyncio
from collections.abc import Coroutine


class BackgroundTasks:
    """Tasks that run until their server stops.

    One that ends by an error ends the server too: without it nobody would serve what
    waits, or look who was revoked meanwhile.
    """

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        """Begins a task; needs a running event loop."""
        task = asyncio.create_task(work, name=name)
        self._tasks.append(task)
        return task

    def cancel(self) -> None:
        """Ends all of them."""
        for task in self._tasks:
            task.cancel()

    async def wait(self) -> None:
        """Waits until all have ended.

        Raises:
            Exception: One of them ended by it.
        """
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            if not task.cancelled():
                task.result()
