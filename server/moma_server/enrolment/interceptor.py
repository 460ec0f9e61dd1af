"""What the enrolment port takes of its callers, checked before a request is read.

Strangers may call here, so everything is bounded: tries of an address, its open calls,
the calls of all, and the time of a request.
"""

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import unquote

import grpc

from moma_core.errors import (
    CertificateError,
    ConfigError,
    MalformedRequestError,
    NotAuthorizedError,
    RefusedError,
    TeacherBusyError,
    TeacherUnavailableError,
)
from moma_core.network.address import network_of
from moma_core.policy.token_bucket import TokenBucket
from moma_server.rpc.authorization import server_has_stopped
from moma_server.rpc.limits import (
    Behaviour,
    Context,
    Continuation,
    Handler,
    authorized_first,
)

_logger = logging.getLogger(__name__)

OPEN_OF_ONE = 8
"""Calls of one address at once."""

OPEN_OF_ALL = 256
"""Calls of all addresses at once."""

_TLS_VERSION = b"TLSv1.3"
_TRIES = ("Enrol", "Renew")
_READ_SECONDS = 5.0  # in which a request must be whole
_RETRY_SECONDS = 5.0
_RETRY_TRIES_SECONDS = 60.0
_REFUSALS_A_LINE = 100  # of a flood: one line in the log for so many

_MOST_ADDRESSES = 4096  # whose tries are counted; the least recent are forgotten
_ALL_OVER_ONE = 10
_ALL = "all"

_NOT_IN_ORDER = "the coordinator cannot serve this now, its own log says why"

_STATUSES = {
    RefusedError: grpc.StatusCode.PERMISSION_DENIED,
    CertificateError: grpc.StatusCode.INVALID_ARGUMENT,
    MalformedRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    TeacherBusyError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TeacherUnavailableError: grpc.StatusCode.UNAVAILABLE,
}


class RateLimiter:
    """A bucket of tries for each address, and one for all of them.

    The least recent addresses are forgotten, so that their number costs no memory.

    Args:
        per_minute: Tries of one address, as many at once after a rest; all strangers
            together have ten times that.
        clock: Returns seconds, and never goes back.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self._of_one = TokenBucket(per_minute, clock, _MOST_ADDRESSES)
        self._of_all = TokenBucket(_ALL_OVER_ONE * per_minute, clock)

    def allows(self, address: str) -> bool:
        """Takes one try of an address.

        Args:
            address: The caller's address, as `address_of` returns it.
        """
        return not self._of_one.take(address)

    def allows_strangers(self) -> bool:
        """Takes one try from the bucket that all share who are no members.

        A member that renews takes none, so that a flood of strangers cannot stop it.
        """
        return not self._of_all.take(_ALL)


class EnrolmentInterceptor(grpc.aio.ServerInterceptor):
    """Limits the rate, the number and the time of all calls, and maps their errors.

    Args:
        tries: Limits the calls that cost a signature and a line in the journal.
        reads: Limits the calls whose response is the same for everybody.
    """

    def __init__(self, tries: RateLimiter, reads: RateLimiter) -> None:
        self._tries, self._reads = tries, reads
        self._open: Counter[str] = Counter()
        self._refused = 0

    async def intercept_service(
        self, continuation: Continuation, call: grpc.HandlerCallDetails
    ) -> "Handler | None":
        """Puts the limits in front of a handler; gRPC calls this for every call."""
        handler = await continuation(call)
        if handler is None:
            return None
        is_try = str(call.method).rpartition("/")[2] in _TRIES
        bounds = self._tries if is_try else self._reads
        return authorized_first(
            handler,
            lambda behaviour: self._guard(behaviour, bounds),
            read_seconds=_READ_SECONDS,
        )

    def _guard(self, behaviour: Behaviour, bounds: RateLimiter) -> Behaviour:
        async def guarded(request: Any, context: Context) -> Any:  # noqa: ANN401
            async with _errors_mapped(context):
                versions = context.auth_context().get("ssl_tls_version", ())
                if list(versions) != [_TLS_VERSION]:
                    raise NotAuthorizedError("a call needs TLS 1.3")
                with self._counted_call(address_of(context.peer()), bounds):
                    return await behaviour(request, context)

        return guarded

    @contextmanager
    def _counted_call(self, address: str, bounds: RateLimiter) -> Iterator[None]:
        """Takes a try of an address, and one of the open calls."""
        if not bounds.allows(address):
            self._count_refusal(address)
            raise TeacherBusyError(
                "too many tries, try again in a minute", _RETRY_TRIES_SECONDS
            )
        if self._open[address] >= OPEN_OF_ONE or self._open.total() >= OPEN_OF_ALL:
            self._count_refusal(address)
            raise TeacherBusyError("too many calls are open, try again", _RETRY_SECONDS)
        self._open[address] += 1
        try:
            yield
        finally:
            self._open[address] -= 1
            self._open = +self._open  # addresses cost no memory once they are gone

    def _count_refusal(self, address: str) -> None:
        if self._refused % _REFUSALS_A_LINE == 0:
            _logger.warning(
                "enrolment: too many tries, the last from %s; %d refused before",
                address,
                self._refused,
            )
        self._refused += 1


@asynccontextmanager
async def _errors_mapped(context: Context) -> AsyncIterator[None]:
    """Maps our errors to gRPC's; of a foreign one the caller learns nothing more.

    Nor of what is wrong with the coordinator's own files: strangers may call.
    """
    try:
        yield
    except grpc.aio.AbortError:
        raise
    except ConfigError as error:
        _logger.error("an enrolment call failed: %s", error)
        await context.abort(grpc.StatusCode.UNAVAILABLE, _NOT_IN_ORDER)
    except Exception as error:
        if server_has_stopped(error):
            raise
        status = next(
            (code for kind, code in _STATUSES.items() if isinstance(error, kind)), None
        )
        if status is None:
            _logger.error("an enrolment call failed", exc_info=error)
            await context.abort(grpc.StatusCode.INTERNAL, "internal error")
        await context.abort(status, str(error))


def address_of(peer: str) -> str:
    """Returns the address behind gRPC's name of a peer, see `network_of`."""
    scheme, _, rest = unquote(peer).partition(":")
    return network_of(rest.rpartition(":")[0].strip("[]")) or scheme[:16]
