"""Gathers queries of all sites into passes of the model.

The model runs in one thread. Whenever it is free it gets whatever waits, up to a
bound and in turn between sites; nothing waits for a batch to fill. A caller that goes
away before the model has its query is dropped from the queue.
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
from moma_server.rpc.background import BackgroundTasks
from moma_server.teacher.inference.backend import ModelOutput, TeacherBackend
from moma_server.teacher.inference.fair_queue import (
    FairQueue,
    Job,
    JobState,
    Part,
    PassSize,
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
        self._queue = FairQueue(bounds, self._refuse)
        self._max_batch_patches = max_batch_patches
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="teacher-model")
        self._wake = asyncio.Event()
        self._closing = False
        self._seconds_per_patch = 0.0
        self._size = PassSize(max_batch_patches)
        self._worker: asyncio.Task[None] | None = None

    def start(self, background: BackgroundTasks) -> None:
        """Begins to serve, by a task of the server; needs a running event loop."""
        self._worker = background.start(self._work(), "teacher-batcher")

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
            self._size.note(self._queue.sizes())
            self._wake.set()
        else:
            self._refuse(job)
        try:
            return await job.output
        finally:
            self._queue.discard(job)  # where the caller went away
            if job.state is JobState.WAITING:
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
            for part in self._queue.take(self._queue.patches):
                part.job.fail(TeacherUnavailableError("the teacher is shutting down"))
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        while self._queue or not self._closing:
            if self._queue:
                shared = self._size.patches(self._queue.sizes())
                await self._serve(self._queue.take(self._max_batch_patches, shared))
            else:
                self._wake.clear()
                await self._wake.wait()

    async def _serve(self, parts: list[Part]) -> None:
        begin = time.monotonic()
        for part in parts:
            part.job.state = JobState.WORKED
            if not part.begin:
                waited = begin - part.job.waiting_since
                self._metrics.queue_seconds.observe(waited)
        patches = sum(len(part.pixels) for part in parts)
        self._metrics.batch_size.observe(patches)

        loop = asyncio.get_running_loop()
        passing = loop.run_in_executor(self._thread, self._pass, parts)
        try:
            await asyncio.wait([passing])  # which does not raise the model's error
        except asyncio.CancelledError:
            for part in parts:
                part.job.fail(TeacherUnavailableError("the teacher is shutting down"))
            raise
        self._hand_out(parts, passing)
        seconds = time.monotonic() - begin
        pace = seconds / patches - self._seconds_per_patch
        self._seconds_per_patch += _PACE_WEIGHT * pace
        if parts[0].job.model is None and passing.exception() is None:
            self._size.learn(patches, seconds)

    def _pass(self, parts: list[Part]) -> list[ModelOutput]:
        """Runs in the model's thread."""
        pixels = parts[0].pixels
        if len(parts) > 1:
            pixels = np.concatenate([part.pixels for part in parts])
        model = parts[0].job.model or self._backend.predict  # a copy's job comes alone
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
        cuts = np.cumsum([len(part.pixels) for part in parts])[:-1]
        outputs = zip(np.split(embedding, cuts), np.split(logits, cuts), strict=True)
        return list(outputs)

    def _hand_out(
        self, parts: list[Part], passing: asyncio.Future[list[ModelOutput]]
    ) -> None:
        error = passing.exception()
        if error is not None:
            known = isinstance(error, TeacherUnavailableError)  # it says what is wrong
            trace = None if known else error
            _logger.error("the model failed on a batch: %s", error, exc_info=trace)
            for part in parts:
                self._fail(part.job, error)
            return
        for part, output in zip(parts, passing.result(), strict=True):
            job = part.job
            if not all(np.isfinite(rows).all() for rows in output):
                # Of this caller's patches: one that finds such a patch stops no other.
                _logger.error("the model gave NaN or infinity to %s", job.site)
                fault = TeacherUnavailableError("the model gave NaN or infinity")
                self._fail(job, fault)
                continue
            job.outputs.append(output)
            # its caller may have gone away
            if part.is_last and not job.output.done():
                job.output.set_result(_joined(job.outputs))

    def _fail(self, job: Job, error: BaseException) -> None:
        self._queue.discard(job)
        job.fail(error)

    def _refuse(self, job: Job) -> None:
        wait = self._retry_after_seconds()
        job.fail(TeacherBusyError("the teacher's queue is full", wait))

    def _retry_after_seconds(self) -> float:
        """Returns when what waits now will have been served, by the pace so far."""
        estimate = self._queue.patches * self._seconds_per_patch
        return min(max(estimate, _SHORTEST_RETRY_SECONDS), _LONGEST_RETRY_SECONDS)


def _joined(outputs: list[ModelOutput]) -> ModelOutput:
    if len(outputs) == 1:
        return outputs[0]
    embeddings, logits = zip(*outputs, strict=True)
    return np.concatenate(embeddings), np.concatenate(logits)
