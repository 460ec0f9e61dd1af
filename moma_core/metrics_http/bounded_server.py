"""An HTTP server for few, from a thread: a page of metrics, a dashboard.

uvicorn speaks HTTP. What it cannot bound is bounded at the listening socket: how many
connect, and for how long, from the first byte of a handshake on.
"""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from moma_core.errors import ConfigError
from moma_core.metrics_http.auth import PageTls
from moma_core.metrics_http.config import PageSection
from moma_core.network.http import SizedProtocol

_BACKLOG = 64

Respond = Callable[[Request], Response]
"""Answers a request whose head is within its bounds; called in the server's thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageBounds:
    """What a caller can make the server hold.

    Args:
        seconds: Time for handshake, request and response together.
        head_bytes: Size of a request's head.
        connections: Open at the same time; more are closed at once.
        per_address: Open at the same time of one address.
    """

    seconds: float = 10.0
    head_bytes: int = 8192
    connections: int = 64
    per_address: int = 16


class BoundedServer:
    """Answers requests from a thread, one a connection, until it is closed.

    Args:
        section: The address, and the certificate where it has one.
        respond: Answers; a refusal says no more than its status.
        name: Key of the section in the config file, for messages.
        bounds: Limits on those who connect.
        client_authority: PEM of the CA whose certificates alone may connect; None:
            nobody is asked for one.

    Raises:
        ConfigError: The address cannot be listened at, or certificate or key cannot
            be used.
    """

    def __init__(
        self,
        section: PageSection,
        respond: Respond,
        *,
        name: str,
        bounds: PageBounds | None = None,
        client_authority: Path | None = None,
    ) -> None:
        self._respond, self._bounds = respond, bounds or PageBounds()
        tls = None
        if section.certificate is not None and section.key is not None:
            tls = PageTls(section.certificate, section.key, client_authority).context
        try:
            self._listener = _Listener(section.host, section.port, self._bounds)
        except OSError as error:
            raise ConfigError(
                f"cannot show {name} at {section.host}:{section.port}: "
                f"{error.strerror}; {name}.port takes another one"
            ) from error
        self._server = uvicorn.Server(_config(self._serve, tls, self._bounds))
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def port(self) -> int:
        """The port that it listens at."""
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._listener.hang_up()
        self._server.should_exit = True
        self._thread.join()

    def _run(self) -> None:
        asyncio.run(self._server.serve([self._listener]))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        size += sum(len(name) + len(value) for name, value in request.headers.raw)
        if size > self._bounds.head_bytes:  # it came at once: uvicorn saw its end
            response = Response(status_code=431)
        else:
            response = self._respond(request)
        response.headers["connection"] = "close"
        await response(scope, receive, send)


def _config(
    app: ASGIApp, tls: ssl.SSLContext | None, bounds: PageBounds
) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        http=_TerseProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        h11_max_incomplete_event_size=bounds.head_bytes,
        timeout_graceful_shutdown=1,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        access_log=False,
        log_config=None,
    )
    config.load()
    config.ssl = tls
    return config


class _TerseProtocol(SizedProtocol):
    """HTTP/1.1 that does not say what is wrong with a request."""

    def send_400_response(self, msg: str) -> None:
        super().send_400_response("")


class _Listener(socket.socket):
    """A listening socket that takes few connections, and closes each in time.

    uvicorn knows a connection once its handshake is over, and has a timer only for the
    time after a response. Whoever stops before that would hold a file of this program
    for a minute, and as many as it likes.
    """

    def __init__(self, host: str, port: int, bounds: PageBounds) -> None:
        family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        plain = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        super().__init__(fileno=plain.detach())
        self._bounds, self._is_closing = bounds, False
        self._open: dict[socket.socket, str] = {}

    def accept(self) -> tuple[socket.socket, Any]:
        """Returns a connection and its address, for the event loop.

        Raises:
            ConnectionAbortedError: There are too many; the loop takes the next one.
        """
        connection, address = super().accept()
        self._open = {c: host for c, host in self._open.items() if c.fileno() >= 0}
        if self._is_full(address[0]):
            connection.close()
            raise ConnectionAbortedError
        self._open[connection] = address[0]
        loop = asyncio.get_running_loop()
        loop.call_later(self._bounds.seconds, _hang_up, connection)
        return connection, address

    def _is_full(self, host: str) -> bool:
        hosts = list(self._open.values())
        return (
            self._is_closing
            or len(hosts) >= self._bounds.connections
            or hosts.count(host) >= self._bounds.per_address
        )

    def hang_up(self) -> None:
        """Ends all connections, and every one to come; called from any thread."""
        self._is_closing = True
        for connection in list(self._open):
            _hang_up(connection)


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):  # it is closed already
        connection.shutdown(socket.SHUT_RDWR)
