"""The messages and objects that each node may touch: those that were passed to it.

The engine hands any object to any node that knows its name, and forgets a message on
anybody's word. The edge keeps, for each node, the messages that it has passed to it and
the objects that they consist of, and lets it pull, confirm and reply to these alone.

Nothing is kept on disk. The engine ends its runs when the coordinator does, so that
after a restart no message of before can be pulled or replied to anyway: the node is
refused, gives the message up, and gets another in the next run.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

_MAX_CAPABILITIES = 32  # of one node, which takes one after the other
_MAX_REPLIES = 4  # to one message: a node that was killed may make its reply anew


@dataclass(frozen=True, slots=True)
class Capability:
    """A message that was passed to a node.

    Args:
        message_id: Id of the message, and the name of the object that it is.
        run_id: The run that the message belongs to.
        objects: All objects that the message consists of, itself among them.
        expires_at: When the message is worth nothing, in seconds since 1970.
    """

    message_id: str
    run_id: int
    objects: frozenset[str]
    expires_at: float


@dataclass(frozen=True, slots=True)
class _Upload:
    """The objects of a reply that the engine has requested."""

    run_id: int
    session_id: str
    objects: frozenset[str]


@dataclass(slots=True)
class _Entry:
    """A message, and how its node replied."""

    capability: Capability
    upload: _Upload | None = None
    replies: set[str] = field(default_factory=set)


class Capabilities:
    """The open messages of all nodes; not for more than one thread.

    Args:
        max_objects: Objects of one node; its oldest message is forgotten first.
        clock: Returns seconds since 1970.
    """

    def __init__(
        self, *, max_objects: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._max_objects = max_objects
        self._clock = clock
        self._entries: dict[int, OrderedDict[str, _Entry]] = {}

    def add(self, node_id: int, capability: Capability) -> None:
        """Lets a node touch a message that was passed to it."""
        entries = self._entries.setdefault(node_id, OrderedDict())
        entries[capability.message_id] = _Entry(capability)
        entries.move_to_end(capability.message_id)
        size = sum(len(entry.capability.objects) for entry in entries.values())
        while len(entries) > 1 and (
            len(entries) > _MAX_CAPABILITIES or size > self._max_objects
        ):
            _, oldest = entries.popitem(last=False)
            size -= len(oldest.capability.objects)

    def want(
        self,
        node_id: int,
        message_id: str,
        *,
        reply_id: str,
        session_id: str,
        objects: Collection[str],
    ) -> None:
        """Lets a node push the objects of its reply that the engine has requested."""
        entry = self._open(node_id).get(message_id)
        if entry is not None:
            entry.replies.add(reply_id)
            run_id = entry.capability.run_id
            entry.upload = _Upload(run_id, session_id, frozenset(objects))

    def has_run(self, node_id: int, run_id: int) -> bool:
        """Whether a message of a run was passed to a node."""
        return any(e.capability.run_id == run_id for e in self._open(node_id).values())

    def has_message(self, node_id: int, run_id: int, message_id: str) -> bool:
        """Whether this very message was passed to a node."""
        entry = self._open(node_id).get(message_id)
        return entry is not None and entry.capability.run_id == run_id

    def may_reply(
        self, node_id: int, run_id: int, *, message_id: str, reply_id: str
    ) -> bool:
        """Whether a node may give this reply to a message that was passed to it.

        The engine makes room for the objects of every reply to a message, so there may
        be few.
        """
        entry = self._open(node_id).get(message_id)
        return (
            entry is not None
            and entry.capability.run_id == run_id
            and (reply_id in entry.replies or len(entry.replies) < _MAX_REPLIES)
        )

    def may_pull(self, node_id: int, run_id: int, object_id: str) -> bool:
        """Whether an object is part of a message that was passed to a node."""
        return any(
            entry.capability.run_id == run_id and object_id in entry.capability.objects
            for entry in self._open(node_id).values()
        )

    def may_push(
        self, node_id: int, run_id: int, *, session_id: str, object_id: str
    ) -> bool:
        """Whether the engine has requested an object of a node's reply."""
        return any(
            upload.run_id == run_id
            and upload.session_id == session_id
            and object_id in upload.objects
            for entry in self._open(node_id).values()
            if (upload := entry.upload) is not None
        )

    def keep(self, node_ids: Collection[int]) -> None:
        """Forgets the nodes that are gone."""
        self._entries = {
            node_id: entries
            for node_id, entries in self._entries.items()
            if node_id in node_ids
        }

    def _open(self, node_id: int) -> OrderedDict[str, _Entry]:
        """Returns a node's messages without those that have expired."""
        entries = self._entries.get(node_id, OrderedDict())
        now = self._clock()
        for message_id in [
            m for m, e in entries.items() if e.capability.expires_at <= now
        ]:
            del entries[message_id]
        return entries
