"""The calls of a momentum session, off the wire: open, sync, close."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from moma_core.errors import MomaError, TeacherUnavailableError, meaning_of
from moma_core.teacher.card.card import TeacherCard
from moma_proto.convert import momentum as convert
from moma_proto.v1 import teacher_pb2 as pb
from moma_server.metrics.metrics import TeacherMetrics
from moma_server.teacher.momentum.sessions import MomentumSessions


class MomentumCalls:
    """Serves the calls that are about sessions; each raises what the sessions raise.

    Args:
        card: The teacher's.
        sessions: The open ones.
        metrics: Gets what is denied.
        sync_seconds: In which an update must be whole.
    """

    def __init__(
        self,
        card: TeacherCard,
        sessions: MomentumSessions,
        metrics: TeacherMetrics,
        sync_seconds: float,
    ) -> None:
        self._card = card
        self._sessions = sessions
        self._metrics = metrics
        self._sync_seconds = sync_seconds

    def open(self, site: str, request: pb.OpenSessionRequest) -> pb.OpenSessionResponse:
        """Opens a session for the calling site."""
        with self._denials_counted(site):
            asked = convert.session_request_from_wire(request, self._card)
            identity = self._sessions.open(site, asked)
            return pb.OpenSessionResponse(session_id=identity)

    async def sync(
        self, site: str, requests: AsyncIterator[pb.SyncMomentumRequest]
    ) -> pb.SyncMomentumResponse:
        """Takes an update in, chunk by chunk, and moves the session's copy."""
        with self._denials_counted(site):
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

    def close(
        self, site: str, request: pb.CloseSessionRequest
    ) -> pb.CloseSessionResponse:
        """Ends a session of the calling site."""
        with self._denials_counted(site):
            self._sessions.close(site, request.session_id)
            return pb.CloseSessionResponse()

    @contextmanager
    def _denials_counted(self, site: str) -> Iterator[None]:
        try:
            yield
        except MomaError as error:
            reason = meaning_of(error).denial
            if reason is not None:
                self._metrics.denied.labels(site, self._card.name, reason).inc()
            raise
