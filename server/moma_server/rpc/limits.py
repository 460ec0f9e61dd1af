"""What one port takes of its callers: connections, and one message of a call.

gRPC reads the message of a call before it calls the handler, however long that takes
and whoever sends it. So these methods are served as streams, of which one message is
read once the caller is authorized: on the wire the two are the same. What a stream of
requests brings is read by its method, as bytes: to ask a parsed message for its size
costs more than to parse it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError

from moma_core.errors import (
    MalformedRequestError,
    OversizedError,
    TeacherUnavailableError,
)

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = (
    "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"
)
Behaviour = Callable[[Any, Context], Awaitable[Any]]

MessageT = TypeVar("MessageT")

MOST_BYTES = 64 * 1024
"""Of the one message of a call; what is larger goes by streams."""

READ_SECONDS = 10.0

_BREAK_SECONDS = 0.1  # in which gRPC follows up on a message that it cut off


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionBounds:
    """Bounds of one gRPC port, whoever connects.

    Args:
        count: Open at once; who comes then is hung up on.
        age: After which one is replaced, and its handshake made anew; calls on it have
            `grace` to finish.
        grace: See `age`.
        idle: Without a call, after which one is closed.
        ping: Of silence, after which the other side is asked for a sign of life.
    """

    count: int = 1024
    age: timedelta = timedelta(hours=1)
    grace: timedelta = timedelta(minutes=10)
    idle: timedelta = timedelta(minutes=10)
    ping: timedelta = timedelta(seconds=30)

    def options(self, *, streams: int) -> list[tuple[str, int]]:
        """Returns gRPC's options.

        Args:
            streams: Calls open at once on one connection; later ones wait in the
                caller.
        """
        return [
            ("grpc.max_allowed_incoming_connections", self.count),
            ("grpc.max_concurrent_streams", streams),
            ("grpc.max_metadata_size", 16 * 1024),
            ("grpc.max_connection_age_ms", _milliseconds(self.age)),
            ("grpc.max_connection_age_grace_ms", _milliseconds(self.grace)),
            ("grpc.max_connection_idle_ms", _milliseconds(self.idle)),
            ("grpc.server_handshake_timeout_ms", 10_000),
            ("grpc.keepalive_time_ms", _milliseconds(self.ping)),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.so_reuseport", 0),
        ]


def _milliseconds(span: timedelta) -> int:
    return int(span.total_seconds() * 1000)


def authorized_first(
    handler: Handler,
    authorize: Callable[[Behaviour], Behaviour],
    *,
    read_seconds: float = READ_SECONDS,
) -> Handler:
    """Returns a handler that authorizes the caller before it reads the request.

    Args:
        handler: A method's; its behaviour is a coroutine. One that takes a stream reads
            bytes from its context.
        authorize: Puts the decision in front of a behaviour. It is told the refusals of
            `_read_one` as well, raised from what it calls.
        read_seconds: In which the one message of a call must be whole.
    """
    behaviour: Any = (
        handler.unary_unary
        or handler.unary_stream
        or handler.stream_unary
        or handler.stream_stream
    )
    if not handler.request_streaming:
        behaviour = _reading(behaviour, handler.request_deserializer, read_seconds)
    rebuild: Any = (
        grpc.stream_stream_rpc_method_handler
        if handler.response_streaming
        else grpc.stream_unary_rpc_method_handler
    )
    rebuilt: Handler = rebuild(authorize(behaviour), None, handler.response_serializer)
    return rebuilt


def _reading(
    behaviour: Behaviour,
    deserialize: Callable[[bytes], Any] | None,
    read_seconds: float,
) -> Behaviour:
    async def read_and_do(_requests: Any, context: Context) -> Any:  # noqa: ANN401
        content = await _read_one(context, read_seconds)
        request = content if deserialize is None else read_message(deserialize, content)
        return await behaviour(request, context)

    return read_and_do


def read_message(deserialize: Callable[[bytes], MessageT], content: bytes) -> MessageT:
    """Returns a message.

    Args:
        deserialize: Of its kind: `FromString`.
        content: As it came.

    Raises:
        MalformedRequestError: It is not readable.
    """
    try:
        return deserialize(content)
    except DecodeError:
        raise MalformedRequestError("the request is not readable") from None


async def _read_one(context: Context, seconds: float) -> bytes:
    try:
        async with asyncio.timeout(seconds):
            content: Any = await context.read()
    except TimeoutError:
        message = f"the request was not whole in {seconds:g} seconds"
        raise TeacherUnavailableError(message) from None
    if content is grpc.aio.EOF:
        await asyncio.sleep(_BREAK_SECONDS)  # or ours would hide what gRPC says
        raise MalformedRequestError("a call needs a request")
    if len(content) > MOST_BYTES:
        raise OversizedError(
            f"a request of {len(content)} bytes is too large, at most {MOST_BYTES} "
            "are taken"
        )
    return bytes(content)
