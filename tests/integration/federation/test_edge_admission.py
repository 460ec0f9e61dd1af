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

from moma_core.pki.certificates import create_key, create_request
from moma_core.pki.identity import PeerName
from moma_core.pki.key_files import open_key
from moma_core.pki.tls_probe import shown_certificate
from moma_core.runtime.files import write_private
from moma_server.config.server import ServerConfig
from moma_server.federation.edge.authorization import EdgeAuthorization
from moma_server.federation.edge.server import Edge, EdgeSettings
from moma_server.federation.engine.superlink import make_loopback_tls
from moma_server.membership.members import (
    admit_member,
    member_folder,
    node_registry,
    revoke_member,
    sites_in_force,
)
from moma_server.metrics.metrics import EdgeMetrics
from tests.support.federation.edge import SigningNode, Upstream
from tests.support.federation.enrolment_port import LOOPBACK, make_coordinator
from tests.support.machine.waiting import promised

CALL, UPLOAD = "/v1/fleet/pull-messages", "/v1/fleet/push-object"
HUNG_UP_SECONDS = 5.0


class Guarded:
    """An edge that knows a coordinator's members, and the nodes of two sites."""

    def __init__(self, config: ServerConfig, folder: Path) -> None:
        assert config.coordinator is not None
        self.config, self.late = config, timedelta(0)
        self.nodes = {
            site: SigningNode(site, number)
            for number, site in enumerate(("site-a", "site-b"), start=7)
        }
        for site, node in self.nodes.items():
            self.admit(site, node.public)
        self.upstream = Upstream(make_loopback_tls(folder))
        identity = config.coordinator.identity
        admission = EdgeAuthorization(
            node_registry(config),
            lambda: sites_in_force(config),
            sources=(member_folder(config), config.authority.revoked),
            clock=lambda: datetime.now(UTC) + self.late,
        )
        settings = EdgeSettings(
            host=LOOPBACK,
            port=0,
            certificate=identity.certificate,
            key=identity.key,
            authorizes=admission.authorizes,
        )
        metrics = EdgeMetrics(CollectorRegistry())
        self.edge = Edge(self.upstream.address, settings, metrics)
        self.edge.start()
        self.edge.know(node.known for node in self.nodes.values())
        authority = str(config.authority.certificate)
        self.context = ssl.create_default_context(cafile=authority)

    def admit(self, site: str, node_key: bytes) -> None:
        uri = f"spiffe://moma/site/{site}"
        request = create_request(create_key(), uri)
        admit_member(
            self.config, PeerName.parse(uri), request=request, node_key=node_key
        )

    def ask(self, site: str) -> int:
        with httpx.Client(verify=self.context, trust_env=False) as client:
            url = f"https://{LOOPBACK}:{self.edge.port}{CALL}"
            node = self.nodes[site]
            body = PullMessagesRequest(node=node.node).SerializeToString()
            return client.post(url, headers=node.headers(), content=body).status_code

    def connect(self) -> ssl.SSLSocket:
        plain = socket.create_connection((LOOPBACK, self.edge.port), timeout=120)
        return self.context.wrap_socket(plain, server_hostname=LOOPBACK)

    def post(self, site: str) -> bytes:
        """Returns one whole call of a site's node."""
        node = self.nodes[site]
        body = PullMessagesRequest(node=node.node).SerializeToString()
        return self.head(site, length=len(body)) + body

    def head(self, site: str, *, length: int, call: str = CALL) -> bytes:
        lines = [f"POST {call} HTTP/1.1", f"host: {LOOPBACK}"]
        lines += [f"{k}: {v}" for k, v in self.nodes[site].headers().items()]
        return "\r\n".join((*lines, f"content-length: {length}", "", "")).encode()

    def close(self) -> None:
        self.edge.stop()
        self.upstream.stop()


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


@pytest.mark.parametrize("damaged", ["node key", "certificate"])
def test_a_file_that_a_disk_damaged_shuts_out_its_site_alone(
    guarded: Guarded, damaged: str
) -> None:
    files = {
        "node key": node_registry(guarded.config) / "site-a.pub",
        "certificate": next(member_folder(guarded.config).glob("site.site-a.*.pem")),
    }

    write_private(files[damaged], b"damaged")

    assert guarded.ask("site-a") == 401
    assert guarded.ask("site-b") == 200


def test_a_revoked_sites_open_connections_end_within_five_seconds(
    guarded: Guarded,
) -> None:
    """One is idle, one is in the middle of an upload that it never ends."""
    with (
        guarded.connect() as idle,
        guarded.connect() as busy,
        guarded.connect() as kept,
    ):
        idle.sendall(guarded.post("site-a"))
        kept.sendall(guarded.post("site-b"))
        assert idle.recv(100).startswith(b"HTTP/1.1 200")
        assert kept.recv(100).startswith(b"HTTP/1.1 200")
        busy.sendall(guarded.head("site-a", length=1000, call=UPLOAD) + b"half")

        since = time.monotonic()
        revoke_member(guarded.config, PeerName("moma", "site", "site-a"))
        ends = [ended(idle), ended(busy)]
        took = time.monotonic() - since
        kept.sendall(guarded.post("site-b"))

        assert ends == [True, True]
        assert took < promised(HUNG_UP_SECONDS)
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


def test_a_site_whose_key_left_the_registry_is_refused(guarded: Guarded) -> None:
    (node_registry(guarded.config) / "site-a.pub").unlink()

    assert guarded.ask("site-a") == 401


def test_where_the_revocations_are_damaged_nobody_is_let_through(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    guarded.config.authority.revoked.write_text("damaged")

    assert guarded.ask("site-b") == 401
    assert "no node is served" in caplog.text


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
    until, shown = time.monotonic() + 120, b""
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
    until = time.monotonic() + 120
    while "old certificate stays" not in caplog.text and time.monotonic() < until:
        time.sleep(0.1)

    assert "the certificate does not belong to the key" in caplog.text
    assert guarded.ask("site-a") == 200
