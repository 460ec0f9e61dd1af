"""A TLS handshake that only reads who answers, before anything is sent there.

Python's gRPC checks a server's chain and host name, and shows its certificate to
nobody. So a connection of our own goes ahead and reads who is there, by the same way
that the link then takes. It also tells the ports of a federation apart, which are
easily mixed up in a config.
"""

import socket
import ssl
from typing import Final, Literal

from moma_core.errors import (
    CertificateError,
    ConfigError,
    FederationError,
    NotAuthorizedError,
)
from moma_core.network.address import endpoint_of
from moma_core.network.proxy import DIRECT, ProxyRule
from moma_core.pki.certificates import only_authority
from moma_core.pki.identity import PeerKind, read_peer
from moma_core.pki.key_files import open_key, read_passphrase
from moma_core.pki.renewal import IdentityFiles

LOOK_SECONDS: Final = 4.0
"""Time for a look: who waits for it is told within five."""

Service = Literal["rounds", "enrolment", "relay", "teacher"]

_PORTS: Final[dict[Service, str]] = {
    "rounds": "the coordinator's port for rounds, by default 8443",
    "enrolment": "the coordinator's port for enrolment, by default 8445",
    "relay": "the coordinator's port of the relay, by default 8446",
    "teacher": "a teacher's port, by default 8444",
}
_SETTLED_SECONDS = 1.0  # a gRPC server speaks first, and at once
_PLAIN_REQUEST = b"HEAD / HTTP/1.0\r\n\r\n"
_PLAIN_RESPONSES = {
    b"HTTP/": "answers by plain HTTP, as a page of metrics does, and not by TLS",
    b"SSH-": "is an SSH server",
}


def shown_certificate(
    address: str,
    authority_pem: bytes | None,
    *,
    seconds: float,
    own: IdentityFiles | None = None,
    proxy: ProxyRule = DIRECT,
    service: Service | None = None,
) -> bytes:
    """Returns the certificate, PEM, that answers at an address, by TLS 1.3.

    Args:
        address: `host:port`.
        authority_pem: Who must have signed it; the host name is then checked too.
            None: whoever answers is not believed, only looked at.
        seconds: For the connection and for each step of the handshake.
        own: Certificate and key to show; the server must accept them.
        proxy: Whether the way leads through a proxy.
        service: Which of the federation's ports it must be; None: any.

    Raises:
        FederationError: Nobody answers there, or not by TLS 1.3, or it hung up.
        NotAuthorizedError: The certificate is of another authority, host or party.
        CertificateError: The authority or our own files are not acceptable.
        ConfigError: Another port answers, or the proxy's credentials cannot be read.
    """
    context = _context(authority_pem, own)
    connection = proxy.connect(address, seconds=seconds)
    try:
        with _handshake(context, connection, address) as tls:
            shown = tls.getpeercert(binary_form=True)
            if not shown:
                raise FederationError(f"{address} shows no certificate")
            if service is not None:
                _check_service(tls, shown, address, service, shows_own=own is not None)
            if own is not None:
                _check_welcome(tls, address)
    except ssl.SSLError as error:
        raise _other_protocol(address, error, seconds, proxy) from error
    return ssl.DER_cert_to_PEM_cert(shown).encode()


def _handshake(
    context: ssl.SSLContext, connection: socket.socket, address: str
) -> ssl.SSLSocket:
    """Returns a connection by TLS; that there is none is an `SSLError`."""
    host, _ = endpoint_of(address)
    with connection:  # which is closed unless TLS took it over
        try:
            return context.wrap_socket(connection, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            message = f"the certificate at {address} is not acceptable"
            raise NotAuthorizedError(f"{message}: {error.verify_message}") from error
        except TimeoutError:
            seconds = connection.gettimeout() or 0
            raise FederationError(
                f"{address} takes connections and says nothing in {seconds:g} s: no "
                f"service of the federation answers there"
            ) from None
        except ssl.SSLError:
            raise
        except (OSError, UnicodeError) as error:
            raise FederationError(f"cannot reach {address}: {error}") from error


def _check_welcome(tls: ssl.SSLSocket, address: str) -> None:
    """Waits for the first byte of a server that has taken our own certificate.

    Raises:
        FederationError: It hung up.
    """
    try:
        is_welcome = bool(tls.recv(1))  # it speaks first, if at all
    except OSError as error:
        hint = "another service may listen there"
        raise FederationError(f"cannot reach {address}: {error}; {hint}") from error
    if not is_welcome:
        raise FederationError(f"{address} hung up on our own certificate")


def _check_service(
    tls: ssl.SSLSocket, shown: bytes, address: str, service: Service, *, shows_own: bool
) -> None:
    """Refuses a port of the federation that was not meant.

    Which one it is, the certificate's name and the protocol say: rounds are HTTP/1.1,
    the others HTTP/2. Of these the enrolment alone greets who shows no certificate.
    """
    try:
        peer = read_peer(ssl.DER_cert_to_PEM_cert(shown).encode())
    except (NotAuthorizedError, CertificateError):
        return  # no member of a federation; its caller says so
    found: Service
    if tls.selected_alpn_protocol() != "h2":
        found = "rounds"
    elif peer.kind == "teacher":
        found = "teacher"
    elif shows_own:
        return  # enrolment or relay: the first call tells
    else:
        found = "enrolment" if _is_greeted(tls) else "relay"
    wanted: PeerKind = "teacher" if service == "teacher" else "coordinator"
    if peer.kind != wanted:
        raise NotAuthorizedError(
            f"{address} is the {peer.kind} {peer.name} and no {wanted}: another "
            f"service listens there; {_PORTS[service]}, is wanted"
        )
    if found != service:
        raise ConfigError(
            f"{address} is {_PORTS[found]}, and not {_PORTS[service]}: mend the address"
        )


def _is_greeted(tls: ssl.SSLSocket) -> bool:
    tls.settimeout(_SETTLED_SECONDS)
    try:
        return bool(tls.recv(1))
    except OSError:
        return False


def _other_protocol(
    address: str, error: ssl.SSLError, seconds: float, proxy: ProxyRule
) -> FederationError:
    """Returns the error that names what answers in place of TLS 1.3."""
    first = b""
    try:
        with proxy.connect(address, seconds=seconds) as connection:
            connection.settimeout(_SETTLED_SECONDS)
            connection.sendall(_PLAIN_REQUEST)
            first = connection.recv(16)
    except (OSError, FederationError, ConfigError):
        pass  # then what TLS said has to do
    found = (text for sign, text in _PLAIN_RESPONSES.items() if first.startswith(sign))
    said = next(found, f"cannot be reached by TLS 1.3: {error}")
    return FederationError(f"{address} {said}")


def _context(authority_pem: bytes | None, own: IdentityFiles | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authority_pem is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        authority = only_authority(authority_pem)
        context.load_verify_locations(cadata=authority.decode("ascii"))
    if own is not None:
        passphrase = read_passphrase(own.passphrase_file)
        open_key(own.key, own.passphrase_file)  # or OpenSSL asks the terminal
        try:
            context.load_cert_chain(own.certificate, own.key, passphrase)
        except OSError as error:
            message = f"the own certificate, key or authority: {error}"
            raise CertificateError(message) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    return context
