"""One query on one page, from the sealed request of a site to its sealed response.

Wait for the stream's earlier queries and for the site's place, authenticate and open,
read within the bounds, charge, leave the place, wait for a batch, run the model, settle
and log, apply the output policy, seal. What is raised before a request is opened
becomes a status of the call; what is raised after it is sealed as a response is.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from moma_core.audit.entry import Outcome
from moma_core.audit.receipt import Receipt
from moma_core.errors import MalformedRequestError, meaning_of
from moma_core.policy.outputs import OutputPolicy
from moma_core.teacher.query import EmbedResult, PatchQuery
from moma_proto.convert import teacher as convert
from moma_proto.convert.audit import receipt_to_wire
from moma_proto.v1 import teacher_pb2 as pb
from moma_proto.v1.sealed_pb2 import SealedRequest, SealedResponse
from moma_server.metrics.metrics import TeacherMetrics
from moma_server.teacher.end_to_end.endpoint import SealedEndpoint, UnsealedRequest
from moma_server.teacher.inference.backend import ModelOutput
from moma_server.teacher.inference.batcher import Batcher
from moma_server.teacher.inference.fair_queue import Job
from moma_server.teacher.momentum.sessions import MomentumSessions
from moma_server.teacher.query.billing import (
    BillingService,
    ChargeTurn,
    Reservation,
)


@dataclass(slots=True)
class RecordedQuery:
    """What is known of a query so far.

    Args:
        query: None until it could be read.
        logged: The log has it, or will; it is counted there.
    """

    query: PatchQuery | None = None
    logged: bool = False


class QueryPipeline:
    """Takes Embed requests from opening to sealing.

    Args:
        endpoint: Authenticates and opens requests, and seals responses.
        billing: Charges the sites' budgets, and logs the queries.
        batcher: The model behind its queue.
        sessions: Copies of the model that belong to momentum sessions.
        metrics: Counts every query by how it ended, and how long responses took.
        outputs: What of the model's outputs the teacher's owner discloses.
    """

    def __init__(
        self,
        endpoint: SealedEndpoint,
        billing: BillingService,
        batcher: Batcher,
        sessions: MomentumSessions,
        metrics: TeacherMetrics,
        outputs: OutputPolicy,
    ) -> None:
        self._endpoint = endpoint
        self._billing = billing
        self._batcher = batcher
        self._sessions = sessions
        self._metrics = metrics
        self._outputs = outputs

    async def embed(self, sealed: SealedRequest, turn: ChargeTurn) -> SealedResponse:
        """Returns the sealed response to a sealed request.

        Args:
            sealed: Request as it came.
            turn: Its place in its stream; ended here, whatever becomes of it.

        Raises:
            NotAuthorizedError: As `SealedEndpoint.open`.
            MalformedRequestError: As `SealedEndpoint.open`.
        """
        try:
            await turn.begin()
            async with self._endpoint.open("Embed", pb.EmbedRequest, sealed) as request:
                return await self._endpoint.respond(request, self._embed(request, turn))
        finally:
            turn.end()

    async def _embed(
        self, request: UnsealedRequest[pb.EmbedRequest], turn: ChargeTurn
    ) -> pb.EmbedResponse:
        site = request.site
        async with self._recorded(request) as record:
            query = record.query = await request.place.run(lambda: self._read(request))
            if query.session:
                self._sessions.check(site, query)
                request.place.leave()  # its queries wait for one another, a few at most
            async with self._sessions.turn(site, query) as target:
                reservation = await self._billing.reserve(
                    site, query, target.weights, request.digest
                )
                turn.end()
                request.place.leave(is_charged=True)
                job = Job(site, query.pixels, target.model)
                output, receipt = await self._run(record, reservation, job)
            return self._response(query, output, receipt)

    def _read(self, request: UnsealedRequest[pb.EmbedRequest]) -> PatchQuery:
        message = request.read()
        if message.request_id != request.request_id:
            raise MalformedRequestError("a query has one id, outside and inside")
        query = convert.query_from_wire(message, self._endpoint.description.bounds)
        return replace(query, digests=query.patch_digests())  # while it has a thread

    async def _run(
        self, record: RecordedQuery, reservation: Reservation, job: Job
    ) -> tuple[ModelOutput, Receipt | None]:
        """Runs the model, and settles and logs the query however that ends."""
        outcome: Outcome = "cancelled"
        output: ModelOutput | None = None
        try:
            output = await self._batcher.run(job)
            outcome = "answered"
        except Exception:
            outcome = "failed"
            raise
        finally:
            record.logged = job.worked
            receipt = await self._billing.settle(
                reservation,
                worked=job.worked,
                outcome=outcome,
                embedding=output and output[0],
            )
        return output, receipt

    def _response(
        self, query: PatchQuery, output: ModelOutput, receipt: Receipt | None
    ) -> pb.EmbedResponse:
        result = EmbedResult(query.request_id, *self._outputs.apply(*output))
        response = convert.result_to_wire(result)
        if receipt is not None:
            response.receipt.CopyFrom(receipt_to_wire(receipt))
        return response

    @asynccontextmanager
    async def _recorded(
        self, request: UnsealedRequest[pb.EmbedRequest]
    ) -> AsyncIterator[RecordedQuery]:
        """Sees to it that a query is counted once, whatever happens to it."""
        begin = time.monotonic()
        site, record, outcome = request.site, RecordedQuery(), "failed"
        try:
            with self._metrics.inflight.track_inprogress():
                yield record
            self._metrics.request_seconds.observe(time.monotonic() - begin)
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except Exception as error:
            reason = meaning_of(error).denial
            if reason is not None:
                record.logged = True
                await self._billing.log_rejected(
                    site, reason, request.request_id, record.query
                )
                await request.place.rest()
            raise
        finally:
            if not record.logged:
                teacher = self._endpoint.description.card.name
                self._metrics.dropped.labels(site, teacher, outcome).inc()
