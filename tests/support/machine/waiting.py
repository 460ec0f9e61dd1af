"""Waiting for what a test has set going; imports nothing that is slow to start."""

import asyncio
from collections.abc import Callable

WAIT_SECONDS = 20.0


async def until(condition: Callable[[], object]) -> None:
    """Waits until a condition holds."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)
