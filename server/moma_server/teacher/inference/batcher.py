"""Gathers queries of all sites into passes of the model.

The model runs in one thread. Whenever it is free it gets whatever waits, up to a
bound and in turn between sites; nothing waits for a batch to fill. A caller that goes
away before the model has its query is dropped from the queue.
"""

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TypeVar

import numpy as np

from moma_core.errors import TeacherBusyError, TeacherUnavailableError
from moma_core.teacher.query import Pixels
from moma_server.metrics.metrics import TeacherMetrics
from moma_server.teacher.inference.backend import Model, ModelOutput, TeacherBackend

ResultT = TypeVar("ResultT")

_logger = logging.getLogger(__name__)

_SHORTEST_RETRY_SECONDS = 0.1
_LONGEST_RETRY_SECONDS = 30.0
_PACE_WEIGHT = 0.2  # of the newest pass in the moving average


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
    """

    site: str
    pixels: Pixels
    model: Model | None = None
    state: JobState = JobState.WAITING
    waiting_since: float = field(default_factory=time.monotonic)
    output: asyncio.Future[ModelOutput] = field(default_factory=asyncio.Future)

    @property
    def worked(self) -> bool:
        """Whether the model worked for this job, or is just about it."""
        return self.state is JobState.WORKED

    def may_join(self, other: "Job") -> bool:
        """Whether both fit one pass: a session's copy is private, and runs alone."""
        is_teachers = self.model is None and other.model is None
        return is_teachers and self.pixels.dtype == other.pixels.dtype

    def fail(self, error: BaseException) -> None:
        """Ends the job without an output; it then counts as not worked for."""
        self.state = JobState.OVER
        if not self.output.done():
            self.output.set_exception(error)


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

    def __post_init__(self) -> None:
        if min(self.site_requests, self.site_bytes) < 1:
            raise ValueError(f"bounds must be positive, got {self}")
        if (
            self.site_requests > self.total_requests
            or self.site_bytes > self.total_bytes
        ):
            raise ValueError(f"a site's bounds exceed those of all sites: {self}")


class Batcher:
    """Serves jobs in the order of the fair queue.

    Args:
        backend: The model; called from one thread.
        bounds: How much may wait for the model.
        max_batch_patches: Patches in one pass of the model.
        metrics: Gets queue times and batch sizes.
    """

    def __init__(
        self,
        backend: TeacherBackend,
        bounds: QueueBounds,
        *,
        max_batch_patches: int,
        metrics: TeacherMetrics,
    ) -> None:
        self._backend = backend
        self._queue = FairQueue(bounds)
        self._max_batch_patches = max_batch_patches
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="teacher-model")
        self._wake = asyncio.Event()
        self._closing = False
        self._seconds_per_patch = 0.0
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to serve; needs a running event loop."""
        self._worker = asyncio.create_task(self._work(), name="teacher-batcher")

    async def run(self, job: Job) -> ModelOutput:
        """Waits for what the model gives out for a job.

        `job.worked` says afterwards, however this ended, whether there was work.

        Raises:
            TeacherBusyError: The queue is full.
            TeacherUnavailableError: The server stops.
        """
        if self._closing:
            job.fail(TeacherUnavailableError("the teacher is shutting down"))
        elif self._queue.push(job):
            self._wake.set()
        else:
            wait = self._retry_after_seconds()
            job.fail(TeacherBusyError("the teacher's queue is full", wait))
        try:
            return await job.output
        finally:
            if job.state is JobState.WAITING:  # the caller went away
                self._queue.remove(job)
                job.state = JobState.OVER

    async def between_passes(self, work: Callable[[], ResultT]) -> ResultT:
        """Does other work in the model's thread, after the pass that runs now.

        Raises:
            TeacherUnavailableError: The server stops.
        """
        stopping = TeacherUnavailableError("the teacher is shutting down")
        if self._closing:
            raise stopping
        loop = asyncio.get_running_loop()
        working = loop.run_in_executor(self._thread, work)
        await asyncio.wait([working])
        if working.cancelled():
            raise stopping
        return working.result()

    async def close(self, deadline_seconds: float) -> None:
        """Takes nothing more in, serves what waits, and fails what is left."""
        self._closing = True
        self._wake.set()
        if self._worker is not None:
            await asyncio.wait([self._worker], timeout=deadline_seconds)
            self._worker.cancel()
            await asyncio.wait([self._worker])
        while self._queue:
            for job in self._queue.take(self._queue.patches):
                job.fail(TeacherUnavailableError("the teacher is shutting down"))
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        while self._queue or not self._closing:
            if self._queue:
                await self._serve(self._queue.take(self._max_batch_patches))
            else:
                self._wake.clear()
                await self._wake.wait()

    async def _serve(self, jobs: list[Job]) -> None:
        begin = time.monotonic()
        for job in jobs:
            job.state = JobState.WORKED
            self._metrics.queue_seconds.observe(begin - job.waiting_since)
        patches = sum(len(job.pixels) for job in jobs)
        self._metrics.batch_size.observe(patches)

        loop = asyncio.get_running_loop()
        passing = loop.run_in_executor(self._thread, self._pass, jobs)
        try:
            await asyncio.wait([passing])  # which does not raise the model's error
        except asyncio.CancelledError:
            for job in jobs:
                job.fail(TeacherUnavailableError("the teacher is shutting down"))
            raise
        self._hand_out(jobs, passing)
        seconds = (time.monotonic() - begin) / patches
        self._seconds_per_patch += _PACE_WEIGHT * (seconds - self._seconds_per_patch)

    def _pass(self, jobs: list[Job]) -> list[ModelOutput]:
        """Runs in the model's thread."""
        pixels = jobs[0].pixels
        if len(jobs) > 1:
            pixels = np.concatenate([job.pixels for job in jobs])
        model = jobs[0].model or self._backend.predict  # a copy's job comes alone
        embedding, logits = model(pixels)
        card = self._backend.card
        shapes = (
            (len(pixels), card.embedding_length),
            (len(pixels), len(card.class_names)),
        )
        if (embedding.shape, logits.shape) != shapes:
            raise TeacherUnavailableError(
                f"the model gave {embedding.shape}, {logits.shape}, where its card "
                f"says {shapes[0]}, {shapes[1]}"
            )
        if not (np.isfinite(embedding).all() and np.isfinite(logits).all()):
            raise TeacherUnavailableError("the model gave NaN or infinity")
        cuts = np.cumsum([len(job.pixels) for job in jobs])[:-1]
        parts = zip(np.split(embedding, cuts), np.split(logits, cuts), strict=True)
        return list(parts)

    def _hand_out(
        self, jobs: list[Job], passing: asyncio.Future[list[ModelOutput]]
    ) -> None:
        error = passing.exception()
        if error is not None:
            _logger.error("the model failed on a batch", exc_info=error)
            for job in jobs:
                job.fail(error)
            return
        for job, output in zip(jobs, passing.result(), strict=True):
            if not job.output.done():  # its caller may have gone away
                job.output.set_result(output)

    def _retry_after_seconds(self) -> float:
        """Returns when what waits now will have been served, by the pace so far."""
        estimate = self._queue.patches * self._seconds_per_patch
        return min(max(estimate, _SHORTEST_RETRY_SECONDS), _LONGEST_RETRY_SECONDS)


class FairQueue:
    """One queue a site, served in turn, one job at a time.

    Args:
        bounds: How much may wait for the model.
    """

    def __init__(self, bounds: QueueBounds) -> None:
        self._bounds = bounds
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
            or self._requests >= bounds.total_requests
            or line_bytes + job.pixels.nbytes > bounds.site_bytes
            or self._bytes + job.pixels.nbytes > bounds.total_bytes
        ):
            return False
        self._queues.setdefault(job.site, deque()).append(job)
        self._count(job, 1)
        return True

    def take(self, max_patches: int) -> list[Job]:
        """Removes the next batch: jobs that may join, sites in turn.

        Args:
            max_patches: Patches of the batch; a first job that is larger comes alone.
        """
        batch: list[Job] = []
        room = max_patches
        while self._queues:
            site, line = next(iter(self._queues.items()))
            job = line[0]
            fits = len(job.pixels) <= room and (not batch or job.may_join(batch[0]))
            if batch and not fits:
                break
            batch.append(job)
            room -= len(job.pixels)
            self.remove(job)
            if site in self._queues:
                self._queues.move_to_end(site)
        return batch

    def remove(self, job: Job) -> None:
        """Removes a job that waits.

        Raises:
            ValueError: It does not wait here.
        """
        line = self._queues.get(job.site, deque())
        line.remove(job)
        self._count(job, -1)
        if not line:
            del self._queues[job.site]

    def _count(self, job: Job, sign: int) -> None:
        self._requests += sign
        self._bytes += sign * job.pixels.nbytes
        self._patches += sign * len(job.pixels)
