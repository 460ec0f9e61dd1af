"""Takes a site's call to a teacher that is linked: bytes in, bytes out.

Nothing is parsed and nothing is kept: what passes is sealed between the two, and is
seen here as sizes and times.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn, TypeAlias

import grpc

from moma_core.errors import (
    MalformedRequestError,
    OversizedError,
    TeacherBusyError,
    TeacherUnavailableError,
    printable_line,
)
from moma_core.pki.identity import NAME_PATTERN
from moma_server.metrics.metrics import RelayMetrics
from moma_server.relay.limits import (
    ByteQuota,
    OpenCall,
    OpenCalls,
    RelayBounds,
    is_relayed,
)
from moma_server.relay.links import Link, Links
from moma_server.rpc.authorization import PUSHBACK, connected

Context = grpc.aio.ServicerContext[bytes, bytes]

TEACHER_KEY = "moma-teacher"
THREAD_KEY = "moma-thread"

_THREAD = re.compile("[0-9a-f]{0,32}")
_AWAY_PUSHBACK_MS = 5_000
_LONGEST_PUSHBACK_MS = 3_600_000
_LONGEST_DETAILS = 300
_RETRY_SECONDS = 2.0
_LONGEST_DEADLINE_SECONDS = 24 * 3600  # longer ones are none
_STATUS_SECONDS = 1.0
_WRITE_FAILED = "Internal error from Core"  # says grpc.aio
_TOO_LONG = "message larger than max"  # says gRPC

TeacherCall: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"


class Forwarder(grpc.GenericRpcHandler):
    """Serves every method on the list, for the teacher that the metadata names.

    Args:
        links: All links of teachers that are open.
        is_known: Says whether a teacher of this name belongs to the federation.
        metrics: Count the bytes that pass.
        bounds: Bounds of what is held for sites.
        calls: Calls of all sites that may be open at once.

    Attributes:
        quota: Bytes that are held for all sites.
        open_calls: How many calls of sites are open.
    """

    def __init__(
        self,
        links: Links,
        is_known: Callable[[str], bool],
        metrics: RelayMetrics,
        *,
        bounds: RelayBounds,
        calls: int,
    ) -> None:
        self._links, self._is_known, self._metrics = links, is_known, metrics
        self._bounds, self._calls = bounds, calls
        self._sites_calls = OpenCalls()
        self._site_quotas: dict[str, ByteQuota] = {}
        self.quota = ByteQuota(bounds.held_bytes)
        self.open_calls = 0

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        """Returns the way through for a method, None where there is none."""
        method = str(handler_call_details.method)
        if not is_relayed(method):
            return None

        async def forward(requests: AsyncIterator[bytes], context: Context) -> None:
            await self._forward(method, requests, context)

        # To gRPC a call with one message is a stream that ends after it.
        behaviour: Any = forward
        return grpc.stream_stream_rpc_method_handler(behaviour)

    async def _forward(
        self, method: str, requests: AsyncIterator[bytes], context: Context
    ) -> None:
        site = connected().name
        teacher, thread = _addressee(context)
        link = self._links.choose(teacher, site, thread)
        if link is None:
            await self._report_absent(teacher, context)
        traffic = _Traffic(
            self._site_quotas.setdefault(
                site, ByteQuota(self._bounds.site_bytes, self.quota)
            ),
            self._bounds.request_bytes,
            self._metrics.bytes.labels(site, teacher, "to_teacher").inc,
            self._metrics.bytes.labels(site, teacher, "to_site").inc,
        )
        async with self._sites_calls.open(site, link) as own:
            await self._find_room(own, link)
            with self._counted(), link.call():
                start: Any = link.channel.stream_stream(method)
                call: TeacherCall = start(timeout=_timeout(context))
                relayed = _RelayedCall(call, own, self._sites_calls, traffic)
                status = await _exchange(relayed, requests, context)
        is_broken = status.code is grpc.StatusCode.UNKNOWN  # no server of ours says it
        if is_broken or (link.is_lost and status.code is not grpc.StatusCode.OK):
            raise TeacherUnavailableError("the link to the teacher was lost")
        await _pass_on(status, context)

    async def _find_room(self, own: OpenCall, link: Link) -> None:
        """Has idle calls of greedier sites end, where there is no room for one more."""
        others = self._sites_calls
        while self.open_calls >= self._calls and await others.make_room(own):
            pass
        while link.calls >= self._bounds.calls and await others.make_room(own, link):
            pass

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Counts a site's call as open while the block runs."""
        if self.open_calls >= self._calls:
            raise TeacherBusyError("the relay has too many calls open", _RETRY_SECONDS)
        self.open_calls += 1
        try:
            yield
        finally:
            self.open_calls -= 1

    async def _report_absent(self, teacher: str, context: Context) -> NoReturn:
        """Has a site come again, or says that the name is wrong.

        A wrong name is no NOT_FOUND, which means a lost momentum session.
        """
        if not await asyncio.to_thread(self._is_known, teacher):
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                f"no teacher {teacher} belongs to this federation",
            )
        await context.abort(
            grpc.StatusCode.UNAVAILABLE,
            f"teacher {teacher} is not linked to the relay at the moment",
            ((PUSHBACK, str(_AWAY_PUSHBACK_MS)),),
        )


class _Traffic(NamedTuple):
    """What is counted of a call.

    Args:
        quota: Bytes that may be held for the site.
        request_bytes: Counted for a message that may be half in gRPC's hands.
        count_request: Called with the bytes of each message of the site.
        count_response: Called with the bytes of each message of the teacher.
    """

    quota: ByteQuota
    request_bytes: int
    count_request: Callable[[int], None]
    count_response: Callable[[int], None]


class _RelayedCall(NamedTuple):
    """A call at both of its ends.

    Args:
        to_teacher: Call to the teacher.
        own: The same call among those of all sites.
        others: Calls of all sites.
        traffic: What is counted of it.
    """

    to_teacher: TeacherCall
    own: OpenCall
    others: OpenCalls
    traffic: _Traffic

    async def next_of(self, requests: AsyncIterator[bytes]) -> bytes | None:
        """Returns a site's next message; None: there is none.

        Raises:
            TeacherBusyError: There is no room for it.
        """
        quota, size = self.traffic.quota, self.traffic.request_bytes
        while quota.is_full_of_others(size):
            if not await self.others.make_room(self.own):
                break
        with quota.holding(size):
            self.own.awaited_since = asyncio.get_running_loop().time()
            message = await anext(requests, None)
            self.own.awaited_since = None
        return message


async def _exchange(
    relayed: _RelayedCall, requests: AsyncIterator[bytes], context: Context
) -> "_Status":
    """Passes messages on in both directions, and returns how the teacher ended.

    Raises:
        TeacherBusyError: There is no room for a message.
    """
    call = relayed.to_teacher
    ending = _Ending(call)
    uploading = asyncio.create_task(_upload(relayed, requests))
    try:
        await _download(relayed, context)
        if uploading.done() and not uploading.cancelled():
            uploading.result()
        return await ending.status()
    finally:
        uploading.cancel()
        call.cancel()
        await asyncio.gather(uploading, return_exceptions=True)


async def _upload(relayed: _RelayedCall, requests: AsyncIterator[bytes]) -> None:
    """Sends a site's messages; the next is read when the one before has left."""
    call, traffic = relayed.to_teacher, relayed.traffic
    try:
        while (message := await relayed.next_of(requests)) is not None:
            relayed.own.unanswered += 1
            with traffic.quota.holding(len(message)):
                await call.write(message)
            traffic.count_request(len(message))
        await call.done_writing()
    except TeacherBusyError:
        call.cancel()
        raise
    except (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
        pass  # the teacher has ended the call, and its status says how


async def _download(relayed: _RelayedCall, context: Context) -> None:
    """Sends a teacher's messages; the next is read when the one before has left."""
    own, traffic = asyncio.current_task(), relayed.traffic
    try:
        async for message in relayed.to_teacher:
            relayed.own.unanswered -= 1
            with traffic.quota.holding(len(message)):
                await context.write(message)
            traffic.count_response(len(message))
    except grpc.aio.AioRpcError:
        pass  # the status says the same
    except asyncio.CancelledError:
        # gRPC raises it where the teacher's status is CANCELLED, too
        if own is None or own.cancelling():
            raise


class _Status(NamedTuple):
    """How a teacher ended a call."""

    code: grpc.StatusCode
    details: str
    pushback: object


class _Ending:
    """Notes the status of a call as it comes.

    Where a write fails as the call ends, grpc.aio puts a status of its own over the
    teacher's, or ahead of it (grpc issue 36066).

    Args:
        call: Call to the teacher.
    """

    def __init__(self, call: TeacherCall) -> None:
        self._status: asyncio.Future[_Status] = asyncio.Future()
        call.add_done_callback(self._note)

    async def status(self) -> _Status:
        """Returns the teacher's status, or what stands for it where there is none."""
        try:
            async with asyncio.timeout(_STATUS_SECONDS):
                return await self._status
        except TimeoutError:
            message = "the teacher ended without a status"
            return _Status(grpc.StatusCode.INTERNAL, message, None)

    def _note(self, call: Any) -> None:  # noqa: ANN401 the stub calls it a context
        metadata = _result(call.trailing_metadata()) or grpc.aio.Metadata()
        details = _result(call.details()) or ""
        if details != _WRITE_FAILED and not self._status.done():
            code = _result(call.code())
            self._status.set_result(_Status(code, details, metadata.get(PUSHBACK)))


def _result(step: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 it is gRPC's
    """Returns what a coroutine returns that has nothing to wait for."""
    try:
        step.send(None)
    except StopIteration as end:
        return end.value
    raise RuntimeError("a call that has ended does not say how")


def _addressee(context: Context) -> tuple[str, str]:
    """Returns the teacher that a call is for, and the calls that it belongs to."""
    metadata: dict[str, object] = dict(context.invocation_metadata() or ())
    teacher, thread = metadata.get(TEACHER_KEY), metadata.get(THREAD_KEY, "")
    if not isinstance(teacher, str) or not re.fullmatch(NAME_PATTERN, teacher):
        raise MalformedRequestError(f"name the teacher in the metadata {TEACHER_KEY}")
    if not isinstance(thread, str) or not _THREAD.fullmatch(thread):
        raise MalformedRequestError(f"the metadata {THREAD_KEY} is not hexadecimal")
    return teacher, thread


def _timeout(context: Context) -> float | None:
    """Returns the seconds until a caller's deadline, None where it has none."""
    left: float | None = context.time_remaining()
    return None if left is None or left > _LONGEST_DEADLINE_SECONDS else left


async def _pass_on(status: _Status, context: Context) -> None:
    """Ends a site's call as the teacher ended it.

    Raises:
        OversizedError: The teacher's message was too long for the relay.
    """
    if status.code is grpc.StatusCode.OK:
        return
    if _TOO_LONG in status.details:
        raise OversizedError("a message of the teacher is too long for the relay")
    pushback: tuple[tuple[str, str], ...] = ()
    if isinstance(status.pushback, str) and status.pushback.isdecimal():
        milliseconds = min(int(status.pushback[:9]), _LONGEST_PUSHBACK_MS)
        pushback = ((PUSHBACK, str(milliseconds)),)
    shown = printable_line(status.details, _LONGEST_DETAILS)
    await context.abort(status.code, shown, pushback)
