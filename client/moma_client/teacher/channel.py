"""The gRPC channel to a teacher: mutual TLS with the one teacher that was meant.

A TLS probe goes ahead of each channel: it checks chain, host name and TLS 1.3, and
reads in the certificate whether this is the named teacher of our federation. The
channel then trusts that certificate alone. Each new channel does so again, and reads
the site's own files again, so renewals on either side need no restart.

A connection outlives the certificate that opened it. So what is open is checked each
second, and closed when its certificate expires or is revoked.
"""

import logging
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from queue import SimpleQueue
from typing import NamedTuple, Self, TypeVar

import grpc

from moma_client.identity.peers import TeacherAddress
from moma_client.teacher.channel_options import relayed_channel, service_config
from moma_client.teacher.retry import ConnectionLostError, StoppableWait, failure_of
from moma_core.errors import (
    CertificateError,
    FederationError,
    MomaError,
    NotAuthorizedError,
)
from moma_core.pki.certificates import check_issued
from moma_core.pki.identity import Peer, authorize, read_peer
from moma_core.pki.key_files import open_key
from moma_core.pki.names import PeerKind
from moma_core.pki.tls_probe import shown_certificate
from moma_core.pki.validity import IdentityFiles
from moma_proto.v1.audit_pb2_grpc import AuditServiceStub
from moma_proto.v1.teacher_pb2_grpc import TeacherServiceStub

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_C = TypeVar("_C")

LARGEST_RESPONSE_BYTES = 64 * 1024 * 1024

_LAST_CALL_SECONDS = 1.0

_CHECK_SECONDS = 1.0

_TEACHERS: tuple[PeerKind, ...] = ("teacher",)

_RELAYS: tuple[PeerKind, ...] = ("coordinator",)

_OPTIONS = (
    ("grpc.max_receive_message_length", LARGEST_RESPONSE_BYTES),
    ("grpc.max_send_message_length", -1),  # the card's bounds hold
    ("grpc.service_config", service_config()),
    ("grpc.enable_retries", 0),  # ours know what a request costs
    ("grpc.enable_http_proxy", 0),
    ("grpc.primary_user_agent", "moma-client"),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection
)


class Stubs(NamedTuple):
    """The methods of a teacher and of its log, on one open channel."""

    teacher: TeacherServiceStub
    audit: AuditServiceStub

    @classmethod
    def on(cls, channel: grpc.Channel) -> Self:
        """Returns the methods on a channel."""
        return cls(TeacherServiceStub(channel), AuditServiceStub(channel))


StartCall = Callable[[Stubs, float], "grpc.Future[_T]"]
"""Starts a call with one response; is given a deadline in seconds."""


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
        self._thread = secrets.token_hex(8)

    def start(self, call: Callable[[Stubs], _C]) -> _C:
        """Returns a call that was started on the open channel.

        Args:
            call: Starts it.

        Raises:
            ConnectionLostError: The teacher cannot be reached at the moment.
            NotAuthorizedError: Who answers there is not the teacher, or was revoked.
            CertificateError: The site's own files are not acceptable.
        """
        if self._newest is None or self._is_renewed(self._newest):
            self._keep(self._open())
        with self._lock:
            if self._newest is None:
                raise ConnectionLostError("the channel was closed")
            return call(Stubs.on(self._newest.channel))

    def call(self, call: "StartCall[_T]", seconds: float | None = None) -> _T:
        """Returns the response to a call that has one.

        Args:
            call: Starts it.
            seconds: The deadline; by default that of the handshake.

        Raises:
            TeacherError: See `failure_of`.
        """
        limit = seconds or self._teacher.connect_deadline_seconds
        settled: SimpleQueue[object] = SimpleQueue()
        future = self.start(lambda stubs: call(stubs, limit))
        future.add_done_callback(settled.put)
        try:
            self._wait.take(settled, limit + 1)  # gRPC's own deadline is first
            return future.result()
        except grpc.RpcError as error:
            raise failure_of(error) from error
        finally:
            future.cancel()

    def last_call(self, call: "StartCall[_T]") -> None:
        """Makes a call if the channel is open; it may fail without a word."""
        with suppress(grpc.RpcError):
            with self._lock:
                if self._newest is None:
                    return
                future = call(Stubs.on(self._newest.channel), _LAST_CALL_SECONDS)
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

    def _open(self) -> _OpenChannel:
        own = _own_identity(self._teacher, self._now())
        shown = _probed(self._teacher, self._wait)
        peer = self._authorized(shown, own.federation)
        if peer.name != self._teacher.name and not self._teacher.is_relayed:
            raise NotAuthorizedError(
                f"{self._teacher.address} is {peer}, not {self._teacher.name}"
            )
        certificate = self._teacher.certificate.read_bytes()
        credentials = grpc.ssl_channel_credentials(
            root_certificates=shown,
            private_key=open_key(self._teacher.key, self._teacher.passphrase_file),
            certificate_chain=certificate,
        )
        channel = grpc.secure_channel(self._teacher.address, credentials, _OPTIONS)
        if self._teacher.is_relayed:
            channel = relayed_channel(channel, self._teacher.name, self._thread)
        return _OpenChannel(channel, shown, own.federation, certificate)

    def _authorized(self, shown: bytes, federation: str) -> Peer:
        """Returns who answers; another service of the federation is named as such."""
        kinds = _RELAYS if self._teacher.is_relayed else _TEACHERS
        found = read_peer(shown)
        if found.federation == federation and found.kind not in kinds:
            raise NotAuthorizedError(
                f"{self._teacher.address} (teacher.address) is the {found.kind} "
                f"{found.name} and no {kinds[0]}: another service listens there; a "
                f"teacher's port is 8444 and a relay's 8446, unless its owner says else"
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
            self._over = threading.Event()
            threading.Thread(
                target=self._monitor,
                args=(self._over,),
                name="channel-monitor",
                daemon=True,
            ).start()

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


def _own_identity(teacher: TeacherAddress, now: datetime) -> Peer:
    """Returns who the site is; what is wrong at home is not blamed on others.

    Raises:
        CertificateError: The site's own certificate is not acceptable.
    """
    try:
        pem = teacher.certificate.read_bytes()
        check_issued(pem, teacher.authority.read_bytes())
        own = read_peer(pem)
    except OSError as error:
        raise CertificateError(f"cannot read the site's own {error}") from error
    except NotAuthorizedError as error:
        raise CertificateError(f"the site's own certificate: {error}") from error
    if now >= own.not_after:
        end = own.not_after.isoformat()
        message = f"the site's own certificate expired at {end}, renew it"
        raise CertificateError(message)
    return own


def _probed(teacher: TeacherAddress, wait: StoppableWait) -> bytes:
    """Returns the certificate, PEM, that answers at the teacher's address.

    Raises:
        ConnectionLostError: Nobody answers there.
        NotAuthorizedError: The certificate is of another authority or host.
        CertificateError: The site's own files are not acceptable.
        StoppedError: The operator stops the program.
    """
    own = IdentityFiles(
        teacher.certificate, teacher.key, teacher.authority, teacher.passphrase_file
    )
    seconds = teacher.connect_deadline_seconds
    outcome: SimpleQueue[bytes | MomaError] = SimpleQueue()

    def probe() -> None:
        try:
            authority = teacher.authority.read_bytes()
            outcome.put(
                shown_certificate(teacher.address, authority, seconds=seconds, own=own)
            )
        except OSError as error:
            outcome.put(CertificateError(f"cannot read the federation's own {error}"))
        except MomaError as error:
            outcome.put(error)

    # a thread of its own, because a handshake does not notice the stop
    threading.Thread(target=probe, name="tls-probe", daemon=True).start()
    shown = wait.take(outcome, seconds)
    if isinstance(shown, FederationError):
        raise ConnectionLostError(str(shown)) from shown
    if isinstance(shown, MomaError):
        raise shown
    return shown
