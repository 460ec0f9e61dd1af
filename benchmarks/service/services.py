"""The services that are held against each other, from a bare one to the whole.

`bare` and `sealed` are made of the product's own parts, without hooks in it: what a
layer costs is what comes with the next service.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from benchmarks.service.federation import FEDERATION, TEACHER, Federation, now
from moma_core.audit.ledger import Ledger
from moma_core.audit.log import AuditLog
from moma_core.end_to_end.hpke import SUITES
from moma_core.end_to_end.pinned_sites import PinnedSites
from moma_core.metrics_http.registry import Registry
from moma_core.pki.revocations import Revocations
from moma_core.policy.budget import BudgetStore
from moma_core.teacher.card.bounds import Description
from moma_core.teacher.query import EmbedResult
from moma_proto.convert import teacher as convert
from moma_proto.v1 import teacher_pb2 as pb
from moma_proto.v1.sealed_pb2 import SealedRequest, SealedResponse
from moma_proto.v1.teacher_pb2_grpc import add_TeacherServiceServicer_to_server
from moma_server.metrics.metrics import ServiceMetrics
from moma_server.rpc.authorization import AuthInterceptor, CertificateAuthorization
from moma_server.rpc.limits import Context
from moma_server.rpc.tls import TlsCredentials
from moma_server.teacher.end_to_end.endpoint import SealedEndpoint
from moma_server.teacher.end_to_end.identity import (
    TeacherIdentity,
    TeacherTrust,
)
from moma_server.teacher.inference.backend import TeacherBackend
from moma_server.teacher.query.billing import BillingService
from moma_server.teacher.server import SERVED, TeacherServer
from moma_server.teacher.settings import (
    TeacherServerSettings,
    description_of,
    grpc_options,
)
from moma_server.teacher.wire.servicer import TeacherServicer, ordered_map

BARE_SERVICE = "bench.Bare"

_GRACE_SECONDS = 2.0
_ENDLESS_PATCHES = 2**40


class PlainTeacher:
    """Answers, and does nothing else: no queue, no budget, no log.

    Args:
        backend: The model; called from one thread.
        description: Card and bounds.
    """

    def __init__(self, backend: TeacherBackend, description: Description) -> None:
        self._backend, self._bounds = backend, description.bounds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="teacher-model")

    async def embed(self, request: pb.EmbedRequest) -> pb.EmbedResponse:
        """Answers one request."""
        query = await asyncio.to_thread(convert.query_from_wire, request, self._bounds)
        loop = asyncio.get_running_loop()
        output = await loop.run_in_executor(
            self._thread, self._backend.predict, query.pixels
        )
        return convert.result_to_wire(EmbedResult(query.request_id, *output))


class PlainPipeline:
    """Opens, runs the model and seals, as `QueryPipeline` does.

    Args:
        endpoint: Opens requests and seals responses.
        teacher: The model, without more.
    """

    def __init__(self, endpoint: SealedEndpoint, teacher: PlainTeacher) -> None:
        self._endpoint, self._teacher = endpoint, teacher

    async def embed(self, sealed: SealedRequest) -> SealedResponse:
        """Returns the sealed response to a sealed request."""
        async with self._endpoint.open("Embed", pb.EmbedRequest, sealed) as request:

            async def answered() -> pb.EmbedResponse:
                message = await request.place.run(request.read)
                request.place.leave()
                return await self._teacher.embed(message)

            return await self._endpoint.respond(request, answered())


@asynccontextmanager
async def bare(federation: Federation, backend: TeacherBackend) -> AsyncIterator[int]:
    """Serves queries over mutual TLS, and nothing more; yields the port.

    It works on as many requests of a stream at once as the product does.
    """
    settings = TeacherServerSettings()
    description = description_of(settings, backend)
    teacher = PlainTeacher(backend, description)

    async def embed(requests: AsyncIterator[Any], context: Context) -> None:
        answers = ordered_map(requests, teacher.embed, window=settings.stream.window)
        async with aclosing(answers):
            async for answer in answers:
                await context.write(answer)

    handler = grpc.stream_stream_rpc_method_handler(
        embed, pb.EmbedRequest.FromString, pb.EmbedResponse.SerializeToString
    )
    server = grpc.aio.server(
        options=grpc_options(settings, description, streams=settings.calls.of_one)
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(BARE_SERVICE, {"Embed": handler}),)
    )
    async with _running(server, federation) as port:
        yield port


@asynccontextmanager
async def sealed(
    federation: Federation, backend: TeacherBackend, ledger: Ledger
) -> AsyncIterator[int]:
    """Serves sealed and signed questions through the gate; charges and logs nothing."""
    settings = TeacherServerSettings()
    description = description_of(settings, backend)
    trust, metrics = _trust_of(federation, "sealed"), ServiceMetrics(Registry())
    interceptor = AuthInterceptor(
        trust.policy,
        metrics.teacher,
        teacher=TEACHER,
        bounds=settings.calls,
    )
    billing = BillingService(ledger, metrics, description.card, settings.rules)
    endpoint = SealedEndpoint(
        trust.end_to_end, description, metrics.teacher, billing.log_rejected
    )
    teacher = PlainTeacher(backend, description)
    pipeline: Any = PlainPipeline(endpoint, teacher)
    sessions: Any = None  # there are none
    server = grpc.aio.server(
        interceptors=[interceptor],
        options=grpc_options(settings, description, streams=settings.calls.of_one),
    )
    servicer = TeacherServicer(endpoint, pipeline, billing, sessions, settings.stream)
    add_TeacherServiceServicer_to_server(servicer, server)
    async with _running(server, federation) as port:
        yield port


@asynccontextmanager
async def whole(
    federation: Federation, backend: TeacherBackend, ledger: Ledger, socket: Path | None
) -> AsyncIterator[int]:
    """Serves all that `moma-server` does.

    Args:
        federation: Its keys.
        backend: The model.
        ledger: Budget and log.
        socket: Where a relay's calls come; None: there is no relay.
    """
    server = TeacherServer(
        TeacherServerSettings(relayed_socket=socket),
        backend,
        ledger,
        ServiceMetrics(Registry()),
        _trust_of(federation, "whole"),
    )
    port = await server.start()
    try:
        yield port
    finally:
        await server.stop(_GRACE_SECONDS)


def ledger_at(federation: Federation, path: Path) -> Ledger:
    """Opens budget and log in a SQLite file; the ledger is the caller's to close."""
    ledger = BudgetStore(
        f"sqlite:///{path}", grants={}, default_grant=_ENDLESS_PATCHES, clock=now
    )
    key = federation.key(TEACHER)
    return Ledger(ledger, AuditLog(FEDERATION, TEACHER, key, now))


def _trust_of(federation: Federation, service: str) -> TeacherTrust:
    """Returns whose calls the teacher serves, and its keys."""
    home = federation.home(TEACHER)
    return TeacherTrust(
        CertificateAuthorization(
            federation=FEDERATION,
            revoked=Revocations(home / "revoked.json"),
            served=SERVED,
            clock=now,
        ),
        TlsCredentials(federation.files(TEACHER)),
        TeacherIdentity(
            home / service,
            FEDERATION,
            federation.key(TEACHER),
            SUITES,
            PinnedSites(federation.pinned_sites),
            now,
        ),
    )


@asynccontextmanager
async def _running(
    server: grpc.aio.Server, federation: Federation
) -> AsyncIterator[int]:
    credentials = TlsCredentials(federation.files(TEACHER)).for_server()
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(_GRACE_SECONDS)
