"""The calls that a node may make, and what each may hold: the edge reads them all.

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
        max_body_bytes: Length of an object.
        max_objects: Objects of one message.
    """

    max_body_bytes: int
    max_objects: int


@dataclass(frozen=True, slots=True)
class FleetCall:
    """One of the engine's calls.

    Args:
        request: Protobuf type of its body.
        check: Raises `EdgeRefusedError` if this node may not make this call now.
        record: Updates the node's capabilities by the engine's response.
        disclose: Returns the part of the response that the node gets.
        most_bytes: Returns how long the body may be.
    """

    request: type[Message]
    check: Callable[[Any, KnownNode, Capabilities], None]
    record: Callable[[Any, bytes, KnownNode, Capabilities], None] | None = None
    disclose: Callable[[bytes], bytes] = bytes
    most_bytes: Callable[[CallLimits], int] = lambda _limits: _SMALL_BYTES

    def read(self, body: bytes, limits: CallLimits) -> Message:
        """Returns the message that a body holds.

        Raises:
            EdgeRefusedError: It is no such call, holds more, or has too many parts.
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
    request: SendNodeHeartbeatRequest, node: KnownNode, _capabilities: Capabilities
) -> None:
    _is_own(request.node.node_id, node)


def _check_activation(
    request: ActivateNodeRequest, node: KnownNode, _capabilities: Capabilities
) -> None:
    if request.public_key != node.public_key:
        raise EdgeRefusedError("node", node.site)


def _check_activated(
    _request: ActivateNodeRequest,
    content: bytes,
    node: KnownNode,
    _capabilities: Capabilities,
) -> None:
    if ActivateNodeResponse.FromString(content).node_id != node.node_id:
        raise FederationError(f"SuperLink knows {node.site} by another id")


def _check_deactivation(
    request: DeactivateNodeRequest, node: KnownNode, _capabilities: Capabilities
) -> None:
    _is_own(request.node_id, node)


def _check_pull_messages(
    request: PullMessagesRequest, node: KnownNode, _capabilities: Capabilities
) -> None:
    _is_own(request.node.node_id, node)
    if request.message_ids:
        raise EdgeRefusedError("malformed", node.site)


def _record_messages(
    _request: PullMessagesRequest,
    content: bytes,
    node: KnownNode,
    capabilities: Capabilities,
) -> None:
    response = PullMessagesResponse.FromString(content)
    pairs = zip(response.messages_list, response.message_object_trees, strict=True)
    for message, tree in pairs:
        metadata = message.metadata
        capability = Capability(
            message_id=metadata.message_id,
            run_id=metadata.run_id,
            objects=frozenset(_object_ids(tree)),
            expires_at=metadata.created_at + metadata.ttl,
        )
        capabilities.add(node.node_id, capability)


def _check_get_run(
    request: GetRunRequest, node: KnownNode, capabilities: Capabilities
) -> None:
    _is_own(request.node.node_id, node)
    if not capabilities.has_run(node.node_id, request.run_id):
        raise EdgeRefusedError("message", node.site)


def _disclosed_run(content: bytes) -> bytes:
    """Leaves the run's bundle: the rest names files and accounts of this machine."""
    run = GetRunResponse.FromString(content).run
    disclosed = Run(
        run_id=run.run_id,
        fab_id=run.fab_id,
        fab_version=run.fab_version,
        fab_hash=run.fab_hash,
    )
    return GetRunResponse(run=disclosed).SerializeToString()


def _check_pull_object(
    request: PullObjectRequest, node: KnownNode, capabilities: Capabilities
) -> None:
    _is_own(request.node.node_id, node)
    if not capabilities.may_pull(node.node_id, request.run_id, request.object_id):
        raise EdgeRefusedError("object", node.site)


def _check_confirmation(
    request: ConfirmMessageReceivedRequest, node: KnownNode, capabilities: Capabilities
) -> None:
    _is_own(request.node.node_id, node)
    if not capabilities.has_message(
        node.node_id, request.run_id, request.message_object_id
    ):
        raise EdgeRefusedError("message", node.site)


def _check_push_messages(
    request: PushMessagesRequest, node: KnownNode, capabilities: Capabilities
) -> None:
    """Whether it is this node's own reply to a message that was passed to it."""
    _is_own(request.node.node_id, node)
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        raise EdgeRefusedError("malformed", node.site)
    metadata = request.messages_list[0].metadata
    if (
        metadata.src_node_id != node.node_id
        or metadata.dst_node_id != SUPERLINK_NODE_ID
        or not capabilities.may_reply(
            node.node_id,
            metadata.run_id,
            message_id=metadata.reply_to_message_id,
            reply_id=metadata.message_id,
        )
        or request.message_object_trees[0].object_id != metadata.message_id
    ):
        raise EdgeRefusedError("message", node.site)


def _record_requested(
    request: PushMessagesRequest,
    content: bytes,
    node: KnownNode,
    capabilities: Capabilities,
) -> None:
    response = PushMessagesResponse.FromString(content)
    metadata = request.messages_list[0].metadata
    capabilities.want(
        node.node_id,
        metadata.reply_to_message_id,
        reply_id=metadata.message_id,
        session_id=response.session_id,
        objects=response.objects_to_push,
    )


def _check_push_object(
    request: PushObjectRequest, node: KnownNode, capabilities: Capabilities
) -> None:
    _is_own(request.node.node_id, node)
    if not capabilities.may_push(
        node.node_id,
        request.run_id,
        session_id=request.session_id,
        object_id=request.object_id,
    ):
        raise EdgeRefusedError("object", node.site)


FLEET_CALLS = {
    "activate-node": FleetCall(
        ActivateNodeRequest, _check_activation, _check_activated
    ),
    "confirm-message-received": FleetCall(
        ConfirmMessageReceivedRequest, _check_confirmation
    ),
    "deactivate-node": FleetCall(DeactivateNodeRequest, _check_deactivation),
    "get-run": FleetCall(GetRunRequest, _check_get_run, disclose=_disclosed_run),
    "pull-messages": FleetCall(
        PullMessagesRequest, _check_pull_messages, _record_messages
    ),
    "pull-object": FleetCall(PullObjectRequest, _check_pull_object),
    "push-messages": FleetCall(
        PushMessagesRequest,
        _check_push_messages,
        _record_requested,
        most_bytes=lambda limits: _SMALL_BYTES + limits.max_objects * _BYTES_AN_OBJECT,
    ),
    "push-object": FleetCall(
        PushObjectRequest,
        _check_push_object,
        most_bytes=lambda limits: limits.max_body_bytes,
    ),
    "send-node-heartbeat": FleetCall(SendNodeHeartbeatRequest, _check_heartbeat),
}
