"""A site's remote teacher for tests, and the servers that it asks."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import grpc
import torch
from prometheus_client import CollectorRegistry

from moma_client.egress.to_teacher import SendingPolicy
from moma_client.identity.pinned_teacher import PinnedTeacher
from moma_client.metrics import ClientMetrics
from moma_client.teacher.channel import TeacherAddress
from moma_client.teacher.remote_teacher import RemoteTeacher, RemoteTeacherSettings
from moma_client.teacher.retry import RetryLimits
from moma_core.data.batch import Batch
from moma_core.errors import MomaError
from moma_core.pki.certificates import Credential
from moma_core.policy.policy import PolicyEnforcer
from moma_core.policy.policy import TeacherPolicy as OwnersPolicy
from moma_core.teacher.card.bounds import RequestBounds
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.query import EmbedResult, PatchQuery
from moma_proto.convert import teacher as convert
from moma_proto.convert.audit import receipt_to_wire
from moma_proto.v1 import teacher_pb2 as pb
from moma_proto.v1.audit_pb2_grpc import add_AuditServiceServicer_to_server
from moma_proto.v1.teacher_pb2_grpc import (
    TeacherServiceServicer,
    add_TeacherServiceServicer_to_server,
)
from moma_server.teacher.inference.backend import TeacherBackend
from moma_server.teacher.settings import TeacherServerSettings
from tests.support.federation.pki import Pki
from tests.support.teacher.sealed import TeacherSide, key_of
from tests.support.teacher.small_log import ScriptedAudit, SmallLog
from tests.support.teacher.teacher_server import (
    CARD,
    SIDE_PX,
    MeanColour,
    Served,
    serving,
)

WAIT_SECONDS = 120.0
QUICK = RetryLimits(failures=6, first_pause_seconds=0.05, longest_pause_seconds=0.5)
_DEFAULTS = {"retries": QUICK, "egress": SendingPolicy(weights_may_leave=True)}


def batches(sizes: Sequence[int], side: int = SIDE_PX) -> Iterator[Batch]:
    """Yields batches whose patches have one colour each, none twice in a run."""
    colour = 0
    for step, size in enumerate(sizes):
        colours = torch.arange(colour, colour + size) % 256
        colour += size
        views = colours.to(torch.uint8).view(-1, 1, 1, 1).expand(size, 3, side, side)
        rows = torch.arange(colour - size, colour)
        none = torch.zeros(size, dtype=torch.long)
        yield Batch(views, views, none, step, rows, none)


class Site:
    """A hospital's side of the link.

    Args:
        folder: For its certificate and key.
        pki: The federation that it trusts.
        port: Where its teacher is.
        credential: Its own; made by `pki` unless given.
        host: Where its teacher is.
    """

    def __init__(
        self,
        folder: Path,
        pki: Pki,
        port: int,
        *,
        credential: Credential | None = None,
        host: str = "localhost",
    ) -> None:
        files = pki.write(folder, credential or pki.site("site-a"))
        self.address = TeacherAddress(
            name="teacher-a",
            address=f"{host}:{port}",
            authority=files.ca,
            certificate=files.certificate,
            key=files.key,
            connect_deadline_seconds=5.0,
        )
        self.end_to_end = PinnedTeacher(
            federation=pki.federation,
            site="site-a",
            signing_key=files.signing_key,
            teacher="teacher-a",
            teacher_key=key_of("teacher-a").public,
            floor="mlkem768-x25519",
            card_memory=folder / "card-seen.json",
        )
        self.registry = CollectorRegistry()
        self.metrics = ClientMetrics(self.registry)
        self.stop = threading.Event()

    @contextmanager
    def teacher(
        self, run_key: bytes = b"run", **settings: Any
    ) -> Iterator[RemoteTeacher]:
        teacher = RemoteTeacher(
            RemoteTeacherSettings(
                self.address, self.end_to_end, **{**_DEFAULTS, **settings}
            ),
            run_key=run_key,
            stop=self.stop,
            metrics=self.metrics,
            random=Random(0),
            now=lambda: datetime.now(UTC),
        )
        try:
            yield teacher
        finally:
            teacher.close()

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"moma_client_{name}", labels) or 0.0


@contextmanager
def running(
    folder: Path, pki: Pki, backend: TeacherBackend, *, port: int = 0, **options: Any
) -> Iterator[Served]:
    """Runs the real server in a thread; a second one in `folder` continues it."""
    settings = TeacherServerSettings(
        port=port,
        max_patches_per_request=16,
        rules=options.pop("rules", PolicyEnforcer(OwnersPolicy())),
        momentum=options.pop("momentum", None),
        relayed_socket=options.pop("relayed_socket", None),
    )
    started: Future[Served] = Future()
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    async def serve() -> None:
        async with serving(
            folder, pki, backend, settings=settings, **options
        ) as served:
            started.set_result(served)
            await over.wait()

    thread = threading.Thread(target=_run, args=(loop, serve, started))
    thread.start()
    try:
        yield started.result(WAIT_SECONDS)
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(WAIT_SECONDS)


def _run(
    loop: asyncio.AbstractEventLoop,
    serve: Callable[[], Any],
    started: "Future[Served]",
) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        try:
            runner.run(serve())
        except Exception as error:
            if started.done():
                raise
            started.set_exception(error)


Answers = Callable[
    [Iterator[pb.EmbedRequest], Any], Iterator[pb.EmbedResponse | MomaError]
]


class ScriptedTeacher(TeacherServiceServicer):
    """A teacher that says what a test wants, over real gRPC and TLS.

    Args:
        embed: Answers a stream; an error in the place of an answer is told as one.
        card: What it says of itself; may be changed while it serves.
    """

    def __init__(self, embed: Answers, card: TeacherCard = CARD) -> None:
        self._embed = embed
        self.card = card
        self.desk = TeacherSide()
        self.log = SmallLog(self.desk.key)
        self.has_log = True
        self.log_status: grpc.StatusCode | None = None  # what the log answers instead
        self.calls = 0
        self.streams = 0

    def Describe(self, request: pb.DescribeRequest, context: Any) -> Any:
        self.calls += 1
        return convert.signed_card_to_wire(self.desk.card(self.card))

    def Embed(self, requests: Any, context: Any) -> Any:
        self.calls += 1
        self.streams += 1
        opened: list[Any] = []
        sites: list[str] = []
        queries: list[PatchQuery] = []
        bounds = RequestBounds(self.card.input_size_px, 16)

        def messages() -> Iterator[pb.EmbedRequest]:
            for request in requests:
                opened.append(self.desk.opened("Embed", request, self.card))
                asked = pb.EmbedRequest.FromString(bytes(opened[-1].take_message()))
                sites.append(request.site)
                queries.append(convert.query_from_wire(asked, bounds))
                yield asked

        for place, answer in enumerate(self._embed(messages(), context)):
            number = min(place, len(opened) - 1)
            if isinstance(answer, Exception):
                yield self.desk.refused(opened[number], answer)
                continue
            if self.has_log and not answer.HasField("receipt"):
                receipt = self.log.receipt(sites[number], queries[number], self.card)
                answer.receipt.CopyFrom(receipt_to_wire(receipt))
            yield self.desk.sealed(opened[number], answer)

    def Budget(self, request: Any, context: Any) -> Any:
        self.calls += 1
        answer = pb.BudgetResponse(granted_patches=10, charged_patches=3)
        return self.desk.sealed(self.desk.opened("Budget", request, self.card), answer)


@contextmanager
def scripted(
    pki: Pki, teacher: ScriptedTeacher, credential: Credential | None = None
) -> Iterator[int]:
    """Serves a scripted teacher and yields its port."""
    certificate, key = credential or pki.server()
    server = grpc.server(ThreadPoolExecutor(4))
    add_TeacherServiceServicer_to_server(teacher, server)
    add_AuditServiceServicer_to_server(ScriptedAudit(teacher), server)
    port = server.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials([(key, certificate)], pki.ca_pem, True),
    )
    server.start()
    try:
        yield port
    finally:
        server.stop(grace=None).wait(WAIT_SECONDS)


def true_answer(request: pb.EmbedRequest, card: TeacherCard = CARD) -> pb.EmbedResponse:
    """Returns the mean colours, as the real server would."""
    query = convert.query_from_wire(request, RequestBounds(card.input_size_px, 16))
    embedding, logits = MeanColour(card).predict(query.pixels)
    return convert.result_to_wire(EmbedResult(query.request_id, embedding, logits))


def honest(requests: Iterator[pb.EmbedRequest], _: Any) -> Iterator[pb.EmbedResponse]:
    """Answers a stream as a good teacher does."""
    yield from map(true_answer, requests)


def follow_all(site: Site, **settings: Any) -> list[int]:
    """Follows five small batches and returns the steps that were answered."""
    with site.teacher(**settings) as teacher:
        return [batch.step for batch, _ in teacher.answer_batches(batches([2] * 5))]


@contextmanager
def detour(first_port: int, then_port: int) -> Iterator[int]:
    """Takes the first connection to one server and all others to another one."""
    with socket.create_server(("127.0.0.1", 0)) as entrance:
        threading.Thread(
            target=_divert, args=(entrance, first_port, then_port), daemon=True
        ).start()
        yield entrance.getsockname()[1]
        entrance.shutdown(socket.SHUT_RDWR)


def _divert(entrance: socket.socket, first_port: int, then_port: int) -> None:
    port = first_port
    with suppress(OSError):  # the entrance is closed
        while True:
            near, _ = entrance.accept()
            far = socket.create_connection(("127.0.0.1", port))
            port = then_port
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pour, args=(source, sink), daemon=True).start()


def _pour(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError), source:
        while content := source.recv(1 << 16):
            sink.sendall(content)
        sink.shutdown(socket.SHUT_WR)
