"""One relayed call at one end of a stream."""

from collections.abc import Callable

from moma_core.errors import TeacherError, TeacherUnavailableError
from moma_proto.v1 import relay_pb2 as pb
from moma_server.relay.flow_control import Incoming, Outgoing
from moma_server.relay.limits import HeldBytes, RelayBounds

Frame = pb.RelayFrame | pb.TeacherFrame
FrameKind = type[pb.RelayFrame] | type[pb.TeacherFrame]


class Lane:
    """Frames of one call, in order: its opening, its messages, its end.

    Args:
        call_id: Of the call.
        kind: Of the frames that this end sends.
        bounds: Of this end.
        account: Is charged for what the call holds.
        wake: Called when there is something to send.

    Attributes:
        call_id: See above.
        incoming: Messages of the other end.
        outgoing: Messages of this end.
        status: What the teacher said at the call's end.
        is_over: Frames of the other end are ignored from here on.
    """

    def __init__(
        self,
        call_id: int,
        kind: FrameKind,
        bounds: RelayBounds,
        account: HeldBytes,
        wake: Callable[[], None],
    ) -> None:
        self.call_id = call_id
        self.incoming = Incoming(bounds, account, wake)
        self.outgoing = Outgoing(bounds, account, wake)
        self.status: pb.RelayStatus | None = None
        self.is_over = False
        self._kind, self._wake = kind, wake
        self._first: Frame | None = None
        self._last: Frame | None = None

    def begin(self, frame: Frame) -> None:
        """Sends the call's opening."""
        self._first = frame
        self._wake()

    def close(self, frame: Frame) -> None:
        """Says after the last message that none follows."""
        self._last = frame
        self._wake()

    def end(self, frame: Frame | None, error: TeacherError | None = None) -> None:
        """Ends the call at this end, at once.

        Args:
            frame: Tells the other end; None where it knows, or is gone.
            error: For whoever still waits on the call here.
        """
        error = error or TeacherUnavailableError("the relayed call is over")
        self.incoming.stop(error)
        if self.is_over:
            return
        self.is_over = True
        self.outgoing.stop(error)
        # A call that the other end never heard of needs no end there.
        self._last = None if self._first is not None else frame
        self._first = None
        self._wake()

    def finish(self, status: pb.RelayStatus) -> None:
        """Takes the teacher's end of the call; its messages can still be taken."""
        self.status = status
        self.is_over = True
        self._last = None
        self.incoming.close()
        self.outgoing.stop(TeacherUnavailableError("the teacher has ended the call"))
        self._wake()

    @property
    def is_done(self) -> bool:
        """Whether the call is over and its end was sent."""
        return self.is_over and self._last is None

    def next_frame(self) -> Frame | None:
        """Returns what is to be sent next, if anything can be now."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if not self.is_over:
            if credit := self.incoming.credit_due():
                return self._kind(
                    call_id=self.call_id, credit=pb.RelayCredit(bytes=credit)
                )
            if (chunk := self.outgoing.next_chunk()) is not None:
                return self._kind(call_id=self.call_id, chunk=chunk)
        if not self.outgoing.is_empty:
            return None
        last, self._last = self._last, None
        return last
