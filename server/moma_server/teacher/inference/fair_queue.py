"""The queries that wait for the model: in turn between sites, each with its share.

Where several sites ask, none has more of a pass than a share, so that a query of one
patch does not wait for hundreds of another site's: a larger query comes in parts. Where
the queue is full, who waits with less than others gets in, in the place of the newest
query of whoever waits with the most.
"""

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from moma_core.teacher.query import Pixels
from moma_server.teacher.inference.backend import Model, ModelOutput

_SHARED_PASS_SECONDS = 0.005  # of a pass, at least, where sites share the model
_OF_FASTEST = 2  # so much longer than the fastest pass it may be: short ones cost more
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

    def next_patches(self, share: int | None) -> int:
        """Returns the size of the next part; a copy's output depends on all of it."""
        left = len(self.pixels) - self.taken
        return left if share is None or self.model is not None else min(left, share)

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
    """How much of a pass one site may have, so that a small query waits for little.

    What is bounded is a pass's time: to some milliseconds, or twice the fastest pass,
    since shorter ones would cost the model more than they save. A site that asks alone
    has whole passes; so have sites whose queries are of one size.

    Args:
        clock: Returns seconds, and never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._requested: dict[str, tuple[float, int]] = {}
        self._fastest_seconds = 0.0  # none yet
        self._patches = 1  # that fit the time

    def note(self, job: Job) -> None:
        """Remembers who asks, and for how much at once."""
        self._requested[job.site] = (self._clock(), len(job.pixels))

    def learn(self, patches: int, seconds: float) -> None:
        """Takes a pass of the model into account."""
        if patches <= self._patches:  # of a long one, most is the patches' own time
            self._fastest_seconds = min(self._fastest_seconds or seconds, seconds)
        most = max(_SHARED_PASS_SECONDS, _OF_FASTEST * self._fastest_seconds)
        self._patches = max(1, round(patches * most / max(seconds, _SHORTEST_SECONDS)))

    def share(self) -> int | None:
        """Returns the patches of one site in a pass; None: as many as fit."""
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
        self._queues: OrderedDict[str, deque[Job]] = OrderedDict()  # next site first
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
            share: Patches of one site in it; a larger job comes in parts. None: as many
                as fit.
        """
        batch: list[Part] = []
        given, room = Counter[str](), max_patches
        while (site := self._next(given, share)) is not None:
            job = self._queues[site][0]
            size = job.next_patches(share)
            fits = size <= room and (not batch or job.may_join(batch[0].job))
            if batch and not fits:
                break
            batch.append(Part(job, job.taken, job.taken + size))
            room -= size
            given[site] += size
            self._take(job, size)
            if site in self._queues:
                self._queues.move_to_end(site)
        return batch

    def discard(self, job: Job) -> None:
        """Removes a job, if it waits or a part of it does."""
        line = self._queues.get(job.site, deque())
        if job in line:
            self._take(job, len(job.pixels) - job.taken)

    def _next(self, given: Counter[str], share: int | None) -> str | None:
        """Returns the next site in turn that has room in its share of a batch."""
        for site, line in self._queues.items():
            size = given[site] + line[0].next_patches(share)
            if share is None or not given[site] or size <= share:
                return site
        return None

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
