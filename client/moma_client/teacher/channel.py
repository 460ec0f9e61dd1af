"""The link to a teacher: mutual TLS with the one teacher that was meant.

Python's gRPC checks a server's chain and host name, and shows its certificate to
nobody. So a TLS connection of our own goes ahead: it checks chain, host name and TLS
1.3, and reads in the certificate whether this is the named teacher of our federation.
The gRPC channel then trusts that certificate alone. Each new channel does so again,
and reads the site's own files again, so renewals on either side need no restart.

A connection outlives the certificate that opened it. So what is open is looked at each
second, and closed when its certificate expires or is revoked.
"""

import logging
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from queue import SimpleQueue
from typing import NamedTuple, Protocol, TypeVar

import grpc

from moma_client.identity.peers import TeacherAddress
from moma_client.teacher.channel_options import relayed_channel, service_config
from moma_client.teacher.retry import LinkLostError, StoppableWait, failure_of
from moma_core.errors import CertificateError, NotAuthorizedError, TeacherError
from moma_core.pki.certificates import check_issued
from moma_core.pki.identity import Peer, PeerKind, authorize, read_peer
from moma_core.pki.key_files import open_key, read_passphrase
from moma_proto.v1.audit_pb2_grpc import AuditServiceStub
from moma_proto.v1.sealed_pb2 import SealedRequest, SealedResponse
from moma_proto.v1.teacher_pb2_grpc import TeacherServiceStub

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_C = TypeVar("_C")

LARGEST_ANSWER_BYTES = 64 * 1024 * 1024

_CLOSE_SESSION_SECONDS = 1.0

_LOOK_SECONDS = 1.0

_TEACHERS: tuple[PeerKind, ...] = ("teacher",)

_RELAYS: tuple[PeerKind, ...] = ("coordinator",)

_OPTIONS = (
    ("grpc.max_receive_message_length", LARGEST_ANSWER_BYTES),
    ("grpc.max_send_message_length", -1),  # the card's bounds hold
    ("grpc.service_config", service_config()),
    ("grpc.enable_retries", 0),  # ours know what a request costs
    ("grpc.enable_http_proxy", 0),
    ("grpc.primary_user_agent", "moma-client"),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection
)


class StartCall(Protocol[_T]):
    """Starts a call with one answer."""

    def __call__(
        self, stub: TeacherServiceStub, seconds: float, /
    ) -> "grpc.Future[_T]":
        """Is given the teacher's methods and a deadline in seconds."""
        ...


class _OpenChannel(NamedTuple):
    """A channel, the certificate to which it leads, and the site's at that time."""

    channel: grpc.Channel
    shown: bytes
    federation: str
    own_certificate: bytes


class TeacherLink:
    """A channel that is opened when it is needed, and again after it was lost.

    Args:
        teacher: Whom to reach.
        wait: Does the waiting.
        now: The present, with a time zone.
    """

    def __init__(
        self, teacher: TeacherAddress, wait: StoppableWait, now: Callable[[], datetime]
    ) -> None:
        self._teacher = teacher
        self._wait = wait
        self._now = now
        self._newest: _OpenChannel | None = None
        self._older: list[_OpenChannel] = []  # of before a renewal: calls end in peace
        self._lock = threading.RLock()  # on a channel that is closed nothing starts
        self._over = threading.Event()
        self._over.set()
        self._thread = secrets.token_hex(8)

    def start(self, call: Callable[[TeacherServiceStub], _C]) -> _C:
        """Returns a call that was started on the open channel.

        Args:
            call: Starts it; is given the teacher's methods.

        Raises:
            LinkLostError: The teacher cannot be reached at the moment.
            NotAuthorizedError: Who answers there is not the teacher, or was revoked.
            CertificateError: The site's own files are not acceptable.
        """
        if self._newest is None or self._is_renewed(self._newest):
            self._keep(self._open())
        with self._lock:
            return call(TeacherServiceStub(self._channel()))

    def audit(self) -> AuditServiceStub:
        """Returns the methods of the log's keeper; for a call that `ask` starts."""
        return AuditServiceStub(self._channel())

    def ask(self, call: StartCall[_T], seconds: float | None = None) -> _T:
        """Returns the answer to a call with one answer.

        Args:
            call: Starts it; is given the methods and a deadline in seconds.
            seconds: The deadline; by default that of the handshake.

        Raises:
            TeacherError: See `failure_of`.
        """
        limit = seconds or self._teacher.connect_deadline_seconds
        settled: SimpleQueue[object] = SimpleQueue()
        future = self.start(lambda stub: call(stub, limit))
        future.add_done_callback(settled.put)
        try:
            self._wait.take(settled, limit + 1)  # gRPC's own deadline is first
            return future.result()
        except grpc.RpcError as error:
            raise failure_of(error) from error
        finally:
            future.cancel()

    def close_session(self, call: StartCall[_T]) -> None:
        """Makes a last call if the channel is open; nobody minds if it fails."""
        with suppress(grpc.RpcError):
            with self._lock:
                if self._newest is None:
                    return
                stub = TeacherServiceStub(self._newest.channel)
                future = call(stub, _CLOSE_SESSION_SECONDS)
            future.result()

    def close(self) -> None:
        """Closes the channel; the next call opens a new one."""
        self._over.set()
        with self._lock:
            for each in self._all_open():
                self._shut(each)

    def _channel(self) -> grpc.Channel:
        if self._newest is None:
            raise LinkLostError("the link was closed")
        return self._newest.channel

    def _is_renewed(self, opened: _OpenChannel) -> bool:
        """Whether the site has another certificate than the channel shows."""
        with suppress(OSError):
            return self._teacher.certificate.read_bytes() != opened.own_certificate
        return False

    def _open(self) -> _OpenChannel:
        own = own_identity(self._teacher, self._now())
        shown = shown_teacher(self._teacher, self._wait)
        peer = self._admitted(shown, own.federation)
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

    def _admitted(self, shown: bytes, federation: str) -> Peer:
        """Returns who answers; another service of the federation is told as such."""
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
                target=self._monitor, args=(self._over,), name="link-watch", daemon=True
            ).start()

    def _monitor(self, over: threading.Event) -> None:
        """Closes what leads to a peer that is admitted no more, until `over`."""
        while not over.wait(_LOOK_SECONDS):
            with self._lock:
                for each in self._all_open():
                    try:
                        self._admitted(each.shown, each.federation)
                    except NotAuthorizedError as error:
                        _logger.error("the link is closed: %s", error)
                        self._shut(each)

    def _all_open(self) -> list[_OpenChannel]:
        return [*self._older, *([] if self._newest is None else [self._newest])]

    def _shut(self, opened: _OpenChannel) -> None:
        opened.channel.close()
        if opened is self._newest:
            self._newest = None
        else:
            self._older.remove(opened)


def start_sealed(
    stub: TeacherServiceStub,
    method: str,
    requests: Iterator[SealedRequest],
    seconds: float,
) -> "grpc.Future[SealedResponse]":
    """Starts a call that has one answer.

    Args:
        stub: The teacher's methods.
        method: Which of them.
        requests: All that is asked; one, where the method takes one.
        seconds: The deadline.
    """
    if method == "SyncMomentum":
        return stub.SyncMomentum.future(requests, timeout=seconds)
    call = {
        "Budget": stub.Budget,
        "OpenSession": stub.OpenSession,
        "CloseSession": stub.CloseSession,
    }[method]
    return call.future(next(requests), timeout=seconds)


def own_identity(teacher: TeacherAddress, now: datetime) -> Peer:
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


def shown_teacher(teacher: TeacherAddress, wait: StoppableWait) -> bytes:
    """Returns the certificate, PEM, that answers at the teacher's address.

    Raises:
        LinkLostError: Nobody answers there.
        NotAuthorizedError: The certificate is of another authority or host.
        CertificateError: The site's own files are not acceptable.
        StoppedError: The operator stops the program.
    """
    context = _tls(teacher)
    outcome: SimpleQueue[bytes | TeacherError] = SimpleQueue()

    def knock() -> None:
        try:
            outcome.put(_handshake(teacher, context))
        except TeacherError as failure:
            outcome.put(failure)

    # a thread of its own, because a handshake does not notice the stop
    threading.Thread(target=knock, name="link-handshake", daemon=True).start()
    shown = wait.take(outcome, teacher.connect_deadline_seconds)
    if isinstance(shown, TeacherError):
        raise shown
    return shown


def _tls(teacher: TeacherAddress) -> ssl.SSLContext:
    passphrase = read_passphrase(teacher.passphrase_file)
    open_key(teacher.key, teacher.passphrase_file)  # or OpenSSL asks the terminal
    try:
        context = ssl.create_default_context(cafile=teacher.authority)
        context.load_cert_chain(teacher.certificate, teacher.key, passphrase)
    except OSError as error:
        message = f"the site's own certificate, key or authority: {error}"
        raise CertificateError(message) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    return context


def _handshake(teacher: TeacherAddress, context: ssl.SSLContext) -> bytes:
    host, _ = endpoint = teacher.endpoint
    seconds = teacher.connect_deadline_seconds
    shown: bytes | None = None
    try:
        with (
            socket.create_connection(endpoint, timeout=seconds) as connection,
            context.wrap_socket(connection, server_hostname=host) as tls,
        ):
            shown = tls.getpeercert(binary_form=True)
            is_welcome = tls.recv(1)  # a server speaks first, if it speaks at all
    except ssl.SSLCertVerificationError as error:
        message = f"the certificate at {teacher.address} is not acceptable"
        raise NotAuthorizedError(f"{message}: {error.verify_message}") from error
    except (OSError, UnicodeError) as error:  # the latter for a host that is none
        message = f"cannot reach {teacher.address}: {error}"
        if shown:
            message += "; another service may listen there (teacher.address)"
        raise LinkLostError(message) from error
    if not shown or not is_welcome:
        message = f"{teacher.address} hung up on the site's certificate"
        raise LinkLostError(message)
    return ssl.DER_cert_to_PEM_cert(shown).encode()
