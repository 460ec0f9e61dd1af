"""moma.v1.TeacherService: what each call reads and writes, and for how long.

What becomes of a query is on one page in `query.pipeline`; who may call at all is the
interceptor's to say (`rpc.authorization`).
"""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
)
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from moma_core.errors import (
    MalformedRequestError,
    MomaError,
    OversizedError,
    TeacherError,
    TeacherUnavailableError,
)
from moma_proto.convert import momentum as convert_momentum
from moma_proto.convert import teacher as convert
from moma_proto.v1 import teacher_pb2 as pb
from moma_proto.v1.sealed_pb2 import SealedRequest, SealedResponse
from moma_proto.v1.teacher_pb2_grpc import TeacherServiceServicer
from moma_server.rpc.authorization import caller
from moma_server.rpc.limits import Context
from moma_server.rpc.places import SiteBytes
from moma_server.teacher.end_to_end.endpoint import SealedEndpoint, UnsealedRequest
from moma_server.teacher.momentum.sessions import MomentumSessions
from moma_server.teacher.query.billing import BillingService, ChargeOrder, ChargeTurn
from moma_server.teacher.query.pipeline import QueryPipeline

MessageT = TypeVar("MessageT", bound=Message)

_BREAK_SECONDS = 0.1  # in which gRPC follows up on a message that it cut off


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What one stream may hold and how long it may be still.

    Args:
        window: Requests of an Embed stream that are read and not yet answered.
        idle_seconds: From the moment that the window has room until a request comes,
            also while others are being answered.
        write_seconds: Until the caller takes a response.
        sync_seconds: In which an update of a momentum session must be whole.
    """

    window: int = 4
    idle_seconds: float = 300.0
    write_seconds: float = 60.0
    sync_seconds: float = 300.0


class TeacherServicer(TeacherServiceServicer):
    """Serves moma.v1.TeacherService; the methods' names are the contract's.

    Args:
        endpoint: Opens requests and seals responses.
        pipeline: Takes queries from opening to sealing.
        billing: Knows the sites' budgets.
        sessions: Momentum sessions of the sites.
        limits: What a stream may hold.
    """

    def __init__(
        self,
        endpoint: SealedEndpoint,
        pipeline: QueryPipeline,
        billing: BillingService,
        sessions: MomentumSessions,
        limits: StreamLimits,
    ) -> None:
        self._endpoint = endpoint
        self._pipeline = pipeline
        self._billing = billing
        self._sessions = sessions
        self._limits = limits
        # all streams of a site hold together what one of them may
        largest = endpoint.description.bounds.max_message_bytes
        self._held = SiteBytes(limits.window * largest)

    async def Describe(
        self, _request: pb.DescribeRequest, _context: Context
    ) -> pb.DescribeResponse:
        """Returns the signed card."""
        return convert.signed_card_to_wire(self._endpoint.card())

    async def Embed(  # type: ignore[override]  # it writes by itself
        self, _requests: AsyncIterator[SealedRequest], context: Context
    ) -> None:
        """Answers each request of a stream, in order, several at a time."""
        pausing, order = asyncio.Event(), ChargeOrder()
        responses = ordered_map(
            self._requests(pausing, context),
            lambda received: self._embedded(*received, order.next()),
            window=self._limits.window,
        )
        try:
            async with aclosing(responses):
                async for response in responses:
                    async with _at_most(
                        self._limits.write_seconds, "no response was taken for"
                    ):
                        await context.write(response)
        except asyncio.CancelledError:  # by gRPC; a refusal is another error
            if pausing.is_set():
                too_large = OversizedError("a request is too large")
                self._endpoint.count_rejected("", too_large)
            raise

    def _embedded(
        self, sealed: SealedRequest, size: int, turn: ChargeTurn
    ) -> asyncio.Future[SealedResponse]:
        embedding = asyncio.ensure_future(self._pipeline.embed(sealed, turn))
        if (peer := caller()) is not None:
            freed = partial(self._held.free, peer.name, size)
            embedding.add_done_callback(lambda _embedding: freed())
        return embedding

    async def Budget(self, request: SealedRequest, _context: Context) -> SealedResponse:
        """Returns what is granted and charged to the calling site."""

        async def balance(site: str, _request: pb.BudgetRequest) -> pb.BudgetResponse:
            granted, charged = await self._billing.balance(site)
            return pb.BudgetResponse(granted_patches=granted, charged_patches=charged)

        return await self._endpoint.respond_once(
            "Budget", pb.BudgetRequest, request, balance
        )

    async def OpenSession(
        self, request: SealedRequest, _context: Context
    ) -> SealedResponse:
        """Opens a momentum session for the calling site."""

        async def opened(
            site: str, request: pb.OpenSessionRequest
        ) -> pb.OpenSessionResponse:
            with self._rejections_counted(site):
                card = self._endpoint.description.card
                wanted = convert_momentum.session_request_from_wire(request, card)
                session_id = self._sessions.open(site, wanted)
                return pb.OpenSessionResponse(session_id=session_id)

        return await self._endpoint.respond_once(
            "OpenSession", pb.OpenSessionRequest, request, opened
        )

    async def CloseSession(
        self, request: SealedRequest, _context: Context
    ) -> SealedResponse:
        """Closes a momentum session of the calling site."""

        async def closed(
            site: str, request: pb.CloseSessionRequest
        ) -> pb.CloseSessionResponse:
            with self._rejections_counted(site):
                self._sessions.close(site, request.session_id)
                return pb.CloseSessionResponse()

        return await self._endpoint.respond_once(
            "CloseSession", pb.CloseSessionRequest, request, closed
        )

    async def SyncMomentum(
        self, _requests: AsyncIterator[SealedRequest], context: Context
    ) -> SealedResponse:
        """Moves the copy of a momentum session of the calling site."""
        async with _at_most(self._limits.sync_seconds, "no update came for"):
            read: Any = await context.read()
        if read is grpc.aio.EOF:
            error = MalformedRequestError("an update begins with its head")
            self._endpoint.count_rejected("", error)
            raise error
        kind, first = pb.SyncMomentumRequest, self._endpoint.received(read)
        del read  # an update comes for long
        async with self._endpoint.open("SyncMomentum", kind, first) as head:
            pass  # an update comes for long, and leaves the place to others meanwhile
        update = _Update(self._endpoint, head, context)
        response = await self._endpoint.respond(head, self._sync(head, update))
        if update.broken is not None:
            raise update.broken
        return response

    async def _sync(
        self, head: UnsealedRequest[pb.SyncMomentumRequest], update: "_Update"
    ) -> Message:
        first = await self._endpoint.read_once(head)
        async with aclosing(update.messages(first)) as messages:
            try:
                async with _at_most(
                    self._limits.sync_seconds, "the update was not whole in"
                ):
                    await self._take_update(head.site, messages)
            except MomaError as error:
                if error is not update.broken:
                    self._endpoint.count_rejected(head.site, error)
                raise
        return pb.SyncMomentumResponse()

    async def _take_update(
        self, site: str, messages: AsyncIterator[pb.SyncMomentumRequest]
    ) -> None:
        """Takes an update in, chunk by chunk, and moves the session's copy."""
        head = convert_momentum.sync_head_from_wire(await anext(messages))
        with self._sessions.updating(site, head) as update:
            async for message in messages:
                update.add(convert_momentum.chunk_from_wire(message))
            await self._sessions.move(site, head, update)

    @contextmanager
    def _rejections_counted(self, site: str) -> Iterator[None]:
        try:
            yield
        except MomaError as error:
            self._endpoint.count_rejected(site, error)
            raise

    async def _requests(
        self, pausing: asyncio.Event, context: Context
    ) -> AsyncIterator[tuple[SealedRequest, int]]:
        """Yields what a stream brings, and its bytes.

        Not reading is what holds its sender back.
        """
        while True:
            async with _at_most(self._limits.idle_seconds, "no request came for"):
                read: Any = await context.read()
            if read is grpc.aio.EOF:
                break
            request, size = self._endpoint.received(read), len(read)
            del read  # or an idle stream would hold its last one
            if (peer := caller()) is not None:  # a relay has bounds of its own
                await self._held.hold(peer.name, size)
            yield request, size
            del request
        # A message over the limit looks like an end, and then the call breaks off.
        pausing.set()
        await asyncio.sleep(_BREAK_SECONDS)
        pausing.clear()


class _Update:
    """The messages of an update, each in its place.

    Args:
        endpoint: Opens the messages.
        head: First message of the update.
        context: Call that brings the others.

    Attributes:
        broken: What was wrong with a message, which is counted without a site. No
            response is sealed over it: a carrier can put any message behind the site's.
    """

    def __init__(
        self,
        endpoint: SealedEndpoint,
        head: UnsealedRequest[pb.SyncMomentumRequest],
        context: Context,
    ) -> None:
        self._endpoint, self._head, self._context = endpoint, head, context
        self.broken: TeacherError | None = None

    async def messages(
        self, first: pb.SyncMomentumRequest
    ) -> AsyncGenerator[pb.SyncMomentumRequest, None]:
        """Yields the first message, and what follows it."""
        yield first
        position = 0
        while True:
            read: Any = await self._context.read()
            if read is grpc.aio.EOF:
                return
            position += 1
            try:
                message = await self._opened(self._endpoint.received(read), position)
            except TeacherError as error:
                self.broken = error
                raise
            del read  # or it would be held until the next one
            yield message
            del message

    async def _opened(
        self, request: SealedRequest, position: int
    ) -> pb.SyncMomentumRequest:
        head = self._head
        if (request.site, request.request_id) != (head.site, head.request_id):
            error = MalformedRequestError("an update is of one site, under one id")
            self._endpoint.count_rejected("", error)
            raise error
        kind = pb.SyncMomentumRequest
        async with self._endpoint.open(
            "SyncMomentum", kind, request, position=position
        ) as opened:
            return opened.read()


@asynccontextmanager
async def _at_most(seconds: float, complaint: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise TeacherUnavailableError(f"{complaint} {seconds:g} seconds") from None


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
