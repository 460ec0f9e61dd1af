"""One query on one page: bounds, session, budget, batch, model, settlement, answer.

The query is signed by its site and was opened before anything here runs
(`sealed_servicer`); errors raised here are sealed, as answers are (`sealed_desk`).
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

from moma_core.audit.entry import Outcome
from moma_core.audit.receipt import Receipt
from moma_core.errors import MalformedRequestError, meaning_of
from moma_core.policy.outputs import Floats, OutputPolicy
from moma_core.teacher.card.bounds import Description
from moma_core.teacher.query import EmbedResult, PatchQuery
from moma_proto.convert import teacher as convert
from moma_proto.convert.audit import receipt_to_wire
from moma_proto.v1 import teacher_pb2 as pb
from moma_server.metrics.metrics import TeacherMetrics
from moma_server.teacher.end_to_end.request import UnsealedRequest
from moma_server.teacher.inference.batcher import Batcher, Job
from moma_server.teacher.momentum.calls import MomentumCalls
from moma_server.teacher.momentum.sessions import MomentumSessions
from moma_server.teacher.query.billing import BillingService, RejectedQuery, Reservation


@dataclass(slots=True)
class RecordedQuery:
    """What is known of a query so far.

    Args:
        query: None until it could be read.
        logged: The log has it, or will; it is counted there.
    """

    query: PatchQuery | None = None
    logged: bool = False


class QueryRecorder:
    """Sees to it that every query is counted once, whatever happens to it.

    Args:
        charging: Logs what is denied.
        metrics: Gets what the log does not have, and how long answers took.
        teacher: The metrics' label.
    """

    def __init__(
        self, billing: BillingService, metrics: TeacherMetrics, teacher: str
    ) -> None:
        self._billing = billing
        self._metrics = metrics
        self._teacher = teacher

    @asynccontextmanager
    async def query(self, site: str, request_id: bytes) -> AsyncIterator[RecordedQuery]:
        """Watches one query of a site, from before it is read."""
        begin = time.monotonic()
        observed = RecordedQuery()
        outcome = "failed"
        try:
            with self._metrics.inflight.track_inprogress():
                yield observed
            self._metrics.request_seconds.observe(time.monotonic() - begin)
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except Exception as error:
            reason = meaning_of(error).denial
            if reason is not None:
                observed.logged = True
                denial = RejectedQuery(site, reason, request_id, observed.query)
                await asyncio.shield(self._billing.deny(denial))
            raise
        finally:
            if not observed.logged:
                self._metrics.dropped.labels(site, self._teacher, outcome).inc()


class AnswerLimits(NamedTuple):
    """What a teacher's owner allows of an answer.

    Args:
        outputs: What is told.
        sync_seconds: In which an update of a momentum session must be whole.
    """

    outputs: OutputPolicy
    sync_seconds: float


class _Worked(NamedTuple):
    embedding: Floats
    logits: Floats
    receipt: Receipt | None


class TeacherServicer:
    """Does what the methods of moma.v1.TeacherService ask, for the site that signed.

    Args:
        description: Card and bounds.
        charging: The sites' budgets.
        batcher: The model behind its queue.
        sessions: The sites' copies of it.
        metrics: Gets every query and how it ended.
        limits: What is told, and how long an update may take.
    """

    def __init__(
        self,
        description: Description,
        billing: BillingService,
        batcher: Batcher,
        sessions: MomentumSessions,
        metrics: TeacherMetrics,
        limits: AnswerLimits,
    ) -> None:
        self._card, self._bounds = description
        self._billing = billing
        self._batcher = batcher
        self._sessions = sessions
        self._momentum = MomentumCalls(
            self._card, sessions, metrics, limits.sync_seconds
        )
        self._outputs = limits.outputs
        self._recorder = QueryRecorder(billing, metrics, self._card.name)

    async def embed(
        self, question: UnsealedRequest[pb.EmbedRequest]
    ) -> pb.EmbedResponse:
        """The path of a query, from when it was opened."""
        site = question.site
        async with self._recorder.query(site, question.request_id) as observed:
            query = await asyncio.to_thread(self._read, question)
            observed.query = query
            async with self._sessions.turn(site, query) as asked:
                reservation = await self._billing.reserve(
                    site, query, asked.weights, question.digest
                )
                job = Job(site, query.pixels, asked.model)
                worked = await self._work(observed, reservation, job)
            disclosed = self._outputs.apply(worked.embedding, worked.logits)
            answer = EmbedResult(query.request_id, *disclosed)
            response = convert.answer_to_wire(answer)
            if worked.receipt is not None:
                response.receipt.CopyFrom(receipt_to_wire(worked.receipt))
            return response

    def _read(self, question: UnsealedRequest[pb.EmbedRequest]) -> PatchQuery:
        request = question.read()
        if request.request_id != question.request_id:
            raise MalformedRequestError("a query has one id, outside and inside")
        return convert.query_from_wire(request, self._bounds)

    async def _work(
        self, observed: RecordedQuery, reservation: Reservation, job: Job
    ) -> _Worked:
        """Asks the model, and closes the ledger on it however that ends."""
        outcome: Outcome = "cancelled"
        embedding: Floats | None = None
        try:
            embedding, logits = await self._batcher.run(job)
            outcome = "answered"
        except Exception:
            outcome = "failed"
            raise
        finally:
            observed.logged = job.worked
            receipt = await self._billing.close(
                reservation, worked=job.worked, outcome=outcome, embedding=embedding
            )
        return _Worked(embedding, logits, receipt)

    async def budget(self, site: str, _request: pb.BudgetRequest) -> pb.BudgetResponse:
        """Returns what the site may still ask."""
        granted, charged = await self._billing.balance(site)
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
