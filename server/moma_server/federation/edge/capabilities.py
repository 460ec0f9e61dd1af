"""What each node was offered, and what it was asked for: it may touch nothing else.

The engine hands any object to any node that knows its name, and forgets a message on
anybody's word. The edge keeps, for each node, the messages that it has passed to it and
the objects that they consist of, and lets it pull these, confirm these, answer these.

Nothing is kept on disk. The engine ends its runs when the coordinator does, so that
after a restart no message of before can be pulled or answered anyway: the node is told
so, gives the message up, and is asked again in the next run.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

_MAX_CAPABILITIES = 32  # of one node, which takes one after the other
_MAX_ANSWERS = 4  # to one message: a node that was killed may make its answer anew


@dataclass(frozen=True, slots=True)
class Capability:
    """A message that was passed to a node.

    Args:
        message_id: The message's, and the name of the object that it is.
        run_id: Of which run.
        objects: All that it consists of, itself among them.
        expires_at: When it is worth nothing, in seconds since the epoch.
    """

    message_id: str
    run_id: int
    objects: frozenset[str]
    expires_at: float


@dataclass(frozen=True, slots=True)
class _Upload:
    """What the engine wants of an answer."""

    run_id: int
    session_id: str
    objects: frozenset[str]


@dataclass(slots=True)
class _ContentEntry:
    offer: Capability
    upload: _Upload | None = None
    answers: set[str] = field(default_factory=set)


class Capabilities:
    """The open offers of all nodes; not for more than one thread.

    Args:
        max_objects: Of one node; what it was offered first is forgotten first.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, *, max_objects: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._max_objects = max_objects
        self._clock = clock
        self._entries: dict[int, OrderedDict[str, _ContentEntry]] = {}

    def add(self, node_id: int, offer: Capability) -> None:
        """Takes note that a message was passed to a node."""
        entries = self._entries.setdefault(node_id, OrderedDict())
        entries[offer.message_id] = _ContentEntry(offer)
        entries.move_to_end(offer.message_id)
        size = sum(len(entry.offer.objects) for entry in entries.values())
        while len(entries) > 1 and (
            len(entries) > _MAX_CAPABILITIES or size > self._max_objects
        ):
            _, oldest = entries.popitem(last=False)
            size -= len(oldest.offer.objects)

    def want(
        self,
        node_id: int,
        message_id: str,
        *,
        answer_id: str,
        session_id: str,
        objects: Collection[str],
    ) -> None:
        """Takes note of what the engine wants of a node's answer to a message."""
        entry = self._open(node_id).get(message_id)
        if entry is not None:
            entry.answers.add(answer_id)
            entry.upload = _Upload(entry.offer.run_id, session_id, frozenset(objects))

    def has_run(self, node_id: int, run_id: int) -> bool:
        """Whether a node was offered a message of a run."""
        return any(e.offer.run_id == run_id for e in self._open(node_id).values())

    def has_message(self, node_id: int, run_id: int, message_id: str) -> bool:
        """Whether a node was offered this very message."""
        entry = self._open(node_id).get(message_id)
        return entry is not None and entry.offer.run_id == run_id

    def may_answer(
        self, node_id: int, run_id: int, *, message_id: str, answer_id: str
    ) -> bool:
        """Whether a node may give this answer to a message that it was offered.

        The engine makes room for the objects of every answer to a message, so there
        may be few.
        """
        entry = self._open(node_id).get(message_id)
        return (
            entry is not None
            and entry.offer.run_id == run_id
            and (answer_id in entry.answers or len(entry.answers) < _MAX_ANSWERS)
        )

    def may_pull(self, node_id: int, run_id: int, object_id: str) -> bool:
        """Whether an object is part of a message that a node was offered."""
        return any(
            entry.offer.run_id == run_id and object_id in entry.offer.objects
            for entry in self._open(node_id).values()
        )

    def may_push(
        self, node_id: int, run_id: int, *, session_id: str, object_id: str
    ) -> bool:
        """Whether the engine wants an object of a node's answer."""
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

    def _open(self, node_id: int) -> OrderedDict[str, _ContentEntry]:
        """Returns a node's offers without those that have expired."""
        entries = self._entries.get(node_id, OrderedDict())
        now = self._clock()
        for message_id in [m for m, e in entries.items() if e.offer.expires_at <= now]:
            del entries[message_id]
        return entries
