"""What we rely on in a SuperLink that runs: nodes, keys, runs."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
)
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from moma_core.errors import FederationError
from moma_core.federation.node_key import create_node_key, load_public_node_key
from moma_server.federation.engine.control import Control, key_bytes
from moma_server.federation.engine.socket import ENGINE_URL, EngineTransport
from moma_server.federation.engine.superlink import SuperLink
from tests.support.federation.superlink_tree import processes_of


@pytest.fixture(scope="module")
def superlink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SuperLink]:
    superlink = SuperLink(tmp_path_factory.mktemp("superlink"))
    superlink.start()
    yield superlink
    superlink.stop()


@pytest.fixture
def control(superlink: SuperLink) -> Iterator[Control]:
    control = Control(superlink.address)
    yield control
    control.close()


def test_registering_a_key_twice_gives_the_same_node(control: Control) -> None:
    key = key_bytes(create_node_key().public)

    first = control.register(key)
    second = control.register(key)

    assert first == second
    assert control.nodes()[key] == first


def test_flower_itself_refuses_a_second_registration(superlink: SuperLink) -> None:
    client = ControlHttpClient(ENGINE_URL)
    client.close()
    client._client = httpx.Client(transport=EngineTransport(superlink.address))
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


def test_a_run_that_no_process_takes_up_is_over_in_time(
    superlink: SuperLink, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (superexec,) = processes_of(superlink.address.socket, "flower-superexec")
    control = Control(superlink.address, start_seconds=600)
    os.kill(superexec, signal.SIGSTOP)
    time.sleep(0.5)  # for a call that is under way

    run_id = control.start_run(tmp_path / "order.json")
    at_first = control.run_is_over(run_id)
    control._start_seconds = 0.0
    later = control.run_is_over(run_id)
    runs = control._client.ListRuns(ListRunsRequest(run_id=run_id)).run_dict
    os.kill(superexec, signal.SIGCONT)
    control.close()

    assert (at_first, later) == (False, True)
    assert runs[run_id].status.status == "finished"
    assert "no process took up the run" in caplog.text
