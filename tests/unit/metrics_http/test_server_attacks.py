"""Those who may not see a page, and those who would keep it from others."""

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from moma_core.errors import ConfigError
from moma_core.metrics_http.bounded_server import PageBounds
from moma_core.metrics_http.server import Page, PageServer
from moma_core.runtime.files import write_private
from tests.support.federation.pki import Pki
from tests.support.machine.http_floods import MOST_EVENTS, TINY_CHUNKS, counted_events
from tests.support.machine.metrics_page import (
    TOKEN,
    Guarded,
    answer,
    asked,
    connection,
    figures,
    get,
    guarded,
)
from tests.support.machine.waiting import promised

_FEW = PageBounds(seconds=promised(2.0), connections=6, per_address=4)
_BIG = 64 << 20


@pytest.fixture
def at(tmp_path: Path, pki: Pki) -> Guarded:
    return guarded(tmp_path, pki)


@pytest.fixture
def port(at: Guarded) -> Iterator[int]:
    with PageServer(at.section, figures) as server:
        yield server.port


def test_who_knows_the_token_is_shown_the_page(port: int, at: Guarded) -> None:
    assert asked(port, get(), at.tls()).body.startswith(b"moma_build_info")


@pytest.mark.parametrize("token", [None, b"", b"0" * 32, TOKEN[:-1], TOKEN + b"0"])
@pytest.mark.parametrize("path", ["/metrics", "/no/such/page"])
def test_who_does_not_is_told_nothing(
    port: int, at: Guarded, token: bytes | None, path: str
) -> None:
    found = asked(port, get(path, token), at.tls())

    assert (found.status, found.body) == (401, b"")
    assert found.headers["www-authenticate"] == "bearer"
    assert "server" not in found.headers


def test_a_probe_needs_no_token(port: int, at: Guarded) -> None:
    assert asked(port, get("/-/healthy", token=None), at.tls()).status == 200


def test_a_token_that_became_readable_for_others_lets_nobody_in(
    port: int, at: Guarded
) -> None:
    at.token.chmod(0o644)

    assert asked(port, get(), at.tls()).status == 401


def test_tls_12_ends_at_the_handshake(port: int, at: Guarded) -> None:
    with pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|EOF"):
        asked(port, get(), at.tls(ssl.TLSVersion.TLSv1_2))


def test_without_tls_there_is_no_page(port: int) -> None:
    assert b"moma_build_info" not in asked(port, get()).body


def test_a_renewed_certificate_is_shown_without_a_restart(
    port: int, at: Guarded, pki: Pki
) -> None:
    with connection(port, at.tls()) as peer:
        before = peer.getpeercert(binary_form=True)

    pki.write(at.files.key.parent, pki.server())

    with connection(port, at.tls()) as peer:
        after = peer.getpeercert(binary_form=True)
    assert before != after


def test_half_a_renewal_leaves_the_old_certificate(
    port: int, at: Guarded, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    at.files.certificate.write_bytes(pki.server().certificate_pem)

    for _ in range(2):
        assert asked(port, get(), at.tls()).status == 200
    assert caplog.text.count("the old certificate stays in use") == 1


def test_an_encrypted_key_is_refused_and_not_asked_for_at_the_terminal(
    at: Guarded,
) -> None:
    key = load_pem_private_key(at.files.key.read_bytes(), None)
    sealed = key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    write_private(at.files.key, sealed)

    with pytest.raises(ConfigError, match="cannot use the certificate"):
        PageServer(at.section, figures)


def test_a_key_that_others_can_read_is_refused(at: Guarded) -> None:
    at.files.key.chmod(0o640)

    with pytest.raises(ConfigError, match="mode 0640, so others can read it"):
        PageServer(at.section, figures)


def test_huge_headers_are_refused_after_a_few_kilobytes(port: int, at: Guarded) -> None:
    flood = get()[:-2] + b"X: " + b"x" * 100_000 + b"\r\n\r\n"

    found = asked(port, flood, at.tls())

    assert (found.status, found.body) in {(431, b""), (400, b""), (0, b"")}


def test_headers_without_an_end_are_refused(port: int, at: Guarded) -> None:
    with connection(port, at.tls()) as peer:
        peer.sendall(get()[:-2] + b"X: 1\r\n" * 4096)
        found = answer(peer)

    assert found.status in {431, 400, 0}


def test_tiny_chunks_are_not_parsed(
    port: int, at: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = counted_events(monkeypatch)

    found = asked(port, get()[:-2] + TINY_CHUNKS, at.tls())

    assert len(events) < MOST_EVENTS
    assert found.status in {400, 0}


def test_who_sends_a_byte_at_a_time_is_hung_up_on(at: Guarded) -> None:
    with (
        PageServer(at.section, figures, _FEW) as server,
        connection(server.port, at.tls()) as peer,
        pytest.raises(OSError, match=r"."),
    ):
        _dribble(peer)


def _dribble(peer: socket.socket) -> None:
    """Sends headers without an end, and is never silent for as long as the deadline."""
    for byte in get()[:-2] + b"X: 1\r\n" * 600:
        peer.sendall(bytes([byte]))
        time.sleep(0.05)


def test_who_never_begins_the_handshake_is_hung_up_on(at: Guarded) -> None:
    with (
        PageServer(at.section, figures, _FEW) as server,
        connection(server.port) as peer,
    ):
        assert answer(peer).status == 0


def test_who_does_not_read_the_answer_is_hung_up_on(at: Guarded) -> None:
    big = Page("text/plain", bytes(_BIG))
    with (
        PageServer(at.section, lambda _accept: big, _FEW) as server,
        connection(server.port, at.tls()) as peer,
    ):
        peer.sendall(get())
        time.sleep(2 * _FEW.seconds)

        assert len(answer(peer).body) < _BIG


@pytest.mark.parametrize("has_handshake", [True, False])
def test_one_address_cannot_hold_all_connections(
    at: Guarded, has_handshake: bool
) -> None:
    tls = at.tls()
    with PageServer(at.section, figures, _FEW) as server, ExitStack() as held:
        for _ in range(_FEW.per_address):
            held.enter_context(connection(server.port, tls if has_handshake else None))

        with pytest.raises(OSError, match=r"."):
            held.enter_context(connection(server.port, tls))

        deadline = time.monotonic() + 120
        while _refused(server.port, tls):  # until the held ones are hung up on
            assert time.monotonic() < deadline


def _refused(port: int, tls: ssl.SSLContext) -> bool:
    try:
        return asked(port, get(), tls).status != 200
    except OSError:
        time.sleep(0.1)
        return True


def test_a_flood_of_connections_leaves_no_file_open(at: Guarded) -> None:
    with PageServer(at.section, figures, _FEW) as server:
        deadline = time.monotonic() + 120
        while _refused(server.port, at.tls()):  # its loop has files of its own
            assert time.monotonic() < deadline
        before = _open_files()
        for _ in range(200):
            connection(server.port).close()

        while _open_files() > before:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        while _refused(server.port, at.tls()):
            assert time.monotonic() < deadline


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
