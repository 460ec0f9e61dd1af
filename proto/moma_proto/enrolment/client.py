"""Enrolment and renewal from the side of a site or a teacher; both programs use it.

Every connection begins with a look at who answers: its certificate must be of the
federation's CA, good for the host, and name a coordinator. The gRPC channel trusts that
one certificate alone.
"""

import logging
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import grpc

from moma_core.errors import (
    CertificateError,
    FederationError,
    NotAuthorizedError,
    printable_line,
)
from moma_core.network.proxy import DIRECT, ProxyRule
from moma_core.pki.certificates import (
    authority_fingerprint,
    check_own_certificate,
    create_request,
    only_authority,
)
from moma_core.pki.identity import EnrolmentToken, PeerKind, PeerName, authorize
from moma_core.pki.key_files import open_key
from moma_core.pki.renewal import IdentityFiles
from moma_core.pki.tls_probe import LOOK_SECONDS, shown_certificate
from moma_core.runtime.clock import utc_now
from moma_core.runtime.files import write_private
from moma_proto.channel import channel_target
from moma_proto.v1 import enrolment_pb2 as pb
from moma_proto.v1.enrolment_pb2_grpc import EnrolmentServiceStub

_logger = logging.getLogger(__name__)

_SECONDS = 10.0  # of a call; the look before it is shorter
_WAIT_SECONDS = 30.0  # a coordinator may be about to start
_PAUSE_SECONDS = 1.0
_LONGEST_DETAILS = 300
_LONGEST_RESPONSE_BYTES = 9 << 20  # a long list of revoked certificates

_COORDINATORS: tuple[PeerKind, ...] = ("coordinator",)

_OPTIONS = (("grpc.max_receive_message_length", _LONGEST_RESPONSE_BYTES),)

_REFUSALS = {
    grpc.StatusCode.PERMISSION_DENIED: NotAuthorizedError,
    grpc.StatusCode.INVALID_ARGUMENT: CertificateError,
}

_WHAT_TO_DO = "ask the coordinator's operator for a token of this name"


def trusted_authority(
    address: str, token: EnrolmentToken, proxy: ProxyRule = DIRECT
) -> bytes:
    """Returns the CA certificate, PEM, whose fingerprint the token carries.

    Nothing that is secret is sent: who answers is not known yet.

    Args:
        address: `host:port` of the enrolment service.
        token: The token that the operator got from the coordinator.
        proxy: Whether the way leads through a proxy.

    Raises:
        FederationError: Nobody answers there.
        ConfigError: Another port of the coordinator answers.
        NotAuthorizedError: The server there is of another CA.
    """
    shown = _looked_at(address, None, proxy)
    with _stub(address, shown, proxy) as stub:
        response = stub.Authority(pb.AuthorityRequest(), timeout=_SECONDS)
    try:
        authority = only_authority(response.certificate_pem)
        fingerprint = authority_fingerprint(authority)
    except CertificateError as error:
        raise NotAuthorizedError(
            f"{address}: {error}; nothing was sent to it"
        ) from None
    if fingerprint != token.authority:
        raise NotAuthorizedError(
            f"{address} is of another authority than the token says, {fingerprint} and "
            f"not {token.authority}; nothing was sent to it"
        )
    return authority


@dataclass(frozen=True, slots=True)
class EnrolmentLink:
    """Calls the enrolment service; each call is a connection of its own.

    Args:
        address: `host:port` of the enrolment service.
        authority_pem: The federation's CA certificate.
        own: Name of the party that calls.
        clock: Returns the present, with a time zone.
        revoked_here: Serials that were revoked, as far as is known here.
        proxy: Whether the way leads through a proxy.
    """

    address: str
    authority_pem: bytes
    own: PeerName
    clock: Callable[[], datetime]
    revoked_here: Container[int] = ()
    proxy: ProxyRule = DIRECT

    def enrol(
        self, token: EnrolmentToken, key_pem: bytes, node_key: bytes | None
    ) -> bytes:
        """Returns the certificate, PEM, for a token.

        Args:
            token: One that was not used.
            key_pem: The party's TLS key, unencrypted; it stays here.
            node_key: A site's public node key.

        Raises:
            FederationError: The coordinator cannot be reached, or is busy.
            NotAuthorizedError: It refused, or is none of this federation.
            CertificateError: The request was not acceptable.
        """
        request = pb.EnrolRequest(
            token_id=token.identifier,
            secret=token.secret,
            csr_pem=create_request(key_pem, str(self.own)),
            node_key=node_key or b"",
        )
        with self._channel() as stub:
            return stub.Enrol(request, timeout=_SECONDS).certificate_pem

    def renew(self, certificate_pem: bytes, key_pem: bytes) -> bytes:
        """Returns the next certificate, PEM; raises as `enrol` does."""
        request = pb.RenewRequest(
            certificate_pem=certificate_pem,
            csr_pem=create_request(key_pem, str(self.own)),
        )
        with self._channel() as stub:
            return stub.Renew(request, timeout=_SECONDS).certificate_pem

    def revoked(self) -> bytes:
        """Returns the signed list of revoked certificates, DER; raises as `enrol`."""
        with self._channel() as stub:
            request = pb.RevokedCertificatesRequest()
            return stub.RevokedCertificates(request, timeout=_SECONDS).list_der

    @contextmanager
    def _channel(self) -> Iterator[EnrolmentServiceStub]:
        shown = _looked_at(self.address, self.authority_pem, self.proxy)
        authorize(
            shown,
            now=self.clock(),
            revoked=self.revoked_here,  # the newest list is at the other end
            federation=self.own.federation,
            kinds=_COORDINATORS,
        )
        with _stub(self.address, shown, self.proxy) as stub:
            yield stub


def _looked_at(address: str, authority_pem: bytes | None, proxy: ProxyRule) -> bytes:
    return shown_certificate(
        address, authority_pem, seconds=LOOK_SECONDS, proxy=proxy, service="enrolment"
    )


@contextmanager
def _stub(
    address: str, shown: bytes, proxy: ProxyRule
) -> Iterator[EnrolmentServiceStub]:
    """Opens a channel to the holder of this certificate, and to nobody else."""
    credentials = grpc.ssl_channel_credentials(root_certificates=shown)
    try:
        target, options = channel_target(address, proxy, _OPTIONS)
        with grpc.secure_channel(target, credentials, options) as channel:
            yield EnrolmentServiceStub(channel)
    except grpc.RpcError as error:
        raise _failure(address, error) from None


def _failure(address: str, error: grpc.RpcError) -> Exception:
    code, details = error.code(), error.details() or "no reason given"
    kind = _REFUSALS.get(code, FederationError)
    message = printable_line(details, _LONGEST_DETAILS)
    if kind is FederationError:
        message = f"{address} answered {code.name}: {message}"
    return kind(message)


@dataclass(frozen=True, slots=True)
class EnrolmentPort:
    """Where a new member enrols.

    Args:
        address: `host:port` of the enrolment service.
        proxy: Whether the way leads through a proxy.
        wait_seconds: Time for a coordinator that cannot be reached yet to start.
    """

    address: str
    proxy: ProxyRule = DIRECT
    wait_seconds: float = _WAIT_SECONDS


def take_place(
    port: EnrolmentPort,
    token: EnrolmentToken,
    own: PeerName,
    files: IdentityFiles,
    *,
    node_key: bytes | None = None,
) -> None:
    """Enrols, and writes the certificate and the CA certificate beside the key.

    Args:
        port: Where it enrols.
        token: A token for the same name.
        own: Name of the party that enrols.
        files: Where the key lies, and where the certificates go.
        node_key: A site's public node key.

    Raises:
        CertificateError: The token is not for us, or what came back is not.
        ConfigError: Another port of the coordinator answers.
        FederationError: The coordinator cannot be reached.
        NotAuthorizedError: It refused, or is not of the token's authority.
    """
    if token.peer != own:
        text = f"the token is for {token.peer}, this is {own}: {_WHAT_TO_DO}"
        raise CertificateError(text)
    _check_known_authority(files, token)
    key_pem = open_key(files.key, files.passphrase_file)
    authority_pem = _reached_authority(port, token)
    link = EnrolmentLink(port.address, authority_pem, own, utc_now, proxy=port.proxy)
    certificate_pem = link.enrol(token, key_pem, node_key)
    check_own_certificate(
        certificate_pem,
        authority_pem=authority_pem,
        own=own,
        key_pem=key_pem,
        now=utc_now(),
    )
    write_private(files.authority, authority_pem)
    write_private(files.certificate, certificate_pem)


def _check_known_authority(files: IdentityFiles, token: EnrolmentToken) -> None:
    """Refuses to exchange a CA in silence: everything hangs on it."""
    if not files.authority.exists():
        return
    if authority_fingerprint(files.authority.read_bytes()) != token.authority:
        raise CertificateError(
            f"{files.authority} is of another authority than the token's; remove it "
            f"only if this is to be another federation's"
        )


def _reached_authority(port: EnrolmentPort, token: EnrolmentToken) -> bytes:
    deadline, logged = time.monotonic() + port.wait_seconds, ""
    while True:
        try:
            return trusted_authority(port.address, token, port.proxy)
        except FederationError as error:
            if time.monotonic() > deadline:
                raise FederationError(
                    f"{error}; ask the coordinator's operator whether it runs, and "
                    f"whether this is the port of its enrolment, by default 8445: "
                    f"another service may listen there"
                ) from error
            if str(error) != logged:
                logged = str(error)
                _logger.info("%s; trying again for %.0f s", logged, port.wait_seconds)
            time.sleep(_PAUSE_SECONDS)
