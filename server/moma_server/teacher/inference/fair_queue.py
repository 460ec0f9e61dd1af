"""The queries that wait for the model: in turn between sites, in short passes.

Where several sites ask, a pass of the model is short, so that a query of one patch does
not wait for hundreds of another site's: a larger query comes in parts. The site whose
turn is longest ago is served next, also if it asks seldom. Where the queue is full, who
waits with less than others gets in, in the place of the newest query of whoever waits
with the most.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import count
from math import inf
from typing import NamedTuple

from moma_core.teacher.query import Pixels
from moma_server.teacher.inference.backend import Model, ModelOutput

_SHORT_SECONDS = 0.0025  # of a pass: a shorter one costs more than its wait is worth
_WELL = 1.5  # times the seconds a patch of the best size: still two thirds of its work
_GAIN = 1.1  # times quicker than half the size: then twice the size is tried as well
_LAST_PASSES = 8  # of one size
_LOOK_SECONDS = 1.0  # in which the next larger size and the smaller one are tried once
_LOOK_PASSES = 200  # in which they are, where so many take less
_KEPT_SECONDS = 30.0  # after which a size that did not come again is not known
_ACTIVE_SECONDS = 5.0  # so long after its query a site counts as one that asks


class JobState(Enum):
    """How far a job has come."""

    WAITING = auto()
    WORKED = auto()  # the model has it, or had it
    OVER = auto()  # without work, or with work in vain


@dataclass(slots=True, eq=False)
class Job:
    """One query on its way to the model.

    Args:
        site: Site whose query it is.
        pixels: (N, H, W, 3).
        model: Session's copy that stands in for the teacher; None: the teacher itself.
        taken: Patches that the model has, or had.
        outputs: What it gave for them, part by part.
    """

    site: str
    pixels: Pixels
    model: Model | None = None
    state: JobState = JobState.WAITING
    waiting_since: float = field(default_factory=time.monotonic)
    output: asyncio.Future[ModelOutput] = field(default_factory=asyncio.Future)
    taken: int = 0
    outputs: list[ModelOutput] = field(default_factory=list)

    @property
    def worked(self) -> bool:
        """Whether the model worked for this job, or is just about it."""
        return self.state is JobState.WORKED

    def may_join(self, other: "Job") -> bool:
        """Whether both fit one pass: a session's copy is private, and runs alone."""
        is_teachers = self.model is None and other.model is None
        return is_teachers and self.pixels.dtype == other.pixels.dtype

    def next_patches(self, batch: int | None, room: int) -> int:
        """Returns the size of the next part; a copy's output depends on all of it.

        Args:
            batch: Patches of a batch, of which a job that is larger than half of it is
                parted where it does not fit. None: none is.
            room: What is left of the batch.
        """
        left = len(self.pixels) - self.taken
        is_parted = batch is not None and 2 * left > batch and self.model is None
        return min(left, room) if is_parted else left

    def fail(self, error: BaseException) -> None:
        """Ends the job without an output; it then counts as not worked for."""
        self.state = JobState.OVER
        if not self.output.done():
            self.output.set_exception(error)


class Part(NamedTuple):
    """Some patches of a job, or all of them.

    Args:
        job: Whose they are.
        begin: The first.
        end: Behind the last.
    """

    job: Job
    begin: int
    end: int

    @property
    def pixels(self) -> Pixels:
        """Of the part."""
        return self.job.pixels[self.begin : self.end]

    @property
    def is_last(self) -> bool:
        """Whether the job's output is whole with it."""
        return self.end == len(self.job.pixels)


@dataclass(frozen=True, slots=True)
class QueueBounds:
    """How much may wait.

    Args:
        site_requests: Requests of one site that wait at most.
        site_bytes: Bytes of the pixels of one site that wait at most.
        total_requests: Requests of all sites that wait at most.
        total_bytes: Bytes of the pixels of all sites that wait at most.
    """

    site_requests: int = 32
    site_bytes: int = 256 * 2**20
    total_requests: int = 256
    total_bytes: int = 1024 * 2**20


class PassSize:
    """How many patches a pass of the model has where several sites ask.

    So that a small query waits for little, a pass has as few as do well: at least two
    thirds of what the best size does in the same time, or all that fit 2.5 ms. No size
    is below the smallest query of those who ask. A site that asks alone has whole
    passes.

    Sizes are powers of two. Of each, the quickest of the last few passes counts, since
    others on the machine make one slow, and a network's first one is; now and then the
    next larger or smaller size is tried, since the machine may be another's tomorrow.

    Args:
        max_patches: Of a pass.
        clock: Returns seconds, and never goes back.
    """

    def __init__(
        self, max_patches: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_patches, self._clock = max_patches, clock
        self._requested: dict[str, tuple[float, int]] = {}
        # by the pass's size: when, and the seconds a patch
        self._passes: dict[int, deque[tuple[float, float]]] = {}
        self._looked_at = set[int]()
        self._looked, self._since_look = clock(), 0

    def note(self, sizes: Mapping[str, int]) -> None:
        """Remembers who asks, and for how many patches at once."""
        now = self._clock()
        since = now - _ACTIVE_SECONDS
        active = {site: at for site, at in self._requested.items() if at[0] >= since}
        self._requested = active | {site: (now, size) for site, size in sizes.items()}

    def learn(self, patches: int, seconds: float) -> None:
        """Takes a pass of the model into account."""
        last = self._passes.setdefault(
            _power_of_two(patches), deque(maxlen=_LAST_PASSES)
        )
        last.append((self._clock(), seconds / patches))

    def patches(self, waiting: Mapping[str, int]) -> int | None:
        """Returns the patches of the next pass; None: as many as fit.

        Args:
            waiting: Sites that wait, with how many patches each asks for at once.
        """
        self.note(waiting)
        if len(self._requested) < 2:
            return None
        least = min(size for _, size in self._requested.values())
        return max(least, min(self._tried(least), self._max_patches))

    def _tried(self, least: int) -> int:
        """Returns the best size, or now and then one beside it, to see what it does.

        Each is asked for once in a while and not until it comes: a pass has no more
        than what waits.
        """
        now, costs = self._clock(), self._costs()
        self._since_look += 1
        is_time = now >= self._looked + _LOOK_SECONDS
        if self._since_look > (_LAST_PASSES if is_time else _LOOK_PASSES):
            self._looked, self._since_look = now, 0
            self._looked_at.clear()
        best = max(_best(costs), _power_of_two(least))
        for each in (_larger(best, costs), best // 2):
            is_possible = least <= each <= _power_of_two(self._max_patches)
            if is_possible and each not in self._looked_at:
                self._looked_at.add(each)
                return each
        return max(_best(costs), least)

    def _costs(self) -> dict[int, float]:
        """Returns the seconds a patch of each size that was seen of late."""
        since = self._clock() - _KEPT_SECONDS
        return {
            size: min(cost for _, cost in last)
            for size, last in self._passes.items()
            if last[-1][0] >= since
        }


def _best(costs: Mapping[int, float]) -> int:
    """Returns the smallest size that does well, or the largest that is short."""
    quickest = min(costs.values(), default=0.0)
    well = [size for size, cost in costs.items() if cost <= _WELL * quickest]
    short = [size for size, cost in costs.items() if size * cost <= _SHORT_SECONDS]
    return max(min(well, default=1), *short, 1)


def _larger(size: int, costs: Mapping[int, float]) -> int:
    """Returns the next size above those each of which gained by being larger."""
    while 2 * size in costs and _GAIN * costs[2 * size] < costs.get(size, inf):
        size *= 2
    return 2 * size


def _power_of_two(patches: int) -> int:
    """Returns the smallest one that is no smaller."""
    return 1 << (patches - 1).bit_length()


class FairQueue:
    """One queue a site, served in turn, one job at a time.

    Args:
        bounds: How much may wait for the model.
        on_drop: Called with a job that makes room for a site that waits with less.
    """

    def __init__(
        self, bounds: QueueBounds, on_drop: Callable[[Job], None] = lambda _job: None
    ) -> None:
        self._bounds = bounds
        self._on_drop = on_drop
        self._queues: dict[str, deque[Job]] = {}
        self._numbers = count(1)
        self._turns: dict[str, int] = {}  # when each site was last served
        self._requests = 0
        self._bytes = 0
        self._patches = 0

    def __len__(self) -> int:
        return self._requests

    @property
    def patches(self) -> int:
        """Patches that wait."""
        return self._patches

    def push(self, job: Job) -> bool:
        """Takes a job in, or returns False where a bound forbids it."""
        line = self._queues.get(job.site, ())
        line_bytes = sum(waiting.pixels.nbytes for waiting in line)
        bounds = self._bounds
        if (
            len(line) >= bounds.site_requests
            or line_bytes + job.pixels.nbytes > bounds.site_bytes
            or job.pixels.nbytes > bounds.total_bytes
        ):
            return False
        while self._is_full(job):
            if (newest := self._newest_of_longest(len(line), job)) is None:
                return False
            self.discard(newest)
            self._on_drop(newest)
        self._queues.setdefault(job.site, deque()).append(job)
        self._requests += 1
        self._bytes += job.pixels.nbytes
        self._patches += len(job.pixels)
        return True

    def _is_full(self, job: Job) -> bool:
        is_long = self._requests >= self._bounds.total_requests
        return is_long or self._bytes + job.pixels.nbytes > self._bounds.total_bytes

    def _newest_of_longest(self, waiting: int, job: Job) -> Job | None:
        """Returns what may make room for a site's job; None: nobody has much more."""
        size = job.pixels.nbytes
        for line in sorted(self._queues.values(), key=len, reverse=True):
            newest = line[-1]
            has_more = len(line) > waiting + 1 and newest.pixels.nbytes >= size
            if has_more and newest.site != job.site and not newest.taken:
                return newest
        return None

    def sizes(self) -> dict[str, int]:
        """Returns who waits, and for how many patches at once."""
        return {site: len(line[0].pixels) for site, line in self._queues.items()}

    def take(self, max_patches: int, shared: int | None = None) -> list[Part]:
        """Removes the next batch: what may join, sites in turn.

        Args:
            max_patches: Patches of the batch; a first job that is larger comes alone.
            shared: Patches of the batch where several sites ask; of a large job comes
                what has room. None: jobs come whole.
        """
        batch: list[Part] = []
        room = max_patches if shared is None else min(max_patches, shared)
        while self._queues and (room > 0 or not batch):
            job = self._queues[self._next()][0]
            size = job.next_patches(shared, room)
            if batch and (size > room or not job.may_join(batch[0].job)):
                break
            batch.append(Part(job, job.taken, job.taken + size))
            room -= size
            self._turns[job.site] = next(self._numbers)
            self._take(job, size)
        return batch

    def _next(self) -> str:
        """Returns the site whose turn is longest ago, also if it just came back."""
        return min(self._queues, key=lambda site: self._turns.get(site, 0))

    def discard(self, job: Job) -> None:
        """Removes a job, if it waits or a part of it does."""
        line = self._queues.get(job.site, deque())
        if job in line:
            self._take(job, len(job.pixels) - job.taken)

    def _take(self, job: Job, size: int) -> None:
        """Takes patches of a job out, and the job with its last one."""
        job.taken += size
        self._patches -= size
        if job.taken < len(job.pixels):
            return
        self._requests -= 1
        self._bytes -= job.pixels.nbytes
        line = self._queues[job.site]
        line.remove(job)
        if not line:
            del self._queues[job.site]
        if not self._queues:
            self._turns.clear()  # or it would hold every site that ever asked
