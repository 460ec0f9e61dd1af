"""The calls of a momentum session, off the wire: open, sync, close."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from moma_core.errors import MomaError, TeacherUnavailableError
from moma_core.teacher.card.card import TeacherCard
from moma_proto.convert import momentum as convert
from moma_proto.v1 import teacher_pb2 as pb
from moma_server.teacher.momentum.sessions import MomentumSessions


class MomentumCalls:
    """Serves the calls about sessions; each raises what `MomentumSessions` raises.

    Args:
        card: The teacher's card.
        sessions: Sessions that are open.
        count_rejected: Counts a call that was rejected, by its site and error.
        sync_seconds: In which an update must be whole.
    """

    def __init__(
        self,
        card: TeacherCard,
        sessions: MomentumSessions,
        count_rejected: Callable[[str, MomaError], None],
        sync_seconds: float,
    ) -> None:
        self._card = card
        self._sessions = sessions
        self._count_rejected = count_rejected
        self._sync_seconds = sync_seconds

    async def open(
        self, site: str, request: pb.OpenSessionRequest
    ) -> pb.OpenSessionResponse:
        """Opens a session for the calling site."""
        with self._rejections_counted(site):
            wanted = convert.session_request_from_wire(request, self._card)
            session_id = self._sessions.open(site, wanted)
            return pb.OpenSessionResponse(session_id=session_id)

    async def sync(
        self, site: str, requests: AsyncIterator[pb.SyncMomentumRequest]
    ) -> pb.SyncMomentumResponse:
        """Takes an update in, chunk by chunk, and moves the session's copy."""
        with self._rejections_counted(site):
            try:
                async with asyncio.timeout(self._sync_seconds):
                    first = await anext(requests, pb.SyncMomentumRequest())
                    head = convert.sync_head_from_wire(first)
                    with self._sessions.updating(site, head) as update:
                        async for request in requests:
                            update.add(convert.chunk_from_wire(request))
                        await self._sessions.move(site, head, update)
            except TimeoutError:
                message = f"the update was not whole in {self._sync_seconds:g} seconds"
                raise TeacherUnavailableError(message) from None
        return pb.SyncMomentumResponse()

    async def close(
        self, site: str, request: pb.CloseSessionRequest
    ) -> pb.CloseSessionResponse:
        """Ends a session of the calling site."""
        with self._rejections_counted(site):
            self._sessions.close(site, request.session_id)
            return pb.CloseSessionResponse()

    @contextmanager
    def _rejections_counted(self, site: str) -> Iterator[None]:
        try:
            yield
        except MomaError as error:
            self._count_rejected(site, error)
            raise
