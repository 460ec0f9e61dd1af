"""HTTP/1.1 that parses little of a request which it refuses.

A read brings 256 KiB at once. With chunks of one byte, or lines of a head that are not
much longer, h11 would work on it for half a second before anything can refuse it.
"""

import asyncio
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

_SLICE_BYTES = 4096  # h11 measures a head between two slices alone
_HEAD_BYTES = 8192


class SizedProtocol(H11Protocol):
    """HTTP/1.1 of requests that say how long their body is, with a bounded head.

    A request with a transfer coding gets a 400, and nothing behind its head is parsed.
    The rest is uvicorn's, which makes an object for each connection.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._longest_head = config.h11_max_incomplete_event_size or _HEAD_BYTES
        self.conn = _SizedConnection(h11.SERVER, self._longest_head)

    def data_received(self, data: bytes) -> None:
        """Parses what came, until the connection is given up."""
        for begin in range(0, len(data), _SLICE_BYTES):
            if self.transport.is_closing():
                return
            super().data_received(data[begin : begin + _SLICE_BYTES])
            waiting, _ = self.conn.trailing_data  # of requests behind an unanswered one
            if len(waiting) > self._longest_head + _SLICE_BYTES:
                self.transport.abort()


class _SizedConnection(h11.Connection):
    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        event = super().next_event()
        if isinstance(event, h11.Request) and _is_coded(event):
            raise h11.RemoteProtocolError("a body without a length")
        return event


def _is_coded(request: h11.Request) -> bool:
    return any(name == b"transfer-encoding" for name, _ in request.headers)
