"""The node's loop: takes the coordinator's messages, answers with the installed app.

Nothing that a bundle carries is ever run: only the installed ClientApp is called, and
only for runs that name exactly the installed bundle. What goes back in an error is a
fixed text; the details stay in the site's log.
"""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import ConfigRecord, Context, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    inflate_object_from_contents,
    pull_objects,
    push_objects,
)
from flwr.supercore.run import Run, RunNotRunningException

from moma_client.federation.client_app import app, envelope_of, failure, refusal
from moma_client.federation.inbox import TaskStore
from moma_client.federation.node import NodeSettings
from moma_core.errors import DiskError, FederationError
from moma_core.federation.bounds import MessageBounds
from moma_core.federation.messages import unpack_task
from moma_core.runtime.canonical_json import parsed_json
from moma_proto.bundle import bundle_hash

_logger = logging.getLogger(__name__)

_IDLE_SECONDS = 5.0
_PULL_SECONDS = 120.0  # for what the coordinator has announced and not sent
_ORIGIN_FIELDS = (
    "run_id",
    "message_id",
    "src_node_id",
    "dst_node_id",
    "reply_to_message_id",
    "group_id",
    "created_at",
    "ttl",
    "message_type",
    "src_task_id",
    "dst_task_id",
)


@dataclass(frozen=True, slots=True)
class FleetLink:
    """Flower's connection: what `http_request_response` yields, in its order."""

    node_id: int
    receive: Callable[[], tuple[Message, ObjectTree] | None]
    send: Callable[[Message, ObjectTree, float], tuple[set[str], str]]
    get_run: Callable[[int], Run]
    get_fab: Callable[..., object]
    pull_object: Callable[[int, str], bytes]
    push_object: Callable[[int, str, str, bytes], None]
    confirm: Callable[[int, str], None]


class NodeLoop:
    """Serves the coordinator's messages one after the other.

    Args:
        link: Open connection to the coordinator.
        store: Where the session finds the task and leaves the report.
        settings: Settings of this site's node.
        on_idle: Called now and then while no message is there.
    """

    def __init__(
        self,
        link: FleetLink,
        store: TaskStore,
        settings: NodeSettings,
        on_idle: Callable[[], None] = lambda: None,
    ) -> None:
        self._link = link
        self._store = store
        self._settings = settings
        self._on_idle = on_idle
        self._served_runs: set[int] = set()

    def serve(self) -> None:
        """Answers what was left over, then what comes; ends with the process."""
        stored = self._store.task()
        if stored is not None:
            self._deliver(self._work(_restored(stored.origin)))
        idle_at = time.monotonic()
        while True:
            if self._next():
                continue
            if time.monotonic() - idle_at > _IDLE_SECONDS:
                self._on_idle()
                idle_at = time.monotonic()
            time.sleep(self._settings.poll_seconds)

    def _next(self) -> bool:
        """Handles one message; False when there was none."""
        try:
            received = self._link.receive()
            if received is None:
                return False
            self._deliver(self._reply(*received))
        except RunNotRunningException:
            _logger.info("the run of a message is over")
        return True

    def _reply(self, message: Message, tree: ObjectTree) -> Message:
        run_id = message.metadata.run_id
        if not self._serves(run_id):
            _logger.warning("a run of another bundle was refused")
            return refusal(message)
        try:
            content = self._pull(message, tree)
            task = unpack_task(
                envelope_of(content),
                max_weights_bytes=self._settings.max_weights_bytes,
            )
            self._store.put_task(task, _origin(message.metadata))
        except (FederationError, ObjectPullError, KeyError, ValueError) as error:
            _logger.warning("a task was not read: %s", error)
            return failure(message)
        except DiskError as error:
            _logger.error("a task was not taken: %s", error)
            return failure(message)
        # from here on a kill loses nothing, so the coordinator may forget it
        self._link.confirm(run_id, message.metadata.message_id)
        return self._work(message)

    def _serves(self, run_id: int) -> bool:
        if run_id not in self._served_runs:
            if self._link.get_run(run_id).fab_hash != bundle_hash():
                return False
            self._served_runs.add(run_id)
        return True

    def _pull(self, message: Message, tree: ObjectTree) -> RecordDict:
        bounds = MessageBounds(self._settings.max_weights_bytes)
        object_ids = [part.object_id for part in iterate_object_tree(tree)]
        bounds.check_ids(object_ids)
        metadata = message.metadata
        contents = pull_objects(
            object_ids,
            bounds.metered(
                lambda object_id: self._link.pull_object(metadata.run_id, object_id)
            ),
            initial_backoff=0.05,
            backoff_cap=2.0,
            max_time=_PULL_SECONDS,
        )
        bounds.check(contents)
        try:
            whole = inflate_object_from_contents(metadata.message_id, contents)
        except Exception as error:  # the border: Flower parses here what was sent
            raise FederationError("the task is not whole") from error
        if not isinstance(whole, Message) or not whole.has_content():
            raise FederationError("the task holds nothing")
        return whole.content

    def _work(self, message: Message) -> Message:
        context = Context(
            run_id=message.metadata.run_id,
            node_id=self._link.node_id,
            node_config={"folder": str(self._settings.folder)},
            state=RecordDict(),
            run_config={},
        )
        return app(message, context)

    def _deliver(self, reply: Message) -> None:
        run_id = reply.metadata.run_id
        reply.metadata.__dict__["_message_id"] = reply.object_id
        try:
            with no_object_id_recompute():
                tree = get_object_tree(reply)
                objects = get_all_nested_objects(reply)
                wanted, session = self._link.send(reply, tree, 0.0)
                push_objects(
                    objects,
                    lambda object_id, content: self._link.push_object(
                        run_id, session, object_id, content
                    ),
                    object_ids_to_push=wanted,
                )
            if not wanted:
                _logger.info("the coordinator waits for this answer no more")
        except RunNotRunningException:
            _logger.info("the run of an answer is over")
        stored = self._store.task()
        if stored is not None and self._store.is_reported(stored.task):
            self._store.answered(stored.task)


def _origin(metadata: Metadata) -> str:
    return json.dumps({name: getattr(metadata, name) for name in _ORIGIN_FIELDS})


def _restored(origin: str) -> Message:
    """Returns the message that asked for a stored task, as far as replies need it."""
    content = RecordDict({"task": ConfigRecord({})})
    return make_message(Metadata(**parsed_json(origin)), content=content)
