"""Fixtures of the integration tests."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from moma_server.federation.edge import Edge, EdgeSettings
from moma_server.federation.loopback_tls import make_loopback_tls
from tests.enrolment_desk import OpenDesk, make_coordinator, open_desk
from tests.integration.edge_door import Door, Upstream
from tests.pki import Pki


@pytest.fixture(scope="module")
def shared_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    tmp_path = tmp_path_factory.mktemp("edge")
    pki = Pki()
    credential = pki.issue("coordinator", "coordinator", hosts=("127.0.0.1",))
    files = pki.write(tmp_path / "coordinator", credential)
    tls = make_loopback_tls(tmp_path)
    upstream = Upstream(tls)
    settings = EdgeSettings(
        host="127.0.0.1",
        port=0,
        certificate=files.certificate,
        key=files.key,
        max_body_bytes=10_000,
        max_objects=5,
        body_seconds=0.5,
        request_seconds=0.5,
        max_connections=16,
        max_per_address=8,
    )
    edge = Edge(upstream.address, tls.certificate, settings)
    edge.start()
    context = ssl.create_default_context(cafile=str(files.ca))
    with httpx.Client(
        base_url=f"https://127.0.0.1:{edge.port}", verify=context, trust_env=False
    ) as site:
        yield Door(edge, upstream, site, files)
    edge.stop()
    upstream.stop()


@pytest.fixture
def door(shared_door: Door) -> Door:
    shared_door.upstream.requests.clear()
    shared_door.upstream.status = 200
    return shared_door


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[OpenDesk]:
    with open_desk(make_coordinator(tmp_path / "coordinator")) as opened:
        yield opened
