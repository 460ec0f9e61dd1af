"""A run's sites over Flower's grid: tasks out, reports in."""

import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_type_from_object_content,
)
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError, pull_objects
from flwr.superlink.grid import http_grid

from moma_core.errors import FederationError
from moma_core.federation.messages import (
    Envelope,
    Meter,
    most_bytes,
    most_parts,
    pack_task,
    unpack_report,
)
from moma_core.federation.task import RoundReport, RoundTask
from moma_server.federation.run.round import Reply, Trouble

_logger = logging.getLogger(__name__)

_MAX_PULLS = 64

_TROUBLES: dict[int, tuple[Trouble, str]] = {
    ErrorCode.NODE_UNAVAILABLE: ("away", "the site was lost"),
    ErrorCode.MESSAGE_UNAVAILABLE: ("away", "the site's answer was lost"),
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: ("away", "the site's answer was lost"),
    ErrorCode.INVALID_FAB: ("refused", "the site does not serve this bundle"),
}


class FlowerSites:
    """Reaches the sites through SuperLink, see `Sites`.

    Replies are pulled in threads, one a site, so that a site that starts an upload and
    never ends it holds up nobody else.

    Args:
        grid: Flower's grid of the run.
        nodes: Returns site -> node id; sites may join between two rounds.
        max_weights_bytes: Larger weights are not read; 0 where none are due.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        nodes: Callable[[], Mapping[str, int]],
        max_weights_bytes: int,
    ) -> None:
        # the grid takes no such setting, so the function that it calls is ours
        vars(http_grid)["pull_objects"] = bounded_pull(max_weights_bytes)
        self._grid = grid
        self._nodes = nodes
        self._max_weights_bytes = max_weights_bytes
        self._sent: set[str] = set()
        self._pulls: dict[str, Future[Reply | None]] = {}
        self._threads = ThreadPoolExecutor(_MAX_PULLS, "pull")

    def available(self) -> Collection[str]:
        """Names the registered sites whose node is online."""
        online = set(self._grid.get_node_ids())
        return [site for site, node in self._nodes().items() if node in online]

    def send(self, site: str, task: RoundTask, *, seconds: float) -> str | None:
        """Sends `task`; it is worth nothing after `seconds`."""
        node_id = self._nodes().get(site)
        if node_id is None:
            return None  # revoked a moment ago
        message = Message(
            _to_records(pack_task(task)),
            dst_node_id=node_id,
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
                if (reply := pull.result()) is not None:
                    self._sent.discard(message_id)
                    replies.append(reply)
        return replies

    def forget(self) -> None:
        """Drops every message that has no reply yet."""
        for pull in self._pulls.values():
            pull.cancel()
        self._pulls.clear()
        self._sent.clear()

    def _pull(self, message_id: str) -> Reply | None:
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


_PULL_SECONDS = 300.0


def bounded_pull(
    max_weights_bytes: int,
) -> Callable[[list[str], Callable[[str], bytes]], dict[str, bytes]]:
    """Returns what stands in for Flower's `pull_objects` in the run's grid.

    A reply is seen a moment before its objects; Flower then waits a second. It also
    waits two hours when a site never completes its upload, and takes what comes.
    """

    def pull(
        object_ids: list[str], pull_object_fn: Callable[[str], bytes]
    ) -> dict[str, bytes]:
        if len(object_ids) > most_parts(max_weights_bytes):
            raise FederationError(f"a report of {len(object_ids)} parts is not taken")
        meter = Meter(most_bytes(max_weights_bytes))
        contents = pull_objects(
            object_ids,
            lambda object_id: meter.count(pull_object_fn(object_id)),
            initial_backoff=0.05,
            backoff_cap=1.0,
            max_time=_PULL_SECONDS,
        )
        if _chunks(contents.values()) > most_parts(max_weights_bytes):
            raise FederationError("a report that repeats its parts is not taken")
        return contents

    return pull


def _chunks(contents: Iterable[bytes]) -> int:
    """Counts the chunks that arrays are joined from; one chunk may stand often."""
    return sum(
        len(json.loads(get_object_body(content, Array))["arraychunk_ids"])
        for content in contents
        if get_object_type_from_object_content(content) == "Array"
    )
