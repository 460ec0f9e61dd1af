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


class Verdict(NamedTuple):
    """What an error means outside.

    Args:
        status: Told to the caller, with the error's sentence, if it cannot be sealed.
        reason: The label of `moma_teacher_denied_total`; None where the query was
            not denied but failed.
    """

    status: grpc.StatusCode
    reason: str | None


_VERDICTS: dict[type[BaseException], Verdict] = {
    MalformedRequestError: Verdict(grpc.StatusCode.INVALID_ARGUMENT, "malformed"),
    OversizedError: Verdict(grpc.StatusCode.INVALID_ARGUMENT, "size"),
    SessionLostError: Verdict(grpc.StatusCode.NOT_FOUND, "policy"),
    PolicyError: Verdict(grpc.StatusCode.PERMISSION_DENIED, "policy"),
    PatchLimitError: Verdict(grpc.StatusCode.FAILED_PRECONDITION, "unique"),
    CoverageError: Verdict(grpc.StatusCode.FAILED_PRECONDITION, "coverage"),
    BudgetSpentError: Verdict(grpc.StatusCode.FAILED_PRECONDITION, "budget"),
    ReplayError: Verdict(grpc.StatusCode.ALREADY_EXISTS, "replay"),
    TeacherBusyError: Verdict(grpc.StatusCode.RESOURCE_EXHAUSTED, "rate"),
    UnknownEntryError: Verdict(grpc.StatusCode.NOT_FOUND, None),
    TeacherUnavailableError: Verdict(grpc.StatusCode.UNAVAILABLE, None),
    NotAuthorizedError: Verdict(grpc.StatusCode.UNAUTHENTICATED, "auth"),
    ExpiredError: Verdict(grpc.StatusCode.UNAUTHENTICATED, "auth"),
    RevokedError: Verdict(grpc.StatusCode.UNAUTHENTICATED, "revoked"),
}
_UNTOLD = Verdict(grpc.StatusCode.INTERNAL, None)


def verdict_on(error: BaseException) -> Verdict:
    """Returns what an error means; any that the table does not name is internal."""
    return _VERDICTS.get(type(error), _UNTOLD)


def refusal_on(error: Exception) -> Refusal:
    """Returns what who asked is told: of a foreign error only that there was one."""
    if verdict_on(error) is _UNTOLD:
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
    verdict = verdict_on(error)
    details = str(error)
    if verdict is _UNTOLD:
        _logger.error("unexpected error in an RPC", exc_info=error)
        details = "internal error"
    pushback: tuple[tuple[str, str], ...] = ()
    if isinstance(error, TeacherBusyError):
        pushback = ((PUSHBACK, str(math.ceil(error.retry_after_seconds * 1000))),)
    try:
        await context.abort(verdict.status, details, pushback)
    except grpc.aio.InternalError:
        _logger.debug("the caller went away before it was told: %s", details)
        raise asyncio.CancelledError from None
