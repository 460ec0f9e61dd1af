"""Takes a site's call to a teacher that has dialled in: bytes in, bytes out.

Nothing is parsed and nothing is kept: what passes is sealed between the two, and is
seen here as sizes and times.
"""

import asyncio
import math
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import grpc

from moma_core.errors import (
    MalformedRequestError,
    TeacherBusyError,
    TeacherError,
)
from moma_core.pki.identity import NAME_PATTERN
from moma_proto.v1 import relay_pb2 as pb
from moma_server.metrics.metrics import RelayMetrics
from moma_server.relay.attachments import Attachment, Attachments, cancel
from moma_server.relay.limits import HeldBytes, RelayBounds, is_relayed
from moma_server.relay.mux_stream import Lane
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
_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class RelayContext:
    """What calls of sites share.

    Args:
        attached: Who serves them.
        is_known: Whether a teacher of this name belongs to the federation.
        metrics: Count bytes.
        bounds: Of what is held.
        calls: Of sites, open at once.
    """

    attached: Attachments
    is_known: Callable[[str], bool]
    metrics: RelayMetrics
    bounds: RelayBounds
    calls: int


class Forwarder(grpc.GenericRpcHandler):
    """Serves every method on the list, for the teacher that the metadata names.

    Args:
        door: See there.

    Attributes:
        held: All bytes that sites' calls hold at the moment.
    """

    def __init__(self, context: RelayContext) -> None:
        self._context = context
        self.held = HeldBytes(context.bounds.held_bytes)
        self._accounts: dict[str, HeldBytes] = {}
        self._open: Counter[str] = Counter()

    @property
    def open_calls(self) -> int:
        """Of sites, at the moment."""
        return self._open.total()

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
        teacher, thread = _wanted(context)
        attachment = self._context.attached.choose(teacher, site, thread)
        if attachment is None:
            await self._say_absent(teacher, context)
        room = _Room(self._account_of(site), self._context.bounds.request_bytes)
        with self._call(site, attachment, method, context) as lane:
            counts = self._context.metrics.bytes
            asked = counts.labels(site, teacher, "to_teacher").inc
            answered = counts.labels(site, teacher, "to_site").inc
            uploading = asyncio.create_task(_upload(lane, requests, room, asked))
            try:
                while (message := await lane.incoming.receive()) is not None:
                    await context.write(message)
                    answered(len(message))
            finally:
                uploading.cancel()
                await asyncio.gather(uploading, return_exceptions=True)
        await _pass_on(lane.status, context)

    @contextmanager
    def _call(
        self, site: str, attachment: Attachment, method: str, context: Context
    ) -> Iterator[Lane]:
        """Opens a call at the teacher, and ends it there when it ends here."""
        if self.open_calls >= self._context.calls:
            raise TeacherBusyError("the relay has too many calls open", _RETRY_SECONDS)
        account = self._account_of(site)
        lane = attachment.open(method, _timeout_ms(context), account)
        self._open[site] += 1
        try:
            yield lane
        finally:
            cancel(lane)
            self._open[site] -= 1

    def _account_of(self, site: str) -> HeldBytes:
        return self._accounts.setdefault(
            site, HeldBytes(self._context.bounds.call_bytes, self.held)
        )

    async def _say_absent(self, teacher: str, context: Context) -> NoReturn:
        """Tells a site to come again, or that the name is wrong.

        A wrong name is no NOT_FOUND, which tells of a lost momentum session.
        """
        if not await asyncio.to_thread(self._context.is_known, teacher):
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                f"no teacher {teacher} belongs to this federation",
            )
        await context.abort(
            grpc.StatusCode.UNAVAILABLE,
            f"teacher {teacher} is not linked to the relay at the moment",
            ((PUSHBACK, str(_AWAY_PUSHBACK_MS)),),
        )


class _Room(NamedTuple):
    """What is counted for a message that may be half in gRPC's hands.

    Args:
        account: The site's.
        most_bytes: Of the message.
    """

    account: HeldBytes
    most_bytes: int

    async def next_of(self, requests: AsyncIterator[bytes]) -> bytes | None:
        """Returns a site's next message, None after the last.

        Raises:
            TeacherBusyError: There is no room for it.
        """
        self.account.take(self.most_bytes)
        try:
            return await anext(requests, None)
        finally:
            self.account.give(self.most_bytes)


async def _upload(
    lane: Lane,
    requests: AsyncIterator[bytes],
    room: _Room,
    count: Callable[[int], None],
) -> None:
    """Sends a site's messages; the next is read when the one before has left."""
    try:
        while (message := await room.next_of(requests)) is not None:
            await lane.outgoing.send(message)
            count(len(message))
    except TeacherError as error:
        if not lane.is_over:
            cancel(lane, error)
        return
    half_close = pb.RelayFrame(call_id=lane.call_id, half_close=pb.RelayHalfClose())
    if not lane.is_over:
        lane.close(half_close)


def _wanted(context: Context) -> tuple[str, str]:
    """Returns the teacher that a call is for, and the calls that it belongs to."""
    metadata: dict[str, object] = dict(context.invocation_metadata() or ())
    teacher, thread = metadata.get(TEACHER_KEY), metadata.get(THREAD_KEY, "")
    if not isinstance(teacher, str) or not re.fullmatch(NAME_PATTERN, teacher):
        raise MalformedRequestError(f"name the teacher in the metadata {TEACHER_KEY}")
    if not isinstance(thread, str) or not _THREAD.fullmatch(thread):
        raise MalformedRequestError(f"the metadata {THREAD_KEY} is not hexadecimal")
    return teacher, thread


def _timeout_ms(context: Context) -> int:
    """Returns the time until a caller's deadline, 0 where it has none."""
    left: float | None = context.time_remaining()
    if left is None or left > _LONGEST_DEADLINE_SECONDS:
        return 0
    return max(1, math.ceil(left * 1000))


async def _pass_on(status: pb.RelayStatus | None, context: Context) -> None:
    """Ends a site's call as the teacher ended it."""
    if status is None or status.code not in _CODES:
        await context.abort(grpc.StatusCode.INTERNAL, "the teacher ended without word")
    if status.code == 0:
        return
    pushback: tuple[tuple[str, str], ...] = ()
    if status.HasField("pushback_ms"):
        pushback = ((PUSHBACK, str(min(status.pushback_ms, _LONGEST_PUSHBACK_MS))),)
    shown = "".join(c if c.isprintable() else " " for c in status.details)
    await context.abort(_CODES[status.code], shown[:_LONGEST_DETAILS], pushback)
