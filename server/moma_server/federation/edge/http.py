"""The edge's connections: a peer that only holds them is hung up on.

uvicorn counts every connection and starts its timer after the first response, so that
one peer who never sends a request could keep everybody else out.
"""

import asyncio
import logging
from typing import Any

from moma_core.network.address import network_of
from moma_core.network.http import SizedProtocol
from moma_server.federation.edge.authentication import KnownNode

_logger = logging.getLogger(__name__)

_HANDSHAKE_SECONDS = 15.0


class EdgeProtocol(SizedProtocol):
    """HTTP/1.1 that bounds the wait for a request and the connections of an address.

    A connection is given up when the head of a request does not come in time; its
    body, and the time between two requests, are bounded elsewhere.
    """

    request_seconds: float
    max_per_address: int
    caller: KnownNode | None = None  # who signed the first call of the connection
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Hangs up on an address that has too many."""
        self.app_state = {**self.app_state, "connection": self}  # a call's state
        super().connection_made(transport)
        self._wait()
        same = sum(_host(other) == _host(self) for other in self.connections)
        if same > self.max_per_address:
            _logger.debug("an address with too many connections was hung up on")
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Waits no longer when the head of a request is whole."""
        super().data_received(data)
        # NOTE: uvicorn's annotation forgets that there is none before a first request
        begun = self.cycle is not None
        if begun and not self.cycle.response_complete:
            self._wait_no_more()
        elif self._timer is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._wait_no_more()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._timer = self.loop.call_later(self.request_seconds, self.transport.abort)

    def _wait_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _host(connection: Any) -> str | None:  # noqa: ANN401 - one of uvicorn's classes
    return network_of(connection.client[0]) if connection.client else None


def edge_protocol(
    *, request_seconds: float, max_per_address: int
) -> type[EdgeProtocol]:
    """Returns the class that uvicorn makes an object of for each connection.

    Args:
        request_seconds: From the connection, or a request's first byte, to the end of
            the request's head.
        max_per_address: Connections of one address at the same time.
    """
    limits = {"request_seconds": request_seconds, "max_per_address": max_per_address}
    return type("LimitedEdgeProtocol", (EdgeProtocol,), limits)


class EdgeLoop(asyncio.SelectorEventLoop):
    """Gives up a TLS handshake sooner than asyncio's minute; uvicorn cannot say so."""

    async def create_server(
        self,
        *args: Any,  # noqa: ANN401 - asyncio's own
        **kwargs: Any,  # noqa: ANN401 - asyncio's own
    ) -> asyncio.Server:
        """Listens; see asyncio."""
        kwargs["ssl_handshake_timeout"] = _HANDSHAKE_SECONDS
        return await super().create_server(*args, **kwargs)
