"""`RelayService`: a teacher's stream, from its attaching to its loss."""

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc

from moma_proto.v1 import relay_pb2 as pb
from moma_proto.v1.relay_pb2_grpc import RelayServiceServicer
from moma_server.relay.attachments import Attachment, Attachments
from moma_server.relay.limits import RelayBounds
from moma_server.relay.mux_stream import Frame
from moma_server.rpc.authorization import connected

_logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class RelayServicer(RelayServiceServicer):
    """Attaches teachers; who they are is in their certificates.

    Args:
        attached: Where their links are found.
        bounds: Of each link.
    """

    def __init__(self, attached: Attachments, bounds: RelayBounds) -> None:
        self._attached, self._bounds = attached, bounds

    async def Attach(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.TeacherFrame], context: Context
    ) -> None:
        """Serves one replica's calls until its stream ends."""
        teacher = connected().name
        attachment = Attachment(self._bounds)
        self._attached.add(teacher, attachment)
        _logger.info("teacher %s is linked", teacher)
        try:
            await attachment.link.run(_ServerWire(context))
        finally:
            self._attached.remove(teacher, attachment)
            _logger.info("teacher %s: a link has ended", teacher)


@dataclass(frozen=True, slots=True)
class _ServerWire:
    """The stream at the coordinator."""

    context: Context

    async def read(self) -> Frame | None:
        frame: Any = await self.context.read()
        return frame if isinstance(frame, pb.TeacherFrame) else None

    async def write(self, frame: Frame, /) -> None:
        await self.context.write(frame)
