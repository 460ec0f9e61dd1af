"""Waiting for what a test has set going; imports nothing that is slow to start."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

WAIT_SECONDS = 120.0  # a bound for a machine that is busy, not what anything takes


async def until(condition: Callable[[], object]) -> None:
    """Waits until a condition holds."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


def promised(seconds: float) -> float:
    """Returns what a promised time is where more runs than the machine has cores for.

    On a machine that is idle otherwise this is `seconds`.
    """
    lately, _, _, now, _ = Path("/proc/loadavg").read_text().split()
    runs = max(float(lately), float(now.split("/")[0]))
    return seconds * max(1.0, 4 * runs / (os.cpu_count() or 1) - 3)
