"""What coordinator and sites send each other in a round, and what a link carries."""

import asyncio
import contextlib
import json
import socket
from pathlib import Path

import numpy as np
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from moma_client.federation.client_app import envelope_of
from moma_client.federation.inbox import TaskStore
from moma_core.federation.bounds import MessageBounds
from moma_core.federation.messages import (
    Envelope,
    report_header,
    task_header,
    unpack_report,
    unpack_task,
)
from moma_core.federation.task import RoundReport, RoundTask
from moma_core.federation.weights import (
    StoredWeights,
    weights_from_bytes,
    weights_to_bytes,
)
from moma_server.federation.edge.authentication import KnownNode
from moma_server.federation.edge.capabilities import Capabilities, Capability
from moma_server.federation.edge.methods import FLEET_CALLS, CallLimits
from moma_server.federation.run.records import RecordFile, RoundRecord
from moma_server.relay.limits import RelayBounds
from moma_server.relay.tunnel import tunnel
from tests.fuzz.target import Target, by_first_byte, from_file
from tests.support.federation.edge import RUN, SigningNode, answer_of
from tests.support.federation.flower_objects import (
    Objects,
    message_objects,
    repeated_chunk,
)

_LIMIT_BYTES = 1 << 16
_WEIGHTS = {
    "a.weight": np.ones((2, 3), np.float32),
    "a.running_var": np.ones(3, np.float16),
    "n": np.array(7, np.int64),
}
_TASK = RoundTask(
    kind="train", run="r1", round=1, rounds=5, local_epochs=1, mode="fedavg"
)
_REPORT = RoundReport(patches=9, metrics={"unseen_accuracy": 0.5}, model="a" * 64)


def weights() -> Target:
    """Weights of a round, as safetensors."""

    def read(content: bytes) -> object:
        return weights_from_bytes(content, max_bytes=_LIMIT_BYTES)

    one = weights_to_bytes({"a": np.ones(1, np.uint8)})
    others = (one.replace(b'"U8"', kind) for kind in (b'"BF16"', b'"F8_E4M3"'))
    return Target(read, (one, weights_to_bytes(_WEIGHTS, {"k": "v"}), *others))


def headers() -> Target:
    """Headers of tasks and reports."""

    def text(content: bytes) -> Envelope:
        return Envelope(content.decode("utf-8", "replace"), None)

    return Target(
        by_first_byte(
            lambda content: unpack_task(text(content), max_weights_bytes=0),
            lambda content: unpack_report(text(content), max_weights_bytes=0),
        ),
        (
            b"\0" + task_header(_TASK).encode(),
            b"\1" + report_header(_REPORT).encode(),
        ),
    )


_BETWEEN = b"\xff--\n"
_ID = 64  # characters of an object's id


def _written(parts: Objects) -> bytes:
    return _BETWEEN.join(name.encode() + part for name, part in parts.items())


def flower_objects() -> Target:
    """The objects of a message, each behind its id; built as a node builds them."""
    name, plain = message_objects("task", task_header(_TASK))
    _, heavy = message_objects("task", "{}", b"x" * 100)
    _, repeated = message_objects("task", "{}", b"x" * 1000)
    repeated_chunk(repeated, 20)

    def read(content: bytes) -> object:
        parts = {
            part[:_ID].decode("latin-1"): part[_ID:] for part in content.split(_BETWEEN)
        }
        bounds = MessageBounds(_LIMIT_BYTES)
        bounds.check_ids(parts)
        bounds.check(parts)
        with contextlib.suppress(Exception):  # as the node's loop: Flower parses here
            whole = inflate_object_from_contents(name, parts)
            return unpack_task(envelope_of(whole.content), max_weights_bytes=0)  # type: ignore[attr-defined]
        return None

    return Target(read, tuple(map(_written, (plain, heavy, repeated))))


def edge_calls() -> Target:
    """A node's calls at the edge: what each may hold, and touch."""
    signing = SigningNode("site-a", 7)
    node, known = signing.node, KnownNode("site-a", 7, b"key")
    limits = CallLimits(max_body_bytes=_LIMIT_BYTES, max_objects=20)
    names = sorted(FLEET_CALLS)
    messages = {
        "activate-node": ActivateNodeRequest(public_key=b"key", heartbeat_interval=30),
        "confirm-message-received": ConfirmMessageReceivedRequest(
            node=node, run_id=RUN, message_object_id="question"
        ),
        "deactivate-node": DeactivateNodeRequest(node_id=7),
        "get-run": GetRunRequest(node=node, run_id=RUN),
        "pull-messages": PullMessagesRequest(node=node),
        "pull-object": PullObjectRequest(node=node, run_id=RUN, object_id="part"),
        "push-messages": answer_of(signing, objects=3),
        "push-object": PushObjectRequest(
            node=node,
            run_id=RUN,
            object_id="mine",
            object_content=b"x",
            session_id="s",
        ),
        "send-node-heartbeat": SendNodeHeartbeatRequest(node=node),
    }

    def read(content: bytes) -> object:
        call = FLEET_CALLS[names[(content[0] if content else 0) % len(names)]]
        capabilities = _capabilities(known)
        message = call.read(content[1:], limits)
        call.check(message, known, capabilities)
        return message.SerializeToString(deterministic=True)

    return Target(
        read,
        tuple(
            bytes([names.index(name)]) + message.SerializeToString(deterministic=True)
            for name, message in messages.items()
        ),
    )


def _capabilities(node: KnownNode) -> Capabilities:
    """Returns those of a node with one message, whose reply is being pushed."""
    capabilities = Capabilities(max_objects=100, clock=lambda: 0.0)
    objects = frozenset({"question", "part"})
    capabilities.add(node.node_id, Capability("question", RUN, objects, 1.0))
    capabilities.want(
        node.node_id, "question", reply_id="answer", session_id="s", objects=["mine"]
    )
    return capabilities


class _Frames:
    """The other end of a link, which sends what it likes."""

    def __init__(self, frames: list[bytes]) -> None:
        self._frames = frames

    async def read(self) -> bytes | None:
        return self._frames.pop(0) if self._frames else None

    async def write(self, content: bytes, /) -> None:
        pass


def relay_frames() -> Target:
    """The frames of a link, one a line."""
    bounds = RelayBounds(frame_bytes=100)

    async def carry(frames: list[bytes]) -> None:
        here, there = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=here)
        there.setblocking(False)
        try:
            await tunnel(_Frames(frames), reader, writer, bounds)
        finally:
            writer.close()
            there.close()

    def read(content: bytes) -> object:
        return asyncio.run(carry(content.split(b"\n")))

    return Target(read, (b"PRI * HTTP/2.0", b"a\nb\n\nc"))


def kept_rounds() -> Target:
    """What a restarted site or coordinator finds of a round on its disk."""

    def inbox(path: Path) -> object:
        return TaskStore(path.parent).task()

    def records(path: Path) -> object:
        return RecordFile(path).read()

    def stored(path: Path) -> object:
        return dict(StoredWeights(path))

    origin = json.dumps({"run_id": 1})
    metadata = {"key": _TASK.key, "header": task_header(_TASK), "origin": origin}
    record = RoundRecord(
        kind="train", run="r1", round=1, outcome="completed", started_at=1.0, seconds=2
    )
    return Target(
        by_first_byte(
            from_file(inbox, "task.safetensors"),
            from_file(records, "rounds.jsonl"),
            from_file(stored, "weights.safetensors"),
        ),
        (
            b"\0" + weights_to_bytes(_WEIGHTS, metadata),
            b"\1" + record.model_dump_json().encode() + b"\n",
            b"\2" + weights_to_bytes(_WEIGHTS),
            b"\2" + weights_to_bytes(_WEIGHTS).replace(b'"F16"', b'"BF16"'),
        ),
    )
