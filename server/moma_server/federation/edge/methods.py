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
from moma_server.federation.edge.refusal import EdgeRefusedError, Reason

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


def _may_always(_message: Any, _node: KnownNode, _capabilities: Capabilities) -> bool:  # noqa: ANN401 - a message of the engine
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetCall:
    """One of the engine's calls.

    Args:
        request: Protobuf type of its body.
        node_id: Returns the id by which a message names its own node; None: by none.
        permits: Says whether a node may make this call now.
        reason: Why a call is refused that is not permitted.
        record: Updates the node's capabilities by the engine's response.
        disclose: Returns the part of the response that the node gets.
        most_bytes: Returns how long the body may be.
    """

    request: type[Message]
    node_id: Callable[[Any], int] | None = lambda message: int(message.node.node_id)
    permits: Callable[[Any, KnownNode, Capabilities], bool] = _may_always
    reason: Reason = "message"
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

    def check(
        self, message: Message, node: KnownNode, capabilities: Capabilities
    ) -> None:
        """Checks that a node may say this now, and of itself.

        Raises:
            EdgeRefusedError: It names another node, or is not permitted.
        """
        if self.node_id is not None and self.node_id(message) != node.node_id:
            raise EdgeRefusedError("node", node.site)
        if not self.permits(message, node, capabilities):
            raise EdgeRefusedError(self.reason, node.site)


def _object_ids(tree: ObjectTree) -> list[str]:
    waiting, found = [tree], []
    while waiting:
        part = waiting.pop()
        found.append(part.object_id)
        waiting.extend(part.children)
    return found


def _check_activated(
    _request: ActivateNodeRequest,
    content: bytes,
    node: KnownNode,
    _capabilities: Capabilities,
) -> None:
    if ActivateNodeResponse.FromString(content).node_id != node.node_id:
        raise FederationError(f"SuperLink knows {node.site} by another id")


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


def _is_own_reply(
    request: PushMessagesRequest, node: KnownNode, capabilities: Capabilities
) -> bool:
    """Whether it is this node's own reply to a message that was passed to it."""
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        raise EdgeRefusedError("malformed", node.site)
    metadata = request.messages_list[0].metadata
    return (
        metadata.src_node_id == node.node_id
        and metadata.dst_node_id == SUPERLINK_NODE_ID
        and capabilities.may_reply(
            node.node_id,
            metadata.run_id,
            message_id=metadata.reply_to_message_id,
            reply_id=metadata.message_id,
        )
        and request.message_object_trees[0].object_id == metadata.message_id
    )


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


FLEET_CALLS = {
    "activate-node": FleetCall(
        request=ActivateNodeRequest,
        node_id=None,
        permits=lambda message, node, _: message.public_key == node.public_key,
        reason="node",
        record=_check_activated,
    ),
    "confirm-message-received": FleetCall(
        request=ConfirmMessageReceivedRequest,
        permits=lambda message, node, capabilities: capabilities.has_message(
            node.node_id, message.run_id, message.message_object_id
        ),
    ),
    "deactivate-node": FleetCall(
        request=DeactivateNodeRequest, node_id=lambda message: int(message.node_id)
    ),
    "get-run": FleetCall(
        request=GetRunRequest,
        permits=lambda message, node, capabilities: capabilities.has_run(
            node.node_id, message.run_id
        ),
        disclose=_disclosed_run,
    ),
    "pull-messages": FleetCall(
        request=PullMessagesRequest,
        permits=lambda message, _node, _: not message.message_ids,
        reason="malformed",
        record=_record_messages,
    ),
    "pull-object": FleetCall(
        request=PullObjectRequest,
        permits=lambda message, node, capabilities: capabilities.may_pull(
            node.node_id, message.run_id, message.object_id
        ),
        reason="object",
    ),
    "push-messages": FleetCall(
        request=PushMessagesRequest,
        permits=_is_own_reply,
        record=_record_requested,
        most_bytes=lambda limits: _SMALL_BYTES + limits.max_objects * _BYTES_AN_OBJECT,
    ),
    "push-object": FleetCall(
        request=PushObjectRequest,
        permits=lambda message, node, capabilities: capabilities.may_push(
            node.node_id,
            message.run_id,
            session_id=message.session_id,
            object_id=message.object_id,
        ),
        reason="object",
        most_bytes=lambda limits: limits.max_body_bytes,
    ),
    "send-node-heartbeat": FleetCall(request=SendNodeHeartbeatRequest),
}
