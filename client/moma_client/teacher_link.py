"""The link to a teacher: mutual TLS with the one teacher that was meant.

Python's gRPC checks a server's chain and host name, and shows its certificate to
nobody. So a TLS connection of our own goes ahead: it checks chain, host name and TLS
1.3, and reads in the certificate whether this is the named teacher of our federation.
The gRPC channel then trusts that certificate alone. Each new channel does so again,
and reads the site's own files again, so renewals on either side need no restart.
"""

import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from queue import SimpleQueue
from typing import Protocol, TypeVar

import grpc

from moma_client.answer_bounds import service_config
from moma_client.relay_metadata import relayed_channel
from moma_client.teacher_address import TeacherAddress
from moma_client.teacher_failures import LinkLostError, Patience, failure_of
from moma_core.errors import CertificateError, NotAdmittedError, TeacherError
from moma_core.trust.certificates import check_issued
from moma_core.trust.identity import Peer, admit, read_peer
from moma_core.trust.key_files import open_key, read_passphrase
from moma_core.trust.names import PeerKind
from moma_proto.v1.audit_pb2_grpc import AuditServiceStub
from moma_proto.v1.sealed_pb2 import SealedRequest, SealedResponse
from moma_proto.v1.teacher_pb2_grpc import TeacherServiceStub

_T = TypeVar("_T")

LARGEST_ANSWER_BYTES = 64 * 1024 * 1024

_FAREWELL_SECONDS = 1.0

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


class TeacherLink:
    """A channel that is opened when it is needed, and again after it was lost.

    Args:
        teacher: Whom to reach.
        patience: Does the waiting.
        now: The present, with a time zone.
    """

    def __init__(
        self, teacher: TeacherAddress, patience: Patience, now: Callable[[], datetime]
    ) -> None:
        self._teacher = teacher
        self._patience = patience
        self._now = now
        self._channel: grpc.Channel | None = None
        self._shown: bytes | None = None  # of its own, when the channel was opened
        self._thread = secrets.token_hex(8)

    def stub(self) -> TeacherServiceStub:
        """Returns the teacher's methods.

        Raises:
            LinkLostError: It cannot be reached at the moment.
            NotAdmittedError: Who answers there is not the teacher.
            CertificateError: The site's own files are not acceptable.
        """
        if self._channel is None or self._is_renewed():
            # calls on the old channel end in peace; it goes when the last is done
            self._channel = self._open()
        return TeacherServiceStub(self._channel)

    def audit(self) -> AuditServiceStub:
        """Returns the methods of the log's keeper, on the channel that is open."""
        if self._channel is None:
            self._channel = self._open()
        return AuditServiceStub(self._channel)

    def ask(self, call: StartCall[_T], seconds: float | None = None) -> _T:
        """Returns the answer to a call with one answer.

        Args:
            call: Starts it; is given the methods and a deadline in seconds.
            seconds: The deadline; by default that of the handshake.

        Raises:
            TeacherError: See `failure_of`.
        """
        seconds = seconds or self._teacher.connect_deadline_seconds
        settled: SimpleQueue[object] = SimpleQueue()
        future = call(self.stub(), seconds)
        future.add_done_callback(settled.put)
        try:
            self._patience.take(settled, seconds + 1)  # gRPC's own deadline is first
            return future.result()
        except grpc.RpcError as error:
            raise failure_of(error) from error
        finally:
            future.cancel()

    def farewell(self, call: StartCall[_T]) -> None:
        """Makes a last call if the channel is open; nobody minds if it fails."""
        if self._channel is None:
            return
        with suppress(grpc.RpcError):
            call(TeacherServiceStub(self._channel), _FAREWELL_SECONDS).result()

    def close(self) -> None:
        """Closes the channel; the next call opens a new one."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _is_renewed(self) -> bool:
        """Whether the site has another certificate than the channel shows."""
        with suppress(OSError):
            return self._teacher.certificate.read_bytes() != self._shown
        return False

    def _open(self) -> grpc.Channel:
        own = self._own_identity()
        shown = self._shown_certificate()
        peer = self._admitted(own, shown)
        if peer.name != self._teacher.name and not self._teacher.is_relayed:
            raise NotAdmittedError(
                f"{self._teacher.address} is {peer}, not {self._teacher.name}"
            )
        self._shown = self._teacher.certificate.read_bytes()
        credentials = grpc.ssl_channel_credentials(
            root_certificates=shown,
            private_key=open_key(self._teacher.key, self._teacher.passphrase_file),
            certificate_chain=self._shown,
        )
        channel = grpc.secure_channel(self._teacher.address, credentials, _OPTIONS)
        if self._teacher.is_relayed:
            return relayed_channel(channel, self._teacher.name, self._thread)
        return channel

    def _admitted(self, own: Peer, shown: bytes) -> Peer:
        """Returns who answers; another service of the federation is told as such."""
        kinds = _RELAYS if self._teacher.is_relayed else _TEACHERS
        found = read_peer(shown)
        if found.federation == own.federation and found.kind not in kinds:
            raise NotAdmittedError(
                f"{self._teacher.address} (teacher.address) is the {found.kind} "
                f"{found.name} and no {kinds[0]}: another service listens there; a "
                f"teacher's port is 8444 and a relay's 8446, unless its owner says else"
            )
        return admit(
            shown,
            now=self._now(),
            revoked=(),  # the CA's list is with the servers
            federation=own.federation,
            kinds=kinds,
        )

    def _own_identity(self) -> Peer:
        """Reads who the site is; what is wrong at home is not blamed on others."""
        try:
            pem = self._teacher.certificate.read_bytes()
            check_issued(pem, self._teacher.authority.read_bytes())
            own = read_peer(pem)
        except OSError as error:
            raise CertificateError(f"cannot read the site's own {error}") from error
        except NotAdmittedError as error:
            raise CertificateError(f"the site's own certificate: {error}") from error
        if self._now() >= own.not_after:
            end = own.not_after.isoformat()
            message = f"the site's own certificate expired at {end}, renew it"
            raise CertificateError(message)
        return own

    def _shown_certificate(self) -> bytes:
        """Returns the certificate, PEM, that answers at the teacher's address."""
        context = self._tls()
        outcome: SimpleQueue[bytes | TeacherError] = SimpleQueue()

        def knock() -> None:
            try:
                outcome.put(self._handshake(context))
            except TeacherError as failure:
                outcome.put(failure)

        # a thread of its own, because a handshake does not notice the stop
        threading.Thread(target=knock, name="link-handshake", daemon=True).start()
        shown = self._patience.take(outcome, self._teacher.connect_deadline_seconds)
        if isinstance(shown, TeacherError):
            raise shown
        return shown

    def _tls(self) -> ssl.SSLContext:
        teacher = self._teacher
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

    def _handshake(self, context: ssl.SSLContext) -> bytes:
        host, _ = endpoint = self._teacher.endpoint
        seconds = self._teacher.connect_deadline_seconds
        shown: bytes | None = None
        try:
            with (
                socket.create_connection(endpoint, timeout=seconds) as connection,
                context.wrap_socket(connection, server_hostname=host) as tls,
            ):
                shown = tls.getpeercert(binary_form=True)
                is_welcome = tls.recv(1)  # a server speaks first, if it speaks at all
        except ssl.SSLCertVerificationError as error:
            message = f"the certificate at {self._teacher.address} is not acceptable"
            raise NotAdmittedError(f"{message}: {error.verify_message}") from error
        except (OSError, UnicodeError) as error:  # the latter for a host that is none
            message = f"cannot reach {self._teacher.address}: {error}"
            if shown:
                message += "; another service may listen there (teacher.address)"
            raise LinkLostError(message) from error
        if not shown or not is_welcome:
            message = f"{self._teacher.address} hung up on the site's certificate"
            raise LinkLostError(message)
        return ssl.DER_cert_to_PEM_cert(shown).encode()


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
