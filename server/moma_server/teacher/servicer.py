"""One query on one page: bounds, session, budget, batch, model, settlement, answer.

The query is signed by its site and was opened before anything here runs
(`sealed_servicer`); errors raised here are told to the caller by the gate (`verdicts`).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from moma_core.teacher.query import Description, PatchAnswer
from moma_proto.v1 import convert
from moma_proto.v1 import teacher_pb2 as pb
from moma_server.metrics import TeacherMetrics
from moma_server.teacher.batcher import Batcher
from moma_server.teacher.charging import Charging
from moma_server.teacher.fair_queue import Job
from moma_server.teacher.momentum_calls import MomentumCalls
from moma_server.teacher.sessions import MomentumSessions
from moma_server.teacher.verdicts import verdict_on


class TeacherServicer:
    """Does what the methods of moma.v1.TeacherService ask, for the site that signed.

    Args:
        description: Card and bounds.
        charging: The sites' budgets.
        batcher: The model behind its queue.
        sessions: The sites' copies of it.
        metrics: Gets every query and how it ended.
        sync_seconds: In which an update of a momentum session must be whole.
    """

    def __init__(
        self,
        description: Description,
        charging: Charging,
        batcher: Batcher,
        sessions: MomentumSessions,
        metrics: TeacherMetrics,
        sync_seconds: float,
    ) -> None:
        self._card, self._bounds = description
        self._charging = charging
        self._batcher = batcher
        self._sessions = sessions
        self._momentum = MomentumCalls(self._card, sessions, metrics, sync_seconds)
        self._metrics = metrics

    async def embed(self, site: str, request: pb.EmbedRequest) -> pb.EmbedResponse:
        """The path of a query."""
        with self._observed(site):
            query = await asyncio.to_thread(
                convert.query_from_wire, request, self._bounds
            )
            async with self._sessions.turn(site, query) as asked:
                charge = await self._charging.reserve(site, query, asked.weights)
                job = Job(site, query.pixels, asked.model)
                try:
                    embedding, logits = await self._batcher.answer(job)
                finally:
                    await self._charging.close(charge, worked=job.worked)
            return convert.answer_to_wire(
                PatchAnswer(query.request_id, embedding, logits)
            )

    async def budget(self, site: str, _request: pb.BudgetRequest) -> pb.BudgetResponse:
        """Returns what the site may still ask."""
        granted, charged = await self._charging.balance(site)
        return pb.BudgetResponse(granted_patches=granted, charged_patches=charged)

    async def open_session(
        self, site: str, request: pb.OpenSessionRequest
    ) -> pb.OpenSessionResponse:
        """Gives the site a copy that moves."""
        return self._momentum.open(site, request)

    async def sync_momentum(
        self, site: str, requests: AsyncIterator[pb.SyncMomentumRequest]
    ) -> pb.SyncMomentumResponse:
        """Moves the site's copy."""
        return await self._momentum.sync(site, requests)

    async def close_session(
        self, site: str, request: pb.CloseSessionRequest
    ) -> pb.CloseSessionResponse:
        """Takes the site's copy away."""
        return self._momentum.close(site, request)

    @contextmanager
    def _observed(self, site: str) -> Iterator[None]:
        """Counts a query and how it ended, whatever happens to it."""
        begin = time.monotonic()
        outcome = "failed"
        try:
            with self._metrics.inflight.track_inprogress():
                yield
            outcome = "answered"
            self._metrics.request_seconds.observe(time.monotonic() - begin)
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except Exception as error:
            reason = verdict_on(error).reason
            if reason is not None:
                outcome = "denied"
                self._deny(site, reason)
            raise
        finally:
            self._metrics.requests.labels(site, self._card.name, outcome).inc()

    def _deny(self, site: str, reason: str) -> None:
        self._metrics.denied.labels(site, self._card.name, reason).inc()
