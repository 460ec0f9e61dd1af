"""A site that is revoked, or whose certificate is over, has no place at the edge."""

import base64
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from moma_core.federation.node_key import create_node_key
from moma_core.trust.certificates import create_key, create_request
from moma_core.trust.files import write_private
from moma_core.trust.handshake import shown_certificate
from moma_core.trust.key_files import open_key
from moma_core.trust.names import PeerName
from moma_server.config import ServerConfig
from moma_server.federation.control import key_bytes
from moma_server.federation.edge import Edge, EdgeSettings
from moma_server.federation.edge_admission import NODE_KEY_HEADER, EdgeAdmission
from moma_server.federation.loopback_tls import make_loopback_tls
from moma_server.members import (
    admit_member,
    member_folder,
    node_registry,
    revoke_member,
    sites_in_force,
)
from tests.enrolment_desk import LOOPBACK, make_coordinator
from tests.integration.edge_door import Upstream

CALL = "/v1/fleet/pull-messages"
HUNG_UP_SECONDS = 5.0


class Guarded:
    """An edge that knows a coordinator's members, and two sites of it."""

    def __init__(self, config: ServerConfig, folder: Path) -> None:
        assert config.coordinator is not None
        self.config, self.late = config, timedelta(0)
        self.keys = {site: create_node_key().public for site in ("site-a", "site-b")}
        for site, node_key in self.keys.items():
            self.admit(site, node_key)
        tls = make_loopback_tls(folder)
        self.upstream = Upstream(tls)
        identity = config.coordinator.identity
        admission = EdgeAdmission(
            node_registry(config),
            lambda: sites_in_force(config),
            follows=(member_folder(config), config.authority.revoked),
            clock=lambda: datetime.now(UTC) + self.late,
        )
        self.edge = Edge(
            self.upstream.address,
            tls.certificate,
            EdgeSettings(
                host=LOOPBACK,
                port=0,
                certificate=identity.certificate,
                key=identity.key,
                admission=admission,
            ),
        )
        self.edge.start()
        self.context = ssl.create_default_context(
            cafile=str(config.authority.certificate)
        )

    def admit(self, site: str, node_key: bytes) -> None:
        uri = f"spiffe://moma/site/{site}"
        request = create_request(create_key(), uri)
        admit_member(
            self.config, PeerName.parse(uri), request=request, node_key=node_key
        )

    def ask(self, node_key: bytes | None) -> int:
        headers = {} if node_key is None else {NODE_KEY_HEADER: header(node_key)}
        with httpx.Client(verify=self.context, trust_env=False) as client:
            url = f"https://{LOOPBACK}:{self.edge.port}{CALL}"
            return client.post(url, headers=headers, content=b"body").status_code

    def connect(self) -> ssl.SSLSocket:
        plain = socket.create_connection((LOOPBACK, self.edge.port), timeout=20)
        return self.context.wrap_socket(plain, server_hostname=LOOPBACK)

    def close(self) -> None:
        self.edge.stop()
        self.upstream.stop()


def header(node_key: bytes) -> str:
    return base64.b64encode(key_bytes(node_key)).decode()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    guarded = Guarded(make_coordinator(tmp_path / "coordinator"), tmp_path)
    yield guarded
    guarded.close()


def test_a_member_is_let_through_and_a_stranger_is_not(guarded: Guarded) -> None:
    strangers = [create_node_key().public, None]

    answers = [guarded.ask(key) for key in (guarded.keys["site-a"], *strangers)]

    assert answers == [200, 401, 401]
    assert len(guarded.upstream.requests) == 1


@pytest.mark.parametrize("text", ["", "no base64!", "QUFB" * 1000])
def test_a_header_that_is_no_key_is_refused(guarded: Guarded, text: str) -> None:
    with guarded.connect() as tls:
        tls.sendall(post(text, length=0))

        assert tls.recv(100).startswith(b"HTTP/1.1 401")
    assert guarded.upstream.requests == []


def post(key: str, *, length: int) -> bytes:
    lines = (
        f"POST {CALL} HTTP/1.1",
        f"host: {LOOPBACK}",
        f"{NODE_KEY_HEADER}: {key}",
        f"content-length: {length}",
    )
    return "\r\n".join((*lines, "", "")).encode()


def test_a_revoked_sites_next_request_is_refused(guarded: Guarded) -> None:
    before = guarded.ask(guarded.keys["site-a"])

    revoke_member(guarded.config, PeerName("moma", "site", "site-a"))

    assert (before, guarded.ask(guarded.keys["site-a"])) == (200, 401)
    assert guarded.ask(guarded.keys["site-b"]) == 200


def test_a_revoked_sites_open_connections_end_within_five_seconds(
    guarded: Guarded,
) -> None:
    """One is idle, one is in the middle of an upload that it never ends."""
    key, other = header(guarded.keys["site-a"]), header(guarded.keys["site-b"])
    with (
        guarded.connect() as idle,
        guarded.connect() as busy,
        guarded.connect() as kept,
    ):
        idle.sendall(post(key, length=0))
        kept.sendall(post(other, length=0))
        assert idle.recv(100).startswith(b"HTTP/1.1 200")
        assert kept.recv(100).startswith(b"HTTP/1.1 200")
        busy.sendall(post(key, length=1000) + b"half")

        since = time.monotonic()
        revoke_member(guarded.config, PeerName("moma", "site", "site-a"))
        ends = [ended(idle), ended(busy)]
        took = time.monotonic() - since
        kept.sendall(post(other, length=0))

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
    key = guarded.keys["site-a"]
    guarded.late = timedelta(days=31)
    late = guarded.ask(key)
    guarded.late = timedelta(0)

    assert (late, guarded.ask(key)) == (401, 200)


def test_a_site_whose_key_left_the_registry_is_refused(guarded: Guarded) -> None:
    (node_registry(guarded.config) / "site-a.pub").unlink()

    assert guarded.ask(guarded.keys["site-a"]) == 401


def test_where_the_revocations_are_damaged_nobody_is_let_through(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    guarded.config.authority.revoked.write_text("damaged")

    assert guarded.ask(guarded.keys["site-b"]) == 401
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
    assert guarded.ask(guarded.keys["site-a"]) == 200


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
    assert guarded.ask(guarded.keys["site-a"]) == 200
