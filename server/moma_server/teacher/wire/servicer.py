"""The wire of moma.v1.TeacherService: read, opened, asked of the teacher, sealed.

What the teacher does with a query is on one page in `servicer`; who may call at all is
the gate's to say (`admission`). What it decides about a question is an answer in its
place, sealed, also where it refuses.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from moma_core.errors import (
    MalformedRequestError,
    TeacherError,
    TeacherUnavailableError,
)
from moma_core.teacher.card.signed import SignedCard
from moma_proto.convert import teacher as convert
from moma_proto.v1 import teacher_pb2 as pb
from moma_proto.v1.sealed_pb2 import SealedRequest, SealedResponse
from moma_proto.v1.teacher_pb2_grpc import TeacherServiceServicer
from moma_server.rpc.limits import Context
from moma_server.teacher.end_to_end.request import UnsealedRequest
from moma_server.teacher.query.pipeline import TeacherServicer
from moma_server.teacher.wire.unseal import SealedEndpoint

MessageT = TypeVar("MessageT", bound=Message)

_NOT_TAKEN = "no answer was taken"

_BREAK_SECONDS = 0.1  # in which gRPC follows up on a message that it cut off


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What one Embed stream may hold and how long it may be still.

    Args:
        window: Requests read and not yet answered.
        idle_seconds: From the moment that the window has room until a request comes,
            also while others are being answered.
        write_seconds: Until the caller takes an answer.
        sync_seconds: In which an update of a momentum session must be whole.
    """

    window: int = 4
    idle_seconds: float = 300.0
    write_seconds: float = 60.0
    sync_seconds: float = 300.0


class SealedServicer(TeacherServiceServicer):
    """Serves moma.v1.TeacherService; the methods' names are the contract's.

    Args:
        teacher: Does what is asked.
        desk: Opens and seals.
        limits: Of a stream.
    """

    def __init__(
        self, teacher: TeacherServicer, endpoint: SealedEndpoint, limits: StreamLimits
    ) -> None:
        self._teacher = teacher
        self._endpoint = endpoint
        self._limits = limits

    async def Describe(
        self, _request: pb.DescribeRequest, _context: Context
    ) -> pb.DescribeResponse:
        """Returns the signed card."""
        return convert.signed_card_to_wire(self.card())

    def card(self) -> SignedCard:
        """Returns the card as it is now."""
        return self._endpoint.card()

    async def Embed(  # type: ignore[override]  # it writes by itself
        self, _requests: AsyncIterator[SealedRequest], context: Context
    ) -> None:
        """Answers each request of a stream, in order, several at a time."""
        pausing = asyncio.Event()
        requests = self._requests(pausing, context)
        answers = ordered_map(requests, self._embed, window=self._limits.window)
        try:
            async with aclosing(answers):
                async for answer in answers:
                    async with _at_most(self._limits.write_seconds, _NOT_TAKEN):
                        await context.write(answer)
        except asyncio.CancelledError:  # by gRPC; a refusal is another error
            if pausing.is_set():
                self._endpoint.deny("", "size")
            raise

    async def Budget(self, request: SealedRequest, _context: Context) -> SealedResponse:
        """Returns what the calling site may still ask."""
        return await self._endpoint.once(
            "Budget", pb.BudgetRequest, request, self._teacher.budget
        )

    async def OpenSession(
        self, request: SealedRequest, _context: Context
    ) -> SealedResponse:
        """Gives the calling site a copy that moves."""
        return await self._endpoint.once(
            "OpenSession", pb.OpenSessionRequest, request, self._teacher.open_session
        )

    async def CloseSession(
        self, request: SealedRequest, _context: Context
    ) -> SealedResponse:
        """Takes the calling site's copy away."""
        return await self._endpoint.once(
            "CloseSession", pb.CloseSessionRequest, request, self._teacher.close_session
        )

    async def SyncMomentum(
        self, _requests: AsyncIterator[SealedRequest], context: Context
    ) -> SealedResponse:
        """Moves the calling site's copy."""
        async with _at_most(self._limits.sync_seconds, "no update came"):
            first: Any = await context.read()
        if first is grpc.aio.EOF:
            self._endpoint.deny("", "malformed")
            raise MalformedRequestError("an update begins with its head")
        question = await self._endpoint.open(
            "SyncMomentum", pb.SyncMomentumRequest, first
        )
        update = _Update(self._endpoint, question, context)
        answer = await self._endpoint.reply(
            question, lambda: self._moved(question, update)
        )
        if update.broken is not None:
            raise update.broken
        return answer

    async def _moved(
        self, question: UnsealedRequest[pb.SyncMomentumRequest], update: "_Update"
    ) -> Message:
        first = await self._endpoint.read_once(question)
        async with aclosing(update.messages(first)) as messages:
            return await self._teacher.sync_momentum(question.site, messages)

    async def _embed(self, request: SealedRequest) -> SealedResponse:
        question = await self._endpoint.open("Embed", pb.EmbedRequest, request)
        return await self._endpoint.reply(
            question, lambda: self._teacher.embed(question)
        )

    async def _requests(
        self, pausing: asyncio.Event, context: Context
    ) -> AsyncIterator[SealedRequest]:
        """Yields what a stream brings; not reading is what holds its sender back."""
        while True:
            async with _at_most(self._limits.idle_seconds, "no request came"):
                request: Any = await context.read()
            if request is grpc.aio.EOF:
                break
            yield request
        # A message over the limit looks like an end, and then the call breaks off.
        pausing.set()
        await asyncio.sleep(_BREAK_SECONDS)
        pausing.clear()


class _Update:
    """The messages of an update, each in its place.

    Args:
        desk: Opens them.
        first: Of them.
        context: Of the call.

    Attributes:
        broken: What was wrong with a message. No answer is sealed over it: a carrier
            can put any message behind the site's.
    """

    def __init__(
        self,
        endpoint: SealedEndpoint,
        first: UnsealedRequest[pb.SyncMomentumRequest],
        context: Context,
    ) -> None:
        self._endpoint, self._first, self._context = endpoint, first, context
        self.broken: TeacherError | None = None

    async def messages(
        self, head: pb.SyncMomentumRequest
    ) -> AsyncGenerator[pb.SyncMomentumRequest, None]:
        """Yields the head, and what follows it."""
        yield head
        position = 0
        while True:
            request: Any = await self._context.read()
            if request is grpc.aio.EOF:
                return
            position += 1
            try:
                message = await self._opened(request, position)
            except TeacherError as error:
                self.broken = error
                raise
            yield message

    async def _opened(
        self, request: SealedRequest, position: int
    ) -> pb.SyncMomentumRequest:
        first = self._first
        if (request.site, request.request_id) != (first.site, first.request_id):
            raise MalformedRequestError("an update is of one site, under one id")
        kind = pb.SyncMomentumRequest
        question = await self._endpoint.open(
            "SyncMomentum", kind, request, position=position
        )
        return question.read()


@asynccontextmanager
async def _at_most(seconds: float, complaint: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise TeacherUnavailableError(f"{complaint} for {seconds:g} seconds") from None


ItemT = TypeVar("ItemT")

ResultT = TypeVar("ResultT")


async def ordered_map(
    items: AsyncIterator[ItemT],
    work: Callable[[ItemT], Awaitable[ResultT]],
    *,
    window: int,
) -> AsyncGenerator[ResultT, None]:
    """Yields the result of each item, in the order of the items.

    Who stops taking results stops the source. An error of an item or of the source
    is raised in its turn. To cancel what is under way, close the generator.

    Args:
        items: The source, for example a stream of requests.
        work: Called for each item; several run at once.
        window: Items fetched and not yet yielded, at most.
    """
    begun: asyncio.Queue[asyncio.Future[ResultT] | None] = asyncio.Queue()
    places = asyncio.Semaphore(window)

    async def fetch() -> None:
        try:
            while await places.acquire():
                begun.put_nowait(asyncio.ensure_future(work(await anext(items))))
        except StopAsyncIteration:
            pass
        finally:
            begun.put_nowait(None)

    fetching = asyncio.create_task(fetch())
    current: asyncio.Future[ResultT] | None = None
    try:
        while (current := await begun.get()) is not None:
            yield await current
            places.release()
        await fetching
    finally:
        fetching.cancel()
        await asyncio.wait([fetching])
        rest = [begun.get_nowait() for _ in range(begun.qsize())]
        await _cancel([task for task in (current, *rest) if task is not None])


async def _cancel(tasks: list[asyncio.Future[ResultT]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
