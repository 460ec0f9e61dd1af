"""A CONNECT proxy as a hospital has one: it tunnels, asks for credentials, refuses."""

import base64
import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_HEAD_BYTES = 16_384


class ConnectProxy:
    """Tunnels on loopback; `asked` has the places that it was asked for, in order.

    Args:
        credentials: `user:password` that a CONNECT must carry; None: none.
        refusal: Status line that each CONNECT gets instead of a tunnel; None: none.
        places: Where a host and port really are, for names that nobody resolves.
    """

    def __init__(
        self,
        credentials: str | None = None,
        refusal: str | None = None,
        places: dict[str, tuple[str, int]] | None = None,
    ) -> None:
        self.asked: list[str] = []
        self.connections = 0
        self._wanted = credentials and base64.b64encode(credentials.encode()).decode()
        self._refusal, self._places = refusal, places or {}
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                self._open.append(client)
                threading.Thread(
                    target=self._answer, args=(client,), daemon=True
                ).start()

    def _answer(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            head = b""
            while b"\r\n\r\n" not in head and len(head) < _HEAD_BYTES:
                head += client.recv(1) or b"\r\n\r\n"
            line, *headers = head.decode("latin-1").split("\r\n")
            method, place, _ = line.split(" ")
            self.asked.append(place)
            status = self._refusal
            if method != "CONNECT":
                status = "405 Method Not Allowed"
            elif self._wanted and not self._has_credentials(headers):
                status = "407 Proxy Authentication Required"
            if status is not None:
                client.sendall(f"HTTP/1.1 {status}\r\n\r\n".encode())
                client.shutdown(socket.SHUT_RDWR)
                return
            self._tunnel(client, place)

    def _has_credentials(self, headers: list[str]) -> bool:
        wanted = f"proxy-authorization: basic {self._wanted}"
        return any(header.lower() == wanted.lower() for header in headers)

    def _tunnel(self, client: socket.socket, place: str) -> None:
        host, _, port = place.rpartition(":")
        at = self._places.get(place, (host.strip("[]"), int(port)))
        server = socket.create_connection(at, timeout=30)
        server.settimeout(None)
        self._open.append(server)
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        threading.Thread(target=_copy, args=(server, client), daemon=True).start()
        _copy(client, server)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while content := source.recv(1 << 16):
            target.sendall(content)
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@contextmanager
def connect_proxy(
    credentials: str | None = None,
    refusal: str | None = None,
    places: dict[str, tuple[str, int]] | None = None,
) -> Iterator[ConnectProxy]:
    """Yields a proxy that serves while the block runs."""
    proxy = ConnectProxy(credentials, refusal, places)
    try:
        yield proxy
    finally:
        proxy.close()
