"""Ends a call with the status of its error.

A status says what cannot be sealed, because no request was opened.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import grpc

from moma_core.errors import INTERNAL, TeacherBusyError, meaning_of

_logger = logging.getLogger(__name__)

PUSHBACK = "grpc-retry-pushback-ms"


def status_for(error: BaseException) -> grpc.StatusCode:
    """Returns the status of a call that ends with an error, unsealed."""
    return grpc.StatusCode[meaning_of(error).status]


@asynccontextmanager
async def errors_as_status(
    context: grpc.aio.ServicerContext[Any, Any],
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


async def _abort(
    error: Exception, context: grpc.aio.ServicerContext[Any, Any]
) -> NoReturn:
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
