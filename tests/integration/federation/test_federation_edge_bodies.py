"""The edge bounds what it takes, and passes on only what it understood."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import httpx
import pytest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ObjectTree

from tests.support.federation.edge import HASTY_SECONDS, Door, answer_of


def heartbeat(door: Door) -> SendNodeHeartbeatRequest:
    return SendNodeHeartbeatRequest(node=door.site_a.node, heartbeat_interval=30)


def test_a_body_beyond_the_limit_is_refused_while_it_arrives(door: Door) -> None:
    sent = 0

    def long() -> Iterator[bytes]:
        nonlocal sent
        while sent < 300 << 20:
            sent += 65_536
            yield b"x" * 65_536

    with pytest.raises(httpx.HTTPError):
        door.call("push-object", long(), length=300 << 20).raise_for_status()

    assert sent < 50 << 20
    assert door.upstream.requests == []


def test_a_body_that_says_no_length_is_refused_by_its_head(door: Door) -> None:
    body = heartbeat(door).SerializeToString()

    answer = door.call("send-node-heartbeat", iter([body]))

    assert answer.status_code == 400
    assert door.upstream.requests == []


@pytest.mark.parametrize(
    ("length", "status"),
    [("1000000000", 413), ("5", 400), ("-1", 400), ("1e3", 400)],
)
def test_a_body_that_says_a_wrong_length_goes_nowhere(
    door: Door, length: str, status: int
) -> None:
    lines = [f"{name}: {value}" for name, value in door.site_a.headers().items()]
    head = ["POST /v1/fleet/push-object HTTP/1.1", "host: a", *lines]
    head.append(f"content-length: {length}")
    content = "\r\n".join(head).encode() + b"\r\n\r\n" + b"x" * 20
    context = ssl.create_default_context(cafile=str(door.files.ca))

    with (
        socket.create_connection(("127.0.0.1", door.edge.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(content)
        answer = connection.recv(100)

    assert answer.startswith(f"HTTP/1.1 {status}".encode())
    assert door.upstream.requests == []


def test_a_small_call_has_a_small_limit(door: Door) -> None:
    before = door.refused("size")

    answer = door.call("pull-messages", b"x" * 5000)

    assert answer.status_code == 413
    assert door.refused("size") == before + 1
    assert door.upstream.requests == []


def test_a_body_that_never_ends_is_given_up(hasty_door: Door) -> None:
    def slow() -> Iterator[bytes]:
        yield b"x"
        threading.Event().wait(2.5 * HASTY_SECONDS)
        yield b"x"

    with pytest.raises(httpx.HTTPError):
        hasty_door.call("push-object", slow(), length=2).raise_for_status()

    assert hasty_door.upstream.requests == []


def unknown_field(door: Door) -> bytes:
    return heartbeat(door).SerializeToString() + b"\xfa\x01\x01x"


def nested_unknown_field(_door: Door) -> bytes:
    return b"\x0a\x04\x08\x07\x78\x01"


def two_nodes(door: Door) -> bytes:
    """Protobuf takes the last of two; another reader might take the first."""
    own = heartbeat(door).SerializeToString()
    return SendNodeHeartbeatRequest(node=door.site_b.node).SerializeToString() + own


def torn(_door: Door) -> bytes:
    return b"\xff\xff no protobuf"


@pytest.mark.parametrize("body", [unknown_field, nested_unknown_field, two_nodes, torn])
def test_what_cannot_be_read_whole_is_refused(
    door: Door, body: Callable[[Door], bytes]
) -> None:
    answer = door.call("send-node-heartbeat", body(door))

    assert answer.status_code == 400
    assert door.upstream.requests == []


def framed(tag: bytes, content: bytes) -> bytes:
    """Returns one field of a protobuf, of fewer than 16,384 bytes."""
    return tag + bytes([len(content) & 127 | 128, len(content) >> 7]) + content


def deep(door: Door) -> bytes:
    """A tree of more levels than any parser should follow."""
    tree = ObjectTree(object_id="leaf").SerializeToString()
    for _ in range(150):
        tree = framed(b"\x12", tree)
    request = answer_of(door.site_a)
    del request.message_object_trees[:]
    return request.SerializeToString() + framed(b"\x1a", tree)


def wide(door: Door) -> bytes:
    return answer_of(door.site_a, objects=6).SerializeToString()


def empty_parts(door: Door) -> bytes:
    """Two thousand objects in four thousand bytes."""
    request = answer_of(door.site_a)
    for _ in range(2000):
        request.message_object_trees[0].children.add()
    return request.SerializeToString()


def talkative(door: Door) -> bytes:
    request = answer_of(door.site_a)
    request.messages_list[0].metadata.group_id = "x" * 6000
    return request.SerializeToString()


@pytest.mark.parametrize(
    ("body", "status"),
    [(deep, 400), (wide, 413), (empty_parts, 413), (talkative, 413)],
)
def test_an_answer_of_too_many_objects_levels_or_words_is_refused(
    door: Door, body: Callable[[Door], bytes], status: int
) -> None:
    door.offer(door.site_a, "question")

    answer = door.call("push-messages", body(door))

    assert answer.status_code == status
    assert door.upstream.requests == []
