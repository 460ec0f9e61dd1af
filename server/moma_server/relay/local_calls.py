"""Hands a relayed call to this teacher's own server, over a Unix-domain socket.

Over gRPC's blocking API, in threads: the asyncio one tells INTERNAL instead of what
the server said where a write fails as the call ends (grpc issue 36066), and a refusal
must reach the site as it was spoken.
"""

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

import grpc

from moma_core.errors import TeacherBusyError, TeacherError, meaning_of
from moma_proto.v1 import relay_pb2 as pb
from moma_server.relay.limits import RelayBounds
from moma_server.relay.mux_stream import Lane
from moma_server.rpc.authorization import PUSHBACK

_T = TypeVar("_T")

_logger = logging.getLogger(__name__)

_LONGEST_DETAILS = 300
_LAST_SECONDS = 5.0


class LocalCalls:
    """Calls to one server on this machine.

    Construct it inside the event loop in which the lanes live.

    Args:
        socket: Where the server listens; who may open it, its folder's mode says.
        bounds: Of a message and of the number of calls.
    """

    def __init__(self, socket: Path, bounds: RelayBounds) -> None:
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(bounds.calls, "relayed-call")
        self._channel = grpc.insecure_channel(
            f"unix:{socket}",
            [
                ("grpc.max_receive_message_length", bounds.message_bytes),
                ("grpc.max_send_message_length", bounds.message_bytes),
                ("grpc.enable_retries", 0),
                ("grpc.enable_http_proxy", 0),
                ("grpc.default_authority", "localhost"),
                # a server that has restarted is found at once
                ("grpc.max_reconnect_backoff_ms", 1_000),
            ],
        )

    async def serve(self, lane: Lane, opening: pb.RelayOpen) -> pb.RelayStatus:
        """Returns how the server ended a call."""
        call = _Call(lane, self._loop)
        seconds = opening.timeout_ms / 1000 or None
        running = self._loop.run_in_executor(
            self._threads, call.run, self._channel, opening.method, seconds
        )
        try:
            return await asyncio.shield(running)
        finally:
            call.cancel()
            await asyncio.wait({running}, timeout=_LAST_SECONDS)

    def close(self) -> None:
        """Ends what is open."""
        self._channel.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Call:
    """One call; `run` is a thread's, and the rest may be asked of it from any."""

    def __init__(self, lane: Lane, loop: asyncio.AbstractEventLoop) -> None:
        self._lane, self._loop = lane, loop
        self._call: Any = None
        self._is_cancelled = False
        self._failure: TeacherError | None = None

    def run(
        self, channel: grpc.Channel, method: str, seconds: float | None
    ) -> pb.RelayStatus:
        start: Any = channel.stream_stream(method)  # bytes in, bytes out
        self._call = start(self._requests(), timeout=seconds)
        if self._is_cancelled:
            self._call.cancel()
        try:
            for answer in self._call:
                self._wait_for(self._lane.outgoing.send(answer))
        except grpc.RpcError as error:
            if self._failure is None:
                return _status(cast("grpc.Call", error))
        except TeacherError as error:
            self._failure = error
            self._call.cancel()
        except CancelledError:
            self._call.cancel()
            return pb.RelayStatus(code=grpc.StatusCode.CANCELLED.value[0])
        if self._failure is not None:
            return failure_status(self._failure)
        return pb.RelayStatus(code=0)

    def cancel(self) -> None:
        self._is_cancelled = True
        if self._call is not None:
            self._call.cancel()

    def _requests(self) -> Iterator[bytes]:
        """Yields the site's messages, in a thread of gRPC's."""
        while True:
            try:
                message = self._wait_for(self._lane.incoming.receive())
            except TeacherError as error:
                self._failure = self._failure or error
                self.cancel()
                return
            except CancelledError:
                return
            if message is None:
                return
            yield message

    def _wait_for(self, step: Coroutine[Any, Any, _T]) -> _T:
        """Waits in a thread for a step of the lane.

        Raises:
            CancelledError: The call is over, or the whole program.
        """
        if self._is_cancelled:
            step.close()
            raise CancelledError
        try:
            future = asyncio.run_coroutine_threadsafe(step, self._loop)
        except RuntimeError:  # the loop has ended
            step.close()
            raise CancelledError from None
        return future.result()


def failure_status(error: TeacherError) -> pb.RelayStatus:
    """Returns what the relay's end itself has to say at a call's end."""
    status = pb.RelayStatus(
        code=grpc.StatusCode[meaning_of(error).status].value[0], details=str(error)
    )
    if isinstance(error, TeacherBusyError):
        status.pushback_ms = int(error.retry_after_seconds * 1000)
    return status


def _status(call: grpc.Call) -> pb.RelayStatus:
    details = (call.details() or "")[:_LONGEST_DETAILS]
    status = pb.RelayStatus(code=call.code().value[0], details=details)
    for key, value in call.trailing_metadata() or ():
        if key == PUSHBACK and isinstance(value, str) and value.isdecimal():
            status.pushback_ms = min(int(value[:9]), 2**31)
    return status
