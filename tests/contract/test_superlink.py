"""What we rely on in a SuperLink that runs: nodes, keys, runs."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from moma_core.errors import FederationError
from moma_core.federation.node_key import create_node_key, load_public_node_key
from moma_server.federation.control import Control, key_bytes
from moma_server.federation.superlink import SuperLink


@pytest.fixture(scope="module")
def superlink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SuperLink]:
    superlink = SuperLink(tmp_path_factory.mktemp("superlink"))
    superlink.start()
    yield superlink
    superlink.stop()


@pytest.fixture
def control(superlink: SuperLink) -> Iterator[Control]:
    control = Control(superlink.address, superlink.ca_certificate)
    yield control
    control.close()


def test_registering_a_key_twice_gives_the_same_node(control: Control) -> None:
    key = key_bytes(create_node_key().public)

    first = control.register(key)
    second = control.register(key)

    assert first == second
    assert control.nodes()[key] == first


def test_flower_itself_refuses_a_second_registration(superlink: SuperLink) -> None:
    client = ControlHttpClient.from_server_address(
        server_address=superlink.address,
        insecure=False,
        root_certificates=superlink.ca_certificate.read_bytes(),
        interceptors=[],
    )
    public = load_public_node_key(create_node_key().public)
    request = RegisterNodeRequest(public_key=public_key_to_bytes(public))

    with client:
        client.RegisterNode(request)
        with pytest.raises(httpx.HTTPStatusError) as refused:
            client.RegisterNode(request)
        listed = [n.public_key for n in client.ListNodes(ListNodesRequest()).nodes_info]

    assert refused.value.response.json()["code"] == 23
    assert request.public_key in listed


def test_an_unregistered_node_is_gone_and_its_key_never_comes_back(
    control: Control,
) -> None:
    key = key_bytes(create_node_key().public)

    control.unregister(control.register(key).node_id)

    assert key not in control.nodes()
    with pytest.raises(FederationError, match="needs a new one"):
        control.register(key)


def test_a_stopped_run_is_over(control: Control, tmp_path: Path) -> None:
    run_id = control.start_run(tmp_path / "order.json")
    before = control.run_is_over(run_id)

    control.stop_runs()

    assert not before
    assert control.run_is_over(run_id)
