"""A deadline for a whole HTTP call; httpx has one for each of its reads alone.

Whoever answers a byte now and then, one header after the other, or "continue" without
an end, is read for as long as it likes. So every read and write of a call gets what is
left of the call's own time.
"""

import ssl
import threading
import time
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

_WRITTEN_BYTES = 64 * 1024  # of one look at the time; a reader may take a byte a second


def bound_calls(client: httpx.Client, seconds: float) -> None:
    """Has each call of a client end after some time, with an `httpx.TimeoutException`.

    Args:
        client: New; its transports are those of httpx.
        seconds: For a call, from its connection to the last byte of its response.
    """
    clock = _CallClock(seconds)
    backend = _TimedBackend(clock)
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx.HTTPTransport):  # None: where no proxy is used
            transport._pool._network_backend = backend
    hooks = client.event_hooks
    client.event_hooks = {**hooks, "request": [*hooks["request"], clock.start]}


class _CallClock(threading.local):
    """What is left of the call that a thread is in; each thread has one at a time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def start(self, _request: httpx.Request) -> None:
        self._end = time.monotonic() + self._seconds

    def left(self, timeout: float | None, error: type[Exception]) -> float:
        """Returns what a step may take, at most `timeout`; raises where none is left.

        Args:
            timeout: Of the step; None: it has none of its own.
            error: What httpcore raises for a step that took too long.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise error(f"the call is not over after {self._seconds:g} s")
        return left if timeout is None else min(timeout, left)


class _TimedStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, clock: _CallClock) -> None:
        self._stream, self._clock = stream, clock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        left = self._clock.left(timeout, httpcore.ReadTimeout)
        return self._stream.read(max_bytes, left)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _WRITTEN_BYTES):
            left = self._clock.left(timeout, httpcore.WriteTimeout)
            self._stream.write(buffer[start : start + _WRITTEN_BYTES], left)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = self._clock.left(timeout, httpcore.ConnectTimeout)
        tls = self._stream.start_tls(ssl_context, server_hostname, left)
        return _TimedStream(tls, self._clock)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - httpcore's own
        return self._stream.get_extra_info(info)


class _TimedBackend(httpcore.NetworkBackend):
    def __init__(self, clock: _CallClock) -> None:
        self._backend, self._clock = httpcore.SyncBackend(), clock

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        left = self._clock.left(timeout, httpcore.ConnectTimeout)
        stream = self._backend.connect_tcp(
            host, port, left, local_address, socket_options
        )
        return _TimedStream(stream, self._clock)

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)
