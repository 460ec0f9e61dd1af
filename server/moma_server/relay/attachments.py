"""The teachers that have dialled in, and which of them serves a call."""

import itertools
from collections import OrderedDict, defaultdict
from collections.abc import Callable

from moma_core.errors import MalformedRequestError, TeacherBusyError, TeacherError
from moma_proto.v1 import relay_pb2 as pb
from moma_server.relay.limits import HeldBytes, RelayBounds
from moma_server.relay.mux import Link
from moma_server.relay.mux_stream import Frame, Lane

_MOST_REMEMBERED = 4096


class Attachment:
    """One replica of a teacher, at the other end of its `Attach` stream.

    Args:
        bounds: Of this end.

    Attributes:
        link: Its calls.
        is_leaving: It takes no new calls.
    """

    def __init__(self, bounds: RelayBounds) -> None:
        self.link = Link(
            pb.RelayFrame, bounds, on_part=self._take, on_busy=self._refuse
        )
        self.link.say(pb.RelayFrame(keep_alive=pb.RelayKeepAlive()))  # be welcome
        self.is_leaving = False
        self._ids = itertools.count(1)

    def open(self, method: str, timeout_ms: int, account: HeldBytes) -> Lane:
        """Starts a call at the teacher.

        Args:
            method: As gRPC names it.
            timeout_ms: Until the caller's deadline; 0: it has none.
            account: Is charged for what the call holds here.

        Raises:
            TeacherBusyError: Too many are open.
            TeacherUnavailableError: The link has just been lost.
        """
        call_id = next(self._ids)
        lane = self.link.add(call_id, account)
        opening = pb.RelayOpen(method=method, timeout_ms=timeout_ms)
        lane.begin(pb.RelayFrame(call_id=call_id, open=opening))
        return lane

    def _take(self, lane: Lane | None, frame: Frame) -> None:
        if not isinstance(frame, pb.TeacherFrame):
            raise MalformedRequestError("a frame goes the wrong way")
        if frame.WhichOneof("part") == "leaving":
            self.is_leaving = True
        elif lane is not None:
            lane.finish(frame.status)

    def _refuse(self, lane: Lane, error: TeacherBusyError) -> None:
        cancel(lane, error)


def cancel(lane: Lane, error: TeacherError | None = None) -> None:
    """Ends a call at this end, and tells the teacher if it is open there."""
    lane.end(pb.RelayFrame(call_id=lane.call_id, cancel=pb.RelayCancel()), error)


class Attachments:
    """All that are there, by the name in their certificates.

    Args:
        on_change: Called with how many links each teacher has, when that changes.
    """

    def __init__(self, on_change: Callable[[dict[str, int]], None]) -> None:
        self._on_change = on_change
        self._links: defaultdict[str, list[Attachment]] = defaultdict(list)
        self._chosen: OrderedDict[tuple[str, str, str], Attachment] = OrderedDict()

    def add(self, teacher: str, attachment: Attachment) -> None:
        """Takes calls for a teacher to a new link."""
        self._links[teacher].append(attachment)
        self._tell()

    def remove(self, teacher: str, attachment: Attachment) -> None:
        """Forgets a link that has ended."""
        self._links[teacher].remove(attachment)
        if not self._links[teacher]:
            del self._links[teacher]
        for key in [key for key, kept in self._chosen.items() if kept is attachment]:
            del self._chosen[key]
        self._tell()

    def choose(self, teacher: str, site: str, thread: str) -> Attachment | None:
        """Returns who serves a call: the replica with the fewest open calls.

        Args:
            teacher: Its name.
            site: Who calls, as its certificate says.
            thread: The caller's word for calls that belong together: they go to one
                replica for as long as it is there, so that a momentum session finds
                its copy. Empty: the call stands alone.
        """
        willing = [one for one in self._links.get(teacher, ()) if not one.is_leaving]
        key = (teacher, site, thread)
        kept = self._chosen.get(key)
        if kept is not None and kept in willing:
            self._chosen.move_to_end(key)
            return kept
        if not willing:
            return None
        chosen = min(willing, key=lambda one: one.link.calls)
        if thread:
            self._chosen[key] = chosen
            while len(self._chosen) > _MOST_REMEMBERED:
                self._chosen.popitem(last=False)
        return chosen

    def _tell(self) -> None:
        self._on_change({name: len(links) for name, links in self._links.items()})
