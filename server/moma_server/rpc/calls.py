"""How a call is read, once its caller is authorized, and how it ends with an error.

gRPC reads the one message of a unary call before it calls the handler, however long
that takes and whoever sends it. So these methods are served as streams, of which one
message is read: on the wire the two are the same. A status says what cannot be sealed,
because no request was opened.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from moma_core.errors import (
    INTERNAL,
    MalformedRequestError,
    OversizedError,
    TeacherBusyError,
    TeacherUnavailableError,
    meaning_of,
)

_logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = (
    "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"
)
Behaviour = Callable[[Any, Context], Awaitable[Any]]

PUSHBACK = "grpc-retry-pushback-ms"
"""Metadata that names when a repetition is welcome."""

MOST_BYTES = 64 * 1024
"""Of the one message of a call; what is larger goes by streams."""

READ_SECONDS = 10.0

_BREAK_SECONDS = 0.1  # in which gRPC follows up on a message that it cut off


def authorized_first(
    handler: Handler,
    authorize: Callable[[Behaviour], Behaviour],
    *,
    read_seconds: float = READ_SECONDS,
) -> Handler:
    """Returns a handler that authorizes the caller before it reads the request.

    Args:
        handler: Handler of a method; its behaviour is a coroutine.
        authorize: Puts the decision in front of a behaviour. What is wrong with the
            request is raised from the behaviour that it calls.
        read_seconds: In which the one message of a call must be whole.
    """
    behaviour: Any = (
        handler.unary_unary
        or handler.unary_stream
        or handler.stream_unary
        or handler.stream_stream
    )
    deserialize = handler.request_deserializer
    if not handler.request_streaming:
        behaviour = _reading(behaviour, deserialize, read_seconds)
        deserialize = None
    rebuild: Any = (
        grpc.stream_stream_rpc_method_handler
        if handler.response_streaming
        else grpc.stream_unary_rpc_method_handler
    )
    rebuilt: Handler = rebuild(
        authorize(behaviour), deserialize, handler.response_serializer
    )
    return rebuilt


def _reading(
    behaviour: Behaviour,
    deserialize: Callable[[bytes], Any] | None,
    read_seconds: float,
) -> Behaviour:
    async def read_and_do(_requests: Any, context: Context) -> Any:  # noqa: ANN401
        content = await _read_one(context, read_seconds)
        try:
            request = content if deserialize is None else deserialize(content)
        except DecodeError:
            raise MalformedRequestError("the request is not readable") from None
        return await behaviour(request, context)

    return read_and_do


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


def status_for(error: BaseException) -> grpc.StatusCode:
    """Returns the status of a call that ends with an error, unsealed."""
    return grpc.StatusCode[meaning_of(error).status]


@asynccontextmanager
async def errors_as_status(
    context: Context,
) -> AsyncIterator[None]:
    """Ends the call with an error of the catalogue; any other is only internal.

    Left alone, gRPC would send the text of a foreign exception to the site.
    """
    try:
        yield
    except grpc.aio.AbortError:
        raise
    except Exception as error:  # noqa: BLE001 the one boundary
        await _abort(error, context)


async def _abort(error: Exception, context: Context) -> NoReturn:
    meaning = meaning_of(error)
    if meaning is INTERNAL:
        _logger.error("unexpected error in an RPC", exc_info=error)
    details = meaning.sentence or str(error)
    pushback: tuple[tuple[str, str], ...] = ()
    if isinstance(error, TeacherBusyError):
        pushback = ((PUSHBACK, str(math.ceil(error.retry_after_seconds * 1000))),)
    try:
        await context.abort(status_for(error), details, pushback)
    except grpc.aio.InternalError:
        _logger.debug("the caller went away before its call ended: %s", details)
        raise asyncio.CancelledError from None
