"""Gathers queries of all sites into passes of the model.

The model runs in one thread. Whenever it is free it gets whatever waits, up to a
bound; nothing waits for a batch to fill. A caller that goes away before the model has
its query is dropped from the queue.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from moma_core.errors import TeacherBusyError, TeacherUnavailableError
from moma_server.metrics.metrics import TeacherMetrics
from moma_server.teacher.inference.backend import TeacherBackend
from moma_server.teacher.inference.queue import (
    Answer,
    FairQueue,
    Job,
    JobState,
    QueueBounds,
)

ResultT = TypeVar("ResultT")

_logger = logging.getLogger(__name__)

_SHORTEST_RETRY_SECONDS = 0.1
_LONGEST_RETRY_SECONDS = 30.0
_PACE_WEIGHT = 0.2  # of the newest pass in the moving average


class Batcher:
    """Serves jobs in the order of the fair queue.

    Args:
        backend: The model; called from one thread.
        bounds: How much may wait.
        max_batch_patches: In one pass.
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

    async def answer(self, job: Job) -> Answer:
        """Waits for the model's answer to a job.

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
            return await job.answer
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

    def _pass(self, jobs: list[Job]) -> list[Answer]:
        """Runs in the model's thread."""
        pixels = jobs[0].pixels
        if len(jobs) > 1:
            pixels = np.concatenate([job.pixels for job in jobs])
        model = jobs[0].model or self._backend.answer  # a copy's job comes alone
        embedding, logits = model(pixels)
        card = self._backend.card
        shapes = (
            (len(pixels), card.embedding_length),
            (len(pixels), len(card.class_names)),
        )
        if (embedding.shape, logits.shape) != shapes:
            raise RuntimeError(f"the model answered {embedding.shape}, {logits.shape}")
        cuts = np.cumsum([len(job.pixels) for job in jobs])[:-1]
        parts = zip(np.split(embedding, cuts), np.split(logits, cuts), strict=True)
        return list(parts)

    def _hand_out(self, jobs: list[Job], passing: asyncio.Future[list[Answer]]) -> None:
        error = passing.exception()
        if error is not None:
            _logger.error("the model failed on a batch", exc_info=error)
            for job in jobs:
                job.fail(error)
            return
        for job, answer in zip(jobs, passing.result(), strict=True):
            if not job.answer.done():  # its caller may have gone away
                job.answer.set_result(answer)

    def _retry_after_seconds(self) -> float:
        """When what waits now will have been served, as far as one can tell."""
        estimate = self._queue.patches * self._seconds_per_patch
        return min(max(estimate, _SHORTEST_RETRY_SECONDS), _LONGEST_RETRY_SECONDS)
