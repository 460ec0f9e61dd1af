"""A real teacher's server on loopback for tests, and bare calls to it."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from moma_core.audit.ledger import Ledger
from moma_core.audit.log import AuditLog
from moma_core.end_to_end import pinned_sites
from moma_core.end_to_end.hpke import SUITES
from moma_core.end_to_end.signatures import SigningKey
from moma_core.errors import MomaError
from moma_core.pki import revocations
from moma_core.pki.certificates import Credential
from moma_core.pki.identity import read_peer
from moma_core.pki.renewal import IdentityFiles
from moma_core.policy.budget import BudgetStore
from moma_core.runtime.files import write_private
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.query import Pixels
from moma_proto.v1 import teacher_pb2 as pb
from moma_proto.v1.teacher_pb2_grpc import TeacherServiceStub
from moma_server.metrics.metrics import ServiceMetrics
from moma_server.rpc.authorization import CertificateAuthorization
from moma_server.rpc.tls import TlsCredentials
from moma_server.teacher.end_to_end.identity import (
    TeacherIdentity,
    TeacherTrust,
)
from moma_server.teacher.inference.backend import TeacherBackend
from moma_server.teacher.server import SERVED, TeacherServer
from moma_server.teacher.settings import TeacherServerSettings
from tests.support.federation.pki import CredentialFiles, Pki
from tests.support.machine.waiting import WAIT_SECONDS
from tests.support.teacher.sealed import (
    BlockingSealedStub,
    SealedStub,
    SiteSide,
    key_of,
)

T = TypeVar("T")

SIDE_PX = 8
PATCH_BYTES = SIDE_PX * SIDE_PX * 3
SITES = ("site-a", "site-b", "site-c")

CARD = TeacherCard(
    name="teacher-a",
    digest="0" * 64,
    architecture="mean colour",
    embedding_length=3,
    organ="colon",
    task="tissue types",
    class_names=("benign", "malignant"),
    input_size_px=SIDE_PX,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    precision="float32",
)


class MeanColour:
    """A model without weights: the mean colour is the embedding.

    Args:
        card: What it says of itself.
        error: Raised instead of an answer, once set.
    """

    def __init__(self, card: TeacherCard = CARD) -> None:
        self.card = card
        self.error: Exception | None = None
        self.batches: list[list[int]] = []  # first pixel value of each patch
        self.free = threading.Event()  # cleared: the model hangs
        self.free.set()

    @property
    def patches(self) -> int:
        return sum(map(len, self.batches))

    def predict(
        self, pixels: Pixels
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        self.batches.append([int(value) for value in pixels[:, 0, 0, 0]])
        assert self.free.wait(WAIT_SECONDS)
        if self.error is not None:
            raise self.error
        colour = pixels.mean(axis=(1, 2), dtype=np.float32)
        width = self.card.embedding_length // 3
        return np.tile(colour, width), colour[:, : len(self.card.class_names)]


@dataclass
class Served:
    """A running server and what a test needs of it."""

    server: TeacherServer
    port: int
    pki: Pki
    registry: CollectorRegistry
    budget: BudgetStore
    folder: Path

    def channel(self, credential: Credential | None, api: Any = grpc.aio) -> Any:
        key, chain = (
            (credential.key_pem, credential.certificate_pem)
            if credential
            else (None, None)
        )
        credentials = grpc.ssl_channel_credentials(self.pki.ca_pem, key, chain)
        options = [("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0)]
        return api.secure_channel(
            f"localhost:{self.port}", credentials, options=options
        )

    @asynccontextmanager
    async def stub(self, credential: Credential | None) -> AsyncIterator[Any]:
        async with self.channel(credential) as channel:
            with self.channel(credential, grpc) as blocking:
                side = SiteSide(self.server.card(), _site_of(credential))
                stub: Any = SealedStub(TeacherServiceStub(channel), side)
                blocked = TeacherServiceStub(blocking)
                stub.blocking = BlockingSealedStub(blocked, side)  # see `refusal`
                yield stub

    def revoke(self, credential: Credential) -> None:
        peer = read_peer(credential.certificate_pem)
        revocations.revoke(
            self.folder / "revoked.json",
            serial=peer.serial,
            name=peer.name,
            now=datetime.now(UTC),
        )

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"moma_teacher_{name}", labels) or 0.0

    def log_size(self) -> float:
        return self.registry.get_sample_value("moma_audit_log_size") or 0.0

    def denied(self, reason: str, site: str = "site-a") -> float:
        return self.metric(
            "denied_total", site=site, teacher="teacher-a", reason=reason
        )


def _site_of(credential: Credential | None) -> str:
    return read_peer(credential.certificate_pem).name if credential else "site-a"


def end_to_end(folder: Path, federation: str, clock: Any) -> TeacherIdentity:
    """Returns a teacher's keys, and sites that it approved."""
    approved, signing = folder / "approved.json", signing_key_in(folder)
    for site in SITES:
        key = key_of(site).public
        pinned_sites.approve(approved, site=site, key=key, now=datetime.now(UTC))
    return TeacherIdentity(
        folder,
        federation,
        signing,
        SUITES,
        pinned_sites.PinnedSites(approved),
        clock,
    )


def teacher_trust(folder: Path, files: CredentialFiles, clock: Any) -> TeacherTrust:
    policy = CertificateAuthorization(
        federation="test-federation",
        revoked=revocations.Revocations(folder / "revoked.json"),
        served=SERVED,
        clock=clock,
    )
    return TeacherTrust(
        policy,
        TlsCredentials(IdentityFiles(files.certificate, files.key, files.ca), clock),
        end_to_end(folder, "test-federation", clock),
    )


@asynccontextmanager
async def serving(
    folder: Path,
    pki: Pki,
    backend: TeacherBackend,
    *,
    grants: Mapping[str, int] | None = None,
    settings: TeacherServerSettings | None = None,
    clock: Any = lambda: datetime.now(UTC),
) -> AsyncIterator[Served]:
    """Runs a server; a second one in the same folder continues, or joins, the first."""
    folder.mkdir(exist_ok=True)
    files = pki.write(folder, pki.server(backend.card.name))
    revocations.start(folder / "revoked.json")
    registry = CollectorRegistry()
    ledger = ledger_in(folder, backend.card.name, grants or {}, clock)
    with closing(ledger.budget):
        server = TeacherServer(
            settings or TeacherServerSettings(max_patches_per_request=16),
            backend,
            ledger,
            ServiceMetrics(registry),
            teacher_trust(folder, files, clock),
        )
        port = await server.start()
        try:
            yield Served(server, port, pki, registry, ledger.budget, folder)
        finally:
            getattr(backend, "free", threading.Event()).set()
            await server.stop(grace_seconds=2)


def ledger_in(
    folder: Path, teacher: str, grants: Mapping[str, int], clock: Any
) -> Ledger:
    """Opens a teacher's budget and log; its ledger is the caller's to close.

    They are where the folder's file `database` says, in a file of SQLite without it.
    """
    named = folder / "database"
    budget = BudgetStore(
        named.read_text() if named.exists() else f"sqlite:///{folder / 'budget.db'}",
        grants=grants,
        default_grant=1000,
        clock=clock,
    )
    key = signing_key_in(folder)
    return Ledger(budget, AuditLog("test-federation", teacher, key, clock))


def signing_key_in(folder: Path) -> SigningKey:
    """Returns the teacher's key; the first time it makes one."""
    path = folder / "signing.key"
    if not path.exists():
        write_private(path, SigningKey.create().to_pem())
    return SigningKey.load(path)


def request(
    value: int = 7, patches: int = 1, request_id: bytes | None = None
) -> pb.EmbedRequest:
    """Returns a well-formed request whose pixels all have one value."""
    return pb.EmbedRequest(
        request_id=os.urandom(16) if request_id is None else request_id,
        patches=patches,
        height_px=SIDE_PX,
        width_px=SIDE_PX,
        format=pb.PIXEL_FORMAT_RGB_UINT8,
        pixels=bytes([value]) * (patches * PATCH_BYTES),
    )


async def ask(stub: Any, *requests: pb.EmbedRequest) -> Sequence[pb.EmbedResponse]:
    """Sends requests over one stream and returns all answers."""
    async with asyncio.timeout(WAIT_SECONDS):
        return [answer async for answer in stub.Embed(iter(requests))]


def answered(responses: Sequence[pb.EmbedResponse]) -> list[tuple[bytes, ...]]:
    """Returns what was answered; the receipts of two answers are never alike."""
    return [(each.request_id, each.embedding, each.logits) for each in responses]


async def refusal(stub: Any, *requests: pb.EmbedRequest) -> Any:
    """Sends requests over one stream that must fail, and returns how it did.

    A refusal of the teacher is an error of ours, a status one of gRPC's. Over the
    blocking API: the asyncio one says INTERNAL instead of what the server said where a
    write fails as the call ends (grpc issue 36066).
    """

    def blocking() -> Any:
        try:
            answers = list(stub.blocking.Embed(iter(requests), timeout=WAIT_SECONDS))
        except (grpc.RpcError, MomaError) as error:
            return error
        raise AssertionError(f"{len(answers)} answers, no refusal")

    return await asyncio.to_thread(blocking)


def in_background(asking: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    return asyncio.create_task(asking)
