"""Keeps a service busy for a while, and says what that took."""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.service.askers import Asker, Pixels

_MARK_BYTES = 8
WARM_BATCHES = 1
"""Asked before the clock starts; the CPU time of the services has them in it."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a site asks.

    Args:
        side_px: Of a patch.
        batch: Patches that are asked together.
        in_flight: Batches under way; 1 asks and waits.
    """

    side_px: int
    batch: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class Driven:
    """What came of it.

    Args:
        batches: That were answered.
        seconds: From the first question to the last answer.
        cpu_seconds: Of this process.
        latencies: Of each batch, seconds.
    """

    batches: int
    seconds: float
    cpu_seconds: float
    latencies: tuple[float, ...]


class Patches:
    """An endless stream of batches, no patch of which came before.

    Their pixels are noise that is made once; a number in the first pixels makes each
    patch another one. A batch may be changed when so many others have followed.

    Args:
        load: Their size.
    """

    def __init__(self, load: Load) -> None:
        random = np.random.default_rng(0)
        shape = (load.batch, load.side_px, load.side_px, 3)
        spare = load.in_flight + WARM_BATCHES
        self._ring = [
            random.integers(0, 256, shape, np.uint8, endpoint=False)
            for _ in range(spare)
        ]
        self._next = int(time.time_ns())

    def __iter__(self) -> Iterator[Pixels]:
        while True:
            for pixels in self._ring:
                numbers = np.arange(self._next, self._next + len(pixels), dtype="<u8")
                self._next += len(pixels)
                marks = numbers.view(np.uint8).reshape(len(pixels), _MARK_BYTES)
                pixels.reshape(len(pixels), -1)[:, :_MARK_BYTES] = marks
                yield pixels


def drive(
    asker: Asker, patches: Patches, load: Load, *, seconds: float, fewest: int
) -> Driven:
    """Asks for a while.

    Args:
        asker: Who is asked.
        patches: What.
        load: How much at once.
        seconds: After which nothing new is asked.
        fewest: Batches that are asked, however long they take.
    """
    batches = iter(patches)
    for _ in range(WARM_BATCHES):
        asker.ask(next(batches))
        asker.answer()
    asked: deque[float] = deque()
    latencies: list[float] = []
    begin, cpu = time.perf_counter(), time.process_time()

    def take() -> None:
        asker.answer()
        latencies.append(time.perf_counter() - asked.popleft())

    count = 0
    while count < fewest or time.perf_counter() - begin < seconds:
        pixels = next(batches)
        asked.append(time.perf_counter())
        asker.ask(pixels)
        count += 1
        if len(asked) == load.in_flight:
            take()
    while asked:
        take()
    return Driven(
        count,
        time.perf_counter() - begin,
        time.process_time() - cpu,
        tuple(latencies),
    )
