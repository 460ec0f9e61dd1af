"""One query on one page: bounds, session, budget, batch, model, settlement, answer.

The gate has authenticated the caller before anything here runs (`admission`), and
tells the errors raised here to it (`verdicts`).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc

from moma_core.audit.entry import Outcome
from moma_core.errors import TeacherUnavailableError
from moma_core.teacher.query import Description, PatchAnswer
from moma_proto.v1 import convert
from moma_proto.v1 import teacher_pb2 as pb
from moma_proto.v1.convert_audit import receipt_to_wire
from moma_proto.v1.teacher_pb2_grpc import TeacherServiceServicer
from moma_server.metrics import TeacherMetrics
from moma_server.teacher.admission import Context, caller
from moma_server.teacher.batcher import Batcher
from moma_server.teacher.charging import Charging, Denial
from moma_server.teacher.fair_queue import Job
from moma_server.teacher.in_order import in_order
from moma_server.teacher.momentum_calls import MomentumCalls
from moma_server.teacher.observing import Observer
from moma_server.teacher.sessions import MomentumSessions

_NOT_TAKEN = "no answer was taken"
_BREAK_SECONDS = 0.1  # in which gRPC follows up on a message that it cut off


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What one Embed stream may hold and how long it may be still.

    Args:
        window: Requests read and not yet answered.
        idle_seconds: From the moment that the window has room until a request comes,
            also while others are being answered.
        write_seconds: Until the caller takes an answer.
        sync_seconds: In which an update of a momentum session must be whole.
    """

    window: int = 4
    idle_seconds: float = 300.0
    write_seconds: float = 60.0
    sync_seconds: float = 300.0


class TeacherServicer(TeacherServiceServicer):
    """Serves moma.v1.TeacherService; the methods' names are the contract's.

    Args:
        description: Card and bounds.
        charging: The sites' budgets.
        batcher: The model behind its queue.
        sessions: The sites' copies of it.
        metrics: Gets every query and how it ended.
        limits: Of a stream.
    """

    def __init__(
        self,
        description: Description,
        charging: Charging,
        batcher: Batcher,
        sessions: MomentumSessions,
        metrics: TeacherMetrics,
        limits: StreamLimits,
    ) -> None:
        self._card, self._bounds = description
        self._charging = charging
        self._batcher = batcher
        self._sessions = sessions
        self._momentum = MomentumCalls(
            self._card, sessions, metrics, limits.sync_seconds
        )
        self._observer = Observer(charging, metrics, self._card.name)
        self._limits = limits

    async def Embed(  # type: ignore[override]  # noqa: N802  # it writes by itself
        self, _requests: AsyncIterator[pb.EmbedRequest], context: Context
    ) -> None:
        """Answers each request of a stream, in order, several at a time."""
        site = caller().name
        pausing = asyncio.Event()
        requests = self._requests(pausing, context)
        answers = in_order(
            requests, partial(self._answer, site), window=self._limits.window
        )
        try:
            async with aclosing(answers):
                async for answer in answers:
                    async with _at_most(self._limits.write_seconds, _NOT_TAKEN):
                        await context.write(answer)
        except asyncio.CancelledError:  # by gRPC; a refusal is another error
            if pausing.is_set():
                self._charging.deny(Denial(site, "size"))
            raise

    async def _answer(self, site: str, request: pb.EmbedRequest) -> pb.EmbedResponse:
        """The path of a query."""
        async with self._observer.query(site) as observed:
            query = await asyncio.to_thread(
                convert.query_from_wire, request, self._bounds
            )
            observed.query = query
            async with self._sessions.turn(site, query) as asked:
                reservation = await self._charging.reserve(site, query, asked.weights)
                job = Job(site, query.pixels, asked.model)
                outcome: Outcome = "cancelled"
                try:
                    embedding, logits = await self._batcher.answer(job)
                    outcome = "answered"
                except Exception:
                    outcome = "failed"
                    raise
                finally:
                    observed.logged = job.worked
                    receipt = await self._charging.close(
                        reservation, worked=job.worked, outcome=outcome
                    )
            answer = PatchAnswer(query.request_id, embedding, logits)
            response = convert.answer_to_wire(answer)
            if receipt is not None:
                response.receipt.CopyFrom(receipt_to_wire(receipt))
            return response

    async def Describe(  # noqa: N802
        self, _request: pb.DescribeRequest, _context: Context
    ) -> pb.DescribeResponse:
        """Returns the card and the bounds of a request."""
        return convert.description_to_wire(self._card, self._bounds)

    async def Budget(  # noqa: N802
        self, _request: pb.BudgetRequest, _context: Context
    ) -> pb.BudgetResponse:
        """Returns what the calling site may still ask."""
        granted, charged = await self._charging.balance(caller().name)
        return pb.BudgetResponse(granted_patches=granted, charged_patches=charged)

    async def OpenSession(  # noqa: N802
        self, request: pb.OpenSessionRequest, _context: Context
    ) -> pb.OpenSessionResponse:
        """Gives the calling site a copy that moves."""
        return self._momentum.open(caller().name, request)

    async def SyncMomentum(  # noqa: N802
        self, _requests: AsyncIterator[pb.SyncMomentumRequest], context: Context
    ) -> pb.SyncMomentumResponse:
        """Moves the calling site's copy."""
        return await self._momentum.sync(caller().name, context)

    async def CloseSession(  # noqa: N802
        self, request: pb.CloseSessionRequest, _context: Context
    ) -> pb.CloseSessionResponse:
        """Takes the calling site's copy away."""
        return self._momentum.close(caller().name, request)

    async def _requests(
        self, pausing: asyncio.Event, context: Context
    ) -> AsyncIterator[pb.EmbedRequest]:
        """Yields what a stream brings; not reading is what holds its sender back."""
        while True:
            async with _at_most(self._limits.idle_seconds, "no request came"):
                request: Any = await context.read()
            if request is grpc.aio.EOF:
                break
            yield request
        # A message over the limit looks like an end, and then the call breaks off.
        pausing.set()
        await asyncio.sleep(_BREAK_SECONDS)
        pausing.clear()


@asynccontextmanager
async def _at_most(seconds: float, complaint: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise TeacherUnavailableError(f"{complaint} for {seconds:g} seconds") from None
