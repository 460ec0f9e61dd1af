"""Two nodes and a real engine behind the edge: each has its own messages."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from moma_core.pki.key_files import load_node_key
from moma_server.config.federation_plan import FederationPlan
from tests.support.federation.world import START_SECONDS, World, wait_for

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


class RawNode:
    """A node that says what it is told to, through Flower's own client."""

    def __init__(self, world: World, site: str, port: int) -> None:
        key = load_node_key(world.admit(site).read_bytes())
        self.public_key = public_key_to_bytes(key.public_key())
        self.client = FleetHttpClient.from_server_address(
            f"127.0.0.1:{port}",
            False,
            world.files.ca.read_bytes(),
            interceptors=[NodeAuthHttpInterceptor(key, key.public_key())],
        )
        self.node = Node()
        self.offered = PullMessagesResponse()

    def activate(self) -> bool:
        """Says hello; False as long as the coordinator has not heard of the site."""
        request = ActivateNodeRequest(public_key=self.public_key, heartbeat_interval=30)
        try:
            node_id = self.client.ActivateNode(request).node_id
        except httpx.HTTPError:
            return False
        self.node = Node(node_id=node_id)
        return True

    def is_served(self) -> bool:
        """Says that it is there."""
        request = SendNodeHeartbeatRequest(node=self.node, heartbeat_interval=30)
        try:
            return self.client.SendNodeHeartbeat(request).success
        except httpx.HTTPError:
            return False

    def is_offered(self) -> bool:
        """Asks for a message and takes it."""
        if not self.is_served():
            return False
        try:
            answer = self.client.PullMessages(PullMessagesRequest(node=self.node))
        except httpx.HTTPError:
            return False
        if answer.messages_list:
            self.offered = answer
        return bool(answer.messages_list)

    @property
    def message(self) -> tuple[int, str]:
        """The run and the name of the message that it was offered."""
        metadata = self.offered.messages_list[0].metadata
        return metadata.run_id, metadata.message_id

    def pull(self, run_id: int, object_id: str, node: Node | None = None) -> int:
        """Returns the status; 200 only with the object, which may take a moment."""
        request = PullObjectRequest(
            node=node or self.node, run_id=run_id, object_id=object_id
        )
        try:
            wait_for(lambda: self.client.PullObject(request).object_available)
        except httpx.HTTPStatusError as error:
            return error.response.status_code
        return 200

    def confirm(self, run_id: int, message_id: str) -> int:
        request = ConfirmMessageReceivedRequest(
            node=self.node, run_id=run_id, message_object_id=message_id
        )
        try:
            self.client.ConfirmMessageReceived(request)
        except httpx.HTTPStatusError as error:
            return error.response.status_code
        return 200


@contextlib.contextmanager
def two_nodes(world: World, port: int) -> Iterator[tuple[RawNode, RawNode]]:
    first, second = (RawNode(world, site, port) for site in ("site-a", "site-b"))
    with first.client, second.client:
        for node in (first, second):  # who is active already is refused again
            wait_for(node.activate, seconds=START_SECONDS)
        yield first, second


PLAN = FederationPlan(rounds=1, quorum=2, poll_seconds=0.1, deadline_seconds=300)


def test_a_node_reaches_its_own_message_and_not_anothers(world: World) -> None:
    coordinator = world.coordinator(PLAN)
    with two_nodes(world, coordinator.port) as (ours, theirs):
        wait_for(ours.is_offered, seconds=START_SECONDS)

        stolen = theirs.pull(*ours.message)
        disguised = theirs.pull(*ours.message, node=ours.node)
        forgotten = theirs.confirm(*ours.message)
        pulled = ours.pull(*ours.message)
        confirmed = ours.confirm(*ours.message)

    assert (stolen, disguised, forgotten) == (403, 401, 403)
    assert (pulled, confirmed) == (200, 200)
    labels = {"site": "site-a", "direction": "sent"}
    sent = world.metric("moma_federation_edge_bytes_total", **labels)
    assert sent is not None
    assert sent > 0


def test_after_a_restart_an_offer_of_before_ends_and_another_comes(
    world: World,
) -> None:
    first = world.coordinator(PLAN)
    port = first.port
    with two_nodes(world, port) as (ours, _theirs):
        wait_for(ours.is_offered, seconds=START_SECONDS)
        before = ours.message
        first.stop()
        world.coordinator(PLAN, port=port)
        wait_for(ours.is_served)

        gone = ours.pull(*before)
        wait_for(ours.is_offered, seconds=START_SECONDS)
        again = ours.pull(*ours.message)

    assert gone == 403  # a node gives the message up and asks for the next
    assert ours.message != before
    assert again == 200
