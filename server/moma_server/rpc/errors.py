"""How an error is counted and told: sealed to who asked, or as a status.

A status says what cannot be sealed, because no question was opened.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, NoReturn

import grpc

from moma_core.errors import (
    BudgetSpentError,
    CoverageError,
    ExpiredError,
    MalformedRequestError,
    NotAuthorizedError,
    OversizedError,
    PatchLimitError,
    PolicyError,
    ReplayError,
    RevokedError,
    SessionLostError,
    TeacherBusyError,
    TeacherUnavailableError,
    UnknownEntryError,
)
from moma_core.teacher.refusal import Refusal

_logger = logging.getLogger(__name__)

PUSHBACK = "grpc-retry-pushback-ms"


class ErrorStatus(NamedTuple):
    """What an error means outside.

    Args:
        status: Sent to the caller with the error's sentence where nothing is sealed.
        reason: The label of `moma_teacher_denied_total`; None where the query was
            not denied but failed.
    """

    status: grpc.StatusCode
    reason: str | None


_VERDICTS: dict[type[BaseException], ErrorStatus] = {
    MalformedRequestError: ErrorStatus(grpc.StatusCode.INVALID_ARGUMENT, "malformed"),
    OversizedError: ErrorStatus(grpc.StatusCode.INVALID_ARGUMENT, "size"),
    SessionLostError: ErrorStatus(grpc.StatusCode.NOT_FOUND, "policy"),
    PolicyError: ErrorStatus(grpc.StatusCode.PERMISSION_DENIED, "policy"),
    PatchLimitError: ErrorStatus(grpc.StatusCode.FAILED_PRECONDITION, "unique"),
    CoverageError: ErrorStatus(grpc.StatusCode.FAILED_PRECONDITION, "coverage"),
    BudgetSpentError: ErrorStatus(grpc.StatusCode.FAILED_PRECONDITION, "budget"),
    ReplayError: ErrorStatus(grpc.StatusCode.ALREADY_EXISTS, "replay"),
    TeacherBusyError: ErrorStatus(grpc.StatusCode.RESOURCE_EXHAUSTED, "rate"),
    UnknownEntryError: ErrorStatus(grpc.StatusCode.NOT_FOUND, None),
    TeacherUnavailableError: ErrorStatus(grpc.StatusCode.UNAVAILABLE, None),
    NotAuthorizedError: ErrorStatus(grpc.StatusCode.UNAUTHENTICATED, "auth"),
    ExpiredError: ErrorStatus(grpc.StatusCode.UNAUTHENTICATED, "auth"),
    RevokedError: ErrorStatus(grpc.StatusCode.UNAUTHENTICATED, "revoked"),
}
_UNTOLD = ErrorStatus(grpc.StatusCode.INTERNAL, None)


def status_for(error: BaseException) -> ErrorStatus:
    """Returns what an error means; any that the table does not name is internal."""
    return _VERDICTS.get(type(error), _UNTOLD)


def refusal_for(error: Exception) -> Refusal:
    """Returns what who asked is told: of a foreign error only that there was one."""
    if status_for(error) is _UNTOLD:
        _logger.error("unexpected error over a question", exc_info=error)
    return Refusal.of(error)


@asynccontextmanager
async def errors_as_status(
    context: grpc.aio.ServicerContext[Any, Any],
) -> AsyncIterator[None]:
    """Tells the caller the errors of the table; of any other, only that there was one.

    Left alone, gRPC would send the text of a foreign exception to the site.
    """
    try:
        yield
    except grpc.aio.AbortError:
        raise
    except Exception as error:  # noqa: BLE001 the one boundary
        await _tell(error, context)


async def _tell(
    error: Exception, context: grpc.aio.ServicerContext[Any, Any]
) -> NoReturn:
    status = status_for(error)
    details = str(error)
    if status is _UNTOLD:
        _logger.error("unexpected error in an RPC", exc_info=error)
        details = "internal error"
    pushback: tuple[tuple[str, str], ...] = ()
    if isinstance(error, TeacherBusyError):
        pushback = ((PUSHBACK, str(math.ceil(error.retry_after_seconds * 1000))),)
    try:
        await context.abort(status.status, details, pushback)
    except grpc.aio.InternalError:
        _logger.debug("the caller went away before it was told: %s", details)
        raise asyncio.CancelledError from None
