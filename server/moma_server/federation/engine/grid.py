"""A run's sites over Flower's grid: tasks out, reports in."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import httpx
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    ObjectUnavailableError,
    pull_objects,
)
from flwr.superlink.grid import http_grid

from moma_core.errors import FederationError
from moma_core.federation.bounds import MessageBounds, most_bytes
from moma_core.federation.messages import Envelope, pack_task, unpack_report
from moma_core.federation.task import RoundReport, RoundTask
from moma_server.federation.engine.control import FlowerNode
from moma_server.federation.run.round import Reply, Trouble

_logger = logging.getLogger(__name__)

_MAX_PULLS = 64
_HELD_BYTES = 16 << 30
_COPIES = 4  # of a report while it is read: objects, array, bytes, tensors

_TROUBLES: dict[int, tuple[Trouble, str]] = {
    ErrorCode.NODE_UNAVAILABLE: ("away", "the site was lost"),
    ErrorCode.MESSAGE_UNAVAILABLE: ("away", "the site's answer was lost"),
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: ("away", "the site's answer was lost"),
    ErrorCode.INVALID_FAB: ("refused", "the site does not serve this bundle"),
}


class FlowerSites:
    """Reaches the sites through SuperLink, see `Sites`.

    Replies are pulled in threads, one a site, so that a site that starts an upload and
    never ends it holds up nobody else. Of those that have arrived, as many are in
    memory at once as the largest of them allow.

    Args:
        grid: Flower's grid of the run.
        nodes: Returns the sites' nodes; sites may join between two rounds.
        max_weights_bytes: Larger weights are not read; 0 where none are due.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        nodes: Callable[[], Mapping[str, FlowerNode]],
        max_weights_bytes: int,
    ) -> None:
        # the grid takes no such setting, so the function that it calls is ours
        self._room = ReportRoom(most_reports(max_weights_bytes))
        vars(http_grid)["pull_objects"] = bounded_pull(max_weights_bytes, self._room)
        self._grid = grid
        self._nodes = nodes
        self._max_weights_bytes = max_weights_bytes
        self._sent: set[str] = set()
        self._pulls: dict[str, Future[_Pulled]] = {}
        self._threads = ThreadPoolExecutor(_MAX_PULLS, "pull")

    def available(self) -> Collection[str]:
        """Names the registered sites whose node is online."""
        online = set(self._grid.get_node_ids())
        return [site for site, node in self._nodes().items() if node.node_id in online]

    def connected_at(self) -> Mapping[str, float]:
        """Returns when each registered site connected last, in seconds since 1970."""
        return {site: node.connected_at for site, node in self._nodes().items()}

    def send(self, site: str, task: RoundTask, *, seconds: float) -> str | None:
        """Sends `task`; it is worth nothing after `seconds`."""
        node = self._nodes().get(site)
        if node is None:
            return None  # revoked a moment ago
        message = Message(
            _to_records(pack_task(task)),
            dst_node_id=node.node_id,
            message_type="train",
            ttl=max(seconds, 1.0),
            group_id=str(task.round),
        )
        try:
            (message_id,) = self._grid.push_messages([message])
        except (ObjectPushError, httpx.HTTPError, ValueError):
            _logger.warning("%s: the task could not be sent", site, exc_info=True)
            return None
        if message_id:
            self._sent.add(message_id)
        return message_id or None

    def poll(self) -> Sequence[Reply]:
        """Returns the replies that are complete, and pulls more meanwhile."""
        replies = []
        for message_id in list(self._sent):
            pull = self._pulls.get(message_id)
            if pull is None:
                self._pulls[message_id] = self._threads.submit(self._pull, message_id)
            elif pull.done():
                del self._pulls[message_id]
                if (reply := self._taken(pull)) is not None:
                    self._sent.discard(message_id)
                    replies.append(reply)
        return replies

    def forget(self) -> None:
        """Drops every message that has no reply yet."""
        for pull in self._pulls.values():
            if not pull.cancel():
                pull.add_done_callback(self._taken)
        self._pulls.clear()
        self._sent.clear()

    def _taken(self, pull: "Future[_Pulled]") -> Reply | None:
        """Returns what was pulled; from here on it is another's to hold."""
        reply, has_room = pull.result()
        if has_room:
            self._room.leave()
        return reply

    def _pull(self, message_id: str) -> "_Pulled":
        self._room.begin()
        reply = self._read(message_id)
        if reply is None or reply.report is None:
            self._room.leave_if_inside()
        return _Pulled(reply, self._room.is_inside)

    def _read(self, message_id: str) -> Reply | None:
        try:
            pulled = list(self._grid.pull_messages([message_id]))
            return self._reply(message_id, pulled[0]) if pulled else None
        except httpx.HTTPError:
            _logger.warning("a reply could not be pulled", exc_info=True)
            return None  # the next poll tries again
        except Exception:  # the border: what a site has sent is parsed here
            _logger.warning("a reply could not be read", exc_info=True)
            return Reply(message_id, reason="the report breaks its contract")

    def _reply(self, message_id: str, message: Message) -> Reply:
        if message.has_error():
            trouble, reason = _TROUBLES.get(
                message.error.code, ("failed", "the site could not do the work")
            )
            return Reply(message_id, None, trouble, reason)
        try:
            return Reply(message_id, self._report(message.content))
        except FederationError as error:
            _logger.warning("a report was not read: %s", error)
            return Reply(message_id, reason="the report breaks its contract")

    def _report(self, content: RecordDict) -> RoundReport:
        return unpack_report(
            _from_records(content), max_weights_bytes=self._max_weights_bytes
        )


def _to_records(envelope: Envelope) -> RecordDict:
    records = RecordDict({"task": ConfigRecord({"header": envelope.header})})
    if envelope.weights is not None:
        size = len(envelope.weights)
        blob = Array("uint8", (size,), "safetensors", envelope.weights)
        records["weights"] = ArrayRecord({"safetensors": blob})
    return records


def _from_records(records: RecordDict) -> Envelope:
    try:
        header = records.config_records["report"]["header"]
        blob = records.array_records.get("weights")
        # the bytes themselves: `numpy()` would parse what the sender calls an array
        weights = None if blob is None else blob["safetensors"].data
    except (KeyError, ValueError, TypeError) as error:
        raise FederationError("the report's parts are not as agreed") from error
    if not isinstance(header, str):
        raise FederationError("the report's header is no text")
    return Envelope(header, weights)


class _Pulled(NamedTuple):
    reply: Reply | None
    has_room: bool


def most_reports(max_weights_bytes: int) -> int:
    """Returns how many reports with such weights may be in memory at once."""
    fitting = _HELD_BYTES // (_COPIES * most_bytes(max_weights_bytes))
    return max(1, min(fitting, _MAX_PULLS))


class ReportRoom:
    """Room in memory for some reports; a thread waits until there is some.

    Args:
        most: How many reports.
    """

    def __init__(self, most: int) -> None:
        self._places = threading.BoundedSemaphore(most)
        self._thread = threading.local()

    @property
    def is_inside(self) -> bool:
        """Whether this thread has room for the report at hand."""
        return bool(self._thread.is_inside)

    def begin(self) -> None:
        """Says that this thread turns to another report."""
        self._thread.is_inside = False

    def enter(self) -> None:
        """Takes room for this thread's report, as soon as there is some."""
        self._places.acquire()
        self._thread.is_inside = True

    def leave_if_inside(self) -> None:
        """Gives up the room that this thread has taken, if it has."""
        if self.is_inside:
            self._thread.is_inside = False
            self.leave()

    def leave(self) -> None:
        """Gives up the room of one report, whichever thread has taken it."""
        self._places.release()


_PULL_SECONDS = 300.0
_REST_SECONDS = 120.0  # for room, and for what is uploaded before the last object
_PAUSE_SECONDS = 1.0  # outside the room, before half a report has its next turn


def bounded_pull(
    max_weights_bytes: int, room: ReportRoom
) -> Callable[[list[str], Callable[[str], bytes]], dict[str, bytes]]:
    """Returns what stands in for Flower's `pull_objects` in the run's grid.

    A reply is seen a moment before its objects; Flower then waits a second. It also
    waits two hours when a site never completes its upload, and takes what comes. Here a
    report waits outside until its last object is there, the message itself, and leaves
    the room again where the others are not, so that no upload keeps others out.
    """

    def pull(
        object_ids: list[str], pull_object_fn: Callable[[str], bytes]
    ) -> dict[str, bytes]:
        bounds = MessageBounds(max_weights_bytes)
        bounds.check_ids(object_ids)
        metered = bounds.metered(pull_object_fn)
        contents = _pull_all(object_ids[-1:], metered, seconds=_PULL_SECONDS)
        end = time.monotonic() + _REST_SECONDS
        while True:
            metered = MessageBounds(max_weights_bytes).metered(pull_object_fn)
            rest = _pull_in_turn(object_ids[:-1], metered, room)
            if rest is not None:
                break
            if time.monotonic() > end:
                raise ObjectPullError(object_ids[-1], "the upload was not completed")
            time.sleep(_PAUSE_SECONDS)
        contents |= rest
        bounds.check(contents)
        return contents

    return pull


def _pull_in_turn(
    object_ids: list[str], pull: Callable[[str], bytes], room: ReportRoom
) -> dict[str, bytes] | None:
    """Returns the objects, and has room for them; none where some are missing."""
    missing = threading.Event()

    def look(object_id: str) -> bytes:
        try:
            return pull(object_id)
        except ObjectUnavailableError:
            missing.set()
            raise

    room.enter()
    try:
        return _pull_all(object_ids, look, seconds=0.0)  # none is waited for
    except ObjectPullError:
        if not missing.is_set():
            raise
        room.leave_if_inside()
        return None


def _pull_all(
    object_ids: list[str], pull: Callable[[str], bytes], *, seconds: float
) -> dict[str, bytes]:
    return pull_objects(
        object_ids, pull, initial_backoff=0.05, backoff_cap=1.0, max_time=seconds
    )
