"""What a coordinator sends is bounded before a site's machine holds it."""

import gzip
import http.server
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import httpx
import numpy as np
import pytest
from flwr.app import Message, RecordDict
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.message_pb2 import ObjectTree, PullObjectRequest
from flwr.proto.recorddict_pb2 import ConfigRecord as ProtoRecord
from flwr.proto.recorddict_pb2 import ConfigRecordValue, SintList
from flwr.supercore.inflatable.inflatable_object import get_object_tree

from moma_client.federation.inbox import TaskStore
from moma_client.federation.loop import FleetLink, NodeLoop
from moma_client.federation.node import NodeSettings
from moma_client.federation.process import BoundedFleetClient
from moma_core.federation.bounds import MOST_RESPONSE_BYTES
from moma_core.federation.messages import pack_task
from moma_core.federation.task import Mode, RoundTask
from moma_proto.bundle import bundle_hash
from tests.support.federation.flower_objects import (
    Objects,
    message,
    objects_of,
    records,
    repeated_chunk,
    with_body,
)

MIB = 1 << 20


class EndedError(Exception):
    """There is no other message."""


class _Run(NamedTuple):
    fab_hash: str


def settings(folder: Path) -> NodeSettings:
    return NodeSettings(
        address="127.0.0.1:1",
        ca_certificate=folder / "ca.pem",
        node_key=folder / "node.key",
        folder=folder,
        max_weights_bytes=16 * MIB,
    )


def serve(folder: Path, sent: Message, tree: ObjectTree, parts: Objects) -> Message:
    """Returns what a site's node answers to one message."""
    waiting, answers = [(sent, tree)], []

    def receive() -> tuple[Message, ObjectTree]:
        if not waiting:
            raise EndedError
        return waiting.pop()

    def send(
        reply: Message, _tree: ObjectTree, _runtime: float
    ) -> tuple[set[str], str]:
        answers.append(reply)
        return set(), ""

    link = FleetLink(
        7,
        receive,
        send,
        cast("Callable[[int], Any]", lambda _run: _Run(bundle_hash())),
        lambda *_: None,
        lambda _run, object_id: parts[object_id],
        lambda *_: None,
        lambda *_: None,
    )
    with pytest.raises(EndedError):
        NodeLoop(link, TaskStore(folder), settings(folder)).serve()
    (answer,) = answers
    return answer


def task_content(mode: Mode) -> RecordDict:
    weights = {"w": np.ones(MIB, np.uint8)}
    task = RoundTask(
        kind="train", run="r1", round=1, rounds=1, local_epochs=1, mode=mode,
        weights=weights,
    )  # fmt: skip
    return records("task", *pack_task(task))


@pytest.mark.parametrize("mode", ["independent", "fedavg"])
def test_a_mebibyte_cannot_fill_a_sites_memory(tmp_path: Path, mode: Mode) -> None:
    sent = message(task_content(mode))
    parts, tree = objects_of(sent), get_object_tree(sent)
    repeated_chunk(parts, 3000)

    tracemalloc.start()
    answer = serve(tmp_path, sent, tree, parts)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert answer.has_error()
    assert peak < 64 * MIB  # it would have been 3,000
    assert TaskStore(tmp_path).task() is None


def test_a_record_of_small_integers_does_not_grow_at_a_site(tmp_path: Path) -> None:
    sent = message(records("task", "{}"))
    parts, tree = objects_of(sent), get_object_tree(sent)
    value = ConfigRecordValue(sint_list=SintList(vals=bytes(8 * MIB)))
    body = ProtoRecord(items=[ProtoRecord.Item(key="header", value=value)])
    (name,) = [name for name, part in parts.items() if part.startswith(b"ConfigRecord")]
    head = parts[name].split(b"\0")[0]
    parts[name] = with_body(head, body.SerializeToString())

    tracemalloc.start()
    answer = serve(tmp_path, sent, tree, parts)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert answer.has_error()
    assert peak < 32 * MIB  # it would have been nine times eight


@contextmanager
def coordinator(
    body: bytes, headers: dict[str, str], status: int = 200
) -> Iterator[tuple[BoundedFleetClient, list[str]]]:
    """Serves one response to everything; yields a client of it, and the paths asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            with_body = memoryview(body)
            try:
                for start in range(0, len(body), MIB):
                    self.wfile.write(with_body[start : start + MIB])
            except OSError:
                return  # the site has hung up

        def log_message(self, *_arguments: object) -> None:
            """Says nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"127.0.0.1:{server.server_address[1]}"
    try:
        with BoundedFleetClient.from_server_address(address, True, None, []) as client:
            yield client, asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def peak_of(call: Callable[[], object], error: type[Exception], match: str) -> int:
    tracemalloc.start()
    with pytest.raises(error, match=match):
        call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_a_packed_response_is_not_unpacked() -> None:
    packed = gzip.compress(bytes(64 * MIB), 1)

    with coordinator(packed, {"content-encoding": "gzip"}) as (client, _):
        peak = peak_of(
            lambda: client.PullMessages(PullMessagesRequest()),
            httpx.RemoteProtocolError,
            "packed",
        )

    assert peak < 16 * MIB


@pytest.mark.parametrize(
    ("call", "most"),
    [
        (lambda client: client.PullObject(PullObjectRequest()), MOST_RESPONSE_BYTES),
        # a tree of a message's parts, two bytes each, is fifty times as large in memory
        (lambda client: client.PullMessages(PullMessagesRequest()), MIB),
    ],
)
def test_a_response_without_an_end_is_not_read_to_its_end(
    call: Callable[[BoundedFleetClient], object], most: int
) -> None:
    with coordinator(bytes(64 * MIB), {}) as (client, _):
        peak = peak_of(
            lambda: call(client), httpx.RemoteProtocolError, f"more than {most}"
        )

    assert peak < 3 * MOST_RESPONSE_BYTES


def test_a_site_does_not_go_where_a_coordinator_sends_it() -> None:
    away = {"location": "/elsewhere"}
    with (
        coordinator(b"", away, 307) as (client, asked),
        pytest.raises(httpx.HTTPStatusError),
    ):
        client.PullMessages(PullMessagesRequest())

    assert asked == ["/v1/fleet/pull-messages"]
