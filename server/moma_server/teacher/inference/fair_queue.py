"""The queries that wait for the model: in turn between sites, each with its share.

Where several sites ask, a pass of the model is short, so that a query of one patch does
not wait for hundreds of another site's: a larger query comes in parts. The site whose
turn is longest ago is served next, also if it asks seldom. Where the queue is full, who
waits with less than others gets in, in the place of the newest query of whoever waits
with the most.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import count
from typing import NamedTuple

from moma_core.teacher.query import Pixels
from moma_server.teacher.inference.backend import Model, ModelOutput

_SHARED_PASS_SECONDS = 0.0025  # of a pass, at least, where sites share the model
_OF_FASTEST = 2  # so much longer than the fastest pass it may be
_WORTH = 1.5  # times quicker a patch must be in a long pass, for that to be worth it
_ABOUT = 1.25  # times as long is about as fast
_LOOK_EVERY = 16  # passes a short one comes between long ones, to see what it costs
_TRIED_PATCHES = 8  # of a pass, until which it is not known what longer ones are worth
_ACTIVE_SECONDS = 5.0  # so long after its query a site counts as one that asks
_SHORTEST_SECONDS = 1e-6


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

    def next_patches(self, share: int | None, room: int) -> int:
        """Returns the size of the next part; a copy's output depends on all of it.

        Args:
            share: Patches of a batch, of which a larger job is parted. None: none is.
            room: What is left of the batch.
        """
        left = len(self.pixels) - self.taken
        is_parted = share is not None and left > share and self.model is None
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


class Sharing:
    """How many patches a pass may have where sites share the model.

    So that a small query waits for little, a pass is to take a few milliseconds, or
    twice the fastest pass where longer ones do more for the time: noise makes a pass
    longer and never shorter, so what counts is the least that was seen. No pass is
    smaller than the smallest query of those who ask. A site that asks alone has whole
    passes.

    Args:
        clock: Returns seconds, and never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._requested: dict[str, tuple[float, int]] = {}
        self._fastest_seconds = math.inf
        self._of_fastest = 0  # patches
        self._seconds_per_patch = math.inf
        self._largest = self._passes = 0
        self._patches = 1

    def note(self, job: Job) -> None:
        """Remembers who asks, and for how much at once."""
        self._requested[job.site] = (self._clock(), len(job.pixels))

    def learn(self, patches: int, seconds: float) -> None:
        """Takes a pass of the model into account."""
        seconds = max(seconds, _SHORTEST_SECONDS)
        about = _ABOUT if patches < self._of_fastest else 1
        if seconds < about * self._fastest_seconds:
            self._fastest_seconds, self._of_fastest = seconds, patches
        self._seconds_per_patch = min(self._seconds_per_patch, seconds / patches)
        self._largest = max(self._largest, patches)
        if self._largest < _TRIED_PATCHES:
            self._patches = 2 * self._largest
            return
        self._passes += 1
        most = _SHARED_PASS_SECONDS
        of_short = self._fastest_seconds / self._of_fastest
        is_looked_at = not self._passes % _LOOK_EVERY
        if of_short > _WORTH * self._seconds_per_patch and not is_looked_at:
            most = max(most, _OF_FASTEST * self._fastest_seconds)
        self._patches = max(1, round(most / self._seconds_per_patch))

    def share(self) -> int | None:
        """Returns the patches of a pass; None: as many as fit."""
        since = self._clock() - _ACTIVE_SECONDS
        self._requested = {
            site: (at, patches)
            for site, (at, patches) in self._requested.items()
            if at >= since
        }
        if len(self._requested) < 2:
            return None
        smallest = min(patches for _, patches in self._requested.values())
        return max(smallest, self._patches)


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

    def take(self, max_patches: int, share: int | None = None) -> list[Part]:
        """Removes the next batch: what may join, sites in turn.

        Args:
            max_patches: Patches of the batch; a first job that is larger comes alone.
            share: Patches of the batch where several sites ask; of a larger job comes
                what has room. None: jobs come whole.
        """
        batch: list[Part] = []
        room = max_patches if share is None else min(max_patches, share)
        while self._queues and (room > 0 or not batch):
            job = self._queues[self._next()][0]
            size = job.next_patches(share, room)
            if batch and (size > room or not job.may_join(batch[0].job)):
                break
            batch.append(Part(job, job.taken, job.taken + size))
            room -= size
            self._take(job, size)
            self._turns[job.site] = next(self._numbers)
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
