"""A site that is revoked, or whose certificate is over, has no place at the edge."""

import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from flwr.proto.fleet_pb2 import PullMessagesRequest
from prometheus_client import CollectorRegistry

from moma_core.federation.node_key import create_node_key
from moma_core.trust.certificates import create_key, create_request
from moma_core.trust.files import write_private
from moma_core.trust.handshake import shown_certificate
from moma_core.trust.key_files import open_key
from moma_core.trust.names import PeerName
from moma_server.config import ServerConfig
from moma_server.federation.edge import Edge, EdgeSettings
from moma_server.federation.edge_admission import EdgeAdmission
from moma_server.federation.loopback_tls import make_loopback_tls
from moma_server.members import (
    admit_member,
    member_folder,
    revoke_member,
    sites_in_force,
)
from moma_server.metrics import EdgeMetrics
from tests.enrolment_desk import LOOPBACK, make_coordinator
from tests.integration.edge_door import SigningNode, Upstream

CALL = "/v1/fleet/pull-messages"
HUNG_UP_SECONDS = 5.0


class Guarded:
    """An edge that knows a coordinator's members, and two sites of it."""

    def __init__(self, config: ServerConfig, folder: Path) -> None:
        assert config.coordinator is not None
        self.config, self.late = config, timedelta(0)
        self.nodes = {
            site: SigningNode(site, number)
            for number, site in enumerate(("site-a", "site-b"), start=7)
        }
        for site in self.nodes:
            self.admit(site)
        tls = make_loopback_tls(folder)
        self.upstream = Upstream(tls)
        identity = config.coordinator.identity
        admission = EdgeAdmission(
            lambda: sites_in_force(config),
            follows=(member_folder(config), config.authority.revoked),
            clock=lambda: datetime.now(UTC) + self.late,
        )
        self.edge = Edge(
            self.upstream.address,
            EdgeSettings(
                host=LOOPBACK,
                port=0,
                certificate=identity.certificate,
                key=identity.key,
                admits=admission.admits,
            ),
            EdgeMetrics(CollectorRegistry()),
        )
        self.edge.know(node.known for node in self.nodes.values())
        self.edge.start()
        self.context = ssl.create_default_context(
            cafile=str(config.authority.certificate)
        )

    def admit(self, site: str) -> None:
        uri = f"spiffe://moma/site/{site}"
        request = create_request(create_key(), uri)
        node_key = create_node_key().public
        admit_member(
            self.config, PeerName.parse(uri), request=request, node_key=node_key
        )

    def ask(self, site: str) -> int:
        node = self.nodes[site]
        with httpx.Client(verify=self.context, trust_env=False) as client:
            url = f"https://{LOOPBACK}:{self.edge.port}{CALL}"
            answer = client.post(url, headers=node.headers(), content=body(node))
        return answer.status_code

    def connect(self) -> ssl.SSLSocket:
        plain = socket.create_connection((LOOPBACK, self.edge.port), timeout=20)
        return self.context.wrap_socket(plain, server_hostname=LOOPBACK)

    def close(self) -> None:
        self.edge.stop()
        self.upstream.stop()


def body(node: SigningNode) -> bytes:
    return PullMessagesRequest(node=node.node).SerializeToString()


def post(node: SigningNode, content: bytes, *, length: int | None = None) -> bytes:
    """Returns a call over the bare connection; a false length leaves it open."""
    headers = node.headers() | {
        "host": LOOPBACK,
        "content-length": str(len(content) if length is None else length),
    }
    lines = [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join((f"POST {CALL} HTTP/1.1", *lines, "", "")).encode() + content


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    guarded = Guarded(make_coordinator(tmp_path / "coordinator"), tmp_path)
    yield guarded
    guarded.close()


def test_a_revoked_sites_next_request_is_refused(guarded: Guarded) -> None:
    before = guarded.ask("site-a")

    revoke_member(guarded.config, PeerName("moma", "site", "site-a"))

    assert (before, guarded.ask("site-a")) == (200, 401)
    assert guarded.ask("site-b") == 200


def test_a_revoked_sites_open_connections_end_within_five_seconds(
    guarded: Guarded,
) -> None:
    """One is idle, one is in the middle of an upload that it never ends."""
    node, other = guarded.nodes["site-a"], guarded.nodes["site-b"]
    with (
        guarded.connect() as idle,
        guarded.connect() as busy,
        guarded.connect() as kept,
    ):
        idle.sendall(post(node, body(node)))
        kept.sendall(post(other, body(other)))
        assert idle.recv(100).startswith(b"HTTP/1.1 200")
        assert kept.recv(100).startswith(b"HTTP/1.1 200")
        busy.sendall(post(node, b"half", length=1000))

        since = time.monotonic()
        revoke_member(guarded.config, PeerName("moma", "site", "site-a"))
        ends = [ended(idle), ended(busy)]
        took = time.monotonic() - since
        kept.sendall(post(other, body(other)))

        assert ends == [True, True]
        assert took < HUNG_UP_SECONDS
        assert kept.recv(100)


def ended(tls: ssl.SSLSocket) -> bool:
    """Whether the other end hangs up; reads what was under way before."""
    try:
        while tls.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def test_an_expired_site_has_no_place_until_it_is_renewed(guarded: Guarded) -> None:
    guarded.late = timedelta(days=31)
    late = guarded.ask("site-a")
    guarded.late = timedelta(0)

    assert (late, guarded.ask("site-a")) == (401, 200)


def test_where_the_revocations_are_damaged_nobody_is_let_through(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    guarded.config.authority.revoked.write_text("damaged")

    assert guarded.ask("site-b") == 401
    assert "no site is let through the edge" in caplog.text


def test_the_edge_shows_its_renewed_certificate_without_a_restart(
    guarded: Guarded,
) -> None:
    coordinator = guarded.config.coordinator
    assert coordinator is not None
    address = f"{LOOPBACK}:{guarded.edge.port}"
    authority = guarded.config.authority.certificate.read_bytes()
    key = open_key(coordinator.identity.key)
    own = PeerName("moma", "coordinator", "coordinator")
    request = create_request(key, str(own))
    renewed = admit_member(
        guarded.config, own, request=request, node_key=None, hosts=(LOOPBACK,)
    )

    write_private(coordinator.identity.certificate, renewed)
    until, shown = time.monotonic() + 30, b""
    while shown != renewed and time.monotonic() < until:
        shown = shown_certificate(address, authority, seconds=5)

    assert shown == renewed
    assert guarded.ask("site-a") == 200


def test_half_a_renewal_leaves_the_old_certificate_in_use(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator = guarded.config.coordinator
    assert coordinator is not None
    write_private(coordinator.identity.key, create_key())
    until = time.monotonic() + 30
    while "old certificate stays" not in caplog.text and time.monotonic() < until:
        time.sleep(0.1)

    assert "the certificate does not belong to the key" in caplog.text
    assert guarded.ask("site-a") == 200
