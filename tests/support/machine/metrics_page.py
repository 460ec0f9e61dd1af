"""A guarded page of metrics on loopback, and bare calls to it."""

import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from moma_core.metrics_http.config import PageSection
from moma_core.metrics_http.server import Page
from moma_core.runtime.files import write_private
from tests.support.federation.pki import CredentialFiles, Pki

LOOPBACK = "127.0.0.1"
WAIT_SECONDS = 120.0
TOKEN = b"0123456789abcdef0123456789abcdef"


class Answer(NamedTuple):
    """What came back; status 0 where the connection was closed without a word."""

    status: int
    headers: dict[str, str]
    body: bytes


class Guarded(NamedTuple):
    """The files of a page that takes TLS and a token."""

    section: PageSection
    files: CredentialFiles
    token: Path

    def tls(self, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.files.ca))
        context.maximum_version = newest
        return context


def guarded(folder: Path, pki: Pki) -> Guarded:
    """Writes what `metrics` of a config file names."""
    files = pki.write(folder / "metrics", pki.server())
    token = folder / "metrics" / "token"
    write_private(token, TOKEN + b"\n")
    section = PageSection(
        host=LOOPBACK,
        port=0,
        certificate=files.certificate,
        key=files.key,
        token_file=token,
    )
    return Guarded(section, files, token)


def figures(_accept: str) -> Page:
    """A page without a registry behind it."""
    return Page("text/plain; version=0.0.4", b"moma_build_info 1.0\n")


def connection(port: int, tls: ssl.SSLContext | None = None) -> socket.socket:
    """Opens a connection, with its handshake if it is to have one."""
    plain = socket.create_connection((LOOPBACK, port), timeout=WAIT_SECONDS)
    if tls is None:
        return plain
    try:
        return tls.wrap_socket(plain, server_hostname="localhost")
    except BaseException:
        plain.close()
        raise


def get(path: str = "/metrics", token: bytes | None = TOKEN) -> bytes:
    """Returns the bytes of a request."""
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n".encode()
    if token is not None:
        head += b"Authorization: Bearer " + token + b"\r\n"
    return head + b"\r\n"


def asked(port: int, request: bytes, tls: ssl.SSLContext | None = None) -> Answer:
    """Sends bytes over a connection of their own, and reads to its end."""
    with connection(port, tls) as peer:
        with suppress(OSError):  # hung up on while sending
            peer.sendall(request)
        return answer(peer)


def answer(peer: socket.socket) -> Answer:
    """Reads what comes until the connection is closed."""
    whole = b""
    with suppress(ConnectionResetError, ssl.SSLEOFError):  # as by who has heard enough
        while part := peer.recv(65_536):
            whole += part
    head, _, body = whole.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return Answer(int(first.split()[1]) if first else 0, headers, body)
