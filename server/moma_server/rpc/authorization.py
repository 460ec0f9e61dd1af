"""Who may call, decided at every RPC and again for every open stream.

TLS checks a certificate once, at the handshake, and a connection may outlive it. So
each RPC checks version, expiry and revocation anew, and a sweep does the same for the
streams that are open, and breaks off those that fail.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Container, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn, Protocol

import grpc

from moma_core.errors import (
    INTERNAL,
    NotAuthorizedError,
    TeacherBusyError,
    meaning_of,
)
from moma_core.pki.identity import Peer, PeerKind, authorize
from moma_server.metrics.metrics import RelayMetrics, TeacherMetrics
from moma_server.rpc.limits import (
    READ_SECONDS,
    Behaviour,
    Context,
    Continuation,
    Handler,
    authorized_first,
)

_logger = logging.getLogger(__name__)

AuthContext = Mapping[str, Iterable[bytes]]

PUSHBACK = "grpc-retry-pushback-ms"
"""Metadata of a status: when a repetition is welcome."""

_TLS_VERSION = b"TLSv1.3"
# what gRPC raises, and exports by no name, where a call reads on as its server stops
_SERVER_STOPPED = "_ServerStoppedError"
_HANDED_OVER_OPEN = 4
_RETRY_CALL_SECONDS = 5.0
_POLL_SECONDS = 0.02

_caller: ContextVar[Peer | None] = ContextVar("caller")


def caller() -> Peer | None:
    """Returns whose connection brought the call that is being served.

    None where a relay did, which has no certificate of the caller.

    Raises:
        LookupError: The call did not pass an `AuthInterceptor`.
    """
    return _caller.get()


class AuthorizationPolicy(Protocol):
    """Decides whose calls a port serves."""

    def authorize(self, auth: AuthContext, service: str, /) -> Peer | None:
        """Returns the party behind a connection, None for a relay; or refuses."""
        ...


def connected() -> Peer:
    """Returns the party whose connection brought the call.

    Raises:
        NotAuthorizedError: A relay brought it: the connection is nobody's.
        LookupError: The call did not pass an `AuthInterceptor`.
    """
    peer = caller()
    if peer is None:
        raise NotAuthorizedError("a relayed call is of no connection")
    return peer


@dataclass(frozen=True, slots=True)
class CertificateAuthorization:
    """Authorizes the parties of a federation by their certificates.

    Args:
        federation: Federation that a certificate must name.
        revoked: Serial numbers of revoked certificates.
        served: The kinds of parties that each gRPC service is for; a service that is
            not named is for nobody.
        clock: Gives the time, with a time zone.
    """

    federation: str
    revoked: Container[int]
    served: Mapping[str, frozenset[PeerKind]]
    clock: Callable[[], datetime]

    def authorize(self, auth: AuthContext, service: str) -> Peer:
        """Returns the party behind a connection.

        Raises:
            NotAuthorizedError: It may not call this service now.
        """
        if list(auth.get("ssl_tls_version", ())) != [_TLS_VERSION]:
            raise NotAuthorizedError("a call needs TLS 1.3")
        certificates = list(auth.get("x509_pem_cert", ()))
        if len(certificates) != 1:
            raise NotAuthorizedError("a call needs a certificate")
        return authorize(
            certificates[0],
            now=self.clock(),
            revoked=self.revoked,
            federation=self.federation,
            kinds=self.served.get(service, frozenset()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CallBounds:
    """How many calls a port serves at once.

    Args:
        of_one: Calls of one party that are open at once.
        of_all: Calls of all that are open at once; refused ones do not count.
        read_seconds: Time from a call to the end of its message, where it has one.
    """

    of_one: int = 8
    of_all: int = 256
    read_seconds: float = READ_SECONDS

    @property
    def of_grpc(self) -> int:
        """Calls that gRPC may hand on at once, also those that will be refused."""
        return _HANDED_OVER_OPEN * self.of_all


@dataclass(slots=True, eq=False)
class _LiveCall:
    """An RPC that is being served."""

    peer: Peer | None
    auth: AuthContext
    service: str
    limit: asyncio.Timeout
    refused: NotAuthorizedError | None = None


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """Authorizes every RPC, bounds how many are open, and watches the open ones.

    Handlers must be coroutines that write with `context.write`.

    Args:
        policy: Decides whose calls are served.
        metrics: Counts refused calls, without a site: nobody was authenticated.
        teacher: Name of the teacher, a label of the metrics.
        bounds: How many calls are served at once.
    """

    def __init__(
        self,
        policy: AuthorizationPolicy,
        metrics: TeacherMetrics | RelayMetrics,
        *,
        teacher: str,
        bounds: CallBounds,
    ) -> None:
        self._policy = policy
        self._metrics = metrics
        self._teacher = teacher
        self._bounds = bounds
        self._calls: set[_LiveCall] = set()

    async def intercept_service(
        self, continuation: Continuation, call: grpc.HandlerCallDetails
    ) -> "Handler | None":
        """Puts the decision in front of a handler; gRPC calls it for every RPC."""
        handler = await continuation(call)
        if handler is None:
            return None
        service = call.method.split("/")[1]
        return authorized_first(
            handler,
            lambda behaviour: self._guard(behaviour, service),
            read_seconds=self._bounds.read_seconds,
        )

    def sweep(self) -> None:
        """Authorizes every open call anew, and breaks off those that fail."""
        now = asyncio.get_running_loop().time()
        for call in list(self._calls):
            try:
                self._policy.authorize(call.auth, call.service)
            except NotAuthorizedError as error:
                call.refused = error
                call.limit.reschedule(now)

    async def emptied(self, timeout_seconds: float) -> None:
        """Waits until no call is open any more, but not for ever."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while self._calls:
                    await asyncio.sleep(_POLL_SECONDS)

    def _guard(self, behaviour: Behaviour, service: str) -> Behaviour:
        async def guarded(request: Any, context: Context) -> Any:  # noqa: ANN401
            async with errors_as_status(context), self._authorized(context, service):
                return await behaviour(request, context)

        return guarded

    @asynccontextmanager
    async def _authorized(self, context: Context, service: str) -> AsyncIterator[None]:
        """Serves a call, or raises why not, at its start or in its middle."""
        auth = context.auth_context()
        try:
            peer = self._policy.authorize(auth, service)
            async with self._watched(peer, auth, service):
                _caller.set(peer)
                yield
        except NotAuthorizedError as error:
            reason = meaning_of(error).denial
            self._metrics.denied.labels("", self._teacher, reason).inc()
            raise

    @asynccontextmanager
    async def _watched(
        self, peer: Peer | None, auth: AuthContext, service: str
    ) -> AsyncIterator[None]:
        """Holds a call open for as long as its certificate is good."""
        of_one = sum(_same(call.peer, peer) for call in self._calls)
        if of_one >= self._bounds.of_one or len(self._calls) >= self._bounds.of_all:
            name = "" if peer is None else peer.name
            self._metrics.denied.labels(name, self._teacher, "rate").inc()
            raise TeacherBusyError("too many calls are open", _RETRY_CALL_SECONDS)
        limit = asyncio.timeout(None)
        call = _LiveCall(peer, auth, service, limit)
        self._calls.add(call)
        try:
            async with limit:
                yield
        except TimeoutError:
            raise call.refused or RuntimeError("a timeout that nobody set") from None
        finally:
            self._calls.discard(call)


def _same(one: Peer | None, other: Peer | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.kind, one.name) == (other.kind, other.name)


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
    except Exception as error:
        if server_has_stopped(error):
            raise
        await _abort(error, context)


def server_has_stopped(error: Exception) -> bool:
    """Whether gRPC raised it as its server stopped: it ends the call, and says so."""
    return type(error).__name__ == _SERVER_STOPPED


async def _abort(error: Exception, context: Context) -> NoReturn:
    meaning = meaning_of(error)
    if meaning is INTERNAL:
        _logger.error("unexpected error in an RPC", exc_info=error)
    details = meaning.sentence or str(error)
    pushback: tuple[tuple[str, str], ...] = ()
    if isinstance(error, TeacherBusyError):
        pushback = ((PUSHBACK, str(math.ceil(error.retry_after_seconds * 1000))),)
    try:
        await context.abort(grpc.StatusCode[meaning.status], details, pushback)
    except grpc.aio.InternalError:
        _logger.debug("the caller went away before its call ended: %s", details)
        raise asyncio.CancelledError from None
