"""How large a message of a round may be, held against its bytes before it is built.

A message travels as Flower's objects, each `TYPE CHILDREN LENGTH`, a zero byte, and a
body. What they are joined to can be far larger than what travelled: an array names its
chunks by index, three bytes a chunk, and may name one a million times; a record of
one-byte integers becomes nine bytes of memory for each. So the objects of a message are
looked at as bytes, by both sides and in every mode, and only a message of the one form
that is ours is built:

    Message > RecordDict > ConfigRecord, the header
                         > ArrayRecord > Array > ArrayChunk ..., the weights
"""

import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Final, NamedTuple

from moma_core.errors import FederationError
from moma_core.runtime.canonical_json import parsed_json

MAX_HEADER_BYTES: Final = 64 * 1024

_CHUNK_BYTES: Final = 5 << 20  # Flower's
MOST_RESPONSE_BYTES: Final = _CHUNK_BYTES + (3 << 20)
"""Of one response that carries an object."""

_FURTHER_PARTS: Final = 16  # the message, its records and its array, and some to spare
_ID_BYTES: Final = 80  # of a child in an object's head, or of an index in a body
_RECORDS: Final = frozenset(
    {"Message", "RecordDict", "ConfigRecord", "ArrayRecord", "Array"}
)
"""What a message may have one of each; chunks are counted by their bytes."""
_MOST_NAMES: Final = {"RecordDict": 2, "ArrayRecord": 1}


def most_bytes(max_weights_bytes: int) -> int:
    """Returns how long a message may be that carries such weights, or 0."""
    return max_weights_bytes + 2 * MAX_HEADER_BYTES


def most_parts(max_weights_bytes: int) -> int:
    """Returns of how many objects a message consists that carries such weights."""
    return most_bytes(max_weights_bytes) // _CHUNK_BYTES + _FURTHER_PARTS


class MessageBounds:
    """Takes the objects of one message as long as they are within its bounds.

    Args:
        max_weights_bytes: Length of the weights that it may carry; 0: none are due.
    """

    def __init__(self, max_weights_bytes: int) -> None:
        self._max_weights_bytes = max_weights_bytes
        self._max_bytes = most_bytes(max_weights_bytes)
        self._max_parts = most_parts(max_weights_bytes)
        # a chunk has no children, all others have a head of ids and a small body
        self._max_other_bytes = 2 * MAX_HEADER_BYTES + self._max_parts * _ID_BYTES
        self._taken = 0
        self._lock = threading.Lock()

    def check_ids(self, object_ids: Collection[str]) -> None:
        """Checks how many objects are announced.

        Raises:
            FederationError: More than such a message has.
        """
        if len(object_ids) > self._max_parts:
            raise FederationError(
                f"a message of {len(object_ids)} parts is not taken, "
                f"it has {self._max_parts} at most"
            )

    def metered(self, pull: Callable[[str], bytes]) -> Callable[[str], bytes]:
        """Returns `pull`, for several threads; it stops at the largest message.

        Raises:
            FederationError: With an object, more came than such a message has.
        """

        def pull_and_count(object_id: str) -> bytes:
            content = pull(object_id)
            with self._lock:
                self._taken += len(content)
                if self._taken > self._max_bytes:
                    raise FederationError(
                        f"more than {self._max_bytes} bytes are not taken"
                    )
            return content

        return pull_and_count

    def check(self, contents: Mapping[str, bytes]) -> None:
        """Checks that the objects, by id, are a message that is no larger when built.

        Raises:
            FederationError: They have another form, or become too large.
        """
        heads = {name: self._head(content) for name, content in contents.items()}
        kinds = Counter(head.kind for head in heads.values())
        for kind, count in kinds.items():
            if kind != "ArrayChunk" and (kind not in _RECORDS or count > 1):
                raise FederationError("a message with other records is not taken")
        for name, head in heads.items():
            if head.kind == "Array":
                self._check_array(head, contents[name], heads)
            elif head.kind != "ArrayChunk":
                self._check_names(head, contents[name])

    def _head(self, content: bytes) -> "_Head":
        end = content.find(b"\0", 0, self._max_other_bytes)
        try:
            kind, children, _ = content[: max(end, 0)].decode("ascii").split(" ")
        except ValueError:
            raise FederationError("a part of the message has no head") from None
        if kind != "ArrayChunk" and len(content) > self._max_other_bytes:
            raise FederationError(
                f"a record of {len(content)} bytes is not taken, "
                f"{self._max_other_bytes} are read"
            )
        names = tuple(children.split(",")) if children else ()
        return _Head(kind, names, end + 1, len(content) - end - 1)

    def _check_array(
        self, head: "_Head", content: bytes, heads: Mapping[str, "_Head"]
    ) -> None:
        indices = _fields(content, head).get("arraychunk_ids")
        if not isinstance(indices, list) or len(indices) > self._max_parts:
            raise FederationError("an array that repeats its parts is not taken")
        size = 0
        for index in indices:
            if type(index) is not int or not 0 <= index < len(head.children):
                raise FederationError("an array names a part that it has not")
            chunk = heads.get(head.children[index])
            if chunk is None or chunk.kind != "ArrayChunk":
                raise FederationError("an array names a part that is no chunk")
            size += chunk.body_bytes
        if size > self._max_weights_bytes:
            raise FederationError(
                f"an array of {size} bytes is not taken, "
                f"at most {self._max_weights_bytes} are"
            )

    def _check_names(self, head: "_Head", content: bytes) -> None:
        """Checks that a record does not hold one object under many names."""
        most = _MOST_NAMES.get(head.kind)
        if most is not None and len(_fields(content, head)) > most:
            raise FederationError("a message with other records is not taken")


class _Head(NamedTuple):
    """What an object says of itself.

    Args:
        kind: Flower's name of its class.
        children: Ids of the objects that it is made of.
        body_at: Where its body begins, in bytes.
        body_bytes: Length of its body.
    """

    kind: str
    children: tuple[str, ...]
    body_at: int
    body_bytes: int


def _fields(content: bytes, head: _Head) -> dict[str, object]:
    try:
        fields = parsed_json(content[head.body_at :])
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise FederationError("a part of the message is not whole")
    return fields
