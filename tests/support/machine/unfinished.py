"""A caller that begins a message and never ends it, below gRPC: bare HTTP/2 frames."""

import socket
import ssl
import struct
from pathlib import Path

from moma_core.pki.certificates import Credential
from tests.support.machine.waiting import promised

_SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 4, 6, 7, 8
_HEADERS, _RST_STREAM = 1, 3
_INITIAL_WINDOW_SIZE = 4  # a setting
_INITIAL_WINDOW, _FRAME_BYTES = 65_535, 16_384
_WAIT_SECONDS = 3.0


def taken_of_a_message(
    port: int,
    method: str,
    authority: bytes,
    credential: Credential | None,
    folder: Path,
    *,
    announced: int,
) -> int:
    """Returns how many bytes of a message a server lets one call send, all but one.

    Args:
        port: Of the server, on loopback.
        method: As gRPC names it.
        authority: The server's, PEM.
        credential: The caller's; None: it shows nothing.
        folder: For the credential's files.
        announced: Bytes of the message, as its head says.
    """
    context = ssl.create_default_context(cadata=authority.decode())
    context.set_alpn_protocols(["h2"])
    if credential is not None:
        for name, pem in zip(("chain.pem", "chain.key"), credential, strict=True):
            (folder / name).write_bytes(pem)
        context.load_cert_chain(folder / "chain.pem", folder / "chain.key")
    with (
        socket.create_connection(("localhost", port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        tls.settimeout(promised(_WAIT_SECONDS))
        return _Call(tls).send(method, announced)


class _Call:
    def __init__(self, tls: ssl.SSLSocket) -> None:
        self._tls = tls
        self._room = {0: _INITIAL_WINDOW, 1: _INITIAL_WINDOW}  # connection, stream
        self._initial = _INITIAL_WINDOW
        self._is_over = False
        tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, b""))

    def send(self, method: str, announced: int) -> int:
        self._tls.sendall(_frame(_HEADERS, 4, 1, _headers(method)))
        left = b"\0" + struct.pack(">I", announced) + bytes(announced - 1)
        sent = 0
        try:
            while sent < len(left) and not self._is_over:
                size = min(*self._room.values(), _FRAME_BYTES, len(left) - sent)
                if size > 0:
                    self._tls.sendall(_frame(0, 0, 1, left[sent : sent + size]))
                    sent += size
                    self._room = {key: room - size for key, room in self._room.items()}
                else:
                    self._read()
        except OSError:  # silence, or the server hung up
            pass
        return sent

    def _read(self) -> None:
        head = self._exactly(9)
        content = self._exactly(int.from_bytes(head[:3], "big"))
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
        if kind == _SETTINGS and not flags & 1:
            for place in range(0, len(content), 6):
                name, value = struct.unpack(">HI", content[place : place + 6])
                if name == _INITIAL_WINDOW_SIZE:
                    self._room[1] += value - self._initial
                    self._initial = value
            self._tls.sendall(_frame(_SETTINGS, 1, 0, b""))
        elif kind == _PING and not flags & 1:
            self._tls.sendall(_frame(_PING, 1, 0, content))
        elif kind == _WINDOW_UPDATE:
            self._room[stream] += int.from_bytes(content, "big")
        elif kind in (_RST_STREAM, _GOAWAY) or (kind == _HEADERS and flags & 1):
            self._is_over = True

    def _exactly(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            more = self._tls.recv(count - len(found))
            if not more:
                raise ConnectionError("the server hung up")
            found += more
        return found


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    head = struct.pack(">I", len(content))[1:] + bytes([kind, flags])
    return head + struct.pack(">I", stream) + content


def _headers(method: str) -> bytes:
    fields = {
        ":method": "POST",
        ":scheme": "https",
        ":path": method,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
        "moma-teacher": "teacher-a",
    }
    return b"".join(
        b"\0"
        + bytes([len(name)])
        + name.encode()
        + bytes([len(value)])
        + value.encode()
        for name, value in fields.items()
    )
