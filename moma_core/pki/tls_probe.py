"""A TLS handshake that only reads who answers, before anything is sent there.

Python's gRPC checks a server's chain and host name, and shows its certificate to
nobody. So a connection of our own goes ahead and reads who is there.
"""

import socket
import ssl

from moma_core.errors import CertificateError, FederationError, NotAuthorizedError
from moma_core.pki.certificates import only_authority
from moma_core.pki.key_files import open_key, read_passphrase
from moma_core.pki.renewal import IdentityFiles


def endpoint_of(address: str) -> tuple[str, int]:
    """Returns host and port of `host:port`.

    Raises:
        FederationError: It is none.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise FederationError(f"{address!r} is no address of the form host:port")
    return host, int(port)


def shown_certificate(
    address: str,
    authority_pem: bytes | None,
    *,
    seconds: float,
    own: IdentityFiles | None = None,
) -> bytes:
    """Returns the certificate, PEM, that answers at an address, by TLS 1.3.

    Args:
        address: `host:port`.
        authority_pem: Who must have signed it; the host name is then checked too.
            None: whoever answers is not believed, only looked at.
        seconds: For the connection and for each step of the handshake.
        own: Certificate and key to show; the server must accept them.

    Raises:
        FederationError: Nobody answers there, or not by TLS 1.3, or it hung up.
        NotAuthorizedError: The certificate is of another authority or host.
        CertificateError: The authority or our own files are not acceptable.
    """
    context, shown = _context(authority_pem, own), None
    host, _ = endpoint = endpoint_of(address)
    try:
        with (
            socket.create_connection(endpoint, timeout=seconds) as connection,
            context.wrap_socket(connection, server_hostname=host) as tls,
        ):
            shown = tls.getpeercert(binary_form=True)
            is_welcome = own is None or tls.recv(1)  # it speaks first, if at all
    except ssl.SSLCertVerificationError as error:
        message = f"the certificate at {address} is not acceptable"
        raise NotAuthorizedError(f"{message}: {error.verify_message}") from error
    except (OSError, UnicodeError) as error:  # the latter for a host that is none
        hint = "; another service may listen there" if shown else ""
        raise FederationError(f"cannot reach {address}: {error}{hint}") from error
    if not shown or not is_welcome:
        fault = "hung up on our own certificate" if shown else "shows no certificate"
        raise FederationError(f"{address} {fault}")
    return ssl.DER_cert_to_PEM_cert(shown).encode()


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
