"""The gRPC channel to a teacher: mutual TLS with the one teacher that was meant.

A TLS probe goes ahead of each channel: it checks chain, host name and TLS 1.3, and
reads in the certificate whether this is the named teacher of our federation. The
channel then trusts that certificate alone. Each new channel does so again, and reads
the site's own files again, so renewals on either side need no restart.

A connection outlives the certificate that opened it. So what is open is checked each
second, and closed when its certificate expires or is revoked.
"""

import json
import logging
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, NamedTuple, Protocol, Self

import grpc

from moma_client.teacher.retry import ConnectionLostError, StoppableWait, failure_of
from moma_core.errors import (
    CertificateError,
    FederationError,
    MomaError,
    NotAuthorizedError,
)
from moma_core.network.proxy import DIRECT, ProxyRule
from moma_core.pki.certificates import check_issued
from moma_core.pki.crl_client import RevocationPoller
from moma_core.pki.identity import Peer, PeerKind, authorize, read_peer
from moma_core.pki.key_files import open_key
from moma_core.pki.renewal import IdentityFiles
from moma_core.pki.tls_probe import LOOK_SECONDS, shown_certificate
from moma_proto.channel import channel_target
from moma_proto.v1.audit_pb2_grpc import AuditServiceStub
from moma_proto.v1.sealed_pb2 import SealedRequest, SealedResponse
from moma_proto.v1.teacher_pb2_grpc import TeacherServiceStub

_logger = logging.getLogger(__name__)

Foreign = Any  # gRPC's own, which it does not type

TeacherMethod = Literal[
    "Describe", "Budget", "OpenSession", "SyncMomentum", "CloseSession"
]
LogMethod = Literal[
    "LatestCheckpoint", "InclusionProof", "ConsistencyProof", "Receipts"
]

LARGEST_RESPONSE_BYTES = 64 * 1024 * 1024
SMALL_BYTES = 64 * 1024

_TEACHER_BYTES: dict[TeacherMethod, int] = {
    "Describe": 2**20,
    "Budget": SMALL_BYTES,
    "OpenSession": SMALL_BYTES,
    "SyncMomentum": SMALL_BYTES,
    "CloseSession": SMALL_BYTES,
}
_LOG_BYTES: dict[LogMethod, int] = {
    "LatestCheckpoint": SMALL_BYTES,
    "InclusionProof": SMALL_BYTES,
    "ConsistencyProof": SMALL_BYTES,
    "Receipts": 9 * 2**20,
}

_LAST_CALL_SECONDS = 1.0
_CHECK_SECONDS = 1.0
_TEACHERS: tuple[PeerKind, ...] = ("teacher",)
_RELAYS: tuple[PeerKind, ...] = ("coordinator",)


def _method_config(service: str, largest: dict[Any, int]) -> list[object]:
    return [
        {
            "name": [{"service": service, "method": method}],
            "maxResponseMessageBytes": size,
        }
        for method, size in largest.items()
    ]


_OPTIONS = (
    ("grpc.max_receive_message_length", LARGEST_RESPONSE_BYTES),
    ("grpc.max_send_message_length", -1),  # the card's bounds hold
    (
        "grpc.service_config",  # a method without a bound has that of the channel
        json.dumps(
            {
                "methodConfig": _method_config("moma.v1.TeacherService", _TEACHER_BYTES)
                + _method_config("moma.v1.AuditService", _LOG_BYTES)
            }
        ),
    ),
    ("grpc.primary_user_agent", "moma-client"),
)


@dataclass(frozen=True, slots=True)
class TeacherAddress:
    """Where a teacher is, who it must be, and what the site shows it.

    Args:
        name: The teacher's name in the federation, as in its certificate and card.
        address: `host:port`; the host is checked against the teacher's certificate.
        authority: File of the federation's CA certificate.
        certificate: File of the site's own certificate.
        key: File of the site's own TLS key.
        connect_deadline_seconds: Deadline of the handshake, and of calls that request
            no embedding.
        passphrase_file: The passphrase of the key; None: it is not encrypted.
        is_relayed: The address is the coordinator's relay, whose certificate is
            expected there; that the teacher is behind it, its signed card proves.
        revocations: Certificates that the CA revoked; None: nobody fetches them.
        proxy: Whether the way to it leads through a proxy.
    """

    name: str
    address: str
    authority: Path
    certificate: Path
    key: Path
    connect_deadline_seconds: float = 10.0
    passphrase_file: Path | None = None
    is_relayed: bool = False
    revocations: RevocationPoller | None = None
    proxy: ProxyRule = DIRECT


class EmbedResponses(Protocol):
    """A running `Embed` call."""

    def __next__(self) -> SealedResponse:
        """Waits for the next response."""
        ...

    def cancel(self) -> bool:
        """Ends the call."""
        ...


class _OpenChannel(NamedTuple):
    """A channel, the certificate to which it leads, and the site's at that time."""

    channel: grpc.Channel
    shown: bytes
    federation: str
    own_certificate: bytes


class TeacherChannel:
    """A channel that is opened when it is needed, and again after it was lost.

    Args:
        teacher: The teacher to reach.
        wait: Bounds every wait, and ends it at the operator's stop.
        now: The present, with a time zone.
    """

    def __init__(
        self, teacher: TeacherAddress, wait: StoppableWait, now: Callable[[], datetime]
    ) -> None:
        self._teacher = teacher
        self._wait = wait
        self._now = now
        self._newest: _OpenChannel | None = None
        self._older: list[_OpenChannel] = []  # of before a renewal: their calls may end
        self._lock = threading.RLock()  # on a channel that is closed nothing starts
        self._over = threading.Event()
        self._over.set()
        self._metadata: tuple[tuple[str, str], ...] = ()
        if teacher.is_relayed:
            # all calls of one site's use of a teacher have one thread: of several
            # replicas the relay takes them to one, where a momentum session is
            thread = secrets.token_hex(8)
            self._metadata = (("moma-teacher", teacher.name), ("moma-thread", thread))

    def embed(self, requests: Iterator[SealedRequest]) -> EmbedResponses:
        """Starts a stream of queries; raises as `call` does."""
        with self._opened():
            embed = self._method("Embed")
            responses: EmbedResponses = embed(requests, metadata=self._metadata)
            return responses

    def call(
        self,
        method: TeacherMethod | LogMethod,
        request: Foreign,
        seconds: float | None = None,
    ) -> Foreign:
        """Returns the response to a call that has one.

        Args:
            method: Name of the method.
            request: A message, or an iterator where the method takes a stream.
            seconds: Deadline of the response; by default that of the handshake.

        Raises:
            ConnectionLostError: The teacher cannot be reached at the moment.
            NotAuthorizedError: Who answers there is not the teacher, or was revoked.
            CertificateError: The site's own files are not acceptable.
            TeacherError: The call failed, see `failure_of`.
        """
        limit = seconds or self._teacher.connect_deadline_seconds
        settled: SimpleQueue[object] = SimpleQueue()
        with self._opened():
            call = self._method(method)
            future = call.future(request, timeout=limit, metadata=self._metadata)
        future.add_done_callback(settled.put)
        try:
            self._wait.take(settled, limit + 1)  # gRPC's own deadline is first
            return future.result()
        except grpc.RpcError as error:
            raise failure_of(error) from error
        finally:
            future.cancel()

    def last_call(self, method: TeacherMethod, requests: Iterator[Foreign]) -> None:
        """Makes a call if the channel is open; it may fail without a word.

        Args:
            method: Its name.
            requests: Gives the one request, and is asked only if the channel is open.
        """
        with suppress(grpc.RpcError, ConnectionLostError):
            with self._lock:
                call = self._method(method)
                future = call.future(
                    next(requests), timeout=_LAST_CALL_SECONDS, metadata=self._metadata
                )
            future.result()

    def close(self) -> None:
        """Closes the channel; the next call opens a new one."""
        self._over.set()
        with self._lock:
            for each in self._all_open():
                self._close(each)

    def _is_renewed(self, opened: _OpenChannel) -> bool:
        """Whether the site has another certificate than the channel shows."""
        with suppress(OSError):
            return self._teacher.certificate.read_bytes() != opened.own_certificate
        return False

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Opens the channel where that is needed, and keeps it while a call starts."""
        if self._newest is None or self._is_renewed(self._newest):
            self._keep(self._open())
        with self._lock:
            yield

    def _method(self, name: str) -> Foreign:
        if self._newest is None:
            raise ConnectionLostError("the channel was closed")
        stub = AuditServiceStub if name in _LOG_BYTES else TeacherServiceStub
        return getattr(stub(self._newest.channel), name)

    def _open(self) -> _OpenChannel:
        teacher = self._teacher
        own = _OwnIdentity.read(teacher, self._now())
        shown = self._probed(own.authority)
        peer = self._authorized(shown, own.peer.federation)
        if peer.name != teacher.name and not teacher.is_relayed:
            text = f"{teacher.address} is {peer}, teacher.name is {teacher.name}"
            raise NotAuthorizedError(f"{text}: write the name of the one you mean")
        credentials = grpc.ssl_channel_credentials(
            root_certificates=shown,
            private_key=open_key(teacher.key, teacher.passphrase_file),
            certificate_chain=own.certificate,
        )
        target, options = channel_target(teacher.address, teacher.proxy, _OPTIONS)
        channel = grpc.secure_channel(target, credentials, options)
        return _OpenChannel(channel, shown, own.peer.federation, own.certificate)

    def _probed(self, authority: bytes) -> bytes:
        """Returns the certificate, PEM, that answers at the teacher's address."""
        teacher = self._teacher
        own = IdentityFiles(
            teacher.certificate, teacher.key, teacher.authority, teacher.passphrase_file
        )
        outcome: SimpleQueue[bytes | MomaError] = SimpleQueue()

        def probe() -> None:
            try:
                outcome.put(
                    shown_certificate(
                        teacher.address,
                        authority,
                        seconds=min(teacher.connect_deadline_seconds, LOOK_SECONDS),
                        own=own,
                        proxy=teacher.proxy,
                        service="relay" if teacher.is_relayed else "teacher",
                    )
                )
            except MomaError as error:
                outcome.put(error)

        # of its own, because a handshake does not notice the stop
        threading.Thread(target=probe, name="tls-probe", daemon=True).start()
        shown = self._wait.take(outcome, teacher.connect_deadline_seconds)
        if isinstance(shown, FederationError):
            raise ConnectionLostError(str(shown)) from shown
        if isinstance(shown, MomaError):
            raise shown
        return shown

    def _authorized(self, shown: bytes, federation: str) -> Peer:
        """Returns who answers; another service of the federation is named as such."""
        kinds = _RELAYS if self._teacher.is_relayed else _TEACHERS
        found = read_peer(shown)
        if found.federation == federation and found.kind not in kinds:
            raise NotAuthorizedError(
                f"{self._teacher.address} (teacher.address) is the {found.kind} "
                f"{found.name} and no {kinds[0]}: another service listens there"
            )
        revocations = self._teacher.revocations
        if revocations is not None:
            revocations.check_age()
        return authorize(
            shown,
            now=self._now(),
            revoked=() if revocations is None else revocations,
            federation=federation,
            kinds=kinds,
        )

    def _keep(self, opened: _OpenChannel) -> None:
        with self._lock:
            if self._newest is not None:
                self._older.append(self._newest)
            self._newest = opened
        if self._over.is_set():
            over = self._over = threading.Event()
            threading.Thread(target=self._monitor, args=(over,), daemon=True).start()

    def _monitor(self, over: threading.Event) -> None:
        """Closes what leads to a peer that is authorized no more, until `over`."""
        while not over.wait(_CHECK_SECONDS):
            with self._lock:
                for each in self._all_open():
                    try:
                        self._authorized(each.shown, each.federation)
                    except NotAuthorizedError as error:
                        _logger.error("the channel is closed: %s", error)
                        self._close(each)

    def _all_open(self) -> list[_OpenChannel]:
        return [*self._older, *([] if self._newest is None else [self._newest])]

    def _close(self, opened: _OpenChannel) -> None:
        opened.channel.close()
        if opened is self._newest:
            self._newest = None
        else:
            self._older.remove(opened)


class _OwnIdentity(NamedTuple):
    """Who the site is, and its certificate and the CA's, PEM."""

    peer: Peer
    certificate: bytes
    authority: bytes

    @classmethod
    def read(cls, teacher: TeacherAddress, now: datetime) -> Self:
        """Reads the site's own files; what is wrong there is not blamed on others.

        Raises:
            CertificateError: The site's own certificate is not acceptable.
        """
        try:
            certificate = teacher.certificate.read_bytes()
            authority = teacher.authority.read_bytes()
            check_issued(certificate, authority)
            peer = read_peer(certificate)
        except OSError as error:
            raise CertificateError(f"cannot read the site's own {error}") from error
        except NotAuthorizedError as error:
            raise CertificateError(f"the site's own certificate: {error}") from error
        if now >= peer.not_after:
            end = peer.not_after.isoformat()
            message = f"the site's own certificate expired at {end}, renew it"
            raise CertificateError(message)
        return cls(peer, certificate, authority)
