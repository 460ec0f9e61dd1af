"""Fixtures of the integration tests."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from moma_core.pki.certificates import Credential
from moma_server.federation.edge.server import Edge, EdgeSettings
from moma_server.federation.engine.superlink import make_loopback_tls
from moma_server.metrics.metrics import EdgeMetrics
from tests.support.federation.edge import HASTY_SECONDS, Door, SigningNode, Upstream
from tests.support.federation.enrolment_port import (
    OpenDesk,
    make_coordinator,
    open_desk,
)
from tests.support.federation.pki import Pki

_NODE_IDS = itertools.count(7)


@contextmanager
def _opened(tmp_path: Path, *, seconds: float) -> Iterator[Door]:
    """Serves an edge that waits so long for a request and for its body."""
    pki = Pki()
    credential = pki.issue("coordinator", "coordinator", hosts=("127.0.0.1",))
    files = pki.write(tmp_path / "coordinator", credential)
    upstream = Upstream(make_loopback_tls(tmp_path))
    withdrawn: set[str] = set()
    settings = EdgeSettings(
        host="127.0.0.1",
        port=0,
        certificate=files.certificate,
        key=files.key,
        max_body_bytes=10_000,
        max_objects=5,
        body_seconds=seconds,
        request_seconds=seconds,
        max_connections=16,
        max_per_address=8,
        max_calls=2,
        authorizes=lambda node: node.site not in withdrawn,
    )
    registry = CollectorRegistry()
    edge = Edge(upstream.address, settings, EdgeMetrics(registry))
    edge.start()
    nobody = SigningNode("nobody", 1)
    yield Door(edge, upstream, files, registry, nobody, nobody, withdrawn)
    edge.stop()
    upstream.stop()


@pytest.fixture(scope="module")
def shared_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with _opened(tmp_path_factory.mktemp("edge"), seconds=60) as door:
        yield door


@pytest.fixture(scope="module")
def shared_hasty_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with _opened(tmp_path_factory.mktemp("hasty"), seconds=HASTY_SECONDS) as door:
        yield door


def _as_new(door: Door) -> Door:
    """Returns the door with nodes of its own: nothing was offered to them."""
    door.upstream.forget()
    door.withdrawn.clear()
    site_a, site_b = (
        SigningNode(name, next(_NODE_IDS)) for name in ("site-a", "site-b")
    )
    door.edge.know([site_a.known, site_b.known])
    return door._replace(site_a=site_a, site_b=site_b)


@pytest.fixture
def door(shared_door: Door) -> Door:
    return _as_new(shared_door)


@pytest.fixture
def hasty_door(shared_hasty_door: Door) -> Door:
    """An edge that waits `HASTY_SECONDS` for a request and for its body."""
    return _as_new(shared_hasty_door)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[OpenDesk]:
    with open_desk(make_coordinator(tmp_path / "coordinator")) as opened:
        yield opened


@pytest.fixture(scope="module")
def site(pki: Pki) -> Credential:
    """The certificate of a site and its key."""
    return pki.site("site-a")
