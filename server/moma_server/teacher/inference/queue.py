"""Queries that wait for the model: bounded, and fair between sites."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from moma_core.teacher.query import Pixels

Answer = tuple[NDArray[np.float32], NDArray[np.float32]]  # (N, D), (N, C)
Model = Callable[[Pixels], Answer]


class JobState(Enum):
    """How far a job has come."""

    WAITING = auto()
    WORKED = auto()  # the model has it, or had it
    OVER = auto()  # without work, or with work in vain


@dataclass(slots=True, eq=False)
class Job:
    """One query on its way to the model.

    Args:
        site: Who asks.
        pixels: (N, H, W, 3).
        model: Answers in the teacher's place: a session's copy.
    """

    site: str
    pixels: Pixels
    model: Model | None = None
    state: JobState = JobState.WAITING
    waiting_since: float = field(default_factory=time.monotonic)
    answer: asyncio.Future[Answer] = field(default_factory=asyncio.Future)

    @property
    def worked(self) -> bool:
        """Whether the model worked for this job, or is just about it."""
        return self.state is JobState.WORKED

    def may_join(self, other: "Job") -> bool:
        """Whether both fit one pass: copies are private, and answer alone."""
        is_teachers = self.model is None and other.model is None
        return is_teachers and self.pixels.dtype == other.pixels.dtype

    def fail(self, error: BaseException) -> None:
        """Ends the job without an answer; it then counts as not worked for."""
        self.state = JobState.OVER
        if not self.answer.done():
            self.answer.set_exception(error)


@dataclass(frozen=True, slots=True)
class QueueBounds:
    """How much may wait.

    Args:
        site_requests: Of one site.
        site_bytes: Of one site, pixels only.
        total_requests: Of all sites.
        total_bytes: Of all sites, pixels only.
    """

    site_requests: int = 32
    site_bytes: int = 256 * 2**20
    total_requests: int = 256
    total_bytes: int = 1024 * 2**20

    def __post_init__(self) -> None:
        if min(self.site_requests, self.site_bytes) < 1:
            raise ValueError(f"bounds must be positive, got {self}")
        if (
            self.site_requests > self.total_requests
            or self.site_bytes > self.total_bytes
        ):
            raise ValueError(f"a site's bounds exceed those of all sites: {self}")


class FairQueue:
    """One line a site, served in turn, one job at a time.

    Args:
        bounds: How much may wait.
    """

    def __init__(self, bounds: QueueBounds) -> None:
        self._bounds = bounds
        self._lines: OrderedDict[str, deque[Job]] = OrderedDict()  # next site first
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
        line = self._lines.get(job.site, ())
        line_bytes = sum(waiting.pixels.nbytes for waiting in line)
        bounds = self._bounds
        if (
            len(line) >= bounds.site_requests
            or self._requests >= bounds.total_requests
            or line_bytes + job.pixels.nbytes > bounds.site_bytes
            or self._bytes + job.pixels.nbytes > bounds.total_bytes
        ):
            return False
        self._lines.setdefault(job.site, deque()).append(job)
        self._count(job, 1)
        return True

    def take(self, max_patches: int) -> list[Job]:
        """Removes the next batch: jobs that may join, sites in turn.

        Args:
            max_patches: In all; a first job that is larger comes alone.
        """
        batch: list[Job] = []
        room = max_patches
        while self._lines:
            site, line = next(iter(self._lines.items()))
            job = line[0]
            fits = len(job.pixels) <= room and (not batch or job.may_join(batch[0]))
            if batch and not fits:
                break
            batch.append(job)
            room -= len(job.pixels)
            self.remove(job)
            if site in self._lines:
                self._lines.move_to_end(site)
        return batch

    def remove(self, job: Job) -> None:
        """Removes a job that waits.

        Raises:
            ValueError: It does not wait here.
        """
        line = self._lines.get(job.site, deque())
        line.remove(job)
        self._count(job, -1)
        if not line:
            del self._lines[job.site]

    def _count(self, job: Job, sign: int) -> None:
        self._requests += sign
        self._bytes += sign * job.pixels.nbytes
        self._patches += sign * len(job.pixels)
