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

    Attributes:
        refusal: As above; may be changed while it serves.
        places: Likewise.
        most_bytes: That one tunnel passes on each way before it ends; 0: no bound.
    """

    def __init__(
        self,
        credentials: str | None = None,
        refusal: str | None = None,
        places: dict[str, tuple[str, int]] | None = None,
    ) -> None:
        self.most_bytes = 0
        self.asked: list[str] = []
        self.connections = 0
        self._wanted = credentials and base64.b64encode(credentials.encode()).decode()
        self.refusal, self.places = refusal, places or {}
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Ends every tunnel that is open."""
        while self._open:
            each = self._open.pop()
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

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
            status = self.refusal
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
        at = self.places.get(place, (host.strip("[]"), int(port)))
        server = socket.create_connection(at, timeout=30)
        server.settimeout(None)
        self._open.append(server)
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        back = (server, client, self.most_bytes)
        threading.Thread(target=_copy, args=back, daemon=True).start()
        _copy(client, server, self.most_bytes)


def _copy(source: socket.socket, target: socket.socket, most: int) -> None:
    passed = 0
    with contextlib.suppress(OSError):
        while content := source.recv(1 << 16):
            target.sendall(content)
            passed += len(content)
            if 0 < most < passed:
                break
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
