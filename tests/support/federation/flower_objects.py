"""Messages of a round as Flower's objects, honest ones and such as nobody may build."""

import json

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.task_identity import TaskIdentity

Objects = dict[str, bytes]


def records(name: str, header: str, weights: bytes | None = None) -> RecordDict:
    """Returns what a task or a report consists of."""
    content = RecordDict({name: ConfigRecord({"header": header})})
    if weights is not None:
        blob = Array("uint8", (len(weights),), "safetensors", weights)
        content["weights"] = ArrayRecord({"safetensors": blob})
    return content


def message(content: RecordDict) -> Message:
    """Returns a message that carries `content`, with its id."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 3, 5, 1
    built = Message(content, dst_node_id=7, message_type="train")
    built.metadata.__dict__["_message_id"] = built.object_id
    return built


def objects_of(built: Message) -> Objects:
    """Returns a message's objects by id, the message itself last."""
    parts = get_all_nested_objects(built)
    return {name: part.deflate() for name, part in parts.items()}


def message_objects(
    name: str, header: str, weights: bytes | None = None
) -> tuple[str, Objects]:
    """Returns a message's id, and its objects by id."""
    built = message(records(name, header, weights))
    return built.object_id, objects_of(built)


def repeated_chunk(parts: Objects, times: int) -> None:
    """Has the message's array name each of its chunks so many times."""
    (name,) = [name for name, part in parts.items() if part.startswith(b"Array ")]
    head, body = parts[name].split(b"\0", 1)
    fields = json.loads(body)
    fields["arraychunk_ids"] *= times
    parts[name] = with_body(head, json.dumps(fields, separators=(",", ":")).encode())


def with_body(head: bytes, body: bytes) -> bytes:
    """Returns an object of the same head over another body."""
    return head.rsplit(b" ", 1)[0] + b" %d\0" % len(body) + body
