"""Waiting for what a test has set going; imports nothing that is slow to start."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

WAIT_SECONDS = 120.0  # a bound for a machine that is busy, not what anything takes


async def until(condition: Callable[[], object]) -> None:
    """Waits until a condition holds."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Fails the test when `condition` does not come true in time.

    `seconds` must be longer than what bounds the thing itself, see a world's `longest`.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.05)


def promised(seconds: float) -> float:
    """Returns what a promised time is where more runs than the machine has cores for.

    On a machine that is idle otherwise this is `seconds`.
    """
    lately, _, _, now, _ = Path("/proc/loadavg").read_text().split()
    runs = max(float(lately), float(now.split("/")[0]))
    return seconds * min(10.0, max(1.0, 2 * runs / (os.cpu_count() or 1) - 1))
