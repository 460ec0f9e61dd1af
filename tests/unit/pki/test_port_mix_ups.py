"""Ports that are mixed up in a config: each is told by the name of what answers."""

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from moma_core.errors import ConfigError, FederationError, MomaError, NotAuthorizedError
from moma_core.pki.identity import PeerKind
from moma_core.pki.renewal import IdentityFiles
from moma_core.pki.tls_probe import LOOK_SECONDS, Service, shown_certificate
from tests.support.federation.pki import Pki
from tests.support.machine.tls_port import tls_port

HOSTS = ("localhost", "127.0.0.1", "::1")
TOLD_SECONDS = 5.0


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki()


@contextmanager
def _grpc(
    pki: Pki, kind: PeerKind, *, asks: bool, host: str = "127.0.0.1"
) -> Iterator[int]:
    """A gRPC port, which asks for a client's certificate or not."""
    own = pki.server(kind, kind, hosts=HOSTS)
    server = grpc.server(ThreadPoolExecutor(1))
    credentials = grpc.ssl_server_credentials(
        [(own.key_pem, own.certificate_pem)],
        root_certificates=pki.ca_pem if asks else None,
        require_client_auth=asks,
    )
    port = server.add_secure_port(f"{host}:0", credentials)
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait(10)


@contextmanager
def _edge(pki: Pki, folder: Path) -> Iterator[int]:
    """TLS without HTTP/2, as the port of the rounds."""
    files = pki.write(folder, pki.server("coordinator", "coordinator", hosts=HOSTS))
    with tls_port(files.certificate, files.key) as port:
        yield port


def _look(
    pki: Pki, port: int, service: Service, own: IdentityFiles | None = None
) -> bytes:
    return shown_certificate(
        f"127.0.0.1:{port}",
        pki.ca_pem,
        seconds=LOOK_SECONDS,
        service=service,
        own=own,
    )


def _told(
    pki: Pki, port: int, service: Service, own: IdentityFiles | None = None
) -> MomaError:
    begun = time.monotonic()
    with pytest.raises(MomaError) as error:
        _look(pki, port, service, own)
    assert time.monotonic() - begun < TOLD_SECONDS
    return error.value


@pytest.fixture
def own(pki: Pki, tmp_path: Path) -> IdentityFiles:
    files = pki.write(tmp_path / "site", pki.site())
    return IdentityFiles(files.certificate, files.key, files.ca)


def test_each_port_is_taken_for_what_it_is(
    pki: Pki, tmp_path: Path, own: IdentityFiles
) -> None:
    with _edge(pki, tmp_path / "edge") as port:
        assert _look(pki, port, "rounds")
    with _grpc(pki, "coordinator", asks=False) as port:
        assert _look(pki, port, "enrolment")
    with _grpc(pki, "coordinator", asks=True) as port:
        assert _look(pki, port, "relay", own)
    with _grpc(pki, "teacher", asks=True) as port:
        assert _look(pki, port, "teacher", own)


def test_enrolment_or_relay_in_place_of_the_rounds_are_named(pki: Pki) -> None:
    with _grpc(pki, "coordinator", asks=False) as port:
        enrolment = _told(pki, port, "rounds")
    with _grpc(pki, "coordinator", asks=True) as port:
        relay = _told(pki, port, "rounds")

    assert isinstance(enrolment, ConfigError)
    assert isinstance(relay, ConfigError)
    assert "is the coordinator's port for enrolment" in str(enrolment)
    assert "is the coordinator's port of the relay" in str(relay)
    assert "not the coordinator's port for rounds, by default 8443" in str(relay)


def test_the_rounds_in_place_of_another_port_are_named(
    pki: Pki, tmp_path: Path, own: IdentityFiles
) -> None:
    with _edge(pki, tmp_path / "edge") as port:
        enrolment = _told(pki, port, "enrolment")
        relay = _told(pki, port, "relay", own)
        teacher = _told(pki, port, "teacher", own)

    for error in (enrolment, relay):
        assert isinstance(error, ConfigError)
        assert "is the coordinator's port for rounds" in str(error)
    assert isinstance(teacher, NotAuthorizedError)
    assert "coordinator coordinator and no teacher" in str(teacher)


def test_a_teacher_in_place_of_the_coordinator_is_named(pki: Pki) -> None:
    with _grpc(pki, "teacher", asks=True) as port:
        error = _told(pki, port, "rounds")

    assert isinstance(error, NotAuthorizedError)
    assert "is the teacher teacher and no coordinator" in str(error)


def test_a_page_of_metrics_is_told_from_tls(pki: Pki) -> None:
    page = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), http.server.BaseHTTPRequestHandler
    )
    threading.Thread(target=page.serve_forever, daemon=True).start()
    try:
        error = _told(pki, page.server_port, "rounds")
    finally:
        page.shutdown()
        page.server_close()

    assert isinstance(error, FederationError)
    assert "answers by plain HTTP, as a page of metrics does" in str(error)


def test_a_port_that_says_nothing_is_told_in_time(pki: Pki) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        error = _told(pki, listener.getsockname()[1], "rounds")

    assert isinstance(error, FederationError)
    assert "takes connections and says nothing" in str(error)


def test_an_ipv6_address_is_reached_and_its_certificate_checked(pki: Pki) -> None:
    with _grpc(pki, "coordinator", asks=False, host="[::1]") as port:
        assert shown_certificate(
            f"[::1]:{port}", pki.ca_pem, seconds=LOOK_SECONDS, service="enrolment"
        )
