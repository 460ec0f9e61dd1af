"""The calls that a node may make, and what each may say: the edge reads them all.

A call is passed on as it was understood, never as it came: what cannot be read, or is
more than its fields, ends here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.run_pb2 import GetRunRequest, GetRunResponse, Run
from google.protobuf.message import DecodeError, Message

from moma_core.errors import FederationError
from moma_server.federation.edge.authentication import KnownNode
from moma_server.federation.edge.capabilities import Capabilities, Capability
from moma_server.federation.edge.refusal import EdgeRefusedError

_SMALL_BYTES = 4096  # a node, a key, a name or two
_BYTES_AN_OBJECT = 128  # in a tree: 64 characters and what frames them


@dataclass(frozen=True, slots=True)
class CallLimits:
    """How much one call may be.

    Args:
        max_body_bytes: An object's.
        max_objects: In one message.
    """

    max_body_bytes: int
    max_objects: int


@dataclass(frozen=True, slots=True)
class FleetCall:
    """One of the engine's calls.

    Args:
        request: How its body reads.
        check: Raises `EdgeRefusedError` if this node may not say this now.
        note: Takes note of the engine's answer.
        tell: Returns what the node is told of it.
        most_bytes: How long the body may be.
    """

    request: type[Message]
    check: Callable[[Any, KnownNode, Capabilities], None]
    note: Callable[[Any, bytes, KnownNode, Capabilities], None] | None = None
    tell: Callable[[bytes], bytes] = bytes
    most_bytes: Callable[[CallLimits], int] = lambda _limits: _SMALL_BYTES

    def read(self, body: bytes, limits: CallLimits) -> Message:
        """Returns what a body says.

        Raises:
            EdgeRefusedError: It is no such call, says more, or has too many parts.
        """
        try:
            message = self.request.FromString(body)
        except DecodeError as error:
            raise EdgeRefusedError("malformed") from error
        message.DiscardUnknownFields()
        # also where a field stands twice: another reader might take the other one
        if message.ByteSize() != len(body):
            raise EdgeRefusedError("malformed")
        if isinstance(message, PushMessagesRequest):
            for tree in message.message_object_trees:
                if len(_object_ids(tree)) > limits.max_objects:
                    raise EdgeRefusedError("size")
        return message


def _object_ids(tree: ObjectTree) -> list[str]:
    waiting, found = [tree], []
    while waiting:
        part = waiting.pop()
        found.append(part.object_id)
        waiting.extend(part.children)
    return found


def _is_own(node_id: int, node: KnownNode) -> None:
    if node_id != node.node_id:
        raise EdgeRefusedError("node", node.site)


def _check_heartbeat(
    request: SendNodeHeartbeatRequest, node: KnownNode, _offers: Capabilities
) -> None:
    _is_own(request.node.node_id, node)


def _check_activation(
    request: ActivateNodeRequest, node: KnownNode, _offers: Capabilities
) -> None:
    if request.public_key != node.public_key:
        raise EdgeRefusedError("node", node.site)


def _note_activation(
    _request: ActivateNodeRequest, answer: bytes, node: KnownNode, _offers: Capabilities
) -> None:
    if ActivateNodeResponse.FromString(answer).node_id != node.node_id:
        raise FederationError(f"SuperLink knows {node.site} by another id")


def _check_deactivation(
    request: DeactivateNodeRequest, node: KnownNode, _offers: Capabilities
) -> None:
    _is_own(request.node_id, node)


def _check_pull_messages(
    request: PullMessagesRequest, node: KnownNode, _offers: Capabilities
) -> None:
    _is_own(request.node.node_id, node)
    if request.message_ids:
        raise EdgeRefusedError("malformed", node.site)


def _note_offers(
    _request: PullMessagesRequest, answer: bytes, node: KnownNode, offers: Capabilities
) -> None:
    response = PullMessagesResponse.FromString(answer)
    pairs = zip(response.messages_list, response.message_object_trees, strict=True)
    for message, tree in pairs:
        metadata = message.metadata
        offer = Capability(
            message_id=metadata.message_id,
            run_id=metadata.run_id,
            objects=frozenset(_object_ids(tree)),
            expires_at=metadata.created_at + metadata.ttl,
        )
        offers.add(node.node_id, offer)


def _check_get_run(
    request: GetRunRequest, node: KnownNode, offers: Capabilities
) -> None:
    _is_own(request.node.node_id, node)
    if not offers.has_run(node.node_id, request.run_id):
        raise EdgeRefusedError("message", node.site)


def _told_run(answer: bytes) -> bytes:
    """Leaves which bundle a run is: the rest names files and accounts here."""
    run = GetRunResponse.FromString(answer).run
    told = Run(
        run_id=run.run_id,
        fab_id=run.fab_id,
        fab_version=run.fab_version,
        fab_hash=run.fab_hash,
    )
    return GetRunResponse(run=told).SerializeToString()


def _check_pull_object(
    request: PullObjectRequest, node: KnownNode, offers: Capabilities
) -> None:
    _is_own(request.node.node_id, node)
    if not offers.may_pull(node.node_id, request.run_id, request.object_id):
        raise EdgeRefusedError("object", node.site)


def _check_confirmation(
    request: ConfirmMessageReceivedRequest, node: KnownNode, offers: Capabilities
) -> None:
    _is_own(request.node.node_id, node)
    if not offers.has_message(node.node_id, request.run_id, request.message_object_id):
        raise EdgeRefusedError("message", node.site)


def _check_push_messages(
    request: PushMessagesRequest, node: KnownNode, offers: Capabilities
) -> None:
    """Whether it is this node's own answer to a question that it was asked."""
    _is_own(request.node.node_id, node)
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        raise EdgeRefusedError("malformed", node.site)
    metadata = request.messages_list[0].metadata
    if (
        metadata.src_node_id != node.node_id
        or metadata.dst_node_id != SUPERLINK_NODE_ID
        or not offers.may_answer(
            node.node_id,
            metadata.run_id,
            message_id=metadata.reply_to_message_id,
            answer_id=metadata.message_id,
        )
        or request.message_object_trees[0].object_id != metadata.message_id
    ):
        raise EdgeRefusedError("message", node.site)


def _note_wanted(
    request: PushMessagesRequest, answer: bytes, node: KnownNode, offers: Capabilities
) -> None:
    response = PushMessagesResponse.FromString(answer)
    metadata = request.messages_list[0].metadata
    offers.want(
        node.node_id,
        metadata.reply_to_message_id,
        answer_id=metadata.message_id,
        session_id=response.session_id,
        objects=response.objects_to_push,
    )


def _check_push_object(
    request: PushObjectRequest, node: KnownNode, offers: Capabilities
) -> None:
    _is_own(request.node.node_id, node)
    if not offers.may_push(
        node.node_id,
        request.run_id,
        session_id=request.session_id,
        object_id=request.object_id,
    ):
        raise EdgeRefusedError("object", node.site)


FLEET_CALLS = {
    "activate-node": FleetCall(
        ActivateNodeRequest, _check_activation, _note_activation
    ),
    "confirm-message-received": FleetCall(
        ConfirmMessageReceivedRequest, _check_confirmation
    ),
    "deactivate-node": FleetCall(DeactivateNodeRequest, _check_deactivation),
    "get-run": FleetCall(GetRunRequest, _check_get_run, tell=_told_run),
    "pull-messages": FleetCall(PullMessagesRequest, _check_pull_messages, _note_offers),
    "pull-object": FleetCall(PullObjectRequest, _check_pull_object),
    "push-messages": FleetCall(
        PushMessagesRequest,
        _check_push_messages,
        _note_wanted,
        most_bytes=lambda limits: _SMALL_BYTES + limits.max_objects * _BYTES_AN_OBJECT,
    ),
    "push-object": FleetCall(
        PushObjectRequest,
        _check_push_object,
        most_bytes=lambda limits: limits.max_body_bytes,
    ),
    "send-node-heartbeat": FleetCall(SendNodeHeartbeatRequest, _check_heartbeat),
}
