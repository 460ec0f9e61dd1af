"""Serves one page, a program's metrics, to those who may see it.

Whoever connects is given one deadline for all that it does, one short request, and one
answer; the connections are few, and fewer of one address. Nothing is read but the head
of the request (RFC 9112).
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple, Self
from urllib.parse import urlsplit

import h11

from moma_core.errors import ConfigError
from moma_core.metrics_http.auth import BearerToken, PageTls
from moma_core.metrics_http.config import PageSection

_logger = logging.getLogger(__name__)

_READ_BYTES = 4096
_BACKLOG = 64
_FULL_SECONDS = 1.0
_CLOSING_SECONDS = 1.0


class Page(NamedTuple):
    """What is shown.

    Args:
        content_type: As the header has it.
        body: At most a few MB.
    """

    content_type: str
    body: bytes


Render = Callable[[str], Page]
"""Makes the page as it is now, in the form that an `Accept` header asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageBounds:
    """What a caller can make the server hold.

    Args:
        seconds: For handshake, request and answer together.
        head_bytes: Of a request.
        connections: At the same time; more are hung up on.
        per_address: Of these.
    """

    seconds: float = 10.0
    head_bytes: int = 8192
    connections: int = 64
    per_address: int = 16


class _Caller(NamedTuple):
    host: str
    connection: socket.socket


class PageServer:
    """Shows a page at `/metrics` from a thread, until it is closed.

    `/-/healthy` says that the program runs, to anybody.

    Args:
        section: The address, and what it takes to be let in.
        render: Called in the server's thread.
        bounds: On those who connect.

    Raises:
        ConfigError: The address cannot be listened at, or certificate, key or token
            cannot be used.
    """

    def __init__(
        self, section: PageSection, render: Render, bounds: PageBounds | None = None
    ) -> None:
        self._render, self._bounds = render, bounds or PageBounds()
        self._tls = None
        if section.certificate is not None and section.key is not None:
            self._tls = PageTls(section.certificate, section.key)
        self._token = None
        if section.token_file is not None:
            self._token = BearerToken(section.token_file)
        self._host = section.host
        self._open: dict[asyncio.Task[None], _Caller] = {}
        self._closing = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        try:
            self._listening = _listening(section.host, section.port)
        except OSError as error:
            self._loop.close()
            raise ConfigError(
                f"cannot show metrics at {section.host}:{section.port}: "
                f"{error.strerror}; metrics.port takes another one"
            ) from error
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    @property
    def port(self) -> int:
        """That it listens at."""
        return int(self._listening.getsockname()[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()

    def _run(self) -> None:
        with self._listening:
            self._loop.run_until_complete(self._serve_all())
            self._loop.close()

    async def _serve_all(self) -> None:
        self._listen()
        await self._closing.wait()
        self._loop.remove_reader(self._listening)
        ending = list(self._open)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await asyncio.sleep(0)  # in which their transports go

    def _listen(self) -> None:
        if not self._closing.is_set():
            self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        try:
            accepted, address = self._listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # too many files are open
            _logger.warning("the metrics take no connection: %s", error)
            self._loop.remove_reader(self._listening)
            self._loop.call_later(_FULL_SECONDS, self._listen)
            return
        if self._is_full(address[0]):
            accepted.close()
            return
        accepted.setblocking(False)
        task = self._loop.create_task(self._serve(accepted))
        self._open[task] = _Caller(address[0], accepted)
        task.add_done_callback(self._served)

    def _is_full(self, host: str) -> bool:
        same = sum(caller.host == host for caller in self._open.values())
        return (
            len(self._open) >= self._bounds.connections
            or same >= self._bounds.per_address
        )

    def _served(self, task: asyncio.Task[None]) -> None:
        # also of a task that was ended before it began
        self._open.pop(task).connection.close()
        if not task.cancelled() and (error := task.exception()):
            _logger.error("the metrics could not be shown", exc_info=error)

    async def _serve(self, accepted: socket.socket) -> None:
        """Answers one request; the deadline counts from the connection."""
        try:
            async with asyncio.timeout(self._bounds.seconds):
                reader, writer = await self._opened(accepted)
                try:
                    writer.write(await self._answer(reader))
                    writer.close()
                    await writer.wait_closed()
                finally:
                    writer.transport.abort()
        except OSError as error:  # among them a deadline, and a failed handshake
            _logger.debug("a connection for the metrics ended: %r", error)

    async def _opened(
        self, accepted: socket.socket
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader = asyncio.StreamReader(limit=self._bounds.head_bytes)
        protocol = asyncio.StreamReaderProtocol(reader)
        # asyncio refuses both times where there is no TLS
        seconds = None if self._tls is None else self._bounds.seconds
        closing = None if self._tls is None else _CLOSING_SECONDS
        transport, _ = await self._loop.connect_accepted_socket(
            lambda: protocol,
            accepted,
            ssl=None if self._tls is None else self._tls.context(),
            ssl_handshake_timeout=seconds,
            ssl_shutdown_timeout=closing,
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, self._loop)

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        """Returns the bytes to send back; none to who said nothing."""
        http = h11.Connection(
            h11.SERVER, max_incomplete_event_size=self._bounds.head_bytes
        )
        try:
            while (event := http.next_event()) is h11.NEED_DATA:
                http.receive_data(await reader.read(_READ_BYTES))
        except h11.RemoteProtocolError as error:
            return _response(http, error.error_status_hint)
        if not isinstance(event, h11.Request):
            return b""
        path = event.target.partition(b"?")[0] if event.method == b"GET" else b""
        if path == b"/-/healthy":
            return _response(http, 200, Page("text/plain", b"ok\n"))
        headers = dict(event.headers)
        if not (self._token or self._is_ours(headers.get(b"host", b""))):
            return _response(http, 421)
        if self._token and not self._token.fits(headers.get(b"authorization", b"")):
            return _response(http, 401)
        if path != b"/metrics":
            return _response(http, 404)
        accept = headers.get(b"accept", b"").decode("latin-1")
        return _response(http, 200, self._render(accept))

    def _is_ours(self, host: bytes) -> bool:
        """Whether a request is to an address of ours.

        A page in a browser on this machine may ask under a name of its own that it has
        made point here (DNS rebinding), and read the answer.
        """
        try:
            name = urlsplit(b"//" + host).hostname or b""
            is_name = name in {b"localhost", self._host.lower().encode()}
            return is_name or bool(ip_address(name.decode("ascii")))
        except ValueError:  # neither a name of ours nor an address
            return False


def _listening(host: str, port: int) -> socket.socket:
    family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    listening.setblocking(False)
    return listening


def _response(http: h11.Connection, status: int, page: Page | None = None) -> bytes:
    """Returns an answer, after which the connection is closed; a refusal says no more.

    Source: RFC 6750, section 3, for the header of a 401.
    """
    body = b"" if page is None else page.body
    headers = [("Content-Length", str(len(body))), ("Connection", "close")]
    if page is not None:
        headers.append(("Content-Type", page.content_type))
    if status == 401:
        headers.append(("WWW-Authenticate", "Bearer"))
    events = [
        h11.Response(status_code=status, headers=headers),
        h11.Data(data=body),
        h11.EndOfMessage(),
    ]
    return b"".join(http.send(event) or b"" for event in events)
